//! What jj writes of commits, trees and files it reads back, to the byte; what is not there is told
//! from what failed.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use ark_core::{Link, ObjectId, ObjectKind};
use ark_jj::{ArkBackend, ArkOpHeadsStore, Storage as _};
use futures::io::{AsyncRead, AsyncReadExt as _, Cursor};
use jj_lib::backend::{
    Backend as _, BackendError, ChangeId, Commit, CommitId, CopyHistory, CopyId, FileId, SymlinkId,
    Tree, TreeId, TreeValue,
};
use jj_lib::merge::Merge;
use jj_lib::object_id::ObjectId as _;
use jj_lib::op_heads_store::OpHeadsStore as _;
use jj_lib::op_store::{OpStore as _, OpStoreError, OperationId, View, ViewId};
use jj_lib::repo_path::{RepoPathBuf, RepoPathComponentBuf};
use pollster::FutureExt as _;

use crate::support::{Memory, backend, commit, op_store, path, write};

fn write_file(backend: &ArkBackend, bytes: &[u8]) -> FileId {
    backend.write_file(path(), &mut Cursor::new(bytes)).block_on().unwrap()
}

fn read_file(backend: &ArkBackend, id: &FileId) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut reader = backend.read_file(path(), id).block_on().unwrap();
    reader.read_to_end(&mut bytes).block_on().unwrap();
    bytes
}

/// A directory of these values.
fn directory(entries: Vec<(&str, TreeValue)>) -> Tree {
    let name = |name: &str| RepoPathComponentBuf::new(name).unwrap();
    Tree::from_sorted_entries(entries.into_iter().map(|(n, value)| (name(n), value)).collect())
}

fn file(id: FileId) -> TreeValue {
    TreeValue::File { id, executable: false, copy_id: CopyId::placeholder() }
}

/// Bytes in which nothing repeats, a seed apart.
fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn commits_have_parents_and_are_read_as_they_were_written() {
    let (_, backend) = backend();
    let root = backend.root_commit_id().clone();
    let orphan = Commit { parents: Vec::new(), ..commit(&backend, "") };
    let error = backend.write_commit(orphan, None).block_on().unwrap_err();
    assert!(error.to_string().contains("no parents"), "{error}");
    let first = write(&backend, commit(&backend, "first"));
    let second = write(&backend, Commit { parents: vec![first.clone()], ..commit(&backend, "") });
    for parents in [vec![root.clone()], vec![first.clone(), second.clone()], vec![second, root]] {
        let commit = Commit { parents, predecessors: vec![first.clone()], ..commit(&backend, "x") };
        let (id, written) = backend.write_commit(commit.clone(), None).block_on().unwrap();
        assert_eq!((&written, id.as_bytes().len()), (&commit, 32));
        assert_eq!(backend.read_commit(&id).block_on().unwrap(), commit);
    }
    let root = backend.read_commit(backend.root_commit_id()).block_on().unwrap();
    assert_eq!((root.parents.len(), &root.change_id), (0, backend.root_change_id()));
}

#[test]
fn a_conflict_keeps_its_sides_and_their_labels() {
    let (_, backend) = backend();
    let tree = |text: &str| {
        let id = write_file(&backend, text.as_bytes());
        backend.write_tree(path(), &directory(vec![("a", file(id))])).block_on().unwrap()
    };
    let terms = vec![tree("1"), backend.empty_tree_id().clone(), tree("2"), tree("3"), tree("4")];
    let labels: Vec<String> = ["one", "", "two", "three", "four"].map(Into::into).to_vec();
    let commit = Commit {
        root_tree: Merge::from_vec(terms),
        conflict_labels: Merge::from_vec(labels),
        ..commit(&backend, "conflict")
    };
    let id = write(&backend, commit.clone());
    assert_eq!(backend.read_commit(&id).block_on().unwrap(), commit);
    let unfit = Commit { conflict_labels: Merge::resolved("label".into()), ..commit };
    assert!(backend.write_commit(unfit, None).block_on().is_err());
}

