//! kill -9 of either side in the middle of the first transfer: it completes, and what arrived is
//! not sent again.

use std::time::Duration;

use ark_testkit::daemon::{Daemon, Machine, Setup, pair};
use ark_testkit::tree::await_condition;

const BINARY: &str = env!("CARGO_BIN_EXE_ark");
/// Far beyond what any of these takes; only a failure reaches it.
const LIMIT: Duration = Duration::from_mins(3);
/// Small files, of 1 to 32 KiB, in directories of 50.
const FILES: usize = 1_500;
/// Bytes of the one file that is sent in chunks. With the small ones some 128 MiB: up to 16 MiB
/// may have arrived without being durable when a side is killed, which must stay a small share.
const LARGE_BYTES: usize = 104 << 20;

/// Bytes without repetition, the same in every run (xorshift64*).
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes()
    });
    words.flatten().take(length).collect()
}

/// Fills a's folder; the bytes of its content.
fn fill(a: &Machine) -> u64 {
    let mut content = 0;
    for n in 0..FILES {
        let bytes = noise(n as u64 + 1, 1024 + (n * 7919) % (31 << 10));
        content += bytes.len() as u64;
        a.write(&format!("d{}/f{n}", n / 50), bytes);
    }
    a.write("large", noise(u64::MAX, LARGE_BYTES));
    content + LARGE_BYTES as u64
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
            finish(&a, &b);
            (b.traffic().0, [on_a, on_b])
        }
        Killed::Receiver => {
            on_b.kill();
            let on_b = b.start();
            finish(&a, &b);
            (a.traffic().1, [on_a, on_b])
        }
    };
    let share = total * 100 / content;
    println!("killed after {received} of {content} bytes; {total} bytes in all: {share} %");
    assert!(share < 130, "{total} bytes over the wire for {content} of content: {share} %");
}

fn finish(a: &Machine, b: &Machine) {
    a.wait(LIMIT);
    b.wait(LIMIT);
    let differences = a.tree().differences(&b.tree());
    assert!(differences.is_empty(), "{differences:#?}\n{}\n{}", a.log(), b.log());
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
