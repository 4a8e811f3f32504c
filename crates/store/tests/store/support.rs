//! Stores in temporary directories, small trees to put into them, and pulls between them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ark_core::{
    Content, Entry, Head, Link, Mtime, Name, Node, Object, ObjectId, ObjectKind, Overlay,
    Permissions, Read, RepoKind, SignedState, Snapshot, TopicId, Vector, Version,
};
use ark_store::{Batch, FailpointHook, Join, Options, PublishError, Repo, Staged, Store};
use ed25519_dalek::SigningKey;
use tempfile::TempDir;

/// A device with its store and witness.
pub struct Machine {
    pub dir: TempDir,
    pub key: SigningKey,
}

impl Machine {
    pub fn new(number: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, key: SigningKey::from_bytes(&[number; 32]) }
    }

    pub fn options(&self) -> Options {
        options(self.dir.path(), &self.key)
    }

    pub fn store_path(&self) -> PathBuf {
        self.options().path
    }

    pub fn witness_path(&self) -> PathBuf {
        let device = ark_core::DeviceId::from_bytes(self.key.verifying_key().to_bytes());
        self.options().witness_dir.join(device.to_string())
    }

    pub async fn open(&self) -> Store {
        Store::open(self.options()).await.unwrap()
    }

    pub async fn open_with(&self, hook: FailpointHook) -> Store {
        Store::open_with_failpoints(self.options(), hook).await.unwrap()
    }
}

/// Places that fail while they are set.
#[derive(Clone)]
pub struct Faults {
    places: Arc<Mutex<Vec<&'static str>>>,
    kind: io::ErrorKind,
}

impl Faults {
    pub fn of(kind: io::ErrorKind) -> Self {
        Self { places: Arc::default(), kind }
    }

    /// A store over a disk with these faults, and its repo.
    pub async fn open(&self) -> (Machine, Store, Repo) {
        let machine = Machine::new(1);
        let store = machine.open_with(self.hook()).await;
        let repo = repo(&store).await;
        (machine, store, repo)
    }

    pub fn set(&self, places: &[&'static str]) {
        *self.places.lock().unwrap() = places.to_vec();
    }

    pub fn hook(&self) -> FailpointHook {
        let Self { places, kind } = self.clone();
        Arc::new(
            move |name| {
                if places.lock().unwrap().contains(&name) { Err(kind.into()) } else { Ok(()) }
            },
        )
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self::of(io::ErrorKind::Other)
    }
}

/// A small generator (xorshift), so that a failing run can be repeated by its seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

pub fn options(dir: &Path, key: &SigningKey) -> Options {
    Options {
        path: dir.join("store"),
        witness_dir: dir.join("state").join("ark"),
        signing_key: key.clone(),
        index_cache_bytes: 4 << 20,
    }
}

pub fn topic() -> TopicId {
    TopicId::derive("a repo", None)
}

pub async fn repo(store: &Store) -> Repo {
    store.repo(topic(), RepoKind::Folder).await.unwrap()
}

/// What this device's own state shows: nothing before it published.
pub fn own_head(repo: &Repo) -> Option<SignedState> {
    repo.states().joined.get(&repo.writer()).cloned()
}

/// Publishes the files of this device's last snapshot with `files` put in. Takes in all joined
/// states.
pub async fn publish(repo: &Repo, files: &[(&str, &[u8])]) -> SignedState {
    try_publish(repo, files).await.unwrap()
}

pub async fn try_publish(
    repo: &Repo,
    files: &[(&str, &[u8])],
) -> Result<SignedState, PublishError> {
    let publisher = repo.publisher().await;
    let mut batch = repo.batch();
    let (head, vector) =
        put_files(repo, &mut batch, publisher.dot(), files, own_head(repo)).await?;
    let head = Head { id: head.id, sequence: publisher.dot().sequence };
    publisher.publish(batch, vec![head], vector, vec![]).await
}

/// Adds the objects of a snapshot to a batch.
pub async fn put_files(
    repo: &Repo,
    batch: &mut Batch,
    dot: ark_core::Dot,
    files: &[(&str, &[u8])],
    over: Option<SignedState>,
) -> Result<(Link, Vector), PublishError> {
    let mut vector = Vector::empty();
    for state in repo.states().joined.values() {
        vector.take_in_all(&state.state().vector);
    }
    vector.take_in(dot);
    let reader = repo.reader();
    let files: Vec<(String, Vec<u8>)> =
        files.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())).collect();
    let made_vector = vector.clone();
    let made = tokio::task::spawn_blocking(move || {
        let root = over.map(|state| {
            let head = state.state().head_links()[0];
            Snapshot::decode(&reader.read(head).unwrap()).unwrap().root
        });
        make(reader, root, dot, &made_vector, &files)
    });
    let objects = made.await.unwrap();
    let head = objects.last().unwrap().link();
    for object in objects {
        batch.add(object).await.map_err(ark_store::CommitError::from)?;
    }
    Ok((head, vector))
}