#[test]
fn what_was_signed_and_the_signature_are_kept_to_the_byte() {
    let (_, backend) = backend();
    let mut signed = Vec::new();
    let mut sign = |data: &[u8]| {
        signed.push(data.to_vec());
        Ok(vec![1, 2, 3])
    };
    let unsigned = commit(&backend, "signed");
    let (id, written) = backend.write_commit(unsigned.clone(), Some(&mut sign)).block_on().unwrap();
    let signature = written.secure_sig.clone().unwrap();
    assert_eq!(signed, std::slice::from_ref(&signature.data));
    assert_eq!(signature.sig, [1, 2, 3]);
    assert_eq!(backend.read_commit(&id).block_on().unwrap(), written);
    assert_ne!(write(&backend, unsigned), id);
    assert!(backend.write_commit(written, None).block_on().is_err());
}

#[test]
fn ids_of_another_length_are_refused_and_not_cut() {
    let (_, backend) = backend();
    let short = Commit { parents: vec![CommitId::from_bytes(&[1; 20])], ..commit(&backend, "") };
    assert!(backend.write_commit(short, None).block_on().is_err());
    let change = Commit { change_id: ChangeId::from_bytes(&[1; 15]), ..commit(&backend, "") };
    assert!(backend.write_commit(change, None).block_on().is_err());
    let error = backend.read_commit(&CommitId::from_bytes(&[1; 20])).block_on().unwrap_err();
    assert!(matches!(error, BackendError::InvalidHashLength { expected: 32, actual: 20, .. }));
    let error = backend.read_file(path(), &FileId::from_bytes(&[1; 34])).block_on().err().unwrap();
    assert!(matches!(error, BackendError::InvalidHashLength { .. }));
}

#[test]
fn directories_hold_everything_that_jj_has_in_them() {
    let (_, backend) = backend();
    assert_eq!(
        backend.write_tree(path(), &Tree::default()).block_on().unwrap(),
        *backend.empty_tree_id()
    );
    assert_eq!(
        backend.read_tree(path(), backend.empty_tree_id()).block_on().unwrap(),
        Tree::default()
    );
    let small = write_file(&backend, b"small");
    let large = write_file(&backend, &noise(1, 3 << 20));
    let link = backend.write_symlink(path(), "../ä\u{1f600}").block_on().unwrap();
    let history =
        CopyHistory { current_path: path().to_owned(), parents: Vec::new(), salt: vec![1] };
    let copy_id = backend.write_copy(&history).block_on().unwrap();
    let below = backend
        .write_tree(path(), &directory(vec![("x", file(small.clone()))]))
        .block_on()
        .unwrap();
    let tree = directory(vec![
        ("..", file(small.clone())),
        ("a", file(large.clone())),
        ("b", TreeValue::File { id: small, executable: true, copy_id }),
        ("c", TreeValue::Symlink(link.clone())),
        ("d", TreeValue::Tree(below)),
        ("e", TreeValue::GitSubmodule(CommitId::from_bytes(&[7; 20]))),
        ("f", TreeValue::GitSubmodule(CommitId::from_bytes(&[7; 32]))),
        ("g", TreeValue::Tree(backend.empty_tree_id().clone())),
        ("ä\u{1f600}", file(large)),
    ]);
    let id = backend.write_tree(path(), &tree).block_on().unwrap();
    assert_eq!(backend.read_tree(path(), &id).block_on().unwrap(), tree);
    assert_eq!(backend.read_symlink(path(), &link).block_on().unwrap(), "../ä\u{1f600}");
}

#[test]
fn a_directory_of_many_files_changes_little_with_one_of_them() {
    let (memory, backend) = backend();
    let id = write_file(&backend, b"x");
    let other = write_file(&backend, b"y");
    let names: Vec<String> = (0..20_000).map(|n| format!("file {n:05}")).collect();
    let of = |changed: usize| {
        let id = |n| if n == changed { other.clone() } else { id.clone() };
        directory(names.iter().enumerate().map(|(n, name)| (name.as_str(), file(id(n)))).collect())
    };
    let before = backend.write_tree(path(), &of(20_001)).block_on().unwrap();
    let nodes = memory.len_of(ObjectKind::Tree);
    let after = backend.write_tree(path(), &of(11_111)).block_on().unwrap();
    assert!(memory.len_of(ObjectKind::Tree) <= nodes + 3);
    assert_eq!(backend.read_tree(path(), &before).block_on().unwrap(), of(20_001));
    assert_eq!(backend.read_tree(path(), &after).block_on().unwrap(), of(11_111));
}

