//! Many daemons on loopback: what an edit costs, and how long it takes to be everywhere.
//!
//! `cargo bench --bench mesh` prints a line per figure; a name as argument runs that part alone
//! (`ten`, `line`). Where a target is known it stands beside the figure. All daemons share the
//! processors of one machine, which most of the time of the ten is about.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ark_testkit::daemon::{Machine, Setup, assert_all_same};
use ark_testkit::tree::await_condition;

const BINARY: &str = env!("CARGO_BIN_EXE_ark");
const LIMIT: Duration = Duration::from_mins(5);
/// Daemons of the full mesh.
const MACHINES: usize = 10;
/// Edits that are measured in the mesh, on one machine after the other.
const EDITS: usize = 20;
/// Edits that cross the line of three, in turns from either end.
const CROSSINGS: usize = 51;
/// Bytes of an edited file: small, so that what is said of it outweighs it.
const EDIT_BYTES: usize = 100;
/// Nothing is sent any more when the counts were the same for so long.
const QUIET: Duration = Duration::from_millis(500);
/// Machines that listen on addresses of one family alone reach nobody of the other.
const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let runs = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    if runs("ten") {
        ten();
    }
    if runs("line") {
        line();
    }
}

fn machine(name: &str, hosts: &[IpAddr]) -> Machine {
    Machine::listening(PathBuf::from(BINARY), name, None, hosts)
}

fn ten() {
    let machines: Vec<Machine> = (0..MACHINES).map(|n| machine(&format!("m{n}"), &[V4])).collect();
    for one in &machines {
        let others: Vec<_> = machines.iter().filter(|other| other.id() != one.id()).collect();
        one.configure(&others, &Setup::default());
    }
    machines[0].write("first", "of all");
    let all: Vec<&Machine> = machines.iter().collect();
    let start = Instant::now();
    let _daemons: Vec<_> = machines.iter().map(Machine::start).collect();
    await_condition("all are connected", LIMIT, || {
        let is_met = |it: &Machine| {
            let status = it.status();
            let peers = status["peers"].as_array().expect("peers");
            peers.iter().all(|peer| peer["connected"] == true)
        };
        machines.iter().all(is_met).then_some(())
    });
    assert_all_same(&all, LIMIT);
    println!("{MACHINES} machines met after {:.1} s", start.elapsed().as_secs_f64());
    let met = until_quiet(&machines);
    println!("until then each had sent {} bytes", met / MACHINES as u64);

    let (mut times, mut costs) = (Vec::new(), Vec::new());
    for n in 0..EDITS {
        let before = until_quiet(&machines);
        let from = &machines[n % MACHINES];
        let content = format!("{n:EDIT_BYTES$}");
        let start = Instant::now();
        from.write("edited", &content);
        until_shown(&machines, "edited", &content);
        times.push(start.elapsed().as_secs_f64() * 1e3);
        costs.push(until_quiet(&machines) - before);
    }
    times.sort_by(f64::total_cmp);
    costs.sort_unstable();
    println!(
        "an edit is on the last of {MACHINES} after {:.0} ms (median; {:.0} to {:.0})",
        times[EDITS / 2],
        times[0],
        times[EDITS - 1]
    );
    println!(
        "it costs {} bytes (median; {} to {}), all that all sent: announcements, states, what each \
         has, and the {} objects of a file of {EDIT_BYTES} bytes",
        costs[EDITS / 2],
        costs[0],
        costs[EDITS - 1],
        3 * (MACHINES - 1)
    );
    println!("that is {} bytes for each of the others", costs[EDITS / 2] / (MACHINES as u64 - 1));
}

/// Three of which the ends reach the middle alone; no rescan helps.
fn line() {
    let setup = Setup { sync_lines: "rescan_interval = \"1h\"".to_owned(), ..Setup::default() };
    let (a, b, c) = (machine("a", &[V4]), machine("b", &[V4, V6]), machine("c", &[V6]));
    a.list(&[b.listed(), c.listed().without_address()], &setup);
    b.configure(&[&a, &c], &setup);
    c.list(&[b.listed(), a.listed().without_address()], &setup);
    a.write("edited", "at first");
    let _daemons = (a.start(), b.start(), c.start());
    c.await_file("edited", Some("at first"), LIMIT);
    assert_all_same(&[&a, &b, &c], LIMIT);
    let mut times: Vec<f64> = (0..CROSSINGS)
        .map(|n| {
            let (from, to) = if n % 2 == 0 { (&a, &c) } else { (&c, &a) };
            let content = format!("{n:EDIT_BYTES$}");
            let start = Instant::now();
            from.write("edited", &content);
            until_shown([to], "edited", &content);
            let time = start.elapsed().as_secs_f64() * 1e3;
            // The next edit is of what this one left, not one beside it.
            to.wait(LIMIT);
            time
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let median = times[CROSSINGS / 2];
    let verdict = if median <= 200.0 { "ok" } else { "MISSED" };
    println!("an edit crosses A-B-C in {median:.0} ms, median (target 200 ms: {verdict})");
    println!("  (fastest {:.0} ms, slowest {:.0} ms)", times[0], times[CROSSINGS - 1]);
}

/// Waits until all show this file so.
fn until_shown<'a>(machines: impl IntoIterator<Item = &'a Machine>, path: &str, content: &str) {
    let start = Instant::now();
    for machine in machines {
        while machine.read(path).as_deref() != Some(content.as_bytes()) {
            assert!(start.elapsed() < LIMIT, "{}: {path} never arrived", machine.name());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Waits until nobody sends anything any more; the bytes that all sent so far.
fn until_quiet(machines: &[Machine]) -> u64 {
    let sent = || machines.iter().map(|machine| machine.traffic().1).sum::<u64>();
    let mut before = sent();
    loop {
        std::thread::sleep(QUIET);
        let now = sent();
        if now == before {
            return now;
        }
        before = now;
    }
}
