//! jj on real daemons, seen from jj-lib: one machine, and two on loopback.

mod process;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ark_core::{Object, ObjectKind};
use ark_jj::{Client, ClientError, Storage as _, StorageError, resolve_heads};
use ark_testkit::daemon::{Machine, REPO, Setup};
use ark_testkit::noise::noise;
use ark_testkit::tree::await_condition;
use futures::future::try_join_all;
use pollster::FutureExt as _;
use rustix::process::Signal;

use process::Process;

const BINARY: &str = env!("CARGO_BIN_EXE_ark");
/// Far beyond what any of these takes; only a failure reaches it.
const LIMIT: Duration = Duration::from_secs(90);

fn setup() -> Setup {
    Setup { folder: false, ..Setup::default() }
}

fn machine() -> Machine {
    let machine = Machine::new(BINARY, "a", None);
    machine.configure(&[], &setup());
    machine
}

fn pair() -> (Machine, Machine) {
    ark_testkit::daemon::pair(BINARY, &setup())
}

fn bytes(seed: u64, length: usize) -> Vec<u8> {
    noise(seed).flatten().take(length).collect()
}

fn raw(seed: u64, length: usize) -> Object {
    Object::new(ObjectKind::Raw, bytes(seed, length))
}

fn kind(machine: &Machine) -> String {
    machine.status()["repos"][0]["kind"].as_str().expect("a kind").to_owned()
}

#[test]
fn what_one_process_commits_another_reads() {
    let machine = machine();
    let daemon = machine.start();
    assert_eq!(kind(&machine), "mirror");
    let one = Process::new(&machine, "alice");
    assert!(one.heads().is_empty());
    // In chunks, in one object, and nothing.
    let contents = [bytes(1, 9 << 20), bytes(2, 70_000), Vec::new()];
    for (name, content) in ["large", "small", "empty"].iter().zip(&contents) {
        one.commit(name, content);
    }
    drop(one);
    assert_eq!(kind(&machine), "jj");
    assert_eq!(machine.status()["repos"][0]["heads"].as_array().expect("heads").len(), 1);
    let read_all = |process: &Process| {
        for (name, content) in ["large", "small", "empty"].iter().zip(&contents) {
            assert!(process.read(name).as_ref() == Some(content), "{name}");
        }
    };
    read_all(&Process::new(&machine, "alice"));
    assert!(daemon.stop().success());
    let _daemon = machine.start();
    assert_eq!(kind(&machine), "jj");
    read_all(&Process::new(&machine, "alice"));
    let nowhere = Client::connect(machine.store(), "another repo").expect_err("no such repo");
    assert!(matches!(&nowhere, ClientError::Refused(why) if why.contains("another repo")));
}

#[test]
fn a_repo_that_has_a_folder_is_no_jj_repo() {
    let machine = Machine::new(BINARY, "a", None);
    machine.configure(&[], &Setup::default());
    let _daemon = machine.start();
    let refused = Client::connect(machine.store(), REPO).expect_err("it is a folder's");
    assert!(matches!(&refused, ClientError::Refused(why) if why.contains("folder")), "{refused}");
}

#[test]
fn a_folder_over_a_jj_repo_stops_that_repo_alone() {
    let machine = machine();
    let daemon = machine.start();
    Process::new(&machine, "alice").commit("one", b"of jj");
    assert!(daemon.stop().success());
    machine.configure(&[], &Setup::default());
    let _daemon = machine.start();
    let repo = machine.status()["repos"][0].clone();
    assert_eq!(repo["state"], "error", "{repo}");
    assert!(repo["problems"].to_string().contains("jj repository"), "{repo}");
}

/// Of another version of ark: the first frame says so on both sides.
#[test]
fn a_daemon_of_another_version_refuses_in_clear_words() {
    let machine = machine();
    let daemon = machine.start();
    let socket = machine.store().join("control.sock");
    let mut stream = UnixStream::connect(&socket).expect("a daemon");
    stream.write_all(&[40, 0, 0, 0, 99]).expect("what a frame of version 99 begins with");
    // The rest comes, or not, while the daemon answers and hangs up.
    let _ = stream.write_all(&[7; 39]);
    let mut answer = Vec::new();
    let mut piece = [0; 64];
    while let Ok(read @ 1..) = stream.read(&mut piece) {
        answer.extend_from_slice(&piece[..read]);
    }
    let words = String::from_utf8_lossy(&answer);
    assert!(words.contains("speaks version 99"), "{words}");
    // What answers in a form of its own is no daemon that is away.
    assert!(daemon.stop().success());
    let listener = UnixListener::bind(&socket).expect("a socket");
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        // As the daemon does it: of the question it reads no more than which version it has.
        stream.read_exact(&mut [0; 5]).expect("a question");
        stream.write_all(&[1, 0, 0, 0, 99]).expect("a frame of version 99");
    });
    let refused = Client::connect(machine.store(), REPO).expect_err("another version");
    assert!(matches!(&refused, ClientError::Refused(why) if why.contains("99")), "{refused}");
    answering.join().expect("no panic");
}

