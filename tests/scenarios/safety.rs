//! What must not happen: nothing is lost with a folder, a link or a process, and nobody gets what is
//! not for them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use ark_testkit::daemon::{Machine, Setup};
use ark_testkit::tree::{Kind, await_condition};

use super::{BINARY, LIMIT, assert_same, copies, two};

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

/// Waits until `ark wait`, which never succeeds, gives this reason.
fn await_reason(machine: &Machine, reason: &str) {
    await_condition(reason, LIMIT, || {
        let waited = machine.run(&["wait", "--timeout", "1"]);
        assert_eq!(waited.status.code(), Some(1));
        String::from_utf8(waited.stderr).unwrap().contains(reason).then_some(())
    });
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
    await_reason(&stranger, "a: it does not list this device");
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
    // Both are told, whoever of them dialled.
    for (machine, other) in [(&a, "b"), (&b, "a")] {
        await_condition("the refusal is shown", LIMIT, || {
            let text = String::from_utf8(machine.run(&["status"]).stdout).unwrap();
            text.contains("it does not list this device for it").then_some(())
        });
        await_reason(machine, &format!("{other} does not list this device for this repo"));
    }
    assert!(b.tree().0.is_empty());
    let (received, sent) = a.traffic();
    assert!(received + sent < 4096, "{received} + {sent} bytes about a repo that is not shared");
}
