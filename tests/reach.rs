//! Two machines that know nothing of each other's addresses, each in a network namespace of its
//! own with one wire between them: they find each other by multicast DNS, and go on when an
//! address changes, whichever of them has dialled the connections that stand.
//! Namespaces take root, so this runs only where it is asked for:
//! `cargo test --test reach -- --ignored`.

use std::process::Command;
use std::time::{Duration, Instant};

use ark_testkit::daemon::{Daemon, Machine, Setup};
use ark_testkit::tree::await_condition;

const BINARY: &str = env!("CARGO_BIN_EXE_ark");
/// Far beyond what it takes; only a failure reaches it.
const LIMIT: Duration = Duration::from_secs(90);

/// Of the wire: slow enough that a transfer has a middle.
const RATE: &str = "100mbit";

/// What is asked for again of a transfer that was cut: an object of each request under way, each of
/// 4 MiB at most.
const AGAIN: u64 = 16 * (4 << 20);
/// A file that takes long against a change of addresses, in bytes.
const LARGE: u64 = 192_000_000;

/// Two namespaces and the wire, gone when dropped.
struct Wire {
    names: [String; 2],
}

impl Wire {
    fn new(name: &str) -> Self {
        let names = ["a", "b"].map(|end| format!("ark-{}-{name}-{end}", std::process::id()));
        for name in &names {
            ip(&["netns", "add", name]);
        }
        let wire = Self { names };
        let [a, b] = &wire.names;
        ip(&[
            "link", "add", "wire", "netns", a, "type", "veth", "peer", "name", "wire", "netns", b,
        ]);
        for (name, own, other) in [(a, "10.9.8.1", "10.9.8.2"), (b, "10.9.8.2", "10.9.8.1")] {
            ip(&["-n", name, "link", "set", "lo", "up"]);
            ip(&["-n", name, "link", "set", "wire", "up"]);
            ip(&["-n", name, "addr", "add", &format!("{own}/24"), "dev", "wire"]);
            // Multicast goes where the default route leads.
            ip(&["-n", name, "route", "add", "default", "via", other, "dev", "wire"]);
            let rate = ["tbf", "rate", RATE, "burst", "128k", "latency", "50ms"];
            let shape = ["netns", "exec", name, "tc", "qdisc", "add", "dev", "wire", "root"];
            ip(&[&shape[..], &rate].concat());
        }
        wire
    }

    /// The first machine gets another address in the place of its own.
    fn readdress(&self) {
        let a = &self.names[0];
        ip(&["-n", a, "addr", "del", "10.9.8.1/24", "dev", "wire"]);
        ip(&["-n", a, "addr", "add", "10.9.8.3/24", "dev", "wire"]);
        ip(&["-n", a, "route", "replace", "default", "via", "10.9.8.2", "dev", "wire"]);
    }

    fn start<'a>(&self, end: usize, machine: &'a Machine) -> Daemon<'a> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[end], BINARY, "--config"]);
        command.arg(machine.config()).env("XDG_STATE_HOME", machine.directory().join("state"));
        machine.start_as(&mut command)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for name in &self.names {
            // One that was not made cannot be removed.
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn ip(arguments: &[&str]) {
    assert!(Command::new("ip").args(arguments).status().unwrap().success(), "{arguments:?}");
}

/// The config of the tests with discovery in the place of every address.
fn configure(machine: &Machine, other: &Machine) {
    let text = machine.config_text(&[other], &Setup::default());
    let text = text
        .replace(&format!("bind = [\"127.0.0.1:{}\"]\n", machine.port()), "")
        .replace("discovery = []", "discovery = [\"mdns\"]")
        .replace(&format!(", addrs = [\"127.0.0.1:{}\"]", other.port()), "");
    assert!(!text.contains("127.0.0.1"), "{text}");
    std::fs::write(machine.config(), text).unwrap();
}

/// Two machines, of which the first has the smaller id or the greater: of two connections that both
/// dial, the one that the smaller dialled stays.
fn machines(smaller: bool) -> [Machine; 2] {
    let mut machines = ["a", "b"].map(|name| Machine::new(BINARY, name, None));
    while (machines[0].id() < machines[1].id()) != smaller {
        machines = ["a", "b"].map(|name| Machine::new(BINARY, name, None));
    }
    machines
}

fn find_each_other_and_outlive_an_address(name: &str, smaller: bool) {
    let [a, b] = machines(smaller);
    configure(&a, &b);
    configure(&b, &a);
    let wire = Wire::new(name);
    a.write("file", "found");
    let (_on_a, _on_b) = (wire.start(0, &a), wire.start(1, &b));
    a.wait(LIMIT);
    b.wait(LIMIT);
    assert_eq!(b.read("file").as_deref(), Some(&b"found"[..]));
    assert_eq!(a.status()["peers"][0]["path"], "direct");

    // In the middle of a transfer.
    let words = u32::try_from(LARGE / 4).unwrap();
    let large: Vec<u8> = (0..words).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect();
    let before = b.traffic().0;
    a.write("large", &large);
    let received = || b.traffic().0 - before;
    await_condition("a part has come", LIMIT, || (received() > 1_000_000).then_some(()));
    wire.readdress();
    let (changed, came) = (Instant::now(), received());
    assert!(b.read("large").is_none(), "it is not there yet");
    await_condition("more comes", LIMIT, || (received() > came + 1_000_000).then_some(()));
    println!("{name}: more has come {:?} after the change", changed.elapsed());
    b.wait(LIMIT);
    println!("{name}: all of it {:?} after the change", changed.elapsed());
    a.wait(LIMIT);
    assert!(b.read("large") == Some(large));
    assert!(received() < LARGE + AGAIN, "{} bytes for {LARGE}", received());
}

#[test]
#[ignore = "needs root and iproute2"]
fn one_that_dialled_outlives_an_address() {
    find_each_other_and_outlive_an_address("dialled", true);
}

#[test]
#[ignore = "needs root and iproute2"]
fn one_that_was_dialled_outlives_an_address() {
    find_each_other_and_outlive_an_address("called", false);
}
