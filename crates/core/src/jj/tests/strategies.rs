//! Whatever a jj repo may hold.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use super::super::*;
use crate::entry::Content;

pub(super) fn ids() -> impl Strategy<Value = ObjectId> {
    prop_oneof![4 => any::<[u8; 32]>().prop_map(ObjectId::from_bytes), 1 => Just(VIRTUAL)]
}

pub(super) fn there() -> impl Strategy<Value = ObjectId> {
    any::<[u8; 32]>().prop_map(ObjectId::from_bytes)
}

pub(super) fn times() -> impl Strategy<Value = Time> {
    let most = i32::MAX / 60;
    (any::<i64>(), -most..=most)
        .prop_map(|(millis, offset_minutes)| Time { millis, offset_minutes })
}

pub(super) fn people() -> impl Strategy<Value = Person> {
    (any::<String>(), any::<String>(), times()).prop_map(|(name, email, time)| Person {
        name,
        email,
        time,
    })
}

pub(super) fn signings() -> impl Strategy<Value = Signing> {
    (option::of(vec(any::<u8>(), 0..50)), vec(any::<u8>(), 0..50))
        .prop_map(|(data, signature)| Signing { data, signature })
}

prop_compose! {
    pub(super) fn commits()(
        parents in vec(ids(), 1..4),
        predecessors in vec(ids(), 0..3),
        sides in 0_usize..3,
        trees in vec(ids(), 5),
        labels in option::of(vec(any::<String>(), 5)),
        change: [u8; 16],
        description: String,
        author in people(),
        committer in people(),
        signing in option::of(signings()),
    ) -> Commit {
        let terms = 2 * sides + 1;
        let labels = labels.filter(|_| terms > 1).map_or_else(Vec::new, |all| all[..terms].to_vec());
        let trees = trees[..terms].to_vec();
        Commit { parents, predecessors, trees, labels, change, description, author, committer, signing }
    }
}

pub(super) fn values() -> impl Strategy<Value = TreeValue> {
    prop_oneof![
        (there(), any::<(bool, bool)>(), option::of(there())).prop_map(
            |(id, (is_executable, is_large), copy)| {
                let content = if is_large { Content::Chunked(id) } else { Content::Raw(id) };
                TreeValue::File { content, is_executable, copy }
            }
        ),
        there().prop_map(TreeValue::Symlink),
        ids().prop_map(TreeValue::Tree),
        vec(any::<u8>(), 0..=64).prop_map(TreeValue::Submodule),
    ]
}

pub(super) fn entries(most: usize) -> impl Strategy<Value = Vec<TreeEntry>> {
    btree_map("[^/]{1,8}", values(), 0..most).prop_map(|entries| {
        entries.into_iter().map(|(name, value)| TreeEntry { name, value }).collect()
    })
}

pub(super) fn targets() -> impl Strategy<Value = Target> {
    (0_usize..3, vec(option::of(ids()), 5)).prop_map(|(sides, mut terms)| {
        Target({
            terms.truncate(2 * sides + 1);
            terms
        })
    })
}

type Refs = BTreeMap<String, (Target, bool)>;

pub(super) fn refs() -> impl Strategy<Value = Refs> {
    btree_map(".{0,6}", (targets(), any::<bool>()), 0..4)
}

prop_compose! {
    pub(super) fn views()(
        heads in btree_set(ids(), 1..4),
        local in refs(),
        tags in refs(),
        remotes in btree_map(".{0,6}", (refs(), refs()), 0..4),
        git in refs(),
        git_heads in refs(),
        checked_out in btree_map(".{0,6}", ids(), 0..4),
    ) -> Vec<ViewRow> {
        let state = |tracked| if tracked { RefState::Tracked } else { RefState::New };
        let mut rows: Vec<ViewRow> = heads.into_iter().map(ViewRow::Head).collect();
        rows.extend(local.into_iter().map(|(name, (at, _))| ViewRow::Bookmark(name, at)));
        rows.extend(tags.into_iter().map(|(name, (at, _))| ViewRow::Tag(name, at)));
        for (remote, (bookmarks, tags)) in remotes {
            rows.push(ViewRow::Remote(remote.clone()));
            rows.extend(bookmarks.into_iter().map(|(name, (at, tracked))| {
                ViewRow::RemoteBookmark(remote.clone(), name, at, state(tracked))
            }));
            rows.extend(tags.into_iter().map(|(name, (at, tracked))| {
                ViewRow::RemoteTag(remote.clone(), name, at, state(tracked))
            }));
        }
        rows.extend(git.into_iter().map(|(name, (at, _))| ViewRow::GitRef(name, at)));
        rows.extend(git_heads.into_iter().map(|(name, (at, _))| ViewRow::GitHead(name, at)));
        rows.extend(checked_out.into_iter().map(|(name, id)| ViewRow::WorkingCopy(name, id)));
        rows
    }
}

pub(super) fn recorded() -> impl Strategy<Value = Vec<Predecessor>> {
    btree_map(there(), vec(ids(), 0..3), 0..5)
        .prop_map(|map| map.into_iter().map(|(commit, of)| Predecessor { commit, of }).collect())
}

prop_compose! {
    pub(super) fn operations()(
        view in ids(),
        parents in vec(ids(), 1..3),
        (start, end) in (times(), times()),
        (description, hostname, username) in any::<(String, String, String)>(),
        is_snapshot: bool,
        workspace: Option<String>,
        attributes in btree_map(any::<String>(), any::<String>(), 0..3),
        rows in option::of(recorded()),
    ) -> Operation {
        let made = rows.map(|rows| predecessors(rows).unwrap());
        let predecessors = made.map_or(Predecessors::Unknown, |(made, nodes)| {
            assert!(nodes.is_empty());
            made
        });
        let attributes = attributes.into_iter().collect();
        Operation {
            view, parents, start, end, description, hostname, username, is_snapshot, workspace,
            attributes, predecessors,
        }
    }
}
