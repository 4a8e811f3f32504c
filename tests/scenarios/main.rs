//! What must come out of two real daemons on loopback, seen from the outward interface alone.
//!
//! The pure level holds most of these lines too (see the table in `crates/README.md`); here they
//! pass through the operating system, the store and the network.

mod apart;
mod moves;
mod safety;
mod together;

use std::path::Path;
use std::time::Duration;

use ark_testkit::daemon::{Machine, Setup, assert_in_step, pair};

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
