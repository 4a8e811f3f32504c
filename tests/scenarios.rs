//! What must come out of two real daemons on loopback, seen from the outward interface alone.
//!
//! The pure level holds most of these lines too (see the table in `crates/README.md`); here they
//! pass through the operating system, the store and the network.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use ark_testkit::daemon::{Machine, Setup, assert_in_step, pair};
use ark_testkit::tree::{Kind, await_condition};

const BINARY: &str = env!("CARGO_BIN_EXE_ark");
/// Far beyond what any of these takes; only a failure reaches it.
const LIMIT: Duration = Duration::from_secs(90);

fn two() -> (Machine, Machine) {
    pair(BINARY, &Setup::default())
}

#[track_caller]
fn assert_same(a: &Machine, b: &Machine) {
    assert_in_step(a, b, LIMIT);
}

/// As [`assert_same`], where `path` has the same content written twice: that is one file, and each
/// machine's goes on having the time of its own writing. An mtime alone is no change.
fn assert_same_but_time_of(a: &Machine, b: &Machine, path: &str) {
    a.wait(LIMIT);
    b.wait(LIMIT);
    let (mut on_a, mut on_b) = (a.tree(), b.tree());
    for tree in [&mut on_a, &mut on_b] {
        tree.0.get_mut(Path::new(path)).expect("it is there").mtime_ns = 0;
    }
    let differences = on_a.differences(&on_b);
    assert!(differences.is_empty(), "{differences:#?}\n{}\n{}", a.log(), b.log());
}

/// The conflict copies in the folder's root.
fn copies(machine: &Machine) -> Vec<String> {
    machine.tree().paths().into_iter().filter(|path| path.contains(".conflict-")).collect()
}

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

/// Scenarios 1, 2, 3's rule for two, 4 and 5, made while the machines are apart.
#[test]
fn edits_made_apart_keep_every_version() {
    let (a, b) = two();
    for name in ["both.txt", "same.txt", "edit-delete", "delete-delete", "mode"] {
        a.write(name, "before");
    }
    {
        let (on_a, on_b) = (a.start(), b.start());
        assert_same(&a, &b);
        assert!(on_a.stop().success() && on_b.stop().success());
    }
    a.write("both.txt", "a's edit");
    b.write("both.txt", "b's edit");
    a.write("same.txt", "the same edit");
    b.write("same.txt", "the same edit");
    a.write("edit-delete", "edited on a");
    fs::remove_file(b.folder().join("edit-delete")).unwrap();
    fs::remove_file(a.folder().join("delete-delete")).unwrap();
    fs::remove_file(b.folder().join("delete-delete")).unwrap();
    a.write("mode", "new content");
    fs::set_permissions(b.folder().join("mode"), fs::Permissions::from_mode(0o700)).unwrap();
    let (_on_a, _on_b) = (a.start(), b.start());
    assert_same_but_time_of(&a, &b, "same.txt");

    let copies = copies(&a);
    assert_eq!(copies.len(), 1, "one copy, of both.txt alone: {copies:?}");
    let name = copies[0].strip_prefix("both.conflict-");
    assert!(name.is_some_and(|name| name.strip_suffix(".txt").is_some()), "{copies:?}");
    let mut both = [a.read("both.txt").unwrap(), a.read(&copies[0]).unwrap()];
    both.sort();
    assert_eq!(both, [b"a's edit".to_vec(), b"b's edit".to_vec()]);
    assert_eq!(a.conflicts(), copies);
    assert_eq!(b.conflicts(), copies);
    assert_eq!(b.read("edit-delete").unwrap(), b"edited on a");
    assert_eq!(a.read("delete-delete"), None);
    assert_eq!(b.read("mode").unwrap(), b"new content");
    assert_eq!(a.tree().0[Path::new("mode")].mode, 0o700, "chmod against content: merged");

    // Deleting the copy drops that version, everywhere.
    fs::remove_file(b.folder().join(&copies[0])).unwrap();
    assert_same_but_time_of(&a, &b, "same.txt");
    assert!(a.conflicts().is_empty());
    assert!(a.read(&copies[0]).is_none());
}