#[test]
fn contents_of_every_length_are_read_as_they_were_written() {
    let (_, backend) = backend();
    for length in [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 9 << 20] {
        let bytes = noise(2, length);
        let id = write_file(&backend, &bytes);
        assert_eq!(id.as_bytes().len(), if length > 1 << 20 { 33 } else { 32 });
        assert!(read_file(&backend, &id) == bytes, "{length} bytes");
        assert_eq!(write_file(&backend, &bytes), id);
    }
}

/// The bytes of a node of chunks are a content like any other.
#[test]
fn a_file_that_looks_like_a_chunked_one_is_itself() {
    let (memory, backend) = backend();
    let large = write_file(&backend, &noise(3, 2 << 20));
    let node = ObjectId::from_bytes(large.as_bytes()[..32].try_into().unwrap());
    let link = Link { kind: ObjectKind::File, id: node };
    let bytes = memory.get(link).block_on().unwrap();
    let small = write_file(&backend, &bytes);
    assert_eq!(small.as_bytes(), node.as_bytes());
    assert_eq!(read_file(&backend, &small), bytes);
    assert_eq!(read_file(&backend, &large), noise(3, 2 << 20));
}

#[test]
fn a_byte_in_front_of_a_large_file_is_about_one_chunk() {
    let (memory, backend) = backend();
    let bytes = noise(4, 24 << 20);
    write_file(&backend, &bytes);
    let before = memory.len_of(ObjectKind::Raw);
    write_file(&backend, &[&[0], bytes.as_slice()].concat());
    assert!(memory.len_of(ObjectKind::Raw) <= before + 2);
}

/// Gives out a content and counts what was taken of it.
struct Counted {
    bytes: Cursor<Vec<u8>>,
    taken: Arc<AtomicUsize>,
    memory: Arc<Memory>,
}

/// How far the reader may be ahead of what was put: what is cut, and a piece.
const AHEAD: usize = 13 << 20;

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<std::io::Result<usize>> {
        let read = Pin::new(&mut self.bytes).poll_read(context, buffer);
        if let Poll::Ready(Ok(read)) = read {
            let taken = self.taken.fetch_add(read, Ordering::Relaxed) + read;
            let ahead = taken.saturating_sub(self.memory.put_bytes());
            assert!(ahead <= AHEAD, "{ahead} bytes in memory");
        }
        read
    }
}

#[test]
fn large_files_are_streamed_both_ways() {
    let (memory, backend) = backend();
    let bytes = noise(5, 48 << 20);
    let taken = Arc::new(AtomicUsize::new(0));
    let mut from =
        Counted { bytes: Cursor::new(bytes), taken: taken.clone(), memory: memory.clone() };
    let id = backend.write_file(path(), &mut from).block_on().unwrap();
    assert_eq!(taken.load(Ordering::Relaxed), 48 << 20);
    let before = memory.gets();
    let mut reader = backend.read_file(path(), &id).block_on().unwrap();
    let mut byte = [0];
    reader.read_exact(&mut byte).block_on().unwrap();
    assert!(memory.gets() - before <= 8, "{} objects for a byte", memory.gets() - before);
}

#[test]
fn a_reader_that_fails_makes_no_file() {
    struct Broken;
    impl AsyncRead for Broken {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut [u8],
        ) -> Poll<std::io::Result<usize>> {
            Poll::Ready(Err(std::io::Error::other("unplugged")))
        }
    }
    let (_, backend) = backend();
    let error = backend.write_file(path(), &mut Broken).block_on().unwrap_err();
    assert!(matches!(error, BackendError::WriteObject { object_type: "file", .. }));
}

