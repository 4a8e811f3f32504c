//! What is written while one of the machines is off, or before they ever met.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::{assert_same, assert_same_but_time_of, copies, two};

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
