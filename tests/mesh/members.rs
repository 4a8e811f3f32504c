//! Devices that come to a repo, leave it, or take another's place, under running daemons.

use std::fs;

use ark_testkit::daemon::{Setup, assert_all_same};
use ark_testkit::noise::noise;
use ark_testkit::tree::await_condition;

use super::{LIMIT, machine, mesh};

#[test]
fn a_device_that_is_added_gets_all_there_is_and_gives_what_it_has() {
    let [a, b] = mesh(["a", "b"]);
    a.write("dir/of a", "one");
    b.write("of b", "two");
    let (on_a, on_b) = (a.start(), b.start());
    a.await_file("of b", Some("two"), LIMIT);
    b.await_file("dir/of a", Some("one"), LIMIT);
    let c = machine("c");
    c.configure(&[&a, &b], &Setup::default());
    c.write("dir/of c", "three");
    let _on_c = c.start();
    await_condition("it is refused", LIMIT, || a.shows(c.id()).then_some(()));
    a.configure(&[&b, &c], &Setup::default());
    b.configure(&[&a, &c], &Setup::default());
    on_a.re_read();
    on_b.re_read();
    for machine in [&a, &b] {
        machine.await_file("dir/of c", Some("three"), LIMIT);
        assert!(!machine.shows(c.id()), "{}", machine.status());
    }
    assert_all_same(&[&a, &b, &c], LIMIT);
    assert_eq!(c.tree().paths(), ["dir", "dir/of a", "dir/of c", "of b"]);
    fs::remove_file(c.folder().join("of b")).unwrap();
    b.await_file("of b", None, LIMIT);
    assert_all_same(&[&a, &b, &c], LIMIT);
}

#[test]
fn what_a_removed_device_wrote_stays_for_those_too_that_come_later() {
    let [a, b, c] = mesh(["a", "b", "c"]);
    c.write("of c/stays", "one");
    c.write("of c/goes", "two");
    a.write("of a", "three");
    let (on_a, on_b, on_c) = (a.start(), b.start(), c.start());
    for machine in [&a, &b] {
        machine.await_file("of c/stays", Some("one"), LIMIT);
    }
    assert_all_same(&[&a, &b, &c], LIMIT);
    assert!(on_c.stop().success());

    let d = machine("d");
    a.configure(&[&b, &d], &Setup::default());
    b.configure(&[&a, &d], &Setup::default());
    d.configure(&[&a, &b], &Setup::default());
    on_a.re_read();
    // One knows it before the other, who is not told any more what the removed one said itself.
    a.write("of a", "three and more");
    b.await_file("of a", Some("three and more"), LIMIT);
    a.wait(LIMIT);
    b.wait(LIMIT);
    on_b.re_read();
    let _on_d = d.start();
    d.await_file("of c/stays", Some("one"), LIMIT);
    assert_all_same(&[&a, &b, &d], LIMIT);
    fs::remove_file(d.folder().join("of c/goes")).unwrap();
    a.await_file("of c/goes", None, LIMIT);
    assert_all_same(&[&a, &b, &d], LIMIT);
    assert_eq!(d.tree().paths(), ["of a", "of c", "of c/stays"]);
    d.wait(LIMIT);
    assert!(!d.shows(c.id()), "{}", d.status());

    // The removed one does not know it: it is refused, and what it writes stays with it.
    c.write("of c/stays", "not any more");
    let _on_c = c.start();
    await_condition("it is refused", LIMIT, || a.shows(c.id()).then_some(()));
    a.write("of a", "four");
    d.await_file("of a", Some("four"), LIMIT);
    for machine in [&a, &b, &d] {
        assert_eq!(machine.read("of c/stays").as_deref(), Some(&b"one"[..]));
    }
}

/// A new key and store for a folder that has been there: a union without conflicts, and without
/// sending again what is there.
#[test]
fn a_device_that_is_replaced_finds_its_files_again() {
    let [a, b] = mesh(["a", "b"]);
    let large: Vec<u8> = noise(2).flatten().take(4 << 20).collect();
    a.write("large", &large);
    b.write("dir/of b", "one");
    let (on_a, on_b) = (a.start(), b.start());
    b.wait(LIMIT);
    a.wait(LIMIT);
    assert_all_same(&[&a, &b], LIMIT);
    assert!(on_b.stop().success());

    let new = machine("new");
    fs::rename(b.folder(), new.folder()).unwrap();
    new.write("dir/since", "two");
    new.configure(&[&a], &Setup::default());
    a.configure(&[&new], &Setup::default());
    on_a.re_read();
    a.write("meanwhile", "three");
    let _on_new = new.start();
    a.await_file("dir/since", Some("two"), LIMIT);
    new.await_file("meanwhile", Some("three"), LIMIT);
    assert_all_same(&[&a, &new], LIMIT);
    assert!(a.conflicts().is_empty());
    assert_eq!(a.tree().paths(), ["dir", "dir/of b", "dir/since", "large", "meanwhile"]);
    let received = new.traffic().0;
    assert!(received < 1 << 20, "{received} bytes for what was there");
}
