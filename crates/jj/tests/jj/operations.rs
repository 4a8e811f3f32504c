//! What jj writes of views, operations and heads it reads back, in whatever order a map has it.

use std::collections::{BTreeMap, HashSet};

use ark_core::ObjectKind;
use ark_jj::{ArkBackend, ArkOpHeadsStore, ArkOpStore};
use jj_lib::backend::{CommitId, MillisSinceEpoch, Timestamp};
use jj_lib::merge::Merge;
use jj_lib::object_id::{HexPrefix, ObjectId as _, PrefixResolution};
use jj_lib::op_heads_store::OpHeadsStore as _;
use jj_lib::op_store::{
    OpStore as _, Operation, OperationId, OperationMetadata, RefTarget, RemoteRef, RemoteRefState,
    RemoteView, TimestampRange, View, ViewId,
};
use pollster::FutureExt as _;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use crate::support::{backend, commit, op_store, write};

/// Commits to point at.
fn commits(backend: &ArkBackend) -> Vec<CommitId> {
    (0..5).map(|n| write(backend, commit(backend, &n.to_string()))).collect()
}

/// Indices into [`commits`], which become ids once there is a store.
type Terms = Vec<Option<usize>>;

fn terms() -> impl Strategy<Value = Terms> {
    (0_usize..3, vec(option::of(0_usize..5), 5)).prop_map(|(sides, mut terms)| {
        terms.truncate(2 * sides + 1);
        terms
    })
}

type Refs = BTreeMap<String, (Terms, bool)>;

fn refs() -> impl Strategy<Value = Refs> {
    btree_map(".{0,5}", (terms(), any::<bool>()), 0..3)
}

fn target(ids: &[CommitId], terms: &Terms) -> RefTarget {
    let terms: Vec<_> = terms.iter().map(|term| term.map(|n| ids[n].clone())).collect();
    RefTarget::from_merge(Merge::from_vec(terms))
}

fn remote_ref(ids: &[CommitId], (terms, tracked): &(Terms, bool)) -> RemoteRef {
    let state = if *tracked { RemoteRefState::Tracked } else { RemoteRefState::New };
    RemoteRef { target: target(ids, terms), state }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn views_are_read_as_they_were_written(
        heads in vec(0_usize..5, 1..5),
        (local, tags, git, git_heads) in (refs(), refs(), refs(), refs()),
        remotes in btree_map(".{0,5}", (refs(), refs()), 0..3),
        checked_out in btree_map(".{0,5}", 0_usize..5, 0..3),
    ) {
        let (memory, backend) = backend();
        let ops = op_store(&memory);
        let ids = commits(&backend);
        macro_rules! targets {
            ($refs:expr) => {
                $refs.iter().map(|(name, (terms, _))| (name.into(), target(&ids, terms))).collect()
            };
        }
        let remote = |(name, (bookmarks, tags)): (&String, &(Refs, Refs))| {
            let all = |refs: &Refs| {
                refs.iter().map(|(name, at)| (name.into(), remote_ref(&ids, at))).collect()
            };
            (name.into(), RemoteView { bookmarks: all(bookmarks), tags: all(tags) })
        };
        let view = View {
            head_ids: heads.iter().map(|&n| ids[n].clone()).collect(),
            local_bookmarks: targets!(local),
            local_tags: targets!(tags),
            remote_views: remotes.iter().map(remote).collect(),
            git_refs: targets!(git),
            git_heads: targets!(git_heads),
            wc_commit_ids: checked_out.iter().map(|(name, &n)| (name.into(), ids[n].clone())).collect(),
        };
        let id = ops.write_view(&view).block_on().unwrap();
        prop_assert_eq!(&ops.read_view(&id).block_on().unwrap(), &view);
        // A set that was made in another order, which hashes otherwise, is the same.
        let head_ids: HashSet<CommitId> = heads.iter().rev().map(|&n| ids[n].clone()).collect();
        prop_assert_eq!(ops.write_view(&View { head_ids, ..view }).block_on().unwrap(), id);
    }

    #[test]
    fn operations_are_read_as_they_were_written(
        (description, hostname, username) in any::<(String, String, String)>(),
        (is_snapshot, workspace, attributes) in
            (any::<bool>(), option::of(".{0,5}"), btree_map(".{0,5}", ".{0,5}", 0..3)),
        (start, end) in (times(), times()),
        predecessors in option::of(btree_map(0_usize..5, vec(0_usize..5, 0..3), 0..4)),
    ) {
        let (memory, backend) = backend();
        let ops = op_store(&memory);
        let ids = commits(&backend);
        let time = |(millis, tz_offset)| Timestamp { timestamp: MillisSinceEpoch(millis), tz_offset };
        let of = |numbers: Vec<usize>| numbers.into_iter().map(|n| ids[n].clone()).collect();
        let operation = Operation {
            view_id: ops.write_view(&View::make_root(ids[0].clone())).block_on().unwrap(),
            parents: vec![ops.root_operation_id().clone()],
            metadata: OperationMetadata {
                time: TimestampRange { start: time(start), end: time(end) },
                description,
                hostname,
                username,
                is_snapshot,
                workspace_name: workspace.map(Into::into),
                attributes,
            },
            commit_predecessors: predecessors
                .map(|map| map.into_iter().map(|(n, before)| (ids[n].clone(), of(before))).collect()),
        };
        let id = ops.write_operation(&operation).block_on().unwrap();
        prop_assert!(memory.is_durable());
        prop_assert_eq!(ops.read_operation(&id).block_on().unwrap(), operation);
    }
}

