//! Whole repos of jj-lib's on ark's stores.

use jj_lib::default_index::DefaultIndexStore;
use jj_lib::merge::Merge;
use jj_lib::merged_tree::MergedTree;
use jj_lib::op_store::OperationId;
use jj_lib::repo::Repo as _;
use pollster::FutureExt as _;

use crate::machine::pair;

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
    let mut tx = alice.start();
    let commit = tx.repo_mut().new_commit(vec![alice.root()], tree).write().block_on().unwrap();
    tx.commit("conflict").block_on().unwrap();
    bob.memory.pull(&alice.memory);
    bob.resolve();
    let found = bob.repo().store().get_commit(commit.id()).unwrap();
    assert!(found.has_conflict());
    assert_eq!(found.tree_ids(), &terms);
}
