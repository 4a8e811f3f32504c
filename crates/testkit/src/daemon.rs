//! Real daemons in temporary directories, driven through the outward interface alone.

mod config;
mod process;

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use crate::tree::{Tree, await_condition, try_condition};

pub use config::{Listed, REPO, Setup};
pub use process::Daemon;

/// The longest that a daemon may take to answer `ark status` after its start, on a machine that is
/// busy with much else, too.
const START_LIMIT: Duration = Duration::from_secs(90);

/// A machine: a temporary directory with a config, a store and perhaps a folder.
#[derive(Debug)]
pub struct Machine {
    binary: PathBuf,
    directory: TempDir,
    name: String,
    id: String,
    addresses: Vec<SocketAddr>,
}

impl Machine {
    /// A new machine named `name`, under `parent` (or the system's temporary directory), with a
    /// key of its own and no config yet.
    pub fn new(binary: impl Into<PathBuf>, name: &str, parent: Option<&Path>) -> Self {
        Self::listening(binary, name, parent, &[IpAddr::V4(Ipv4Addr::LOCALHOST)])
    }

    /// Likewise, listening on these addresses of this machine, each with a port of its own.
    pub fn listening(
        binary: impl Into<PathBuf>,
        name: &str,
        parent: Option<&Path>,
        hosts: &[IpAddr],
    ) -> Self {
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
            addresses: hosts.iter().map(|&host| free_address(host)).collect(),
        };
        machine.configure(&[], &Setup { folder: false, ..Setup::default() });
        let output = machine.run(&["id"]);
        assert!(output.status.success(), "ark id: {}", String::from_utf8_lossy(&output.stderr));
        machine.id = String::from_utf8(output.stdout).expect("hex digits").trim_end().into();
        assert_eq!(machine.id.len(), 64, "ark id prints 64 hex digits: {:?}", machine.id);
        machine
    }

    /// The device id, 64 hex digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its name in others' configs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first address that its config binds.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// The port of that address.
    pub fn port(&self) -> u16 {
        self.address().port()
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
        Daemon::new(self, child)
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

    /// The heads of the repo: equal on machines that are in step.
    pub fn heads(&self) -> serde_json::Value {
        self.status()["repos"][0]["heads"].clone()
    }

    /// What status says of another machine.
    pub fn peer(&self, other: &Self) -> serde_json::Value {
        let status = self.status();
        let peers = status["peers"].as_array().expect("peers");
        let found = peers.iter().find(|peer| peer["node_id"] == other.id.as_str());
        found.cloned().unwrap_or_else(|| panic!("{} does not list {}", self.name, other.name))
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

    /// Waits until a file below the folder has this content, or, for `None`, is not there.
    ///
    /// # Panics
    /// When it is not so within `limit`: with what there is and the log.
    #[track_caller]
    pub fn await_file(&self, path: &str, content: Option<&str>, limit: Duration) {
        let content = content.map(str::as_bytes);
        let is_so = try_condition(limit, || (self.read(path).as_deref() == content).then_some(()));
        assert!(
            is_so.is_some(),
            "{}: {path} is {:?}\n{:?}\n{}",
            self.name,
            self.read(path).as_deref().map(String::from_utf8_lossy),
            self.tree().paths(),
            self.log()
        );
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

/// Waits until all show byte for byte the same, with the same heads, and are in step: what was put
/// into a folder is recorded there, so that what a user does to it next is known to be done to that.
/// They may be so already before what a test is about has begun: it awaits that first.
///
/// # Panics
/// When they are not within `limit`: with the differences and the logs.
#[track_caller]
pub fn assert_all_same(machines: &[&Machine], limit: Duration) {
    let (first, others) = machines.split_first().expect("machines");
    let differences = || -> Vec<String> {
        let tree = first.tree();
        let from = |other: &&Machine| -> Vec<String> {
            let named = |line: String| format!("{}, {}: {line}", first.name, other.name);
            tree.differences(&other.tree()).into_iter().map(named).collect()
        };
        let lines: Vec<String> = others.iter().flat_map(from).collect();
        if lines.is_empty() { not_in_step(machines) } else { lines }
    };
    if try_condition(limit, || differences().is_empty().then_some(())).is_none() {
        let logs: Vec<String> =
            machines.iter().map(|it| format!("{}:\n{}", it.name, it.log())).collect();
        panic!("not the same within {limit:?}: {:#?}\n{}", differences(), logs.join("\n"));
    }
}

/// What keeps these from being in step with the same heads, a line each.
fn not_in_step(machines: &[&Machine]) -> Vec<String> {
    let mut heads = None;
    let look = |machine: &&Machine| {
        let repo = machine.status()["repos"][0].clone();
        let its = repo["heads"].clone();
        let expected = heads.get_or_insert_with(|| its.clone());
        let is_so = repo["state"] == "in-step" && its == *expected;
        (!is_so).then(|| format!("{}: {}, heads: {its}", machine.name, repo["state"]))
    };
    machines.iter().filter_map(look).collect()
}

/// A UDP port on 127.0.0.1 that nobody has at the moment.
///
/// # Panics
/// When the system gives none.
pub fn free_port() -> u16 {
    free_address(Ipv4Addr::LOCALHOST.into()).port()
}

/// One that nobody has at the moment, and nobody else in this process gets: a machine that is off
/// keeps its own.
fn free_address(host: IpAddr) -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<SocketAddr>> = Mutex::new(BTreeSet::new());
    loop {
        let socket = UdpSocket::bind((host, 0)).expect("a UDP socket on loopback");
        let address = socket.local_addr().expect("its address");
        if GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(address) {
            return address;
        }
    }
}
