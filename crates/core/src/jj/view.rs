//! What a jj repo looks like after an operation: heads, bookmarks, tags, remotes, workspaces.

use rkyv::{Archive, Deserialize, Serialize};

use super::rows::{self, Node, Opened, Row, nodes_of};
use super::stored;
use crate::codec;
use crate::id::ObjectId;
use crate::object::{DecodeError, Link, Object, ObjectKind};

/// At least what the archive takes for a row beside its names and its targets.
const ROW_WEIGHT: usize = 128;
/// At least what it takes for a term of a target.
const TERM_WEIGHT: usize = 40;

/// Where a ref points: commits to add and to remove in turns, beginning and ending with one to
/// add. More than one where it is in conflict; a term may be of no commit.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Target(
    /// The terms, an odd number.
    pub Vec<Option<ObjectId>>,
);

/// Whether a ref of a remote is followed by the local one. The numbers are part of the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[repr(u8)]
pub enum RefState {
    /// It is not.
    New = 0,
    /// It is.
    Tracked = 1,
}

/// One thing that a view says.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum ViewRow {
    /// A commit that is visible, and no descendant of it. There is at least one.
    Head(ObjectId),
    /// A local bookmark.
    Bookmark(String, Target),
    /// A local tag.
    Tag(String, Target),
    /// A remote. Its refs follow it.
    Remote(String),
    /// A bookmark of a remote, which is named first.
    RemoteBookmark(String, String, Target, RefState),
    /// A tag of a remote, which is named first.
    RemoteTag(String, String, Target, RefState),
    /// A ref of a git repository.
    GitRef(String, Target),
    /// The HEAD of a git repository, by workspace.
    GitHead(String, Target),
    /// What a workspace has checked out.
    WorkingCopy(String, ObjectId),
}

/// The first bytes of keys. What belongs to a remote begins with the remote's own key.
mod tag {
    pub(super) const HEAD: u8 = 0;
    pub(super) const BOOKMARK: u8 = 1;
    pub(super) const TAG: u8 = 2;
    pub(super) const REMOTE: u8 = 3;
    pub(super) const GIT_REF: u8 = 4;
    pub(super) const GIT_HEAD: u8 = 5;
    pub(super) const WORKING_COPY: u8 = 6;
    /// After a remote's key.
    pub(super) const OF_REMOTE_BOOKMARK: u8 = 0;
    pub(super) const OF_REMOTE_TAG: u8 = 1;
}

/// The key of a remote: its name with its length, so that no other name begins like it.
fn remote_key(remote: &str) -> Vec<u8> {
    [&[tag::REMOTE], (remote.len() as u64).to_be_bytes().as_slice(), remote.as_bytes()].concat()
}

/// Of a remote's key, or a longer one of what belongs to it, the part that is the remote's.
fn remote_of(key: &[u8]) -> Option<&[u8]> {
    let (length, _) = key.strip_prefix(&[tag::REMOTE])?.split_first_chunk()?;
    let length = usize::try_from(u64::from_be_bytes(*length)).ok()?;
    key.get(..length.checked_add(1 + size_of::<u64>())?)
}

nodes_of!(ViewRow);

impl Row for ViewRow {
    const KIND: ObjectKind = ObjectKind::View;
    const MAY_BE_EMPTY: bool = false;

    fn key(&self) -> Vec<u8> {
        let key = |tag: u8, name: &[u8]| [&[tag], name].concat();
        match self {
            Self::Head(commit) => key(tag::HEAD, commit.as_bytes()),
            Self::Bookmark(name, _) => key(tag::BOOKMARK, name.as_bytes()),
            Self::Tag(name, _) => key(tag::TAG, name.as_bytes()),
            Self::Remote(remote) => remote_key(remote),
            Self::RemoteBookmark(remote, name, ..) => {
                [remote_key(remote), key(tag::OF_REMOTE_BOOKMARK, name.as_bytes())].concat()
            }
            Self::RemoteTag(remote, name, ..) => {
                [remote_key(remote), key(tag::OF_REMOTE_TAG, name.as_bytes())].concat()
            }
            Self::GitRef(name, _) => key(tag::GIT_REF, name.as_bytes()),
            Self::GitHead(workspace, _) => key(tag::GIT_HEAD, workspace.as_bytes()),
            Self::WorkingCopy(workspace, _) => key(tag::WORKING_COPY, workspace.as_bytes()),
        }
    }

    fn weight(&self) -> usize {
        let terms = self.target().map_or(0, |target| target.0.len());
        ROW_WEIGHT + self.key().len() + TERM_WEIGHT * terms
    }

    fn validate(&self) -> Result<(), String> {
        match self.target() {
            Some(target) if target.0.len() % 2 == 0 => {
                Err(format!("a target of {} terms", target.0.len()))
            }
            _ => Ok(()),
        }
    }

    /// Heads come first, and there is at least one: jj takes the root commit for one where there
    /// is no other. What belongs to a remote follows that remote, so that a remote is said in one
    /// way, whether it has refs or none.
    fn may_follow(before: Option<&[u8]>, next: &[u8]) -> bool {
        if before.is_none() {
            return next.first() == Some(&tag::HEAD);
        }
        match remote_of(next) {
            Some(remote) if remote.len() < next.len() => before.and_then(remote_of) == Some(remote),
            _ => true,
        }
    }

    fn links(&self) -> Vec<Link> {
        let commits: Vec<ObjectId> = match self {
            Self::Head(commit) | Self::WorkingCopy(_, commit) => vec![*commit],
            _ => {
                self.target().into_iter().flat_map(|target| &target.0).copied().flatten().collect()
            }
        };
        stored(&commits).map(|id| Link { kind: ObjectKind::Commit, id }).collect()
    }

    fn encode(node: &Node<Self>) -> Vec<u8> {
        codec::encode(node)
    }

    fn decode(bytes: &[u8]) -> Result<Node<Self>, DecodeError> {
        codec::decode(bytes)
    }
}

impl ViewRow {
    fn target(&self) -> Option<&Target> {
        match self {
            Self::Bookmark(_, target)
            | Self::Tag(_, target)
            | Self::RemoteBookmark(_, _, target, _)
            | Self::RemoteTag(_, _, target, _)
            | Self::GitRef(_, target)
            | Self::GitHead(_, target) => Some(target),
            Self::Head(_) | Self::Remote(_) | Self::WorkingCopy(..) => None,
        }
    }
}

/// The view of these rows, which may come in any order, and its nodes, children first.
///
/// # Errors
/// Rows that no view may have.
pub fn view(rows: Vec<ViewRow>) -> Result<(ObjectId, Vec<Object>), DecodeError> {
    rows::build(rows)
}

/// Opens all nodes of one level of a view: see [`open_tree`](super::open_tree).
///
/// # Errors
/// Bytes that are not canonical nodes, or do not stand here.
pub fn open_view<'a>(
    level: Option<u8>,
    nodes: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Opened<ViewRow>, DecodeError> {
    rows::open(level, nodes)
}
