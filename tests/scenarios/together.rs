//! What is written while both machines are on.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use ark_testkit::daemon::Machine;
use ark_testkit::tree::{Kind, await_condition};

use super::{LIMIT, assert_same, copies, two};

#[test]
fn a_tree_of_every_kind_goes_both_ways() {
    let (a, b) = two();
    a.write("docs/read me.txt", "hello");
    a.write("docs/empty", "");
    a.write("bin/tool", "#!/bin/sh\n");
    fs::set_permissions(a.folder().join("bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir_all(a.folder().join("an/empty/directory")).unwrap();
    symlink("../docs/read me.txt", a.folder().join("bin/link")).unwrap();
    symlink("nowhere/at all", a.folder().join("dangling")).unwrap();
    a.write("large", (0..3_000_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    fs::File::options()
        .write(true)
        .open(a.folder().join("docs/empty"))
        .unwrap()
        .set_modified(old)
        .unwrap();
    b.write("from b/żółć 日本", "b's");
    let (_on_a, _on_b) = (a.start(), b.start());
    assert_same(&a, &b);
    let tree = b.tree();
    assert_eq!(tree.files(), 5);
    assert_eq!(tree.0[Path::new("bin/tool")].mode, 0o755);
    assert_eq!(tree.0[Path::new("docs/empty")].mtime_ns, 1_000_000_000_123_456_789);
    assert_eq!(tree.0[Path::new("dangling")].kind, Kind::Symlink("nowhere/at all".into()));
    assert_eq!(tree.0[Path::new("an/empty/directory")].kind, Kind::Directory);
    assert_eq!(a.read("from b/żółć 日本").as_deref(), Some(&b"b's"[..]));
    assert!(a.conflicts().is_empty() && b.conflicts().is_empty());
}

#[test]
fn edits_deletes_renames_and_type_changes_follow() {
    let (a, b) = two();
    for n in 0..50 {
        a.write(&format!("dir/sub/f{n}"), format!("content {n}"));
    }
    a.write("becomes a directory", "a file");
    a.write("becomes a file/inside", "x");
    a.write("becomes a link", "y");
    let (_on_a, _on_b) = (a.start(), b.start());
    assert_same(&a, &b);

    a.write("dir/sub/f1", "edited here");
    b.write("dir/sub/f2", "edited there");
    fs::remove_file(b.folder().join("dir/sub/f3")).unwrap();
    assert_same(&a, &b);
    assert_eq!(b.read("dir/sub/f1").unwrap(), b"edited here");
    assert_eq!(a.read("dir/sub/f2").unwrap(), b"edited there");
    assert_eq!(a.read("dir/sub/f3"), None);

    fs::rename(a.folder().join("dir/sub"), a.folder().join("moved")).unwrap();
    fs::remove_file(a.folder().join("becomes a directory")).unwrap();
    a.write("becomes a directory/now", "z");
    fs::remove_dir_all(a.folder().join("becomes a file")).unwrap();
    a.write("becomes a file", "flat");
    fs::remove_file(a.folder().join("becomes a link")).unwrap();
    symlink("moved/f1", a.folder().join("becomes a link")).unwrap();
    assert_same(&a, &b);
    let tree = b.tree();
    assert_eq!(tree.0[Path::new("becomes a link")].kind, Kind::Symlink("moved/f1".into()));
    assert_eq!(b.read("becomes a directory/now").unwrap(), b"z");
    assert_eq!(b.read("becomes a file").unwrap(), b"flat");
    assert_eq!(b.read("moved/f49").unwrap(), b"content 49");
    assert!(!tree.0.contains_key(Path::new("dir/sub")));
    assert!(a.conflicts().is_empty() && b.conflicts().is_empty());
}

/// Scenarios 12, 16 and 29: a touch, a swap and one's own writes send no content.
#[test]
fn touches_swaps_and_renames_send_no_content() {
    let (a, b) = two();
    let content = |seed: u8| (0..400_000u32).map(|n| (n % 251) as u8 ^ seed).collect::<Vec<_>>();
    a.write("a", content(1));
    a.write("b", content(2));
    for n in 0..20u8 {
        a.write(&format!("many/{n}"), content(n.wrapping_mul(11).wrapping_add(3)));
    }
    let (_on_a, _on_b) = (a.start(), b.start());
    assert_same(&a, &b);
    let before = a.traffic();

    fs::File::options()
        .write(true)
        .open(a.folder().join("many/1"))
        .unwrap()
        .set_modified(SystemTime::now())
        .unwrap();
    fs::rename(a.folder().join("a"), a.folder().join("swap")).unwrap();
    fs::rename(a.folder().join("b"), a.folder().join("a")).unwrap();
    fs::rename(a.folder().join("swap"), a.folder().join("b")).unwrap();
    fs::rename(a.folder().join("many"), a.folder().join("renamed")).unwrap();
    a.wait(LIMIT);
    b.wait(LIMIT);
    assert_eq!(b.read("a").unwrap(), content(2));
    assert_eq!(b.read("b").unwrap(), content(1));
    assert_eq!(b.tree().files(), 22);
    let after = a.traffic();
    let sent = after.1 - before.1;
    assert!(sent < 100_000, "sent {sent} bytes for renames of 8.8 MB");
}

/// Scenario 30: a deep new tree, made quickly while the daemons run.
#[test]
fn a_deep_tree_made_quickly_is_complete() {
    let (a, b) = two();
    let (_on_a, _on_b) = (a.start(), b.start());
    for x in 0..6 {
        for y in 0..6 {
            for z in 0..6 {
                a.write(&format!("d{x}/e{y}/f{z}/g/h/file"), format!("{x}{y}{z}"));
            }
        }
    }
    assert_same(&a, &b);
    assert_eq!(b.tree().files(), 216);
}

/// Scenario 22: an editor's save (temporary file, then rename) is one update.
#[test]
fn an_editors_save_arrives() {
    let (a, b) = two();
    a.write("text", "one");
    let (_on_a, _on_b) = (a.start(), b.start());
    assert_same(&a, &b);
    for n in 0..5 {
        a.write(".text.swp", format!("version {n}"));
        fs::rename(a.folder().join(".text.swp"), a.folder().join("text")).unwrap();
        await_condition("the save arrives", LIMIT, || {
            (b.read("text")? == format!("version {n}").into_bytes()).then_some(())
        });
    }
    assert_same(&a, &b);
    assert_eq!(b.tree().paths(), ["text"]);
}

/// Scenario 41, and what cannot be synced does no harm.
#[test]
fn fifos_and_sockets_are_skipped_and_shown() {
    let (a, b) = two();
    a.write("file", "x");
    let fifo = a.folder().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(a.folder().join("socket")).unwrap();
    let (_on_a, _on_b) = (a.start(), b.start());
    a.wait(LIMIT);
    b.wait(LIMIT);
    assert_eq!(b.tree().paths(), ["file"]);
    assert!(a.shows("fifo") && a.shows("socket"), "{}", a.status());
}

/// `.arkignore`: what is ignored is neither sent nor deleted.
#[test]
fn ignored_paths_stay_where_they_are() {
    let (a, b) = two();
    a.write(".arkignore", "*.o\nbuild/\n");
    a.write("main.c", "int main;");
    a.write("main.o", "object");
    a.write("build/out", "binary");
    a.write("src/.hidden", "synced");
    b.write("local.o", "b's own");
    let (_on_a, _on_b) = (a.start(), b.start());
    a.wait(LIMIT);
    b.wait(LIMIT);
    assert_eq!(b.tree().paths(), [".arkignore", "local.o", "main.c", "src", "src/.hidden"]);
    fs::rename(a.folder().join("src"), a.folder().join("lib")).unwrap();
    b.wait(LIMIT);
    a.wait(LIMIT);
    b.wait(LIMIT);
    assert_eq!(b.tree().paths(), [".arkignore", "lib", "lib/.hidden", "local.o", "main.c"]);
    assert_eq!(a.read("main.o").unwrap(), b"object");
}

/// Scenario 33 from outside: of two edits of one file, made on two machines unknown to each other,
/// one is in place and the other is in a copy.
#[test]
fn racing_edits_of_one_file_all_survive() {
    let (a, b) = two();
    a.write("contended", "start");
    let (_on_a, _on_b) = (a.start(), b.start());
    assert_same(&a, &b);
    let mut races = 0;
    for round in 0..10 {
        let (first, second) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let (one, other) = (format!("one {round}"), format!("other {round}"));
        first.write("contended", &one);
        // Only the second may have seen the other's edit, and what its own stands for is known.
        let replaced = save(second, "contended", &other);
        assert_same(&a, &b);
        let found: Vec<_> = a.tree().paths().iter().filter_map(|path| a.read(path)).collect();
        assert!(found.contains(&other.clone().into_bytes()), "{other}: {found:?}");
        if replaced != one.as_bytes() {
            races += 1;
            assert!(found.contains(&one.clone().into_bytes()), "{one}: {found:?}");
        }
        for copy in copies(&a) {
            fs::remove_file(a.folder().join(copy)).unwrap();
        }
        assert_same(&a, &b);
    }
    assert!(races > 0, "the second edit always came too late to race");
}

/// Puts a file in the place of another in one step, and returns what exactly was replaced.
fn save(machine: &Machine, path: &str, content: &str) -> Vec<u8> {
    let aside = machine.directory().join("aside");
    fs::write(&aside, content).unwrap();
    let place = machine.folder().join(path);
    let (here, exchange) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
    rustix::fs::renameat_with(here, &aside, here, &place, exchange).unwrap();
    fs::read(&aside).unwrap()
}

/// Scenario 50: times hours off on either side decide nothing.
#[test]
fn clocks_decide_nothing() {
    let (a, b) = two();
    a.write("file", "first");
    let (_on_a, _on_b) = (a.start(), b.start());
    assert_same(&a, &b);
    let set = |machine: &Machine, time| {
        let file = fs::File::options().write(true).open(machine.folder().join("file")).unwrap();
        file.set_modified(time).unwrap();
    };
    let future = SystemTime::now() + Duration::from_hours(24 * 365);
    a.write("file", "second, of a, dated in the future");
    set(&a, future);
    assert_same(&a, &b);
    b.write("file", "third, of b, dated in the past");
    set(&b, SystemTime::UNIX_EPOCH);
    assert_same(&a, &b);
    assert_eq!(a.read("file").unwrap(), b"third, of b, dated in the past");
    assert!(a.conflicts().is_empty());
}

/// Scenario 26 from outside: same size, same mtime, other content.
#[test]
fn a_change_that_hides_behind_its_mtime_is_found() {
    let (a, b) = two();
    a.write("file", "content A");
    let (_on_a, _on_b) = (a.start(), b.start());
    assert_same(&a, &b);
    let path = a.folder().join("file");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    a.write("file", "content B");
    fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    assert_same(&a, &b);
    assert_eq!(b.read("file").unwrap(), b"content B");
}
