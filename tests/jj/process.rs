//! What a jj process is to a daemon: jj-lib over a client of its own.

use std::path::Path;
use std::sync::Arc;

use ark_core::ObjectId;
use ark_jj::{ArkBackend, ArkOpHeadsStore, ArkOpStore, Client, Storage as _, resolve_heads};
use ark_testkit::daemon::{Machine, REPO};
use futures::io::{AsyncReadExt as _, Cursor};
use jj_lib::backend::{Backend as _, CommitId, CopyId, TreeValue};
use jj_lib::commit::Commit;
use jj_lib::config::{ConfigLayer, ConfigSource, StackedConfig};
use jj_lib::default_index::DefaultIndexStore;
use jj_lib::default_submodule_store::DefaultSubmoduleStore;
use jj_lib::op_store::{RefTarget, RootOperationData};
use jj_lib::repo::{ReadonlyRepo, Repo as _, RepoLoader};
use jj_lib::repo_path::{RepoPath, RepoPathBuf};
use jj_lib::settings::UserSettings;
use jj_lib::signing::Signer;
use jj_lib::store::Store;
use jj_lib::tree_builder::TreeBuilder;
use jj_lib::tree_merge::MergeOptions;
use pollster::FutureExt as _;
use tempfile::TempDir;

/// A process of a user, with an index of its own.
pub struct Process {
    pub client: Arc<Client>,
    settings: UserSettings,
    index: TempDir,
}

impl Process {
    /// One that uses the daemon of `machine`, which runs.
    pub fn new(machine: &Machine, user: &str) -> Self {
        let text = format!(
            "user = {{ name = {user:?}, email = \"{user}@example.org\" }}\n\
             operation = {{ hostname = {user:?}, username = {user:?} }}\n"
        );
        let mut config = StackedConfig::with_defaults();
        config.add_layer(ConfigLayer::parse(ConfigSource::User, &text).expect("a config"));
        let settings = UserSettings::from_config(config).expect("settings");
        let index = tempfile::tempdir().expect("a temporary directory");
        DefaultIndexStore::init(index.path()).expect("an index");
        let client = Arc::new(Client::connect(machine.store(), REPO).expect("a daemon"));
        Self { client, settings, index }
    }

    pub fn backend(&self) -> ArkBackend {
        ArkBackend::new(self.client.clone())
    }

    fn loader(&self) -> RepoLoader {
        let backend = self.backend();
        let root_data = RootOperationData { root_commit_id: backend.root_commit_id().clone() };
        let merging = MergeOptions::from_settings(&self.settings).expect("settings");
        RepoLoader::new(
            self.settings.clone(),
            Store::new(Box::new(backend), Signer::new(None, Vec::new()), merging),
            Arc::new(ArkOpStore::new(self.client.clone(), root_data)),
            Arc::new(ArkOpHeadsStore::new(self.client.clone())),
            Arc::new(DefaultIndexStore::load(self.index.path())),
            Arc::new(DefaultSubmoduleStore::load(Path::new(""))),
        )
    }

    /// The repo as it is now, several heads merged as ark does it.
    pub fn repo(&self) -> Arc<ReadonlyRepo> {
        resolve_heads(self.client.clone()).block_on().expect("resolved heads");
        self.loader().load_at_head().block_on().expect("a repo that loads")
    }

    pub fn heads(&self) -> Vec<ObjectId> {
        self.client.heads().block_on().expect("heads")
    }

    /// Commits a file with this content on the root, under a bookmark named after it.
    pub fn commit(&self, name: &str, content: &[u8]) -> CommitId {
        let repo = self.repo();
        let store = repo.store().clone();
        let path = path(name);
        let id = store.write_file(&path, &mut Cursor::new(content)).block_on().expect("a file");
        let mut builder = TreeBuilder::new(store.clone(), store.empty_tree_id().clone());
        let copy_id = CopyId::placeholder();
        builder.set(path, TreeValue::File { id, executable: false, copy_id });
        let tree = builder.write_tree().block_on().expect("a tree");
        let tree = jj_lib::merged_tree::MergedTree::resolved(store.clone(), tree);
        let mut tx = repo.start_transaction();
        let parents = vec![store.root_commit_id().clone()];
        let commit = tx.repo_mut().new_commit(parents, tree).set_description(name);
        let commit = commit.write().block_on().expect("a commit");
        let target = RefTarget::normal(commit.id().clone());
        tx.repo_mut().set_local_bookmark_target(name.as_ref(), target);
        tx.commit(name).block_on().expect("an operation");
        commit.id().clone()
    }

    /// What the file under a bookmark has in it; `None` where there is no such bookmark.
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        let repo = self.repo();
        let id = repo.view().get_local_bookmark(name.as_ref()).as_normal()?.clone();
        let commit = repo.store().get_commit(&id).expect("a commit that is named");
        Some(content(&commit, name))
    }

    /// Reads every file that the view names, in every commit but the root.
    pub fn read_all(&self) -> Vec<String> {
        let repo = self.repo();
        let names = repo.view().local_bookmarks().map(|(name, _)| name.as_str().to_owned());
        let names: Vec<String> = names.collect();
        for name in &names {
            self.read(name).expect("it was there");
        }
        names
    }
}

fn path(name: &str) -> RepoPathBuf {
    RepoPath::from_internal_string(name).expect("a path").to_owned()
}

/// What a file of a commit has in it.
fn content(commit: &Commit, name: &str) -> Vec<u8> {
    let path = path(name);
    let value = commit.tree().path_value(&path).block_on().expect("a tree");
    let Some(Some(TreeValue::File { id, .. })) = value.into_resolved().ok() else {
        panic!("no file {name}")
    };
    let mut content = Vec::new();
    let reading = async {
        let mut from = commit.store().read_file(&path, &id).await.expect("a file");
        from.read_to_end(&mut content).await
    };
    reading.block_on().expect("all of it");
    content
}
