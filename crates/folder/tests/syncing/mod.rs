//! Devices with a real store and a real folder that exchange states directly, without a network.
#![allow(dead_code, reason = "each test binary uses its part of it")]

pub mod moment;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ark_core::{
    DeviceId, Dot, Head, Link, LocalChange, Object, Overlay, Permissions, Put, Read, RelPath,
    RepoKind, SignedState, Snapshot, State, TopicId, Tree, What, Writer, put_in,
};
use ark_folder::fs::Gate;
use ark_folder::{Folder, FolderState, FolderStatus, Options};
use ark_store::{DEFAULT_INDEX_CACHE_BYTES, Join, Repo, Staged, Store};
use ed25519_dalek::SigningKey;
use moment::Moment;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::EnvFilter;

/// Long enough for any machine; reached only by a failing test.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// All numbers of devices in tests are up to this.
const MOST_DEVICES: u8 = 9;

/// The id of the device with this number.
pub fn device_id(number: u8) -> DeviceId {
    DeviceId::from_bytes(SigningKey::from_bytes(&[number; 32]).verifying_key().to_bytes())
}

/// A device: its directories outlive its daemon.
pub struct Device {
    pub home: TempDir,
    pub key: [u8; 32],
    pub ignore: Vec<String>,
    /// The devices, by number, that it lists as writers.
    pub writers: BTreeSet<u8>,
    /// Every change of the folder passes it.
    pub gate: Option<Gate>,
    running: Option<Running>,
}

struct Running {
    store: Store,
    repo: Repo,
    folder: Folder,
    /// The folder's own, so that it can be ended with all that it does.
    runtime: Runtime,
}