#[test]
fn what_is_not_there_is_told_from_what_failed() {
    let (memory, backend) = backend();
    let ops = op_store(&memory);
    let missing = [3; 32];
    let commit_id = CommitId::from_bytes(&missing);
    let not_found = |error: BackendError| matches!(error, BackendError::ObjectNotFound { .. });
    let failed = |error: BackendError| {
        matches!(error, BackendError::ReadObject { .. } | BackendError::ReadFile { .. })
    };
    let tree = TreeId::from_bytes(&missing);
    let operation = OperationId::from_bytes(&missing);
    for is_failing in [false, true] {
        memory.fail(is_failing);
        let expected = |error| if is_failing { failed(error) } else { not_found(error) };
        assert!(expected(backend.read_commit(&commit_id).block_on().unwrap_err()));
        assert!(expected(backend.read_tree(path(), &tree).block_on().unwrap_err()));
        assert!(expected(
            backend.read_file(path(), &FileId::from_bytes(&missing)).block_on().err().unwrap()
        ));
        assert!(expected(
            backend
                .read_file(path(), &FileId::from_bytes(&[&missing[..], &[1]].concat()))
                .block_on()
                .err()
                .unwrap()
        ));
        assert!(expected(
            backend.read_symlink(path(), &SymlinkId::from_bytes(&missing)).block_on().unwrap_err()
        ));
        assert!(expected(backend.read_copy(&CopyId::from_bytes(&missing)).block_on().unwrap_err()));
        let expected = |error| match error {
            OpStoreError::ObjectNotFound { .. } => !is_failing,
            OpStoreError::ReadObject { .. } => is_failing,
            _ => false,
        };
        assert!(expected(ops.read_operation(&operation).block_on().unwrap_err()));
        assert!(expected(ops.read_view(&ViewId::from_bytes(&missing)).block_on().unwrap_err()));
    }
    assert!(backend.write_commit(commit(&backend, ""), None).block_on().is_err());
    assert!(ops.write_view(&View::make_root(commit_id)).block_on().is_err());
    assert!(ArkOpHeadsStore::new(memory).get_op_heads().block_on().is_err());
}

#[test]
fn a_part_that_is_lost_is_damage_and_not_absence() {
    let (memory, backend) = backend();
    let id = write_file(&backend, b"x");
    let names: Vec<String> = (0..1000).map(|n| format!("{n:04}")).collect();
    let tree = directory(names.iter().map(|name| (name.as_str(), file(id.clone()))).collect());
    let root = backend.write_tree(path(), &tree).block_on().unwrap();
    let link = Link {
        kind: ObjectKind::Tree,
        id: ObjectId::from_bytes(root.as_bytes().try_into().unwrap()),
    };
    let bytes = memory.get(link).block_on().unwrap();
    memory.lose(ark_core::links(link, &bytes).unwrap()[1]);
    let error = backend.read_tree(path(), &root).block_on().unwrap_err();
    assert!(matches!(error, BackendError::ReadObject { .. }), "{error:?}");
}

#[test]
fn related_copies_come_children_first() {
    let (_, backend) = backend();
    let write = |name: &str, parents: &[&CopyId]| {
        let current_path = RepoPathBuf::from_internal_string(name).unwrap();
        let parents = parents.iter().map(|&id| id.clone()).collect();
        backend
            .write_copy(&CopyHistory { current_path, parents, salt: Vec::new() })
            .block_on()
            .unwrap()
    };
    let first = write("first", &[]);
    let left = write("left", &[&first]);
    let right = write("right", &[&first]);
    let merged = write("merged", &[&left, &right]);
    let alone = write("alone", &[]);
    for of in [&first, &left, &merged] {
        let related = backend.get_related_copies(of).block_on().unwrap();
        let place = |id: &CopyId| related.iter().position(|copy| copy.id == *id);
        assert_eq!((related.len(), place(&alone)), (4, None));
        assert_eq!((place(&merged), place(&first)), (Some(0), Some(3)));
    }
    assert!(backend.get_related_copies(&CopyId::from_bytes(&[1; 32])).block_on().is_err());
    assert_eq!(backend.read_copy(&merged).block_on().unwrap().parents, [left, right]);
}
