//! Devices that do not do everything: mirrors hold a repo for others, readers only receive.

use std::fs;

use ark_testkit::daemon::{Machine, Setup, assert_all_same};
use ark_testkit::noise::noise;
use ark_testkit::tree::await_condition;
use serde_json::Value;

use super::{LIMIT, machine};

/// On for as long as it takes to give what it has and to get what there is.
fn visit(machine: &Machine) {
    let daemon = machine.start();
    machine.wait(LIMIT);
    assert!(daemon.stop().success());
}

/// Its folder's path is not in the config: the repo is held for others.
fn held() -> Setup {
    Setup { folder: false, ..Setup::default() }
}

#[test]
fn two_laptops_that_are_never_on_together_meet_through_a_mirror() {
    let [a, b, mirror] = ["a", "b", "mirror"].map(machine);
    a.list(&[mirror.listed().role("mirror"), b.listed()], &Setup::default());
    b.list(&[mirror.listed().role("mirror"), a.listed()], &Setup::default());
    mirror.configure(&[&a, &b], &held());
    let on_mirror = mirror.start();
    let large: Vec<u8> = noise(1).flatten().take(2 << 20).collect();
    a.write("dir/large", &large);
    a.write("notes", "of a");
    a.write("goes", "soon");
    visit(&a);

    let on_b = b.start();
    b.wait(LIMIT);
    assert!(b.read("dir/large") == Some(large));
    assert_eq!(b.read("notes").as_deref(), Some(&b"of a"[..]));
    b.write("notes", "of b");
    fs::remove_file(b.folder().join("goes")).unwrap();
    b.wait(LIMIT);
    mirror.wait(LIMIT);
    let peer = b.peer(&mirror);
    assert_eq!(peer["repos"][0]["role"], "mirror");
    await_condition("the mirror shows that it is in step", LIMIT, || {
        let repo = &mirror.status()["repos"][0];
        (repo["state"] == "in-step" && repo["heads"] == b.heads()).then_some(())
    });
    let repo = &mirror.status()["repos"][0];
    assert_eq!((&repo["kind"], &repo["folder"]), (&Value::from("mirror"), &Value::Null));
    assert_eq!(repo["problems"], Value::Array(Vec::new()));
    assert!(on_b.stop().success());

    visit(&a);
    assert_eq!(a.tree().differences(&b.tree()), [""; 0]);
    assert_eq!(a.tree().paths(), ["dir", "dir/large", "notes"], "deletes travel too");

    // Edits of one file, neither made in sight of the other, and the mirror comes up anew.
    a.write("notes", "of a again");
    b.write("notes", "of b again");
    on_mirror.kill();
    let _on_mirror = mirror.start();
    for machine in [&a, &b, &a] {
        visit(machine);
    }
    assert_eq!(a.tree().differences(&b.tree()), [""; 0]);
    let mut notes: Vec<_> = a
        .tree()
        .paths()
        .iter()
        .filter(|path| path.starts_with("notes"))
        .map(|path| a.read(path))
        .collect();
    notes.sort();
    assert_eq!(notes, [Some(b"of a again".to_vec()), Some(b"of b again".to_vec())]);
    assert!(!mirror.folder().exists());
}

#[test]
fn a_reader_gets_everything_and_what_it_writes_stays_there() {
    let [a, screen] = ["a", "screen"].map(machine);
    a.list(&[screen.listed().role("reader")], &Setup::default());
    screen.configure(&[&a], &Setup::default());
    a.write("file", "one");
    a.write("both", "one");
    let (on_a, _on_screen) = (a.start(), screen.start());
    screen.await_file("file", Some("one"), LIMIT);
    screen.write("own", "stays");
    await_condition("both sides show it", LIMIT, || {
        (a.shows(screen.id()) && screen.shows(a.id())).then_some(())
    });
    assert!(a.shows("reader") && screen.shows("reader"), "{}\n{}", a.status(), screen.status());
    // Neither owes the other what it does not take.
    screen.wait(LIMIT);
    a.wait(LIMIT);
    assert_eq!(a.tree().paths(), ["both", "file"]);
    assert_eq!(a.peer(&screen)["repos"][0]["role"], "reader");
    assert_eq!(screen.peer(&a)["repos"][0]["granted"], "reader");
    for machine in [&a, &screen] {
        let text = String::from_utf8(machine.run(&["status"]).stdout).unwrap();
        assert!(text.contains("reader"), "{text}");
    }

    a.write("file", "two");
    screen.await_file("file", Some("two"), LIMIT);
    assert_eq!(screen.read("own").as_deref(), Some(&b"stays"[..]));
    screen.write("both", "of the screen");
    screen.wait(LIMIT);
    a.write("both", "of a");
    await_condition("the reader keeps both", LIMIT, || {
        (screen.conflicts().len() == 1).then_some(())
    });
    assert!(a.conflicts().is_empty());
    assert_eq!(a.read("both").as_deref(), Some(&b"of a"[..]));

    // Let write after all, what it wrote meanwhile comes.
    a.configure(&[&screen], &Setup::default());
    on_a.re_read();
    a.await_file("own", Some("stays"), LIMIT);
    assert_all_same(&[&a, &screen], LIMIT);
    await_condition("both are kept there too", LIMIT, || (a.conflicts().len() == 1).then_some(()));
    await_condition("nothing is wrong any more", LIMIT, || {
        (!screen.shows("reader") && !a.shows("reader")).then_some(())
    });
}