/// Scenario 28: created, deleted, renamed while the daemon was off.
#[test]
fn what_happened_while_off_is_right_on_restart() {
    let (a, b) = two();
    for name in ["stays", "goes", "old name", "changes"] {
        a.write(name, name);
    }
    let on_b = b.start();
    {
        let on_a = a.start();
        assert_same(&a, &b);
        assert!(on_a.stop().success());
    }
    fs::remove_file(a.folder().join("goes")).unwrap();
    fs::rename(a.folder().join("old name"), a.folder().join("new name")).unwrap();
    a.write("created", "while off");
    a.write("changes", "differently");
    b.write("meanwhile", "on b");
    let _on_a = a.start();
    assert_same(&a, &b);
    assert_eq!(
        b.tree().paths(),
        ["changes", "created", "meanwhile", "new name", "stays"],
        "nothing resurrected"
    );
    assert_eq!(b.read("changes").unwrap(), b"differently");
    assert!(on_b.is_running());
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

/// The first meeting of two filled folders: union; equal content is neither sent nor a conflict,
/// though they meet before either has scanned its own.
#[test]
fn two_filled_folders_unite() {
    let (a, b) = two();
    let shared: Vec<u8> = (0..2_000_000u32).map(|n| (n * 7 % 253) as u8).collect();
    a.write("shared", &shared);
    b.write("shared", &shared);
    a.write("only a", "a");
    b.write("only b", "b");
    a.write("differs.txt", "as on a");
    b.write("differs.txt", "as on b");
    let (_on_a, _on_b) = (a.start_unawaited(), b.start_unawaited());
    assert_same_but_time_of(&a, &b, "shared");
    assert_eq!(copies(&a).len(), 1);
    assert_eq!(a.tree().files(), 5);
    let (received, sent) = a.traffic();
    assert!(received + sent < 500_000, "{received} + {sent} bytes for content both had");
}

/// Scenario 47: restored from an old backup and edited before it reconnects.
#[test]
fn a_device_restored_from_a_backup_loses_nothing() {
    let (a, b) = two();
    a.write("kept", "v1");
    a.write("edited later", "v1");
    let on_a = a.start();
    let backup = tempfile::tempdir().unwrap();
    {
        let on_b = b.start();
        assert_same(&a, &b);
        assert!(on_b.stop().success());
    }
    let copy = |from: &Path, to: &Path| {
        assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    };
    copy(&b.store(), &backup.path().join("store"));
    copy(&b.folder(), &backup.path().join("folder"));
    {
        let on_b = b.start();
        b.write("after the backup", "known to a");
        b.write("edited later", "v2");
        assert_same(&a, &b);
        assert!(on_b.stop().success());
    }
    fs::remove_dir_all(b.store()).unwrap();
    fs::remove_dir_all(b.folder()).unwrap();
    copy(&backup.path().join("store"), &b.store());
    copy(&backup.path().join("folder"), &b.folder());
    b.write("of the restored", "new");
    let _on_b = b.start();
    assert_same(&a, &b);
    assert_eq!(b.read("after the backup").as_deref(), Some(&b"known to a"[..]));
    assert_eq!(a.read("of the restored").as_deref(), Some(&b"new"[..]));
    assert_eq!(a.read("edited later").as_deref(), Some(&b"v2"[..]), "the old copy does not win");
    assert_eq!(a.read("kept").as_deref(), Some(&b"v1"[..]));
    assert!(a.conflicts().is_empty());
    assert!(on_a.is_running());
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

/// Scenario 43: an unmounted root deletes nothing.
#[test]
fn a_vanished_folder_deletes_nothing() {
    let (a, b) = two();
    a.write("precious", "data");
    let (_on_a, on_b) = (a.start(), b.start());
    assert_same(&a, &b);
    let away = b.directory().join("away");
    fs::rename(b.folder(), &away).unwrap();
    fs::create_dir(b.folder()).unwrap();
    await_condition("b says that its folder is not the one it knows", LIMIT, || {
        b.run(&["wait", "--timeout", "1"]);
        (b.status()["repos"][0]["state"] == "error").then_some(())
    });
    assert_eq!(a.read("precious").unwrap(), b"data");
    assert!(b.tree().0.is_empty(), "nothing is written into a folder without the marker");
    fs::remove_dir(b.folder()).unwrap();
    fs::rename(&away, b.folder()).unwrap();
    a.write("later", "more");
    assert_same(&a, &b);
    assert_eq!(b.read("later").unwrap(), b"more");
    assert!(on_b.is_running());
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

/// Scenario 37: a directory replaced by a symlink that leads out is not written through.
#[test]
fn nothing_is_written_through_a_symlink() {
    let (a, b) = two();
    a.write("dir/file", "one");
    let outside = tempfile::tempdir().unwrap();
    let (_on_a, on_b) = (a.start(), b.start());
    assert_same(&a, &b);
    assert!(on_b.stop().success());
    fs::remove_dir_all(b.folder().join("dir")).unwrap();
    symlink(outside.path(), b.folder().join("dir")).unwrap();
    a.write("dir/file", "two");
    a.write("dir/new", "three");
    let _on_b = b.start();
    assert_same(&a, &b);
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "nothing was written outside");
    let tree = a.tree();
    assert_eq!(tree.0[Path::new("dir")].kind, Kind::Directory, "directory over symlink");
    assert_eq!(a.read("dir/file").unwrap(), b"two");
    let copies = copies(&a);
    assert_eq!(copies.len(), 1, "the symlink is set aside: {copies:?}");
}

/// Scenario 35 and kill -9: what was in step is there after a kill, and nothing is sent again.
#[test]
fn killed_daemons_go_on_where_they_were() {
    let (a, b) = two();
    for n in 0..300 {
        a.write(&format!("files/{n}"), format!("content of file {n}").repeat(200));
    }
    let content: u64 = a
        .tree()
        .0
        .values()
        .map(|item| match item.kind {
            Kind::File(length, _) => length,
            _ => 0,
        })
        .sum();
    let _on_a = a.start();
    let on_b = b.start();
    await_condition("some of it has arrived", LIMIT, || {
        (b.traffic().0 > content / 10).then_some(())
    });
    on_b.kill();
    let on_b = b.start();
    assert_same(&a, &b);
    on_b.kill();
    let before = a.traffic().1;
    let _on_b = b.start();
    assert_same(&a, &b);
    let again = a.traffic().1 - before;
    assert!(again < 100_000, "{again} bytes sent again");
}

/// Scenario 58: an unlisted device is refused and shown with the line that would admit it.
#[test]
fn an_unlisted_device_is_refused_and_shown() {
    let a = Machine::new(BINARY, "a", None);
    let b = Machine::new(BINARY, "b", None);
    let stranger = Machine::new(BINARY, "stranger", None);
    a.configure(&[&b], &Setup::default());
    stranger.configure(&[&a], &Setup::default());
    a.write("private", "of a");
    let (_on_a, _on_stranger) = (a.start(), stranger.start());
    await_condition("the stranger is shown", LIMIT, || {
        let status = a.status();
        let refused = status["refused"].as_array().unwrap();
        refused.iter().any(|device| device["node_id"] == stranger.id()).then_some(())
    });
    assert_eq!(stranger.tree().paths(), Vec::<String>::new());
    let waited = stranger.run(&["wait", "--timeout", "1"]);
    assert_eq!(waited.status.code(), Some(1));
    let reason = String::from_utf8(waited.stderr).unwrap();
    assert!(reason.contains("a: it does not list this device"), "{reason}");
    assert_eq!(stranger.status()["peers"][0]["problem"], "it does not list this device");
    let status = a.status();
    let refused = status["refused"].as_array().unwrap();
    let shown = refused.iter().find(|device| device["node_id"] == stranger.id()).unwrap();
    let line = shown["admit"].as_str().unwrap();
    assert!(line.contains("name = ") && line.contains(stranger.id()), "{line}");
    let text = String::from_utf8(a.run(&["status"]).stdout).unwrap();
    assert!(text.contains(line), "the line that admits it is shown to people too: {text}");
}

/// A device that lists us for a repo with another secret does not share it.
#[test]
fn another_secret_is_another_repo() {
    let a = Machine::new(BINARY, "a", None);
    let b = Machine::new(BINARY, "b", None);
    a.configure(&[&b], &Setup::default());
    b.configure(&[&a], &Setup { secret: Some("a different one".into()), ..Setup::default() });
    a.write("private", "of a");
    let (_on_a, _on_b) = (a.start(), b.start());
    await_condition("one has asked the other", LIMIT, || {
        (a.traffic().0 + b.traffic().0 > 0).then_some(())
    });
    // Whoever dialled asks for the repo, and is refused; the other has nothing to tell.
    let shows = |machine: &Machine| {
        let text = String::from_utf8(machine.run(&["status"]).stdout).unwrap();
        text.contains("it does not list this device for it")
    };
    let (asked, other) = await_condition("the refusal is shown", LIMIT, || {
        [(&a, "b"), (&b, "a")].into_iter().find(|(machine, _)| shows(machine))
    });
    let refusal = format!("{other} does not list this device for this repo");
    let reason = String::from_utf8(asked.run(&["wait", "--timeout", "2"]).stderr).unwrap();
    assert!(reason.contains(&refusal), "{reason}");
    for machine in [&a, &b] {
        assert_eq!(machine.run(&["wait", "--timeout", "2"]).status.code(), Some(1));
    }
    assert!(b.tree().0.is_empty());
    let (received, sent) = a.traffic();
    assert!(received + sent < 4096, "{received} + {sent} bytes about a repo that is not shared");
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
