//! Running daemons as their user and their service manager see them.

mod rereading;
mod service;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use ark_testkit::daemon::{Machine, REPO, Setup, pair};
use ark_testkit::tree::await_condition;
use rustix::process::Signal;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_ark");
/// Far beyond what any of these takes; only a failure reaches it.
const LIMIT: Duration = Duration::from_secs(90);

fn alone() -> Machine {
    let machine = Machine::new(BINARY, "alone", None);
    machine.configure(&[], &Setup::default());
    machine
}

fn ended(output: &Output, code: i32) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{stdout}\n{stderr}");
    (stdout, stderr)
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[track_caller]
fn has_keys(value: &Value, expected: &[&str]) {
    for key in expected {
        assert!(keys(value).contains(key), "{key} is not among {:?}", keys(value));
    }
}

#[test]
fn a_folder_goes_both_ways_and_status_tells_it() {
    let (a, b) = pair(BINARY, &Setup::default());
    a.write("from a/file", "one");
    b.write("from b", "two");
    let (on_a, on_b) = (a.start(), b.start());
    a.wait(LIMIT);
    b.wait(LIMIT);
    assert_eq!(a.tree().differences(&b.tree()), [""; 0]);
    assert_eq!(b.read("from a/file").as_deref(), Some(&b"one"[..]));
    assert_eq!(a.read("from b").as_deref(), Some(&b"two"[..]));

    // Both dial: the connection that stays may be made when the other has served already, and what
    // was applied comes back as events.
    let status = await_condition("a is in step, and connected directly", LIMIT, || {
        let status = a.status();
        let (repo, peer) = (&status["repos"][0], &status["peers"][0]);
        let is_so = repo["state"] == "in-step" && repo["files"] == 2 && peer["path"] == "direct";
        is_so.then_some(status)
    });
    has_keys(&status, &["device", "version", "repos", "peers", "refused"]);
    assert_eq!(status["device"], a.id());
    let repo = &status["repos"][0];
    has_keys(
        repo,
        &[
            "id",
            "kind",
            "state",
            "heads",
            "staged",
            "pending",
            "files",
            "bytes",
            "conflicts",
            "problems",
            "reconciliation",
        ],
    );
    let counters = ["sessions", "round_trips", "last_round_trips", "sent_bytes", "received_bytes"];
    has_keys(&repo["reconciliation"], &counters);
    has_keys(&repo["pending"], &["objects", "bytes"]);
    assert_eq!((&repo["id"], &repo["kind"]), (&Value::from(REPO), &Value::from("folder")));
    assert_eq!((&repo["files"], &repo["bytes"]), (&Value::from(2), &Value::from(6)));
    assert_eq!(repo["problems"], Value::Array(Vec::new()), "{status}");
    let peer = &status["peers"][0];
    has_keys(
        peer,
        &[
            "name",
            "node_id",
            "connected",
            "path",
            "rtt_ms",
            "last_seen",
            "rx_bytes",
            "tx_bytes",
            "repos",
        ],
    );
    has_keys(&peer["repos"][0], &["id", "behind", "role", "granted"]);
    assert_eq!(peer["repos"][0]["role"], "peer");
    has_keys(&peer["repos"][0]["behind"], &["objects", "bytes"]);
    assert_eq!((&peer["name"], &peer["node_id"]), (&Value::from("b"), &Value::from(b.id())));
    assert_eq!((&peer["connected"], &peer["path"]), (&Value::from(true), &Value::from("direct")));
    assert!(peer["rx_bytes"].as_u64() > Some(0) && peer["tx_bytes"].as_u64() > Some(0));
    await_condition("both are in step, with the same heads", LIMIT, || {
        let [a, b] = [&a, &b].map(|machine| machine.status()["repos"][0].clone());
        (a["state"] == "in-step" && b["state"] == "in-step" && a["heads"] == b["heads"])
            .then_some(())
    });

    await_condition("people are told the same", LIMIT, || {
        let (text, _) = ended(&a.run(&["status"]), 0);
        let is_told = |line: &str| text.contains(line);
        (is_told(&format!("{REPO}: in step")) && is_told("b: connected (direct")).then_some(())
    });
    for daemon in [on_a, on_b] {
        assert_eq!(daemon.stop().code(), Some(0));
    }
}

