//! kill -9 of either side in the middle of the first transfer: it completes, and what arrived is
//! not sent again.

use std::time::Duration;

use ark_testkit::daemon::{Daemon, Machine, Setup, assert_in_step, pair};
use ark_testkit::noise::noise;
use ark_testkit::tree::await_condition;

const BINARY: &str = env!("CARGO_BIN_EXE_ark");
/// Far beyond what any of these takes; only a failure reaches it.
const LIMIT: Duration = Duration::from_mins(3);
/// Small files, of 1 to 32 KiB, in directories of 50.
const FILES: usize = 1_500;
/// Bytes of the one file that is sent in chunks. With the small ones some 128 MiB: up to 16 MiB
/// may have arrived without being durable when a side is killed, which must stay a small share.
const LARGE_BYTES: usize = 104 << 20;

/// Fills a's folder; the bytes of its content.
fn fill(a: &Machine) -> u64 {
    let content = |seed, length| noise(seed).flatten().take(length).collect::<Vec<u8>>();
    let mut total = 0;
    for n in 0..FILES {
        let bytes = content(n as u64 + 1, 1024 + (n * 7919) % (31 << 10));
        total += bytes.len() as u64;
        a.write(&format!("d{}/f{n}", n / 50), bytes);
    }
    a.write("large", content(u64::MAX, LARGE_BYTES));
    total + LARGE_BYTES as u64
}

enum Killed {
    Sender,
    Receiver,
}

fn killed_at(percent: u64, killed: &Killed) {
    let (a, b) = pair(BINARY, &Setup::default());
    let content = fill(&a);
    let (on_a, on_b) = (a.start(), b.start());
    let received = await_condition("a part of it has arrived", LIMIT, || {
        let received = b.traffic().0;
        (received >= content * percent / 100).then_some(received)
    });
    // What went over the wire is counted where the daemon lives on.
    let (total, _daemons): (u64, [Daemon<'_>; 2]) = match killed {
        Killed::Sender => {
            on_a.kill();
            let on_a = a.start();
            assert_in_step(&a, &b, LIMIT);
            (b.traffic().0, [on_a, on_b])
        }
        Killed::Receiver => {
            on_b.kill();
            let on_b = b.start();
            assert_in_step(&a, &b, LIMIT);
            (a.traffic().1, [on_a, on_b])
        }
    };
    let share = total * 100 / content;
    println!("killed after {received} of {content} bytes; {total} bytes in all: {share} %");
    assert!(share < 130, "{total} bytes over the wire for {content} of content: {share} %");
}

#[test]
fn the_sender_is_killed_early() {
    killed_at(20, &Killed::Sender);
}

#[test]
fn the_sender_is_killed_half_way() {
    killed_at(50, &Killed::Sender);
}

#[test]
fn the_sender_is_killed_late() {
    killed_at(80, &Killed::Sender);
}

#[test]
fn the_receiver_is_killed_early() {
    killed_at(20, &Killed::Receiver);
}

#[test]
fn the_receiver_is_killed_half_way() {
    killed_at(50, &Killed::Receiver);
}

#[test]
fn the_receiver_is_killed_late() {
    killed_at(80, &Killed::Receiver);
}
