//! The checks of what only jj repos have.

use rkyv::rancor::Error as ArchiveError;

use super::{Children, ensure};
use crate::codec;
use crate::entry::{Content, MAX_RAW_CONTENT};
use crate::id::ObjectId;
use crate::jj::{
    Commit, Copy, Node, Operation, Predecessor, Predecessors, Row, RowsSummary, TreeEntry,
    TreeValue, VIRTUAL, ViewRow, check_depth, check_rows,
};
use crate::object::{DecodeError, Link, ObjectKind};

/// An object of a jj repo.
pub(super) enum Part {
    Commit(Commit),
    Tree(Node<TreeEntry>),
    Copy(Copy),
    View(Node<ViewRow>),
    Predecessors(Node<Predecessor>),
    Operation(Operation),
}

/// What a parent must know of one that is indexed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum PartSummary {
    /// That it is there: a commit, a copy, an operation.
    Whole(ObjectKind),
    /// A node of the tree over rows.
    Rows(ObjectKind, RowsSummary),
}

impl PartSummary {
    /// Its tag, which is the number of the kind, and the rest.
    pub(super) fn to_bytes(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Whole(kind) => (*kind as u8, Vec::new()),
            Self::Rows(kind, rows) => (*kind as u8, codec::archive(rows).to_vec()),
        }
    }

    /// Reads what [`PartSummary::to_bytes`] made; `None` for anything else.
    pub(super) fn from_bytes(tag: u8, rest: &[u8]) -> Option<Self> {
        let kind = ObjectKind::from_u8(tag)?;
        match kind {
            ObjectKind::Commit | ObjectKind::Copy | ObjectKind::Operation => {
                rest.is_empty().then_some(Self::Whole(kind))
            }
            ObjectKind::Tree | ObjectKind::View | ObjectKind::Predecessors => {
                rkyv::from_bytes::<_, ArchiveError>(rest).ok().map(|rows| Self::Rows(kind, rows))
            }
            ObjectKind::Raw | ObjectKind::File | ObjectKind::Directory | ObjectKind::Snapshot => {
                None
            }
        }
    }
}

impl Part {
    pub(super) fn decode(kind: ObjectKind, bytes: &[u8]) -> Result<Self, DecodeError> {
        match kind {
            ObjectKind::Commit => Commit::decode(bytes).map(Self::Commit),
            ObjectKind::Tree => TreeEntry::decode(bytes).map(Self::Tree),
            ObjectKind::Copy => Copy::decode(bytes).map(Self::Copy),
            ObjectKind::View => ViewRow::decode(bytes).map(Self::View),
            ObjectKind::Predecessors => Predecessor::decode(bytes).map(Self::Predecessors),
            ObjectKind::Operation => Operation::decode(bytes).map(Self::Operation),
            ObjectKind::Raw | ObjectKind::File | ObjectKind::Directory | ObjectKind::Snapshot => {
                Err(DecodeError::Header { kind, found: Vec::new() })
            }
        }
    }

    pub(super) fn links(&self) -> Vec<Link> {
        match self {
            Self::Commit(commit) => commit.links(),
            Self::Tree(node) => node.links(),
            Self::Copy(copy) => copy.links(),
            Self::View(node) => node.links(),
            Self::Predecessors(node) => node.links(),
            Self::Operation(operation) => operation.links(),
        }
    }

    /// All that it links is indexed, of the kind that the link says; the rest is checked here.
    pub(super) fn check(&self, children: &Children) -> Result<PartSummary, String> {
        match self {
            Self::Commit(commit) => {
                for &tree in &commit.trees {
                    check_root(children, ObjectKind::Tree, tree)?;
                }
                Ok(PartSummary::Whole(ObjectKind::Commit))
            }
            Self::Copy(_) => Ok(PartSummary::Whole(ObjectKind::Copy)),
            Self::Operation(operation) => {
                check_root(children, ObjectKind::View, operation.view)?;
                if let Predecessors::Tree(id) = operation.predecessors {
                    let level = check_root(children, ObjectKind::Predecessors, id)?.level;
                    ensure(level > 0, || format!("predecessors {id} are few"))?;
                }
                Ok(PartSummary::Whole(ObjectKind::Operation))
            }
            Self::Tree(node) => {
                let mut depth = 0;
                for entry in &node.rows {
                    let below = check_entry(entry, children)
                        .map_err(|reason| format!("{:?}: {reason}", entry.name))?;
                    depth = depth.max(below.saturating_add(1));
                }
                nodes(node, check_depth(depth)?, children)
            }
            Self::View(node) => nodes(node, 0, children),
            Self::Predecessors(node) => nodes(node, 0, children),
        }
    }
}

fn nodes<R: Row>(node: &Node<R>, depth: u16, children: &Children) -> Result<PartSummary, String> {
    let summary = check_rows(node, depth, |id| rows(children, R::KIND, id))?;
    Ok(PartSummary::Rows(R::KIND, summary))
}

fn rows(children: &Children, kind: ObjectKind, id: ObjectId) -> Result<&RowsSummary, String> {
    match children.part(Link { kind, id })? {
        PartSummary::Rows(found, summary) if *found == kind => Ok(summary),
        _ => Err(format!("no node {id} of a {kind:?}")),
    }
}

/// What is virtual, the empty directory and the root's view: it links nothing and has no names.
static NOTHING: RowsSummary =
    RowsSummary { level: 0, first: None, last: None, is_closed: false, is_root: true, depth: 0 };

fn check_root(children: &Children, kind: ObjectKind, id: ObjectId) -> Result<&RowsSummary, String> {
    if id == VIRTUAL {
        return Ok(&NOTHING);
    }
    let found = rows(children, kind, id)?;
    ensure(found.is_root, || format!("node {id} is not the root of a {kind:?}"))?;
    Ok(found)
}

/// How many names the longest path below the entry has.
fn check_entry(entry: &TreeEntry, children: &Children) -> Result<u16, String> {
    match &entry.value {
        TreeValue::File { content: Content::Chunked(id), .. } => {
            children.content_length(*id)?;
        }
        TreeValue::File { content: Content::Raw(id), .. } | TreeValue::Symlink(id) => {
            let length = children.raw_length(*id)?;
            ensure(length <= MAX_RAW_CONTENT, || format!("{length} bytes that are not chunked"))?;
        }
        TreeValue::Tree(id) => return Ok(check_root(children, ObjectKind::Tree, *id)?.depth),
        TreeValue::Submodule(_) => {}
    }
    Ok(0)
}