#[test]
fn twenty_processes_at_once_lose_no_commit() {
    let machine = machine();
    let _daemon = machine.start();
    let commit = |n: usize| {
        let machine = &machine;
        move || {
            let process = Process::new(machine, &format!("user{n}"));
            for round in 0..2 {
                process.commit(&format!("b{n}-{round}"), &bytes(n as u64, 3_000));
            }
        }
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..20).map(|n| scope.spawn(commit(n))).collect();
        for one in all {
            one.join().expect("no panic");
        }
    });
    let process = Process::new(&machine, "user");
    assert_eq!(process.read_all().len(), 40);
    assert_eq!(process.heads().len(), 1);
}

#[test]
fn a_process_that_ends_in_the_middle_hinders_nobody() {
    let machine = machine();
    let _daemon = machine.start();
    for round in 0..3 {
        let client = Client::connect(machine.store(), REPO).expect("a daemon");
        for n in 0..100 {
            client.put(raw(round * 1000 + n, 20_000)).block_on().expect("room");
        }
    }
    let process = Process::new(&machine, "alice");
    process.commit("after", b"all is well");
    let link = raw(5, 20_000).link();
    let absent = process.client.get(link).block_on().expect_err("no barrier was there");
    assert!(matches!(absent, StorageError::NotFound { .. }), "{absent}");
    assert_eq!(process.read("after").expect("a bookmark"), b"all is well");
}

/// Names the store for [`a_process_that_writes_until_it_is_killed`].
const STORE: &str = "ARK_TEST_STORE";

/// Not a test of its own: `a_killed_process_loses_nothing_that_was_acknowledged` runs it.
#[test]
#[ignore = "runs until it is killed, by another test"]
fn a_process_that_writes_until_it_is_killed() {
    let Some(store) = std::env::var_os(STORE) else { return };
    let client = Client::connect(store, REPO).expect("a daemon");
    for n in 0.. {
        client.put(raw(n, 20_000)).block_on().expect("room");
        if n == 100 {
            client.barrier().block_on().expect("a barrier");
        }
        if n == 200 {
            println!("\nin the middle");
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_acknowledged() {
    let machine = machine();
    let _daemon = machine.start();
    for _ in 0..3 {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "--ignored", "--nocapture"])
            .arg("a_process_that_writes_until_it_is_killed")
            .env(STORE, machine.store())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test again");
        let said = BufReader::new(child.stdout.take().expect("a pipe"));
        let is_said = said.lines().map_while(Result::ok).any(|line| line == "in the middle");
        child.kill().expect("kill it");
        child.wait().expect("its end");
        assert!(is_said, "it ended by itself");
    }
    let process = Process::new(&machine, "alice");
    let got = try_join_all((0..=100).map(|n| process.client.get(raw(n, 20_000).link())));
    got.block_on().expect("what was acknowledged");
    process.commit("after", b"all is well");
    assert_eq!(process.read("after").expect("a bookmark"), b"all is well");
}

#[test]
fn what_no_barrier_acknowledged_is_sent_to_the_next_daemon() {
    let machine = machine();
    let daemon = machine.start();
    let process = Process::new(&machine, "alice");
    process.commit("before", b"before");
    let put = |from: u64| {
        for n in from..from + 100 {
            process.client.put(raw(n, 20_000)).block_on().expect("room");
        }
    };
    let is_here = |client: &Client, seeds: std::ops::Range<u64>| {
        let got = try_join_all(seeds.map(|n| client.get(raw(n, 20_000).link())));
        got.block_on().expect("all of them").len()
    };
    put(0);
    daemon.kill();
    put(100);
    let daemon = machine.start();
    process.client.barrier().block_on().expect("a daemon that is back");
    // What is acknowledged is there whatever comes.
    daemon.kill();
    let daemon = machine.start();
    let other = Process::new(&machine, "bob");
    assert_eq!(is_here(&other.client, 0..200), 200);
    process.commit("after", b"after");
    put(200);
    daemon.kill();
    let daemon = machine.start();
    let mut names = process.read_all();
    names.sort();
    assert_eq!(names, ["after", "before"]);
    // One that ends in order, and one that takes up another config, are followed, too.
    put(300);
    assert!(daemon.stop().success());
    let daemon = machine.start();
    put(400);
    process.client.barrier().block_on().expect("a daemon that is back");
    put(500);
    machine.configure(&[], &Setup { sync_lines: "enumerate_threshold = 9".into(), ..setup() });
    daemon.re_read();
    process.client.barrier().block_on().expect("the daemon");
    assert_eq!(is_here(&Process::new(&machine, "bob").client, 200..600), 400);
    // While a process is there that says nothing, the daemon ends all the same.
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().success());
    drop((process, other));
}

