//! A file of rules that cannot be used comes from a peer: it is not written, and stops nothing.

mod syncing;

use ark_core::{
    Cutter, Dot, FileTree, Head, LocalChange, Mtime, Object, ObjectKind, Overlay, Permissions, Put,
    RelPath, SignedState, Snapshot, State, Tree, Vector, What, put_in,
};
use ark_folder::FolderStatus;
use ark_folder::ignore::MAX_RULES_BYTES;
use syncing::{Device, settle};

/// Nothing lies below what is made.
struct Nothing;

impl ark_core::Read for Nothing {
    type Error = std::io::Error;

    fn read(&self, _link: ark_core::Link) -> Result<bytes::Bytes, std::io::Error> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

/// What `device` could publish next if it were no honest ark: rules of `size` bytes, and nothing
/// else in the folder.
fn state_with_rules(device: &Device, before: &State, size: u64) -> (SignedState, Vec<Object>) {
    let dot = Dot { writer: before.writer, sequence: before.vector.get(before.writer) + 1 };
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
    let permissions = Permissions::from_mode(0o644);
    let what = What::Put { put, permissions, permissions_changed: true };
    let path = RelPath::parse(b".arkignore").unwrap();
    let change = LocalChange { path, behind: None, what };
    let mut overlay = Overlay::new(Nothing);
    let root = put_in(&mut overlay, &Tree::empty(), dot, &[change]).unwrap();
    let mut vector: Vector = before.vector.clone();
    vector.take_in(dot);
    let snapshot = Snapshot { root, vector: vector.clone(), wall_time_ms: 0 }.encode();
    let state = State {
        revision: before.revision + 1,
        heads: vec![Head { id: snapshot.id(), sequence: dot.sequence }],
        vector,
        held: Vec::new(),
        ..before.clone()
    };
    objects.extend(overlay.into_made());
    objects.push(snapshot);
    let key = ed25519_dalek::SigningKey::from_bytes(&device.key);
    (SignedState::sign(state, &key).unwrap(), objects)
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_from_a_peer_that_cannot_be_used_stop_nothing() {
    let (a, b) = (Device::started(1).await, Device::started(2).await);
    b.write("f", "1");
    settle(&[&a, &b]).await;
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
