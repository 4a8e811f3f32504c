//! Machines of which some know of each other only through a third one.

use std::fs;
use std::time::{Duration, Instant};

use ark_testkit::daemon::{Machine, Setup, assert_all_same};
use serde_json::Value;

use super::{LIMIT, V4, V6, has_two_families, listening, machine};

/// Edits of which the median is printed.
const EDITS: usize = 11;

/// How long an edit made on one takes to be in the folder of the other.
fn cross(from: &Machine, to: &Machine, content: &str) -> Duration {
    from.write("edited", content);
    let start = Instant::now();
    to.await_file("edited", Some(content), LIMIT);
    let took = start.elapsed();
    // What is written over it next is written by one who knows it: it is applied, not just there.
    to.wait(LIMIT);
    took
}

#[test]
fn edits_cross_a_line_whose_ends_never_meet() {
    if !has_two_families() {
        return;
    }
    let (a, b, c) = (listening("a", &[V4]), listening("b", &[V4, V6]), listening("c", &[V6]));
    let setup = Setup::default();
    a.list(&[b.listed(), c.listed().without_address()], &setup);
    b.configure(&[&a, &c], &setup);
    c.list(&[b.listed(), a.listed().without_address()], &setup);
    a.write("of a/1", "one");
    a.write("of a/2", "two");
    c.write("of c", "three");
    let (_on_a, on_b, _on_c) = (a.start(), b.start(), c.start());
    c.await_file("of a/1", Some("one"), LIMIT);
    a.await_file("of c", Some("three"), LIMIT);
    assert_all_same(&[&a, &b, &c], LIMIT);

    let mut times: Vec<Duration> = (0..EDITS)
        .map(|n| {
            let (from, to) = if n % 2 == 0 { (&a, &c) } else { (&c, &a) };
            cross(from, to, &n.to_string())
        })
        .collect();
    times.sort();
    println!("an edit crosses in {:?} (median)", times[EDITS / 2]);

    fs::rename(a.folder().join("of a"), a.folder().join("renamed")).unwrap();
    fs::remove_file(c.folder().join("of c")).unwrap();
    c.await_file("renamed/2", Some("two"), LIMIT);
    a.await_file("of c", None, LIMIT);
    assert_all_same(&[&a, &b, &c], LIMIT);

    // Nothing crosses while the one between is away; both go on alone.
    assert!(on_b.stop().success());
    a.write("renamed/1", "of a meanwhile");
    c.write("renamed/2", "of c meanwhile");
    let _on_b = b.start();
    c.await_file("renamed/1", Some("of a meanwhile"), LIMIT);
    a.await_file("renamed/2", Some("of c meanwhile"), LIMIT);
    assert_all_same(&[&a, &b, &c], LIMIT);
    assert!(a.conflicts().is_empty());
    for (end, other) in [(&a, &c), (&c, &a)] {
        let peer = end.peer(other);
        assert_eq!((&peer["connected"], &peer["last_seen"]), (&Value::from(false), &Value::Null));
    }
}

#[test]
fn leaves_of_a_star_agree_through_its_middle() {
    let (hub, leaves) = (machine("hub"), ["x", "y", "z"].map(machine));
    let setup = Setup::default();
    hub.configure(&leaves.each_ref(), &setup);
    for leaf in &leaves {
        let mut remotes = vec![hub.listed()];
        let others = leaves.iter().filter(|other| other.id() != leaf.id());
        remotes.extend(others.map(|other| other.listed().without_address()));
        leaf.list(&remotes, &setup);
        leaf.write(&format!("of {}", leaf.name()), "before");
    }
    let on_hub = hub.start();
    let _on_leaves: Vec<_> = leaves.iter().map(Machine::start).collect();
    let [x, y, z] = &leaves;
    for (from, to) in [(x, y), (y, z), (z, x)] {
        to.await_file(&format!("of {}", from.name()), Some("before"), LIMIT);
    }
    on_hub.kill();
    for leaf in &leaves {
        leaf.write(&format!("of {}", leaf.name()), "after");
    }
    let _on_hub = hub.start();
    for (from, to) in [(x, y), (y, z), (z, x)] {
        to.await_file(&format!("of {}", from.name()), Some("after"), LIMIT);
    }
    assert_all_same(&[&hub, x, y, z], LIMIT);
    assert!(hub.conflicts().is_empty());
}