/// Milliseconds, and minutes of a zone that jj can tell.
fn times() -> impl Strategy<Value = (i64, i32)> {
    (any::<i64>(), -(i32::MAX / 60)..=i32::MAX / 60)
}

/// An operation over the root's view.
fn operation(ops: &ArkOpStore, description: &str) -> Operation {
    let mut operation = Operation::make_root(ViewId::from_bytes(&[0; 32]));
    operation.parents.push(ops.root_operation_id().clone());
    operation.metadata.description = description.into();
    operation
}

#[test]
fn an_operation_that_made_thousands_of_commits_is_kept() {
    let (memory, backend) = backend();
    let ops = op_store(&memory);
    let first = write(&backend, commit(&backend, "first"));
    let made =
        (0..2000).map(|n| (write(&backend, commit(&backend, &n.to_string())), vec![first.clone()]));
    let operation =
        Operation { commit_predecessors: Some(made.collect()), ..operation(&ops, "many") };
    let id = ops.write_operation(&operation).block_on().unwrap();
    assert!(memory.len_of(ObjectKind::Predecessors) > 3);
    assert_eq!(ops.read_operation(&id).block_on().unwrap(), operation);
    let root = ops.read_operation(ops.root_operation_id()).block_on().unwrap();
    let view = ops.read_view(&root.view_id).block_on().unwrap();
    assert_eq!((root.parents.len(), view.head_ids.len()), (0, 1));
}

#[test]
fn operations_are_found_by_the_beginnings_of_their_ids() {
    let (memory, _) = backend();
    let ops = op_store(&memory);
    let ids: Vec<OperationId> = (0..40)
        .map(|n| ops.write_operation(&operation(&ops, &n.to_string())).block_on().unwrap())
        .collect();
    let resolve = |hex: &str| {
        let prefix = HexPrefix::try_from_hex(hex).unwrap();
        ops.resolve_operation_id_prefix(&prefix).block_on().unwrap()
    };
    let root = ops.root_operation_id();
    for id in ids.iter().chain([root]) {
        for length in [1, 2, 3, 5, 63, 64] {
            let hex = &id.hex()[..length];
            let matching = ids.iter().chain([root]).filter(|id| id.hex().starts_with(hex)).count();
            let expected = match matching {
                1 => PrefixResolution::SingleMatch(id.clone()),
                _ => PrefixResolution::AmbiguousMatch,
            };
            assert_eq!(resolve(hex), expected, "{hex}");
        }
    }
    assert_eq!(resolve(&format!("{}00", ids[0].hex())), PrefixResolution::NoMatch);
    assert_eq!(resolve(&"f".repeat(64)), PrefixResolution::NoMatch);
}

#[test]
fn heads_are_replaced_as_jj_replaces_them() {
    let (memory, _) = backend();
    let ops = op_store(&memory);
    let store = ArkOpHeadsStore::new(memory.clone());
    let heads = |expected: &[&OperationId]| {
        let heads = store.get_op_heads().block_on().unwrap();
        assert_eq!(heads.iter().collect::<Vec<_>>(), expected);
    };
    let update = |old: &[&OperationId], new: &OperationId| {
        let old: Vec<OperationId> = old.iter().map(|&id| id.clone()).collect();
        store.update_op_heads(&old, new).block_on().unwrap();
    };
    let root = ops.root_operation_id().clone();
    heads(&[&root]);
    let mut ids: Vec<OperationId> = (0..4)
        .map(|n| ops.write_operation(&operation(&ops, &n.to_string())).block_on().unwrap())
        .collect();
    ids.sort();
    let [one, two, three, four] = ids.try_into().unwrap();
    update(&[&root], &one);
    heads(&[&one]);
    update(&[&one], &two);
    heads(&[&two]);
    update(&[], &two);
    update(&[&one], &two);
    heads(&[&two]);
    update(&[], &three);
    heads(&[&two, &three]);
    update(&[&two, &three], &four);
    heads(&[&four]);
    update(&[], &three);
    update(&[&three, &four], &four);
    heads(&[&four]);
    update(&[&four], &root);
    heads(&[&root]);
}