#[test]
fn what_one_machine_commits_the_other_shows() {
    let (a, b) = pair();
    let (_on_a, _on_b) = (a.start(), b.start());
    let (alice, bob) = (Process::new(&a, "alice"), Process::new(&b, "bob"));
    let shown = |process: &Process, names: &[&str]| {
        await_condition("what the other committed", LIMIT, || {
            let found = process.read_all();
            names.iter().all(|name| found.iter().any(|it| it == name)).then_some(())
        });
    };
    alice.commit("one", b"by alice");
    shown(&bob, &["one"]);
    assert_eq!((kind(&a), kind(&b)), ("jj".into(), "jj".into()));
    assert_eq!(bob.heads(), alice.heads(), "no merge was needed");
    bob.commit("two", &bytes(7, 3 << 20));
    shown(&alice, &["one", "two"]);
    assert_eq!(alice.read("two"), bob.read("two"));
    assert_eq!(bob.heads(), alice.heads());
    for machine in [&a, &b] {
        machine.wait(LIMIT);
        await_condition("in step", LIMIT, || {
            (machine.status()["repos"][0]["state"] == "in-step").then_some(())
        });
    }
}

#[test]
fn what_both_commit_while_apart_is_merged_into_the_same() {
    let (a, b) = pair();
    {
        let (_on_a, _on_b) = (a.start(), b.start());
        Process::new(&a, "alice").commit("common", b"common");
        let bob = Process::new(&b, "bob");
        await_condition("the common one", LIMIT, || bob.read("common"));
    }
    {
        let _on_a = a.start();
        Process::new(&a, "alice").commit("by-alice", b"a");
    }
    {
        let _on_b = b.start();
        Process::new(&b, "bob").commit("by-bob", b"b");
        let _on_a = a.start();
        let processes = [Process::new(&a, "alice"), Process::new(&b, "bob")];
        await_condition("both heads on both", LIMIT, || {
            processes.iter().all(|it| it.heads().len() == 2).then_some(())
        });
    }
    // Each merges by itself.
    let merged = [(&a, "alice"), (&b, "bob")].map(|(machine, user)| {
        let daemon = machine.start();
        let head = resolve_heads(Process::new(machine, user).client.clone()).block_on();
        assert!(daemon.stop().success());
        head.expect("resolved heads").expect("a head")
    });
    assert_eq!(merged[0], merged[1]);
    let (_on_a, _on_b) = (a.start(), b.start());
    for (machine, user) in [(&a, "alice"), (&b, "bob")] {
        let process = Process::new(machine, user);
        await_condition("no more to do", LIMIT, || (process.heads() == merged[..1]).then_some(()));
        let mut names = process.read_all();
        names.sort();
        assert_eq!(names, ["by-alice", "by-bob", "common"]);
        assert_eq!(process.heads(), merged[..1]);
    }
}

#[test]
fn what_a_device_made_stays_when_it_is_dropped() {
    let [a, b, c] = ["a", "b", "c"].map(|name| Machine::new(BINARY, name, None));
    a.configure(&[&b], &setup());
    b.configure(&[&a, &c], &setup());
    c.configure(&[&b], &setup());
    let on_b = b.start();
    {
        let _on_a = a.start();
        let (alice, bob) = (Process::new(&a, "alice"), Process::new(&b, "bob"));
        alice.commit("by-alice", b"a");
        await_condition("alice's", LIMIT, || bob.read("by-alice"));
        bob.commit("by-bob", b"b");
        await_condition("bob's", LIMIT, || alice.read("by-bob"));
        alice.commit("last", b"last");
        await_condition("the last one", LIMIT, || (bob.heads() == alice.heads()).then_some(()));
    }
    // The one who comes later never hears of alice.
    b.configure(&[&c], &setup());
    on_b.re_read();
    let _on_c = c.start();
    let carol = Process::new(&c, "carol");
    await_condition("what alice made last", LIMIT, || carol.read("last"));
    assert_eq!(carol.heads(), Process::new(&b, "bob").heads());
}

