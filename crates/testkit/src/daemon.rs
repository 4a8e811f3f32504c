//! Real daemons in temporary directories, driven through the outward interface alone.

use std::fmt::Write as _;
use std::fs::File;
use std::net::UdpSocket;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::tree::{Tree, await_condition};

/// The longest that a daemon may take to end after SIGTERM before the test fails.
const END_LIMIT: Duration = Duration::from_secs(30);
/// The longest that a daemon may take to answer `ark status` after its start.
const START_LIMIT: Duration = Duration::from_secs(30);
/// The repo id that the configs of this module use.
pub const REPO: &str = "test-repo";

/// A machine: a temporary directory with a config, a store and perhaps a folder.
#[derive(Debug)]
pub struct Machine {
    binary: PathBuf,
    directory: TempDir,
    name: String,
    id: String,
    port: u16,
}

/// What a config says beyond the defaults.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Whether the machine has a folder (at `folder` in its directory) or only holds the repo.
    pub folder: bool,
    /// Further lines of `[repos.folder]`.
    pub folder_lines: String,
    /// Further lines of `[sync]`.
    pub sync_lines: String,
    /// The repo's secret.
    pub secret: Option<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            folder: true,
            folder_lines: String::new(),
            sync_lines: String::new(),
            secret: Some("a secret of the tests".into()),
        }
    }
}

impl Machine {
    /// A new machine named `name`, under `parent` (or the system's temporary directory), with a
    /// key of its own and no config yet.
    pub fn new(binary: impl Into<PathBuf>, name: &str, parent: Option<&Path>) -> Self {
        let prefix = format!("ark-{name}-");
        let builder = || tempfile::Builder::new().prefix(&prefix).to_owned();
        let directory = match parent {
            Some(parent) => builder().tempdir_in(parent),
            None => builder().tempdir(),
        }
        .expect("a temporary directory");
        let mut machine = Self {
            binary: binary.into(),
            directory,
            name: name.into(),
            id: String::new(),
            port: free_port(),
        };
        machine.configure(&[], &Setup { folder: false, ..Setup::default() });
        let output = machine.run(&["id"]);
        assert!(output.status.success(), "ark id: {}", String::from_utf8_lossy(&output.stderr));
        machine.id = String::from_utf8(output.stdout).expect("hex digits").trim_end().into();
        assert_eq!(machine.id.len(), 64, "ark id prints 64 hex digits: {:?}", machine.id);
        machine
    }

    /// Writes the config: these remotes, this setup.
    pub fn configure(&self, remotes: &[&Self], setup: &Setup) {
        std::fs::write(self.config(), self.config_text(remotes, setup)).expect("write the config");
    }

    /// The text that [`Machine::configure`] writes.
    pub fn config_text(&self, remotes: &[&Self], setup: &Setup) -> String {
        let mut text = format!(
            "[store]\npath = \"./store\"\n\n[network]\nbind = [\"127.0.0.1:{}\"]\n\
             relay = \"disabled\"\ndiscovery = []\nport_mapping = false\n\n[sync]\n{}\n\n\
             [[repos]]\nid = \"{REPO}\"\n",
            self.port, setup.sync_lines
        );
        if let Some(secret) = &setup.secret {
            writeln!(text, "secret = \"{secret}\"").expect("text grows");
        }
        text.push_str("remotes = [\n");
        for remote in remotes {
            writeln!(
                text,
                "  {{ name = \"{}\", node_id = \"{}\", addrs = [\"127.0.0.1:{}\"] }},",
                remote.name, remote.id, remote.port
            )
            .expect("text grows");
        }
        text.push_str("]\n");
        if setup.folder {
            write!(text, "[repos.folder]\npath = \"./folder\"\n{}\n", setup.folder_lines)
                .expect("text grows");
        }
        text
    }

    /// The device id, 64 hex digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its name in others' configs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port on 127.0.0.1 that its config binds.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The machine's directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The config file.
    pub fn config(&self) -> PathBuf {
        self.directory().join("ark.toml")
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.directory().join("store")
    }

    /// The synced folder.
    pub fn folder(&self) -> PathBuf {
        self.directory().join("folder")
    }