#[test]
fn a_daemon_ends_cleanly_and_leaves_its_id() {
    let machine = alone();
    for signal in [Signal::TERM, Signal::INT] {
        let daemon = machine.start();
        let id = fs::read_to_string(machine.store().join("endpoint_id")).expect("the id");
        assert_eq!(id.trim_end(), machine.id());
        let (printed, _) = ended(&machine.run(&["id"]), 0);
        assert_eq!(printed.trim_end(), machine.id(), "with a daemon as without one");
        daemon.signal(signal);
        assert_eq!(daemon.ended().code(), Some(0), "{}", machine.log());
        assert!(!machine.store().join("control.sock").exists());
        ended(&machine.run(&["status"]), 1);
    }
    assert!(!machine.log().contains("ERROR"), "{}", machine.log());
}

#[test]
fn a_killed_daemon_starts_again() {
    let machine = alone();
    machine.write("file", "one");
    machine.start().kill();
    assert!(machine.store().join("control.sock").exists(), "left over");
    let daemon = machine.start();
    assert_eq!(machine.status()["repos"][0]["id"], REPO);
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn a_second_daemon_on_the_store_is_refused() {
    let machine = alone();
    let daemon = machine.start();
    let (_, stderr) = ended(&machine.run(&[]), 1);
    assert!(stderr.contains("in use by another daemon"), "{stderr}");
    // Also one that has ports of its own.
    let other = machine.directory().join("other.toml");
    let text = machine.config_text(&[], &Setup::default());
    let text = text.replace(&format!("127.0.0.1:{}", machine.port()), "127.0.0.1:0");
    fs::write(&other, text).expect("the config");
    let mut command = Command::new(BINARY);
    let command = command.arg("--config").arg(&other).stdin(Stdio::null());
    let (_, stderr) = ended(&command.output().expect("ark runs"), 1);
    assert!(stderr.contains("in use by another daemon"), "{stderr}");
    assert!(machine.try_status().is_some(), "the first goes on");
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn an_address_that_cannot_be_had_is_refused_and_nothing_is_written() {
    let machine = alone();
    let _taken = UdpSocket::bind(("127.0.0.1", machine.port())).expect("the port");
    let listing = || {
        let mut names: Vec<PathBuf> = fs::read_dir(machine.store())
            .expect("the store")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        names.sort();
        names
    };
    let before = listing();
    let (_, stderr) = ended(&machine.run(&[]), 1);
    let address = format!("127.0.0.1:{}", machine.port());
    assert!(stderr.contains(&address) && stderr.contains("in use"), "{stderr}");
    assert_eq!(listing(), before);
    // Nor can it listen on an address that is another machine's.
    let text = machine.config_text(&[], &Setup::default());
    fs::write(machine.config(), text.replace(&address, "192.0.2.1:0")).expect("the config");
    let (_, stderr) = ended(&machine.run(&[]), 1);
    assert!(stderr.contains("192.0.2.1:0"), "{stderr}");
    assert_eq!(listing(), before);
    assert!(!machine.folder().exists());
}

#[test]
fn a_missing_folder_stops_its_repo_only() {
    let machine = alone();
    let good = machine.config_text(&[], &Setup::default());
    let more = "[[repos]]\nid = \"lost\"\n[repos.folder]\npath = \"./no/such/folder\"\n";
    fs::write(machine.config(), format!("{good}{more}")).expect("the config");
    machine.write("file", "one");
    let daemon = machine.start();
    await_condition("one repo is in step, the other in error", LIMIT, || {
        let status = machine.status();
        let (good, lost) = (&status["repos"][0], &status["repos"][1]);
        (good["state"] == "in-step" && good["files"] == 1 && lost["state"] == "error").then_some(())
    });
    let problems = machine.status()["repos"][1]["problems"].to_string();
    assert!(problems.contains("no/such/folder"), "{problems}");
    assert!(!machine.directory().join("no").exists());
    // Nobody is listed who could be in step with it.
    let (_, stderr) = ended(&machine.run(&["wait", "--repo", "lost", "--timeout", "90"]), 1);
    assert!(stderr.contains("lost: has no remotes"), "{stderr}");
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn a_device_that_is_not_listed_is_refused_and_shown() {
    let setup = Setup::default();
    let (a, b) = pair(BINARY, &setup);
    a.configure(&[], &setup);
    b.write("secret", "bytes");
    let (_on_a, _on_b) = (a.start(), b.start());
    let refused = await_condition("a shows b as refused", LIMIT, || {
        a.status()["refused"].as_array().and_then(|refused| refused.first().cloned())
    });
    has_keys(&refused, &["node_id", "last_seen"]);
    assert_eq!(refused["node_id"], b.id());
    let (text, _) = ended(&a.run(&["status"]), 0);
    assert!(text.contains(&format!("node_id = \"{}\"", b.id())), "the line to add: {text}");
    assert_eq!(a.read("secret"), None);
    assert!(a.status()["repos"][0]["heads"].as_array().is_some_and(Vec::is_empty));
}

#[test]
fn wait_names_what_is_missing() {
    let setup = Setup::default();
    let (a, b) = pair(BINARY, &setup);
    let daemon = a.start();
    // Until the folder was scanned that is missing, too.
    await_condition("the remote is named", LIMIT, || {
        let (_, stderr) = ended(&a.run(&["wait", "--timeout", "0.5"]), 1);
        stderr.contains("no remote is connected (b)").then_some(())
    });
    let (_, stderr) = ended(&a.run(&["wait", "--repo", "none"]), 2);
    assert!(stderr.contains("there is no repo"), "{stderr}");
    assert_eq!(daemon.stop().code(), Some(0));
    b.configure(&[], &setup);
    let _daemon = b.start();
    let (_, stderr) = ended(&b.run(&["wait"]), 1);
    assert!(stderr.contains("has no remotes"), "{stderr}");
}

#[test]
fn wait_waits_for_daemons_that_are_not_up_yet() {
    let (a, b) = pair(BINARY, &Setup::default());
    a.write("file", "one");
    let mut waiting = a.command(&["wait", "--timeout", "90"]).spawn().expect("ark runs");
    let (_on_b, _on_a) = (b.start(), a.start());
    assert!(waiting.wait().expect("it ends").success(), "{}", a.log());
    assert_eq!(b.read("file").as_deref(), Some(&b"one"[..]));
}

#[test]
fn status_is_watched() {
    let machine = alone();
    let daemon = machine.start();
    let mut watching = machine
        .command(&["status", "--json", "--watch"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("ark runs");
    let mut seen = BufReader::new(watching.stdout.take().expect("a pipe"))
        .lines()
        .map(|line| serde_json::from_str::<Value>(&line.expect("a line")).expect("JSON"));
    machine.write("file", "one");
    assert!(seen.any(|status| status["repos"][0]["files"] == 1), "{}", machine.log());
    let text = fs::read_to_string(machine.config()).expect("the config");
    let more = "[[repos]]\nid = \"second\"\nremotes = []\n";
    fs::write(machine.config(), text + more).expect("the config");
    daemon.signal(Signal::HUP);
    assert!(seen.any(|status| status["repos"][1]["id"] == "second"), "a new config ends no watch");
    assert_eq!(daemon.stop().code(), Some(0), "a watcher holds nothing up");
    assert!(!watching.wait().expect("it ends").success(), "the daemon ended under it");
}

#[test]
fn a_store_with_a_long_path_works() {
    let machine = alone();
    let long = "d".repeat(120);
    let text = machine.config_text(&[], &Setup::default());
    let text = text.replace("path = \"./store\"", &format!("path = \"./{long}/store\""));
    fs::write(machine.config(), text).expect("the config");
    let daemon = machine.start();
    assert!(machine.directory().join(long).join("store/control.sock").exists());
    assert_eq!(daemon.stop().code(), Some(0));
}
