//! Several real daemons on loopback, in the ways in which they may know each other, most of them
//! not always on: seen from the outward interface alone.

mod churn;
mod halves;
mod line;
mod members;
mod roles;
mod wire;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use ark_testkit::daemon::{Machine, Setup};

const BINARY: &str = env!("CARGO_BIN_EXE_ark");
/// Far beyond what any of these takes; only a failure reaches it.
const LIMIT: Duration = Duration::from_secs(90);
/// Machines that listen on addresses of one family alone reach nobody of the other.
const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

fn machine(name: &str) -> Machine {
    Machine::new(BINARY, name, None)
}

fn listening(name: &str, hosts: &[IpAddr]) -> Machine {
    Machine::listening(BINARY, name, None, hosts)
}

/// Machines that all list each other, with a folder each.
fn mesh<const N: usize>(names: [&str; N]) -> [Machine; N] {
    let machines = names.map(machine);
    for (at, machine) in machines.iter().enumerate() {
        let others = machines.iter().enumerate().filter(|(other, _)| *other != at);
        let others: Vec<&Machine> = others.map(|(_, other)| other).collect();
        machine.configure(&others, &Setup::default());
    }
    machines
}

/// Whether this system has both families; where not, machines cannot be kept apart by them.
fn has_two_families() -> bool {
    let found = UdpSocket::bind((V6, 0)).is_ok();
    if !found {
        eprintln!("this system has no IPv6 on loopback: not tested");
    }
    found
}
