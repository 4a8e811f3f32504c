//! Whole repos of jj-lib's on ark's stores, on several machines; their heads become one.

use std::path::Path;
use std::sync::Arc;

use ark_core::{Object, ObjectId};
use ark_jj::{ArkBackend, ArkOpHeadsStore, ArkOpStore, Storage as _, resolve_heads};
use jj_lib::backend::{Backend as _, CommitId};
use jj_lib::commit::Commit;
use jj_lib::config::{ConfigLayer, ConfigSource, StackedConfig};
use jj_lib::default_index::DefaultIndexStore;
use jj_lib::default_submodule_store::DefaultSubmoduleStore;
use jj_lib::index::IndexStore;
use jj_lib::merge::Merge;
use jj_lib::merged_tree::MergedTree;
use jj_lib::object_id::ObjectId as _;
use jj_lib::op_store::{OperationId, RefTarget, RootOperationData};
use jj_lib::repo::{MutableRepo, ReadonlyRepo, Repo as _, RepoLoader};
use jj_lib::settings::UserSettings;
use jj_lib::signing::Signer;
use jj_lib::store::Store;
use jj_lib::tree_merge::MergeOptions;
use pollster::FutureExt as _;
use tempfile::TempDir;

use crate::support::Memory;

/// A machine: its storage, its own index, its user.
struct Machine {
    memory: Arc<Memory>,
    dir: TempDir,
    settings: UserSettings,
}

impl Machine {
    fn new(user: &str) -> Self {
        let text = format!(
            "user = {{ name = {user:?}, email = \"{user}@example.org\" }}\n\
             operation = {{ hostname = {user:?}, username = {user:?} }}\n\
             merge.same-change = {:?}\n",
            if user == "bob" { "keep" } else { "accept" }
        );
        let mut config = StackedConfig::with_defaults();
        config.add_layer(ConfigLayer::parse(ConfigSource::User, &text).unwrap());
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("index")).unwrap();
        DefaultIndexStore::init(&dir.path().join("index")).unwrap();
        Self { memory: Memory::new(), dir, settings: UserSettings::from_config(config).unwrap() }
    }

    fn index(&self) -> Arc<dyn IndexStore> {
        Arc::new(DefaultIndexStore::load(&self.dir.path().join("index")))
    }

    fn loader(&self) -> RepoLoader {
        let backend = ArkBackend::new(self.memory.clone());
        let root_data = RootOperationData { root_commit_id: backend.root_commit_id().clone() };
        let merging = MergeOptions::from_settings(&self.settings).unwrap();
        RepoLoader::new(
            self.settings.clone(),
            Store::new(Box::new(backend), Signer::new(None, Vec::new()), merging),
            Arc::new(ArkOpStore::new(self.memory.clone(), root_data)),
            Arc::new(ArkOpHeadsStore::new(self.memory.clone())),
            self.index(),
            Arc::new(DefaultSubmoduleStore::load(Path::new(""))),
        )
    }

    fn repo(&self) -> Arc<ReadonlyRepo> {
        self.loader().load_at_head().block_on().unwrap()
    }

    fn heads(&self) -> Vec<ObjectId> {
        self.memory.heads().block_on().unwrap()
    }

    fn resolve(&self) -> ObjectId {
        let submodules = Arc::new(DefaultSubmoduleStore::load(Path::new("")));
        let head = resolve_heads(self.memory.clone(), self.index(), submodules).block_on().unwrap();
        assert_eq!(self.heads(), head.into_iter().collect::<Vec<_>>());
        assert!(self.memory.is_durable());
        head.unwrap()
    }

    /// Makes a commit on `parents` in a transaction of its own, and a bookmark for it.
    fn commit(&self, parents: &[CommitId], description: &str, bookmark: &str) -> Commit {
        let repo = self.repo();
        let mut tx = repo.start_transaction();
        let tree = repo.store().get_commit(&parents[0]).unwrap().tree();
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
    fn describe(&self, commit: &Commit, description: &str) {
        let mut tx = self.repo().start_transaction();
        let old = tx.repo().store().get_commit(commit.id()).unwrap();
        tx.repo_mut().rewrite_commit(&old).set_description(description).write().block_on().unwrap();
        tx.repo_mut().rebase_descendants().block_on().unwrap();
        tx.commit(description).block_on().unwrap();
    }

    /// An operation that does this.
    fn change(&self, what: &str, change: impl FnOnce(&mut MutableRepo)) {
        let mut tx = self.repo().start_transaction();
        change(tx.repo_mut());
        tx.repo_mut().rebase_descendants().block_on().unwrap();
        tx.commit(what).block_on().unwrap();
    }

    fn root(&self) -> CommitId {
        self.repo().store().root_commit_id().clone()
    }
}