impl Device {
    /// A device with an empty folder, not started.
    pub fn new(number: u8) -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("folder")).unwrap();
        let (key, writers) = ([number; 32], (1..=MOST_DEVICES).collect());
        Self { home, key, ignore: Vec::new(), writers, gate: None, running: None }
    }

    pub async fn started(number: u8) -> Self {
        let mut device = Self::new(number);
        device.start().await;
        device
    }

    pub fn root(&self) -> PathBuf {
        self.home.path().join("folder")
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    pub async fn open_store(&self) -> (Store, Repo) {
        let options = ark_store::Options {
            path: self.home.path().join("store"),
            witness_dir: self.home.path().join("witness"),
            signing_key: SigningKey::from_bytes(&self.key),
            index_cache_bytes: DEFAULT_INDEX_CACHE_BYTES,
        };
        let store = Store::open(options).await.unwrap();
        let topic = TopicId::derive("a repo", None);
        let repo = store.repo(topic, RepoKind::Folder).await.unwrap();
        (store, repo)
    }

    pub async fn start(&mut self) {
        // What the folders do is told where a test fails. The first one counts.
        let told = EnvFilter::try_from_default_env();
        let _ = tracing_subscriber::fmt()
            .with_env_filter(told.unwrap_or_else(|_| EnvFilter::new("ark_folder=debug")))
            .with_thread_names(true)
            .with_test_writer()
            .try_init();
        let (store, repo) = self.open_store().await;
        let options = Options {
            path: self.root(),
            ignore: self.ignore.clone(),
            quiet_period: Duration::from_millis(20),
            rescan_interval: Duration::from_hours(1),
            writers: self.writers.iter().map(|&number| device_id(number)).collect(),
        };
        let mut runtime = Builder::new_multi_thread();
        runtime.thread_name(format!("device-{}", self.key[0]));
        let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
        let (gate, of_folder) = (self.gate.clone(), repo.clone());
        let start = async move {
            match gate {
                None => Folder::start(options, of_folder).await,
                Some(gate) => Folder::start_behind(options, of_folder, gate).await,
            }
        };
        let folder = runtime.spawn(start).await.unwrap().unwrap();
        self.running = Some(Running { store, repo, folder, runtime });
    }

    pub async fn stop(&mut self) {
        let Running { store, folder, repo, runtime } = self.running.take().unwrap();
        folder.stop().await;
        runtime.shutdown_background();
        drop(repo);
        store.close().await.unwrap();
    }

    /// Ends everything as it is: threads at the next safe point, all else where it waits. When
    /// this returns nothing goes on behind it, and the store's lock is free.
    pub async fn kill(&mut self) {
        self.kill_when(|| ()).await;
    }

    /// As [`Device::kill`], in this moment: nothing is done after it.
    pub async fn kill_in(&mut self, moment: &Moment) {
        self.kill_when(|| moment.end()).await;
        moment.over();
    }

    /// Ends everything; from `told` on it is known to.
    async fn kill_when(&mut self, told: impl FnOnce()) {
        let Running { store, folder, repo, runtime } = self.running.take().unwrap();
        drop(folder);
        told();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE)).await.unwrap();
        drop(repo);
        store.close().await.unwrap();
    }

    pub async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }

    pub fn repo(&self) -> &Repo {
        &self.running.as_ref().unwrap().repo
    }

    pub fn folder(&self) -> &Folder {
        &self.running.as_ref().unwrap().folder
    }

    pub fn status(&self) -> FolderStatus {
        self.folder().status()
    }

    /// Waits until the status is as `wanted`.
    pub async fn until(&self, what: &str, wanted: impl Fn(&FolderStatus) -> bool) {
        let mut changed = self.folder().watch();
        let reached = tokio::time::timeout(PATIENCE, async {
            while !wanted(&self.status()) {
                changed.changed().await.unwrap();
            }
        });
        let is_reached = reached.await.is_ok();
        let (joined, tree) = (revisions(self.repo()), self.tree());
        assert!(is_reached, "never {what}: {:#?}, joined {joined:?}, {tree:#?}", self.status());
    }

    /// Everything written is published, everything joined is applied.
    pub async fn rest(&self) {
        tokio::time::timeout(PATIENCE, self.folder().fence()).await.expect("fenced").unwrap();
        self.until("at rest", |status| {
            status.applied == revisions(self.repo()) && status.state == FolderState::InStep
        })
        .await;
    }

    /// Own revision: how often this device published.
    pub fn published(&self) -> u64 {
        revisions(self.repo()).get(&self.repo().writer()).copied().unwrap_or(0)
    }

    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub fn read(&self, path: &str) -> String {
        let bytes = std::fs::read(self.path(path));
        String::from_utf8(bytes.unwrap_or_else(|error| panic!("{path}: {error}"))).unwrap()
    }

    pub fn remove(&self, path: &str) {
        let path = self.path(path);
        if path.symlink_metadata().unwrap().is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
    }

    pub fn rename(&self, from: &str, to: &str) {
        std::fs::rename(self.path(from), self.path(to)).unwrap();
    }

    pub fn chmod(&self, path: &str, mode: u32) {
        std::fs::set_permissions(self.path(path), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    pub fn mode(&self, path: &str) -> u32 {
        self.path(path).symlink_metadata().unwrap().mode() & 0o777
    }

    /// All that the folder shows: per path what it is.
    pub fn tree(&self) -> BTreeMap<String, String> {
        let mut tree = BTreeMap::new();
        walk(&self.root(), &self.root(), &mut tree);
        tree
    }

    pub fn conflicts(&self) -> BTreeSet<String> {
        self.status().conflicts.iter().map(RelPath::to_string).collect()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.runtime.shutdown_background();
        }
    }
}

/// What goes while it is looked at is not there.
fn walk(root: &Path, directory: &Path, tree: &mut BTreeMap<String, String>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        if name.split('/').any(|name| name == ".ark" || name.starts_with(".ark-")) {
            continue;
        }
        if let Some(what) = describe(&path) {
            if path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
                walk(root, &path, tree);
            }
            tree.insert(name, what);
        }
    }
}

fn describe(path: &Path) -> Option<String> {
    let metadata = path.symlink_metadata().ok()?;
    let mode = metadata.mode() & 0o777;
    Some(if metadata.is_symlink() {
        format!("-> {}", std::fs::read_link(path).ok()?.display())
    } else if metadata.is_dir() {
        format!("{mode:o} directory")
    } else if metadata.is_file() {
        let content = std::fs::read(path).ok()?;
        match String::from_utf8(content) {
            Ok(text) if text.len() < 100 => format!("{mode:o} {text}"),
            Ok(text) => format!("{mode:o} {}", blake3::hash(text.as_bytes())),
            Err(error) => format!("{mode:o} {}", blake3::hash(error.as_bytes())),
        }
    } else {
        "special".to_owned()
    })
}

pub fn revisions(repo: &Repo) -> BTreeMap<Writer, u64> {
    let states = repo.states();
    states.joined.iter().map(|(&writer, state)| (writer, state.state().revision)).collect()
}

pub async fn two() -> (Device, Device) {
    (Device::started(1).await, Device::started(2).await)
}

