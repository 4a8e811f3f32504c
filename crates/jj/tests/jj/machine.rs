//! Machines that have a repo of jj-lib's on ark's stores.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

use ark_core::ObjectId;
use ark_jj::{ArkBackend, ArkOpHeadsStore, ArkOpStore, Storage as _, resolve_heads};
use jj_lib::backend::{Backend as _, CommitId, MillisSinceEpoch, Timestamp};
use jj_lib::commit::Commit;
use jj_lib::config::{ConfigLayer, ConfigSource, StackedConfig};
use jj_lib::default_index::DefaultIndexStore;
use jj_lib::default_submodule_store::DefaultSubmoduleStore;
use jj_lib::index::IndexStore;
use jj_lib::object_id::ObjectId as _;
use jj_lib::op_store::{OpStore as _, Operation, OperationId, RefTarget, RootOperationData};
use jj_lib::repo::{MutableRepo, ReadonlyRepo, Repo as _, RepoLoader};
use jj_lib::settings::UserSettings;
use jj_lib::signing::Signer;
use jj_lib::store::Store;
use jj_lib::transaction::Transaction;
use jj_lib::tree_merge::MergeOptions;
use pollster::FutureExt as _;
use tempfile::TempDir;

use crate::support::{Memory, op_store};

/// The time that every machine has in the beginning, in milliseconds since 1970.
const BEGINNING: i64 = 1_700_000_000_000;
/// The time from one operation of a machine to the next, in milliseconds.
const TICK: i64 = 1000;

/// A machine: its storage, its own index, its user, its clock. What it does is the same in every
/// run.
pub struct Machine {
    pub memory: Arc<Memory>,
    pub dir: TempDir,
    settings: UserSettings,
    /// When its last operation was, in milliseconds since [`BEGINNING`].
    clock: Cell<i64>,
}

impl Machine {
    pub fn new(user: &str) -> Self {
        Self::seeded(user, 0)
    }