/// Whatever of it has come: the repo loads, and nothing is named that is not there.
#[test]
fn a_head_is_not_shown_before_all_that_it_reaches_is_there() {
    let (a, b) = pair();
    let (on_a, _on_b) = (a.start(), b.start());
    let (alice, bob) = (Process::new(&a, "alice"), Process::new(&b, "bob"));
    alice.commit("small", b"small");
    await_condition("the small one", LIMIT, || bob.read("small"));
    let content = bytes(9, 64 << 20);
    let before = b.traffic().0;
    alice.commit("large", &content);
    await_condition("a part of the large one", LIMIT, || {
        (b.traffic().0 > before + (8 << 20)).then_some(())
    });
    on_a.kill();
    // Mostly the large one is not whole; it is shown whole or not at all.
    assert!(bob.read_all().iter().any(|name| name == "small"));
    bob.commit("meanwhile", b"meanwhile");
    assert!(bob.read_all().len() >= 2);
    let _on_a = a.start();
    let large = await_condition("the large one", LIMIT, || bob.read("large"));
    assert!(large == content);
    assert_eq!(bob.read_all().len(), 3);
}

#[test]
fn a_byte_in_front_of_a_large_file_costs_about_a_chunk() {
    let (a, b) = pair();
    let (_on_a, _on_b) = (a.start(), b.start());
    let (alice, bob) = (Process::new(&a, "alice"), Process::new(&b, "bob"));
    let mut content = bytes(3, 32 << 20);
    alice.commit("large", &content);
    await_condition("the large one", LIMIT, || bob.read("large"));
    let before = b.traffic().0;
    content.insert(0, 7);
    alice.commit("larger", &content);
    let larger = await_condition("the larger one", LIMIT, || bob.read("larger"));
    assert!(larger == content);
    let received = b.traffic().0 - before;
    // One chunk, of 4 MiB at most, and what it takes to say so.
    assert!(received < 5 << 20, "{received}");
}

/// What a client does in a second: `cargo test --release --test jj -- --ignored --nocapture figures`.
#[test]
#[ignore = "prints figures, which say something in a release build alone"]
fn figures() {
    let machine = machine();
    let _daemon = machine.start();
    let connect = || Client::connect(machine.store(), REPO).expect("a daemon");
    let per_second = |what: &str, count: u32, length: u32, since: Instant| {
        let rate = f64::from(count) / since.elapsed().as_secs_f64();
        let mebibytes = rate * f64::from(length) / f64::from(1 << 20);
        println!("{what}: {rate:.0}/s, {mebibytes:.0} MiB/s");
    };
    for (count, length) in [(20_000_u32, 4 << 10), (300, 1 << 20)] {
        let object = |n: u32| raw((length + n).into(), length.try_into().expect("small"));
        let objects: Vec<Object> = (0..count).map(object).collect();
        let client = connect();
        let since = Instant::now();
        for object in &objects {
            client.put(object.clone()).block_on().expect("room");
        }
        client.barrier().block_on().expect("a barrier");
        per_second("put", count, length, since);
        let client = connect();
        let since = Instant::now();
        for chunk in objects.chunks(client.concurrency()) {
            let got = try_join_all(chunk.iter().map(|it| client.get(it.link())));
            got.block_on().expect("objects");
        }
        per_second("get, many at once", count, length, since);
        let client = connect();
        let (since, some) = (Instant::now(), count / 10);
        for object in &objects[..usize::try_from(some).expect("few")] {
            client.get(object.link()).block_on().expect("an object");
        }
        per_second("get, one by one", some, length, since);
    }
    let client = connect();
    let since = Instant::now();
    for n in 0..200 {
        client.put(raw(n, 200)).block_on().expect("room");
        client.barrier().block_on().expect("a barrier");
    }
    per_second("put with a barrier each", 200, 200, since);
    let (a, b) = pair();
    let (_on_a, _on_b) = (a.start(), b.start());
    let (alice, bob) = (Process::new(&a, "alice"), Process::new(&b, "bob"));
    let mut took: Vec<Duration> = (0..40)
        .map(|n| {
            alice.commit(&format!("c{n}"), &bytes(n, 2_000));
            let (since, heads) = (Instant::now(), alice.heads());
            while bob.heads() != heads {
                std::thread::yield_now();
            }
            since.elapsed()
        })
        .collect();
    // The first one waits for the two to meet.
    took.remove(0);
    took.sort();
    println!("a commit is a head on the other machine: {:?}, at most {:?}", took[19], took[38]);
}