fn pair() -> (Machine, Machine) {
    let (alice, bob) = (Machine::new("alice"), Machine::new("bob"));
    alice.commit(&[alice.root()], "first", "main");
    bob.memory.pull(&alice.memory);
    (alice, bob)
}

fn exchange(alice: &Machine, bob: &Machine) {
    alice.memory.pull(&bob.memory);
    bob.memory.pull(&alice.memory);
}

#[test]
fn what_one_machine_commits_the_other_shows_without_a_merge() {
    let (alice, bob) = pair();
    assert_eq!(alice.heads(), bob.heads());
    let operation = OperationId::from_bytes(bob.heads()[0].as_bytes());
    let repo = bob.repo();
    assert_eq!(repo.op_id(), &operation);
    let target = repo.view().get_local_bookmark("main".as_ref()).as_normal().unwrap().clone();
    assert_eq!(repo.store().get_commit(&target).unwrap().description(), "first");
    assert_eq!(bob.resolve(), alice.resolve());
    assert_eq!(bob.repo().op_id(), &operation);
}

#[test]
fn two_machines_that_commit_apart_make_the_same_merge() {
    let (alice, bob) = pair();
    let main = alice.repo().view().get_local_bookmark("main".as_ref()).as_normal().unwrap().clone();
    let by_alice = alice.commit(std::slice::from_ref(&main), "by alice", "a");
    let by_bob = bob.commit(&[main], "by bob", "b");
    exchange(&alice, &bob);
    assert_eq!(alice.heads().len(), 2);
    let head = alice.resolve();
    assert_eq!(bob.resolve(), head);
    for machine in [&alice, &bob] {
        // It is at rest: nothing is made anew, whoever asks how often, and what jj loads is it.
        exchange(&alice, &bob);
        assert_eq!(machine.resolve(), head);
        let repo = machine.repo();
        assert_eq!(repo.op_id().as_bytes(), head.as_bytes());
        assert_eq!(repo.operation().metadata().hostname, "ark");
        for commit in [&by_alice, &by_bob] {
            assert!(repo.view().heads().contains(commit.id()));
        }
        assert_eq!(repo.view().heads().len(), 2);
    }
}

#[test]
fn a_bookmark_that_both_moved_is_in_conflict_and_a_change_that_both_rewrote_is_divergent() {
    let (alice, bob) = pair();
    let repo = alice.repo();
    let main = repo.view().get_local_bookmark("main".as_ref()).as_normal().unwrap().clone();
    let first = repo.store().get_commit(&main).unwrap();
    // Something stands on it that has to be rebased onto one of the rewritten commits.
    alice.commit(std::slice::from_ref(&main), "above", "above");
    bob.memory.pull(&alice.memory);
    assert_eq!(bob.resolve(), alice.resolve());
    alice.describe(&first, "alice says");
    bob.describe(&first, "bob says");
    exchange(&alice, &bob);
    let head = alice.resolve();
    assert_eq!(bob.resolve(), head);
    let repo = bob.repo();
    assert!(repo.view().get_local_bookmark("main".as_ref()).has_conflict());
    let ids = repo.resolve_change_id(first.change_id()).block_on().unwrap().unwrap();
    assert_eq!(ids.into_visible().unwrap().len(), 2);
}

/// The merge makes commits of its own there, each with a change id that is new.
#[test]
fn working_copies_whose_commits_another_abandoned_are_the_same_new_ones_everywhere() {
    let (alice, bob) = pair();
    let names = ["one", "two", "three", "four", "five", "six"];
    let root = [alice.root()];
    let doomed = names.map(|name| alice.commit(&root, name, name));
    bob.memory.pull(&alice.memory);
    bob.resolve();
    alice.change("abandon", |repo| {
        for commit in &doomed {
            repo.record_abandoned_commit(commit);
        }
    });
    bob.change("edit", |repo| {
        for (name, commit) in names.into_iter().zip(&doomed) {
            repo.set_wc_commit(name.into(), commit.id().clone()).unwrap();
        }
    });
    exchange(&alice, &bob);
    let head = alice.resolve();
    assert_eq!(bob.resolve(), head);
    let repo = bob.repo();
    for (name, commit) in names.into_iter().zip(&doomed) {
        let new = repo.view().get_wc_commit_id(name.as_ref()).unwrap();
        let new = repo.store().get_commit(new).unwrap();
        assert_ne!(new.change_id(), commit.change_id());
    }
}

