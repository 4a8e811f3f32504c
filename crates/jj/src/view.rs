//! jj's views as rows, and back. See [`convert`](crate::convert) for what holds of both.

use std::collections::{BTreeMap, HashSet};

use ark_core::jj::{RefState, Target, ViewRow};
use jj_lib::backend::CommitId;
use jj_lib::merge::Merge;
use jj_lib::op_store::{RefTarget, RemoteRef, RemoteRefState, RemoteView, View};

use crate::convert::ConvertError;
use crate::id::{self, IdError};

fn target(target: &RefTarget) -> Result<Target, IdError> {
    let terms = target.as_merge().iter();
    terms
        .map(|term| term.as_ref().map(id::to_ark).transpose())
        .collect::<Result<_, _>>()
        .map(Target)
}

fn ref_target(Target(terms): Target) -> RefTarget {
    let commit = |id: ark_core::ObjectId| CommitId::from_bytes(id.as_bytes());
    let terms: Vec<_> = terms.into_iter().map(|term| term.map(commit)).collect();
    RefTarget::from_merge(Merge::from_vec(terms))
}

/// ark's form of a view: its rows in no order.
pub(crate) fn to_ark(view: &View) -> Result<Vec<ViewRow>, ConvertError> {
    let mut rows = Vec::new();
    for head in &view.head_ids {
        rows.push(ViewRow::Head(id::to_ark(head)?));
    }
    for (name, at) in &view.local_bookmarks {
        rows.push(ViewRow::Bookmark(name.into(), target(at)?));
    }
    for (name, at) in &view.local_tags {
        rows.push(ViewRow::Tag(name.into(), target(at)?));
    }
    for (remote, refs) in &view.remote_views {
        let state = |at: &RemoteRef| match at.state {
            RemoteRefState::New => RefState::New,
            RemoteRefState::Tracked => RefState::Tracked,
        };
        rows.push(ViewRow::Remote(remote.into()));
        for (name, at) in &refs.bookmarks {
            let target = target(&at.target)?;
            rows.push(ViewRow::RemoteBookmark(remote.into(), name.into(), target, state(at)));
        }
        for (name, at) in &refs.tags {
            let target = target(&at.target)?;
            rows.push(ViewRow::RemoteTag(remote.into(), name.into(), target, state(at)));
        }
    }
    for (name, at) in &view.git_refs {
        rows.push(ViewRow::GitRef(name.into(), target(at)?));
    }
    for (workspace, at) in &view.git_heads {
        rows.push(ViewRow::GitHead(workspace.into(), target(at)?));
    }
    for (workspace, commit) in &view.wc_commit_ids {
        rows.push(ViewRow::WorkingCopy(workspace.into(), id::to_ark(commit)?));
    }
    Ok(rows)
}

/// jj's form of a view.
pub(crate) fn to_jj(rows: Vec<ViewRow>) -> View {
    let mut view = View {
        head_ids: HashSet::new(),
        local_bookmarks: BTreeMap::new(),
        local_tags: BTreeMap::new(),
        remote_views: BTreeMap::new(),
        git_refs: BTreeMap::new(),
        git_heads: BTreeMap::new(),
        wc_commit_ids: BTreeMap::new(),
    };
    let remote_ref = |target: Target, state: RefState| RemoteRef {
        target: ref_target(target),
        state: match state {
            RefState::New => RemoteRefState::New,
            RefState::Tracked => RemoteRefState::Tracked,
        },
    };
    for row in rows {
        match row {
            ViewRow::Head(id) => {
                view.head_ids.insert(CommitId::from_bytes(id.as_bytes()));
            }
            ViewRow::Bookmark(name, at) => {
                view.local_bookmarks.insert(name.into(), ref_target(at));
            }
            ViewRow::Tag(name, at) => {
                view.local_tags.insert(name.into(), ref_target(at));
            }
            ViewRow::Remote(remote) => {
                view.remote_views.insert(remote.into(), RemoteView::default());
            }
            ViewRow::RemoteBookmark(remote, name, at, state) => {
                let refs = view.remote_views.entry(remote.into()).or_default();
                refs.bookmarks.insert(name.into(), remote_ref(at, state));
            }
            ViewRow::RemoteTag(remote, name, at, state) => {
                let refs = view.remote_views.entry(remote.into()).or_default();
                refs.tags.insert(name.into(), remote_ref(at, state));
            }
            ViewRow::GitRef(name, at) => {
                view.git_refs.insert(name.into(), ref_target(at));
            }
            ViewRow::GitHead(workspace, at) => {
                view.git_heads.insert(workspace.into(), ref_target(at));
            }
            ViewRow::WorkingCopy(workspace, id) => {
                view.wc_commit_ids.insert(workspace.into(), CommitId::from_bytes(id.as_bytes()));
            }
        }
    }
    view
}
