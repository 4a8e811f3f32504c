//! Reconciliation beside negentropy's: bytes, round trips and processor time by the difference,
//! without sketches and with one on either side.
//!
//! `cargo bench -p ark-recon` prints one line per case; a number as argument is the size of the
//! sets (default: a million ids).

#[path = "../tests/recon/support.rs"]
#[expect(dead_code, reason = "tests use the rest")]
mod support;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use ark_recon::{Digest, Links, Prefix, Sketch};
use negentropy::{Id, Negentropy, NegentropyStorageVector};
use support::{FRAME_HEADER_BYTES, Set, assert_found, link, reconcile, topic};

const DIFFERENCES: [u64; 7] = [0, 1, 10, 100, 1_000, 10_000, 100_000];

/// What is timed takes so long at least, or so often.
const LEAST: Duration = Duration::from_millis(40);
const MOST_RUNS: u32 = 2_000;

fn main() {
    let size = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    let size = size.unwrap_or(1_000_000);
    println!("{size} ids; bytes both ways with frame lengths until every full id is held\n");
    let whole = Set::of((0..size).map(|n| link(0, n)));
    // What every session in which all buckets differ does at least, on either side.
    let pass = || {
        let links = whole.links(Prefix::ROOT).unwrap_or_else(|never| match never {});
        links.flatten().fold(0_u8, |sum, link| sum ^ link.id.as_bytes()[31])
    };
    let (_, pass) = timed(pass);
    println!("reading all links of both sides once: {:.1}ms\n", 2e3 * pass.as_secs_f64());
    sketches(&whole);
    println!(
        "{:>8}  {:12}  {:>10} {:>6} {:>10}  {:>10} {:>6} {:>10}  {:>11} {:>6} {:>10}  {:>6}",
        "d",
        "who lacks",
        "bytes",
        "rounds",
        "CPU",
        "sketched",
        "rounds",
        "CPU",
        "negentropy",
        "rounds",
        "CPU",
        "ratio"
    );
    for d in DIFFERENCES.into_iter().filter(|d| *d <= size / 2) {
        let lacking = Set::of((d..size).map(|n| link(0, n)));
        line(d, "the opener", &lacking, &whole);
        if d == 0 {
            continue;
        }
        line(d, "the answerer", &whole, &lacking);
        let mixed =
            |from, to| Set::of((d..size).map(|n| link(0, n)).chain((from..to).map(|n| link(1, n))));
        line(d, "each half", &mixed(0, d / 2), &mixed(d / 2, d));
    }
}

/// Prints what a sketch costs.
fn sketches(whole: &Set) {
    let (_, making) = timed(|| Sketch::of(whole, topic()).unwrap_or_else(|never| match never {}));
    let sketch = Sketch::of(whole, topic()).unwrap_or_else(|never| match never {});
    let change: Vec<_> = (0..1_000).map(|n| link(1, n)).collect();
    let (_, copying) = timed(|| sketch.clone());
    let (_, changing) = timed(|| {
        let mut sketch = sketch.clone();
        sketch.change(&change, &[], Digest::EMPTY);
        sketch
    });
    println!(
        "making a sketch: {:.1}ms; bringing it after an insert or removal: {:.2}us\n",
        1e3 * making.as_secs_f64(),
        1e3 * changing.saturating_sub(copying).as_secs_f64(),
    );
}

/// Prints a case; the ratio is of the bytes with sketches to negentropy's.
fn line(d: u64, who: &str, a: &Set, b: &Set) {
    let (plain, plain_time) = timed(|| reconcile(a, b, d));
    assert_found(a, b, &plain);
    let (a, b) = (a.clone().sketched(), b.clone().sketched());
    let (ours, time) = timed(|| reconcile(&a, &b, d));
    assert_found(&a, &b, &ours);
    let (a, b) = (stored(&a), stored(&b));
    let (theirs, their_time) = timed(|| negentropy(&a, &b));
    assert_eq!(ours.opener.len() + ours.answerer.len(), theirs.found);
    #[expect(clippy::cast_precision_loss, reason = "a ratio to three digits")]
    let ratio = ours.bytes() as f64 / theirs.bytes as f64;
    let part = |bytes: usize, rounds: u32, time: Duration| {
        format!("{bytes:>10} {rounds:>6} {:>8.2}ms", 1e3 * time.as_secs_f64())
    };
    println!(
        "{d:>8}  {who:12}  {}  {}   {}  {ratio:>6.3}",
        part(plain.bytes(), plain.rounds, plain_time),
        part(ours.bytes(), ours.rounds, time),
        part(theirs.bytes, theirs.rounds, their_time),
    );
}

/// The best of three: the machine has other things to do too. What is short is done several times,
/// since the system counts in ticks of some milliseconds.
fn timed<T>(f: impl Fn() -> T) -> (T, Duration) {
    let run = || {
        let (start, mut runs) = (processor_time(), 0);
        loop {
            let value = f();
            runs += 1;
            let spent = processor_time().saturating_sub(start);
            if spent >= LEAST || runs >= MOST_RUNS {
                return (value, spent / runs);
            }
        }
    };
    (0..2).fold(run(), |best, _| {
        let next = run();
        if next.1 < best.1 { next } else { best }
    })
}

/// What this thread has had of a processor; where the system does not say, the time.
fn processor_time() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let schedule = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let on_processor = schedule.and_then(|text| text.split(' ').next()?.parse().ok());
    on_processor.map_or_else(|| START.elapsed(), Duration::from_nanos)
}

struct Negentropied {
    bytes: usize,
    rounds: u32,
    found: usize,
}

fn stored(set: &Set) -> NegentropyStorageVector {
    let mut storage = NegentropyStorageVector::with_capacity(set.members.0.len());
    for (id, _) in &set.members.0 {
        storage.insert(0, Id::from_byte_array(*id.as_bytes())).expect("not sealed");
    }
    storage.seal().expect("not sealed");
    storage
}

/// The same by negentropy, where the opener is its client: who learns both differences.
fn negentropy(a: &NegentropyStorageVector, b: &NegentropyStorageVector) -> Negentropied {
    let mut client = Negentropy::borrowed(a, 0).expect("no limit");
    let mut server = Negentropy::borrowed(b, 0).expect("no limit");
    let (mut have, mut need) = (Vec::new(), Vec::new());
    let mut outcome = Negentropied { bytes: 0, rounds: 0, found: 0 };
    let mut query = Some(client.initiate().expect("an opening"));
    while let Some(question) = query {
        let answer = server.reconcile(&question).expect("an answer");
        outcome.rounds += 1;
        outcome.bytes += question.len() + answer.len() + 2 * FRAME_HEADER_BYTES;
        query = client.reconcile_with_ids(&answer, &mut have, &mut need).expect("an end");
    }
    outcome.found = have.len() + need.len();
    outcome
}
