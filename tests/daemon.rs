//! Running daemons as their user and their service manager see them.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ark_testkit::daemon::{Daemon, Machine, REPO, Setup, pair};
use ark_testkit::tree::await_condition;
use rustix::process::{Pid, Signal};
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

    let status = a.status();
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
        ],
    );
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
    has_keys(&peer["repos"][0], &["id", "behind"]);
    has_keys(&peer["repos"][0]["behind"], &["objects", "bytes"]);
    assert_eq!((&peer["name"], &peer["node_id"]), (&Value::from("b"), &Value::from(b.id())));
    assert_eq!((&peer["connected"], &peer["path"]), (&Value::from(true), &Value::from("direct")));
    assert!(peer["rx_bytes"].as_u64() > Some(0) && peer["tx_bytes"].as_u64() > Some(0));
    await_condition("both are in step, with the same heads", LIMIT, || {
        let [a, b] = [&a, &b].map(|machine| machine.status()["repos"][0].clone());
        (a["state"] == "in-step" && b["state"] == "in-step" && a["heads"] == b["heads"])
            .then_some(())
    });

    let (text, _) = ended(&a.run(&["status"]), 0);
    assert!(text.contains(&format!("{REPO}: in step")), "{text}");
    assert!(text.contains("b: connected (direct"), "{text}");
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
    let (_, stderr) = ended(&machine.run(&["wait", "--repo", "lost", "--timeout", "0.1"]), 1);
    assert!(stderr.contains("lost: "), "{stderr}");
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
    let (_, stderr) = ended(&a.run(&["wait", "--timeout", "0.5"]), 1);
    assert!(stderr.contains("no remote is connected (b)"), "{stderr}");
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
fn a_wrong_config_does_not_end_a_running_daemon() {
    let machine = alone();
    let daemon = machine.start();
    let good = fs::read_to_string(machine.config()).expect("the config");
    fs::write(machine.config(), format!("{good}\ncolour = 1\n")).expect("the config");
    daemon.signal(Signal::HUP);
    await_condition("the log names the error", LIMIT, || {
        machine.log().contains("colour: unknown key").then_some(())
    });
    fs::write(machine.config(), good).expect("the config");
    daemon.signal(Signal::HUP);
    await_condition("the log says that all is well", LIMIT, || {
        machine.log().contains("the config has not changed").then_some(())
    });
    assert!(machine.try_status().is_some());
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn repos_and_remotes_come_and_go_without_a_restart() {
    let setup = Setup::default();
    let (a, b) = (Machine::new(BINARY, "a", None), Machine::new(BINARY, "b", None));
    let use_config = |remotes: bool, more: &str, daemons: [&Daemon<'_>; 2]| {
        for (machine, other, daemon) in [(&a, &b, daemons[0]), (&b, &a, daemons[1])] {
            let others: &[&Machine] = if remotes { &[other] } else { &[] };
            let more = more.replace("OTHER", &others.iter().map(|it| it.id()).collect::<String>());
            fs::write(machine.config(), machine.config_text(others, &setup) + &more).unwrap();
            daemon.signal(Signal::HUP);
        }
    };
    let in_use = |repos: usize, peers: usize| {
        for machine in [&a, &b] {
            await_condition("the config is in use", LIMIT, || {
                let status = machine.try_status()?;
                let count = |of: &str| Some(status[of].as_array()?.len());
                (count("repos")? == repos && count("peers")? == peers).then_some(())
            });
        }
    };
    for machine in [&a, &b] {
        machine.configure(&[], &setup);
        fs::create_dir(machine.directory().join("second")).expect("a folder");
    }
    let (on_a, on_b) = (a.start(), b.start());
    // Remotes come.
    let large = vec![7; 1 << 20];
    a.write("file", &large);
    use_config(true, "", [&on_a, &on_b]);
    in_use(1, 1);
    a.wait(LIMIT);
    b.wait(LIMIT);
    assert!(b.read("file") == Some(large));
    let sent = a.traffic().1;
    // A repo comes.
    let second = "[[repos]]\nid = \"second\"\nremotes = [{ name = \"other\", node_id = \"OTHER\" }]\n\
                  [repos.folder]\npath = \"./second\"\n";
    fs::write(a.directory().join("second/file"), "two").expect("a file");
    use_config(true, second, [&on_a, &on_b]);
    in_use(2, 1);
    a.wait(LIMIT);
    b.wait(LIMIT);
    assert_eq!(fs::read(b.directory().join("second/file")).expect("it came"), b"two");
    assert!(a.traffic().1 > sent, "counts go on");
    // It goes, and what was in its folder stays; the other one goes on.
    use_config(true, "", [&on_a, &on_b]);
    in_use(1, 1);
    a.write("file", "three");
    a.wait(LIMIT);
    assert_eq!(b.read("file").as_deref(), Some(&b"three"[..]));
    assert_eq!(fs::read(b.directory().join("second/file")).expect("it stays"), b"two");
    // A remote goes, on one side: the other is refused there.
    a.configure(&[], &setup);
    on_a.signal(Signal::HUP);
    await_condition("a shows b as refused", LIMIT, || {
        let status = a.try_status()?;
        (status["refused"][0]["node_id"] == b.id()).then_some(())
    });
    for daemon in [on_a, on_b] {
        assert_eq!(daemon.stop().code(), Some(0));
    }
    for machine in [&a, &b] {
        assert!(!machine.log().contains("ERROR"), "{}", machine.log());
    }
}

#[test]
fn a_config_that_cannot_work_does_not_end_a_running_daemon() {
    let machine = alone();
    let daemon = machine.start();
    let good = fs::read_to_string(machine.config()).expect("the config");
    let address = format!("127.0.0.1:{}", machine.port());
    let own = format!("remotes = [\n  {{ name = \"me\", node_id = \"{}\" }},", machine.id());
    // Not an address of any machine: it is one of those that documents use.
    let absent = format!("192.0.2.1:{}", machine.port());
    for (text, complaint) in [
        (good.replace("remotes = [", &own), "is this device itself"),
        (good.replace(&address, &absent), absent.as_str()),
    ] {
        fs::write(machine.config(), text).expect("the config");
        daemon.signal(Signal::HUP);
        await_condition("the log names the error", LIMIT, || {
            let log = machine.log();
            log.contains(complaint).then(|| assert!(log.contains("going on with the old"), "{log}"))
        });
        assert!(!machine.log().contains("the config has changed"), "{}", machine.log());
    }
    fs::write(machine.config(), &good).expect("the config");
    assert!(machine.try_status().is_some(), "{}", machine.log());
    // The port is the daemon's own, so that this can be told only when that is given up.
    let any = format!("0.0.0.0:{}", machine.port());
    let taken = UdpSocket::bind(("127.0.0.2", machine.port())).expect("the port");
    fs::write(machine.config(), good.replace(&address, &any)).expect("the config");
    daemon.signal(Signal::HUP);
    await_condition("the old config is in use again", LIMIT, || {
        machine.log().contains("the old config is in use again").then_some(())
    });
    let listening = |address: &str| {
        await_condition("it listens there", LIMIT, || {
            let status = machine.try_status()?;
            (status["listening"].as_array()?.iter().any(|it| it == address)).then_some(())
        });
    };
    listening(&address);
    machine.write("file", "one");
    await_condition("the folder goes on", LIMIT, || {
        (machine.status()["repos"][0]["files"] == 1).then_some(())
    });
    drop(taken);
    daemon.signal(Signal::HUP);
    listening(&any);
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn a_config_that_is_changed_during_the_start_is_taken_up_after_it() {
    let machine = alone();
    let daemon = machine.start_unawaited();
    await_condition("it has read its config", LIMIT, || {
        assert!(daemon.is_running(), "{}", machine.log());
        machine.log().contains("opening").then_some(())
    });
    let text = fs::read_to_string(machine.config()).expect("the config");
    let more = "[[repos]]\nid = \"second\"\nremotes = []\n";
    fs::write(machine.config(), text + more).expect("the config");
    daemon.signal(Signal::HUP);
    await_condition("the config is in use", LIMIT, || {
        (machine.try_status()?["repos"].as_array()?.len() == 2).then_some(())
    });
    assert_eq!(daemon.stop().code(), Some(0));
}

/// A service manager that listens to what a daemon tells it.
struct Manager {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Manager {
    fn new(machine: &Machine) -> Self {
        let path = machine.directory().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
        Self { path, socket }
    }

    fn start(&self, machine: &Machine) -> Managed {
        let child = machine
            .command(&[])
            .env("NOTIFY_SOCKET", &self.path)
            .env("WATCHDOG_USEC", "200000")
            .env_remove("WATCHDOG_PID")
            .stderr(Stdio::null())
            .spawn()
            .expect("ark runs");
        Managed(child)
    }

    fn is_told(&self, expected: &str) {
        let start = Instant::now();
        let mut buffer = [0; 1024];
        while start.elapsed() < LIMIT {
            let length = self.socket.recv(&mut buffer).expect("a message");
            let text = String::from_utf8_lossy(&buffer[..length]);
            if text.lines().any(|line| line == expected) {
                return;
            }
        }
        panic!("{expected} was not told");
    }

    /// Forgets what was told so far.
    fn forget(&self) {
        self.socket.set_nonblocking(true).expect("a socket");
        while self.socket.recv(&mut [0; 1024]).is_ok() {}
        self.socket.set_nonblocking(false).expect("a socket");
    }
}

/// A daemon that a manager started; killed when dropped.
struct Managed(Child);

impl Managed {
    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.0), signal).expect("a signal");
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_service_manager_is_told() {
    let machine = alone();
    let manager = Manager::new(&machine);
    let mut daemon = manager.start(&machine);
    manager.is_told("READY=1");
    assert!(machine.try_status().is_some(), "ready means that it answers");
    manager.is_told("WATCHDOG=1");
    manager.is_told("WATCHDOG=1");
    daemon.signal(Signal::TERM);
    manager.is_told("STOPPING=1");
    assert!(daemon.0.wait().expect("it ends").success());
}

#[test]
fn it_ends_also_while_it_reads_its_config_anew() {
    let machine = alone();
    let manager = Manager::new(&machine);
    let mut daemon = manager.start(&machine);
    manager.is_told("READY=1");
    // A pipe in place of the config: reading it takes as long as somebody holds its other end.
    fs::remove_file(machine.config()).expect("the config goes");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, machine.config(), kind, mode, 0).expect("a pipe");
    daemon.signal(Signal::HUP);
    let _held = await_condition("it reads its config", LIMIT, || {
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
        rustix::fs::open(machine.config(), flags, mode).ok()
    });
    manager.forget();
    manager.is_told("WATCHDOG=1");
    manager.is_told("WATCHDOG=1");
    daemon.signal(Signal::TERM);
    manager.is_told("STOPPING=1");
    assert!(daemon.0.wait().expect("it ends").success());
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