    /// One whose random ids begin with a seed, and with the user.
    pub fn seeded(user: &str, seed: u8) -> Self {
        let random = ObjectId::of(&[user.as_bytes(), &[seed]].concat());
        let random = u32::from_le_bytes(*random.as_bytes().first_chunk().unwrap());
        let text = format!(
            "user = {{ name = {user:?}, email = \"{user}@example.org\" }}\n\
             operation = {{ hostname = {user:?}, username = {user:?} }}\n\
             merge.same-change = {:?}\n\
             debug.randomness-seed = {random}\n",
            if user == "bob" { "keep" } else { "accept" }
        );
        let mut config = StackedConfig::with_defaults();
        config.add_layer(ConfigLayer::parse(ConfigSource::User, &text).unwrap());
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("index")).unwrap();
        DefaultIndexStore::init(&dir.path().join("index")).unwrap();
        let settings = UserSettings::from_config(config).unwrap();
        Self { memory: Memory::new(), dir, settings, clock: Cell::new(0) }
    }

    /// So that its next operation is at this time, in milliseconds since [`BEGINNING`].
    pub fn at(&self, millis: i64) -> &Self {
        self.clock.set(millis - TICK);
        self
    }

    /// The user's settings, at the time that it is.
    fn settings(&self) -> UserSettings {
        let now = MillisSinceEpoch(BEGINNING + self.clock.get());
        let now = Timestamp { timestamp: now, tz_offset: 0 }.to_datetime().unwrap().to_rfc3339();
        let text =
            format!("debug = {{ commit-timestamp = {now:?}, operation-timestamp = {now:?} }}");
        let mut config = self.settings.config().clone();
        config.add_layer(ConfigLayer::parse(ConfigSource::CommandArg, &text).unwrap());
        self.settings.with_new_config(config).unwrap()
    }

    /// Begins an operation.
    pub fn start(&self) -> Transaction {
        self.clock.set(self.clock.get() + TICK);
        self.repo().start_transaction()
    }

    fn index(&self) -> Arc<dyn IndexStore> {
        Arc::new(DefaultIndexStore::load(&self.dir.path().join("index")))
    }

    fn loader(&self) -> RepoLoader {
        let backend = ArkBackend::new(self.memory.clone());
        let root_data = RootOperationData { root_commit_id: backend.root_commit_id().clone() };
        let settings = self.settings();
        let merging = MergeOptions::from_settings(&settings).unwrap();
        RepoLoader::new(
            settings,
            Store::new(Box::new(backend), Signer::new(None, Vec::new()), merging),
            Arc::new(ArkOpStore::new(self.memory.clone(), root_data)),
            Arc::new(ArkOpHeadsStore::new(self.memory.clone())),
            self.index(),
            Arc::new(DefaultSubmoduleStore::load(Path::new(""))),
        )
    }

    pub fn repo(&self) -> Arc<ReadonlyRepo> {
        self.loader().load_at_head().block_on().unwrap()
    }

    pub fn heads(&self) -> Vec<ObjectId> {
        self.memory.heads().block_on().unwrap()
    }

    pub fn resolve(&self) -> ObjectId {
        let head = resolve_heads(self.memory.clone()).block_on().unwrap();
        assert_eq!(self.heads(), head.into_iter().collect::<Vec<_>>());
        assert!(self.memory.is_durable());
        head.unwrap()
    }

    /// Makes a commit on `parents` in a transaction of its own, and a bookmark for it.
    pub fn commit(&self, parents: &[CommitId], description: &str, bookmark: &str) -> Commit {
        let mut tx = self.start();
        let tree = tx.repo().store().get_commit(&parents[0]).unwrap().tree();
        let commit = tx
            .repo_mut()
            .new_commit(parents.to_vec(), tree)
            .set_description(description)
            .write()
            .block_on()
            .unwrap();
        tx.repo_mut()
            .set_local_bookmark_target(bookmark.as_ref(), RefTarget::normal(commit.id().clone()));
        tx.commit(description).block_on().unwrap();
        commit
    }

    /// Rewrites a commit, and with it all that stands on it.
    pub fn describe(&self, commit: &Commit, description: &str) {
        let mut tx = self.start();
        let old = tx.repo().store().get_commit(commit.id()).unwrap();
        tx.repo_mut().rewrite_commit(&old).set_description(description).write().block_on().unwrap();
        tx.repo_mut().rebase_descendants().block_on().unwrap();
        tx.commit(description).block_on().unwrap();
    }

    /// An operation that does this.
    pub fn change(&self, what: &str, change: impl FnOnce(&mut MutableRepo)) {
        let mut tx = self.start();
        change(tx.repo_mut());
        tx.repo_mut().rebase_descendants().block_on().unwrap();
        tx.commit(what).block_on().unwrap();
    }

    pub fn root(&self) -> CommitId {
        self.repo().store().root_commit_id().clone()
    }

    /// The commit that a bookmark points at.
    pub fn at_bookmark(&self, name: &str) -> Commit {
        let repo = self.repo();
        let target = repo.view().get_local_bookmark(name.as_ref()).as_normal().unwrap().clone();
        repo.store().get_commit(&target).unwrap()
    }

    /// Writes an operation that is like this one, but for something.
    pub fn write_like(&self, id: ObjectId, change: impl FnOnce(&mut Operation)) -> ObjectId {
        let ops = op_store(&self.memory);
        let mut operation =
            ops.read_operation(&OperationId::from_bytes(id.as_bytes())).block_on().unwrap();
        change(&mut operation);
        let id = ops.write_operation(&operation).block_on().unwrap();
        ObjectId::from_bytes(id.as_bytes().try_into().unwrap())
    }
}

pub fn pair() -> (Machine, Machine) {
    let (alice, bob) = (Machine::new("alice"), Machine::new("bob"));
    alice.commit(&[alice.root()], "first", "main");
    bob.memory.pull(&alice.memory);
    (alice, bob)
}

pub fn exchange(alice: &Machine, bob: &Machine) {
    alice.memory.pull(&bob.memory);
    bob.memory.pull(&alice.memory);
}
