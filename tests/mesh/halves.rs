//! Scenario 51: a network that falls into two halves for longer than any connection lasts.

use std::fs;
use std::time::Instant;

use ark_testkit::daemon::{Machine, Setup, assert_all_same};
use ark_testkit::tree::await_condition;

use super::wire::Wire;
use super::{LIMIT, V4, V6, has_two_families, listening};

#[test]
fn two_halves_that_were_parted_for_long_are_the_same_again() {
    if !has_two_families() {
        return;
    }
    // Between the families there are only the wires, from each of a, b to each of c, d.
    let [a, b] = ["a", "b"].map(|name| listening(name, &[V4]));
    let [c, d] = ["c", "d"].map(|name| listening(name, &[V6]));
    let wires = [&c, &d].map(|far| [&a, &b].map(|_| Wire::new(V4, far.address())));
    let setup = Setup::default();
    for (at, (near, other)) in [(&a, &b), (&b, &a)].into_iter().enumerate() {
        let far = [&c, &d].into_iter().zip(&wires);
        let far = far.map(|(far, wires)| far.listed().at(wires[at].address()));
        near.list(&far.chain([other.listed()]).collect::<Vec<_>>(), &setup);
    }
    for (far, other) in [(&c, &d), (&d, &c)] {
        let near = [&a, &b].map(|near| near.listed().without_address());
        far.list(&near.into_iter().chain([other.listed()]).collect::<Vec<_>>(), &setup);
    }
    let cut = |is_cut| wires.iter().flatten().for_each(|wire| wire.cut(is_cut));

    a.write("both", "before");
    a.write("goes", "before");
    c.write("of c", "before");
    let _daemons = [&a, &b, &c, &d].map(Machine::start);
    d.await_file("both", Some("before"), LIMIT);
    b.await_file("of c", Some("before"), LIMIT);
    assert_all_same(&[&a, &b, &c, &d], LIMIT);
    let over_the_wires_all_are = |connected: bool| {
        let are = |one: &Machine, other: &Machine| {
            one.peer(other)["connected"] == connected && other.peer(one)["connected"] == connected
        };
        await_condition("all pairs over the wires are connected, or none", LIMIT, || {
            [&a, &b].iter().all(|near| are(near, &c) && are(near, &d)).then_some(())
        });
    };

    over_the_wires_all_are(true);
    cut(true);
    a.write("both", "of the first half");
    d.write("both", "of the second half");
    b.await_file("both", Some("of the first half"), LIMIT);
    c.await_file("both", Some("of the second half"), LIMIT);
    over_the_wires_all_are(false);
    // Each half goes on by itself.
    fs::remove_file(b.folder().join("goes")).unwrap();
    a.await_file("goes", None, LIMIT);
    c.write("since", "of c");
    d.await_file("since", Some("of c"), LIMIT);
    assert!(a.read("since").is_none() && d.read("goes").is_some());

    cut(false);
    let healed = Instant::now();
    for near in [&a, &b] {
        near.await_file("since", Some("of c"), LIMIT);
    }
    for far in [&c, &d] {
        far.await_file("goes", None, LIMIT);
    }
    assert_all_same(&[&a, &b, &c, &d], LIMIT);
    println!("the same {:?} after the wires were mended", healed.elapsed());
    // What is on the disk is shown as a conflict once it is recorded.
    await_condition("both versions are kept", LIMIT, || (a.conflicts().len() == 1).then_some(()));
    b.write("later", "crosses");
    c.await_file("later", Some("crosses"), LIMIT);
    d.await_file("later", Some("crosses"), LIMIT);
}