/// Two devices that have the same files.
pub async fn two_with(files: &[(&str, &str)]) -> (Device, Device) {
    let (a, b) = two().await;
    for (path, content) in files {
        a.write(path, content);
    }
    settle(&[&a, &b]).await;
    (a, b)
}

/// Waits for what no status tells of.
pub async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let reached = tokio::time::timeout(PATIENCE, async {
        while !is_so() {
            // Those that it waits for need the processor more.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(reached.await.is_ok(), "never {what}");
}

/// Nothing lies below what is made.
struct Nothing;

impl Read for Nothing {
    type Error = std::io::Error;

    fn read(&self, _link: Link) -> Result<bytes::Bytes, std::io::Error> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

/// What `device` could publish as its state so many revisions after `before` if it were no honest
/// ark: one file, and nothing else in the folder. The file's content is not among the objects.
pub fn forged(
    device: &Device,
    before: &State,
    ahead: u64,
    path: &str,
    put: Put,
) -> (SignedState, Vec<Object>) {
    let dot = Dot { writer: before.writer, sequence: before.vector.get(before.writer) + ahead };
    let permissions = Permissions::from_mode(0o644);
    let what = What::Put { put, permissions, permissions_changed: true };
    let path = RelPath::parse(path.as_bytes()).unwrap();
    let change = LocalChange { path, behind: None, what };
    let mut overlay = Overlay::new(Nothing);
    let root = put_in(&mut overlay, &Tree::empty(), dot, &[change]).unwrap();
    let mut vector = before.vector.clone();
    vector.take_in(dot);
    let snapshot = Snapshot { root, vector: vector.clone(), wall_time_ms: 0 }.encode();
    let state = State {
        revision: before.revision + ahead,
        heads: vec![Head { id: snapshot.id(), sequence: dot.sequence }],
        vector,
        held: Vec::new(),
        ..before.clone()
    };
    let mut objects = overlay.into_made();
    objects.push(snapshot);
    (SignedState::sign(state, &SigningKey::from_bytes(&device.key)).unwrap(), objects)
}

/// What went over the imagined wire.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Payload {
    pub objects: usize,
    pub bytes: usize,
}

/// `to` pulls all that `from` has joined.
pub async fn pull(from: &Device, to: &Device) -> Payload {
    pull_repo(from.repo(), to.repo()).await
}

pub async fn pull_repo(from: &Repo, to: &Repo) -> Payload {
    let mut payload = Payload::default();
    for &writer in from.states().joined.keys() {
        let of_writer = pull_of(from, to, writer).await;
        payload.objects += of_writer.objects;
        payload.bytes += of_writer.bytes;
    }
    payload
}

/// `to` pulls what `writer` wrote of all that `from` has joined.
pub async fn pull_of(from: &Repo, to: &Repo, writer: Writer) -> Payload {
    let mut payload = Payload::default();
    let state = from.states().joined[&writer].clone();
    match to.stage(state).await.unwrap() {
        Staged::Old => return payload,
        Staged::Staged { .. } | Staged::Complete | Staged::OwnFork { .. } => {}
        other => panic!("{other:?}"),
    }
    loop {
        match to.join(writer).await.unwrap() {
            Join::Joined(_) | Join::NothingStaged => return payload,
            Join::Missing(links) => {
                let mut objects = Vec::new();
                for link in links {
                    let bytes = from.read(link).await.unwrap();
                    payload.objects += 1;
                    payload.bytes += bytes.len();
                    objects.push(Object::new(link.kind, bytes));
                }
                let received = to.receive(objects).await.unwrap();
                assert!(received.rejected.is_empty(), "{:?}", received.rejected);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Exchanges until nobody publishes any more; then all folders are the same.
pub async fn settle(devices: &[&Device]) {
    for _ in 0..20 {
        for device in devices {
            device.rest().await;
        }
        let before: Vec<_> = devices.iter().map(|device| revisions(device.repo())).collect();
        for to in devices {
            for from in devices {
                pull(from, to).await;
            }
        }
        for device in devices {
            device.rest().await;
        }
        let after: Vec<_> = devices.iter().map(|device| revisions(device.repo())).collect();
        if before == after && after.windows(2).all(|pair| pair[0] == pair[1]) {
            let first = devices[0].tree();
            for device in devices {
                assert_eq!(device.tree(), first, "the folders differ");
            }
            return;
        }
    }
    panic!("they go on publishing");
}