    /// What the daemons of this machine wrote to stderr so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.directory().join("log")
    }

    /// The folder as it is now.
    pub fn tree(&self) -> Tree {
        Tree::read(&self.folder())
    }

    /// `ark` with these arguments and this machine's config, as a command not yet run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .arg("--config")
            .arg(self.config())
            .env("XDG_STATE_HOME", self.directory().join("state"))
            .env_remove("ARK_CONFIG")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null());
        command
    }

    /// Runs `ark` with these arguments to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("run ark")
    }

    /// Starts the daemon and waits until it answers.
    pub fn start(&self) -> Daemon<'_> {
        let daemon = self.start_unawaited();
        await_condition(&format!("{} answers", self.name), START_LIMIT, || {
            self.try_status().or_else(|| {
                assert!(daemon.is_running(), "{} ended:\n{}", self.name, self.log());
                None
            })
        });
        daemon
    }

    /// Starts the daemon without waiting for it.
    pub fn start_unawaited(&self) -> Daemon<'_> {
        self.start_as(&mut self.command(&[]))
    }

    /// Starts the daemon by a command of the test's own, without waiting for it.
    pub fn start_as(&self, command: &mut Command) -> Daemon<'_> {
        let log = File::options().create(true).append(true).open(self.log_path()).expect("log");
        if std::env::var_os("RUST_LOG").is_none() {
            command.env("RUST_LOG", "info");
        }
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("start ark");
        Daemon { machine: self, child: std::cell::RefCell::new(child) }
    }

    /// `ark status --json`, if a daemon answers.
    pub fn try_status(&self) -> Option<serde_json::Value> {
        let output = self.run(&["status", "--json"]);
        if !output.status.success() {
            return None;
        }
        Some(serde_json::from_slice(&output.stdout).expect("status --json prints JSON"))
    }

    /// `ark status --json` of a running daemon.
    pub fn status(&self) -> serde_json::Value {
        self.try_status().unwrap_or_else(|| panic!("{}: no status\n{}", self.name, self.log()))
    }

    /// Stream and gossip payload received and sent since the daemon started, over all peers.
    pub fn traffic(&self) -> (u64, u64) {
        let status = self.status();
        let sum = |key: &str| {
            let peers = status["peers"].as_array().expect("peers");
            peers.iter().map(|peer| peer[key].as_u64().expect("bytes")).sum()
        };
        (sum("rx_bytes"), sum("tx_bytes"))
    }

    /// Names shown for versions set aside, sorted.
    pub fn conflicts(&self) -> Vec<String> {
        let status = self.status();
        let conflicts = status["repos"][0]["conflicts"].as_array().expect("conflicts");
        let mut names: Vec<_> =
            conflicts.iter().map(|name| name.as_str().expect("a name").to_owned()).collect();
        names.sort();
        names
    }

    /// Whether any problem of the repo, or refused device, as JSON text, contains `text`.
    pub fn shows(&self, text: &str) -> bool {
        let status = self.status();
        status["repos"][0]["problems"].to_string().contains(text)
            || status["refused"].to_string().contains(text)
    }

    /// `ark wait`: everything of now is in step.
    ///
    /// # Panics
    /// When it is not within `limit`: with what is missing and the log.
    pub fn wait(&self, limit: Duration) {
        let output = self.run(&["wait", "--timeout", &limit.as_secs().to_string()]);
        assert!(
            output.status.success(),
            "{}: ark wait: {}\n{}",
            self.name,
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
    }

    /// Writes a file below the folder, making its parents.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.folder().join(path);
        std::fs::create_dir_all(path.parent().expect("below the folder")).expect("make parents");
        std::fs::write(&path, content).expect("write");
    }

    /// Reads a file below the folder, if there is one.
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        std::fs::read(self.folder().join(path)).ok()
    }
}

/// A running daemon; killed when dropped.
#[derive(Debug)]
pub struct Daemon<'a> {
    machine: &'a Machine,
    child: std::cell::RefCell<Child>,
}

impl Daemon<'_> {
    /// The process id.
    pub fn process_id(&self) -> u32 {
        self.child.borrow().id()
    }

    /// Whether the process has not ended.
    pub fn is_running(&self) -> bool {
        matches!(self.child.borrow_mut().try_wait(), Ok(None))
    }

    /// SIGTERM, and how it ended.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn stop(self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// SIGKILL: no clean shutdown.
    pub fn kill(self) {
        self.signal(Signal::KILL);
        assert_eq!(self.ended().signal(), Some(9));
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.process_id()).expect("a process id");
        kill_process(Pid::from_raw(id).expect("a process id"), signal).expect("signal the daemon");
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn ended(self) -> ExitStatus {
        await_condition(&format!("{} ends", self.machine.name), END_LIMIT, || {
            self.child.borrow_mut().try_wait().expect("ask for its end")
        })
    }

    /// Resident memory in bytes (Linux).
    pub fn resident_bytes(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.process_id()))
            .expect("/proc of the daemon");
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("kB");
        kib * 1024
    }

    /// Processor time used so far (Linux).
    pub fn processor_time(&self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.process_id()))
            .expect("/proc of the daemon");
        let (_, fields) = text.rsplit_once(')').expect("a command in parentheses");
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse::<u64>().expect("ticks"))
            .sum();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        if matches!(child.try_wait(), Ok(None)) {
            // Ends a test's leftovers; it may have ended by itself in between.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Two machines that list each other, with a folder each.
pub fn pair(binary: impl AsRef<Path>, setup: &Setup) -> (Machine, Machine) {
    let (a, b) =
        (Machine::new(binary.as_ref(), "a", None), Machine::new(binary.as_ref(), "b", None));
    a.configure(&[&b], setup);
    b.configure(&[&a], setup);
    (a, b)
}

/// Waits until both are in step: byte for byte the same.
///
/// # Panics
/// When they are not within `limit`, or differ all the same.
#[track_caller]
pub fn assert_in_step(a: &Machine, b: &Machine, limit: Duration) {
    a.wait(limit);
    b.wait(limit);
    let differences = a.tree().differences(&b.tree());
    assert!(differences.is_empty(), "{differences:#?}\n{}\n{}", a.log(), b.log());
}

/// A UDP port on 127.0.0.1 that nobody has at the moment.
///
/// # Panics
/// When the system gives none.
pub fn free_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a UDP socket on loopback");
    socket.local_addr().expect("its address").port()
}
