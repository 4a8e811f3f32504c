//! A file of rules that cannot be used comes from a peer: it is not written, and stops nothing.

mod syncing;

use ark_core::{Cutter, FileTree, Mtime, Object, ObjectKind, Put, SignedState, State};
use ark_folder::FolderStatus;
use ark_folder::ignore::MAX_RULES_BYTES;
use syncing::{Device, forged, two_with};

/// What `device` could publish next if it were no honest ark: rules of `size` bytes, and nothing
/// else in the folder.
fn state_with_rules(device: &Device, before: &State, size: u64) -> (SignedState, Vec<Object>) {
    let mut objects = Vec::new();
    let mut file = FileTree::new();
    for chunk in Cutter::new(std::io::Read::take(std::io::repeat(b'a'), size)) {
        let object = Object::new(ObjectKind::Raw, chunk.unwrap());
        file.push(object.id(), object.bytes().len() as u64);
        objects.push(object);
    }
    let (content, size, nodes) = file.finish();
    objects.extend(nodes);
    let put = Put::File { content, size, mtime: Mtime::default() };
    let (state, made) = forged(device, before, 1, ".arkignore", put);
    objects.extend(made);
    (state, objects)
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_from_a_peer_that_cannot_be_used_stop_nothing() {
    let (b, a) = two_with(&[("f", "1")]).await;
    let writer = b.repo().writer();
    let mut last = b.repo().states().joined[&writer].state().clone();
    for (size, is_refused) in [(MAX_RULES_BYTES + 1, true), (3, false)] {
        let (state, objects) = state_with_rules(&b, &last, size);
        last = state.state().clone();
        a.repo().stage(state).await.unwrap();
        let received = a.repo().receive(objects).await.unwrap();
        assert!(received.rejected.is_empty(), "{:?}", received.rejected);
        a.repo().join(writer).await.unwrap();
        let is_named = |said: &FolderStatus| said.problems.iter().any(|p| p.contains(".arkignore"));
        a.until("at it", |said| is_named(said) == is_refused).await;
        // In both directions all goes on.
        let published = a.published();
        a.write("own", format!("{size}"));
        a.rest().await;
        assert!(a.published() > published);
        assert_eq!(a.path(".arkignore").exists(), !is_refused);
    }
    assert_eq!(a.read(".arkignore"), "aaa");
}