#[test]
fn a_head_that_another_comes_after_is_only_dropped() {
    let (alice, bob) = pair();
    let before = bob.heads();
    alice.commit(&[alice.root()], "second", "second");
    bob.memory.pull(&alice.memory);
    let after = alice.heads();
    bob.memory.set_heads([before.as_slice(), &after].concat());
    assert_eq!(vec![bob.resolve()], after);
}

#[test]
fn an_index_that_was_deleted_is_made_anew() {
    let (alice, _) = pair();
    let main = alice.repo().view().get_local_bookmark("main".as_ref()).as_normal().unwrap().clone();
    let last = (0..20)
        .fold(main, |parent, n| alice.commit(&[parent], &n.to_string(), "last").id().clone());
    std::fs::remove_dir_all(alice.dir.path().join("index")).unwrap();
    std::fs::create_dir(alice.dir.path().join("index")).unwrap();
    DefaultIndexStore::init(&alice.dir.path().join("index")).unwrap();
    let repo = alice.repo();
    let root = repo.store().root_commit_id();
    assert!(repo.index().is_ancestor(root, &last).block_on().unwrap());
}

/// Three machines, histories from a seed, exchanged at random: each resolves what it has.
#[test]
fn machines_that_resolve_at_random_come_to_one_head_and_to_rest() {
    for seed in 0..12_u8 {
        let machines = [Machine::new("alice"), Machine::new("bob"), Machine::new("carol")];
        machines[0].commit(&[machines[0].root()], "first", "main");
        machines[1].memory.pull(&machines[0].memory);
        machines[2].memory.pull(&machines[0].memory);
        for step in 0..10_u8 {
            // A choice that is the same in every run.
            let chosen = *Object::new(ark_core::ObjectKind::Raw, vec![seed, step]).id().as_bytes();
            let machine = &machines[usize::from(chosen[0]) % 3];
            let other = &machines[usize::from(chosen[1]) % 3];
            machine.resolve();
            let repo = machine.repo();
            let main = repo.view().get_local_bookmark("main".as_ref()).clone();
            let at = main.added_ids().next().unwrap().clone();
            match chosen[2] % 4 {
                0 => drop(machine.commit(&[at], "more", "main")),
                1 => drop(machine.commit(&[at], "aside", &format!("b{}", chosen[3] % 3))),
                2 => machine.describe(&repo.store().get_commit(&at).unwrap(), "otherwise"),
                _ if std::ptr::eq(machine, other) => {}
                _ => machine.memory.pull(&other.memory),
            }
        }
        for round in 0.. {
            assert!(round < 5, "seed {seed}: they do not come to rest");
            for (one, other) in [(0, 1), (1, 2), (2, 0), (0, 1), (1, 2)] {
                exchange(&machines[one], &machines[other]);
            }
            let heads: Vec<ObjectId> = machines.iter().map(Machine::resolve).collect();
            assert!(heads.iter().all(|head| *head == heads[0]), "seed {seed}: {heads:?}");
            if round > 0 && machines.iter().all(|machine| machine.heads() == [heads[0]]) {
                break;
            }
        }
    }
}

/// Conflicts of contents are kept in a commit and read again.
#[test]
fn a_commit_with_a_conflict_of_contents_is_loaded_again() {
    let (alice, bob) = pair();
    let repo = alice.repo();
    let store = repo.store();
    let write = |text: &str| {
        let path = jj_lib::repo_path::RepoPath::from_internal_string("file").unwrap();
        let id = store
            .write_file(path, &mut futures::io::Cursor::new(text.as_bytes()))
            .block_on()
            .unwrap();
        let mut builder =
            jj_lib::tree_builder::TreeBuilder::new(store.clone(), store.empty_tree_id().clone());
        builder.set(
            path.to_owned(),
            jj_lib::backend::TreeValue::File {
                id,
                executable: false,
                copy_id: jj_lib::backend::CopyId::placeholder(),
            },
        );
        builder.write_tree().block_on().unwrap()
    };
    let terms = Merge::from_vec(vec![write("1"), write("0"), write("2")]);
    let tree = MergedTree::new(
        store.clone(),
        terms.clone(),
        jj_lib::conflict_labels::ConflictLabels::unlabeled(),
    );
    let mut tx = repo.start_transaction();
    let commit = tx.repo_mut().new_commit(vec![alice.root()], tree).write().block_on().unwrap();
    tx.commit("conflict").block_on().unwrap();
    bob.memory.pull(&alice.memory);
    bob.resolve();
    let found = bob.repo().store().get_commit(commit.id()).unwrap();
    assert!(found.has_conflict());
    assert_eq!(found.tree_ids(), &terms);
}