/// The objects of a snapshot with `files` put into the directory `root`: children first, the
/// snapshot last.
pub fn make<R: Read>(
    reader: R,
    root: Option<ObjectId>,
    dot: ark_core::Dot,
    vector: &Vector,
    files: &[(String, Vec<u8>)],
) -> Vec<Object> {
    let mut overlay = Overlay::new(reader);
    let empty = ark_core::empty_directory();
    let root = root.unwrap_or_else(|| overlay.put(empty));
    let mut edits = BTreeMap::new();
    let mut contents = Vec::new();
    for (name, content) in files {
        let name = Name::new(name.as_bytes()).unwrap();
        let object = Object::new(ObjectKind::Raw, content.clone());
        let version = Version {
            node: Node::File { content: Content::Raw(object.id()), size: content.len() as u64 },
            dots: vec![dot],
            permissions: Permissions::from_mode(0o644),
            permissions_dot: dot,
            mtime: Mtime::default(),
            aside: false,
        };
        contents.push(object);
        edits.insert(name.clone(), Some(Entry { name, versions: vec![version] }));
    }
    let (root, _) = ark_core::edit(&mut overlay, root, edits).unwrap();
    let snapshot = Snapshot { root, vector: vector.clone(), wall_time_ms: 0 }.encode();
    contents.into_iter().chain(overlay.into_made()).chain([snapshot]).collect()
}

/// Pulls a state from one repo into another and joins it.
pub async fn pull(from: &Repo, to: &Repo, state: &SignedState) -> Join {
    let writer = state.state().writer;
    match to.stage(state.clone()).await.unwrap() {
        Staged::Staged { missing } => fetch(from, to, missing).await,
        Staged::Complete => {}
        other => panic!("not staged: {other:?}"),
    }
    to.join(writer).await.unwrap()
}

/// Fetches objects and all that they link, as an engine does.
pub async fn fetch(from: &Repo, to: &Repo, mut wanted: Vec<Link>) {
    while !wanted.is_empty() {
        let mut objects = Vec::new();
        for link in wanted {
            let bytes = from.read(link).await.unwrap();
            objects.push(Object::new(link.kind, bytes));
        }
        let received = to.receive(objects).await.unwrap();
        assert_eq!(received.rejected, []);
        wanted = received.next;
    }
}

/// The names and contents of the joined tree.
pub async fn files(repo: &Repo) -> BTreeMap<String, Vec<u8>> {
    let states = repo.states();
    let heads = ark_core::heads(states.joined.values().map(SignedState::state));
    let reader = repo.reader();
    tokio::task::spawn_blocking(move || {
        let mut overlay = Overlay::new(&reader);
        let tree = ark_core::join(&mut overlay, &heads).unwrap().tree;
        let mut files = BTreeMap::new();
        for entry in ark_core::entries(&overlay, tree.root) {
            let entry = entry.unwrap();
            for version in &entry.versions {
                let bytes = reader.read(version.node.link()).unwrap();
                let aside = if version.aside { " aside" } else { "" };
                let name = format!("{}{aside}", entry.name);
                files.insert(name, bytes.to_vec());
            }
        }
        files
    })
    .await
    .unwrap()
}

pub fn contents(files: &[(&str, &[u8])]) -> BTreeMap<String, Vec<u8>> {
    files.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())).collect()
}
