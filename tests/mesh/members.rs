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
