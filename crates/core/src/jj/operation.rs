//! Operations of a jj repo: its heads, and all that led to them.

use rkyv::{Archive, Deserialize, Serialize};

use super::commit::{self, Time};
use super::rows::{self, Node, Opened, Row, nodes_of};
use super::stored;
use crate::codec::{self, Body};
use crate::id::ObjectId;
use crate::object::{DecodeError, Link, Object, ObjectKind};

/// At least what the archive takes for a commit with its predecessors, per id.
const ID_WEIGHT: usize = 40;

/// A commit that an operation made, and what it was made from.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Predecessor {
    /// The commit.
    pub commit: ObjectId,
    /// What was rewritten to make it; none for a new one.
    pub of: Vec<ObjectId>,
}

nodes_of!(Predecessor);

impl Row for Predecessor {
    const KIND: ObjectKind = ObjectKind::Predecessors;
    const MAY_BE_EMPTY: bool = true;

    fn key(&self) -> Vec<u8> {
        self.commit.as_bytes().to_vec()
    }

    fn weight(&self) -> usize {
        ID_WEIGHT * (self.of.len() + 2)
    }

    fn validate(&self) -> Result<(), String> {
        Ok(())
    }

    fn links(&self) -> Vec<Link> {
        let commits = [&self.commit].into_iter().chain(&self.of);
        stored(commits).map(|id| Link { kind: ObjectKind::Commit, id }).collect()
    }

    fn encode(node: &Node<Self>) -> Vec<u8> {
        codec::encode(node)
    }

    fn decode(bytes: &[u8]) -> Result<Node<Self>, DecodeError> {
        codec::decode(bytes)
    }
}

/// What an operation records of the commits that it made.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum Predecessors {
    /// Nothing.
    Unknown,
    /// These, sorted by commit: so many as one node may have.
    Listed(Vec<Predecessor>),
    /// More: the root of the tree over them.
    Tree(ObjectId),
}

/// An operation.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Operation {
    /// What the repo looks like after it.
    pub view: ObjectId,
    /// What it was done on; at least one. [`VIRTUAL`](super::VIRTUAL) is the root operation.
    pub parents: Vec<ObjectId>,
    /// When it began.
    pub start: Time,
    /// When it ended.
    pub end: Time,
    /// What was done.
    pub description: String,
    /// On which machine.
    pub hostname: String,
    /// By whom.
    pub username: String,
    /// Whether it only took up what is in the working copy.
    pub is_snapshot: bool,
    /// In which workspace, if in any.
    pub workspace: Option<String>,
    /// More of it, sorted by distinct name.
    pub attributes: Vec<(String, String)>,
    /// The commits that it made.
    pub predecessors: Predecessors,
}

impl Body for Operation {
    const KIND: ObjectKind = ObjectKind::Operation;

    fn validate(&self) -> Result<(), String> {
        if self.parents.is_empty() {
            return Err("an operation without parents".into());
        }
        self.start.validate()?;
        self.end.validate()?;
        if !self.attributes.is_sorted_by(|(a, _), (b, _)| a < b) {
            return Err("its attributes are not sorted and distinct".into());
        }
        match &self.predecessors {
            Predecessors::Listed(rows) => Node::leaf(rows.clone()).check(),
            Predecessors::Tree(super::VIRTUAL) => Err("predecessors that nobody has".into()),
            Predecessors::Unknown | Predecessors::Tree(_) => Ok(()),
        }
    }
}

impl Operation {
    /// Its object.
    ///
    /// # Errors
    /// An operation that breaks the rules, or is larger than an object may be.
    pub fn encode(&self) -> Result<Object, DecodeError> {
        commit::encode(self)
    }

    /// Reads what [`Operation::encode`] made.
    ///
    /// # Errors
    /// Bytes that are not the one encoding of an operation.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes)
    }

    /// What it links: its view, its parents, and the commits that it speaks of.
    pub fn links(&self) -> Vec<Link> {
        let view = stored([&self.view]).map(|id| Link { kind: ObjectKind::View, id });
        let parents = stored(&self.parents).map(|id| Link { kind: ObjectKind::Operation, id });
        let predecessors: Vec<Link> = match &self.predecessors {
            Predecessors::Unknown => Vec::new(),
            Predecessors::Listed(rows) => rows.iter().flat_map(Row::links).collect(),
            Predecessors::Tree(id) => vec![Link { kind: ObjectKind::Predecessors, id: *id }],
        };
        view.chain(parents).chain(predecessors).collect()
    }
}

/// The commits that an operation made, in any order, as it records them, and the nodes that this
/// takes, children first: none where they are few.
///
/// # Errors
/// A commit named twice, or with more predecessors than one may have.
pub fn predecessors(rows: Vec<Predecessor>) -> Result<(Predecessors, Vec<Object>), DecodeError> {
    let (root, nodes) = rows::build(rows)?;
    match nodes.as_slice() {
        [leaf] => {
            let leaf = <Predecessor as Row>::decode(leaf.bytes())?;
            Ok((Predecessors::Listed(leaf.rows), Vec::new()))
        }
        _ => Ok((Predecessors::Tree(root), nodes)),
    }
}

/// Opens all nodes of one level of [`Predecessors::Tree`]: see [`open_tree`](super::open_tree).
///
/// # Errors
/// Bytes that are not canonical nodes, or do not stand here.
pub fn open_predecessors<'a>(
    level: Option<u8>,
    nodes: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Opened<Predecessor>, DecodeError> {
    rows::open(level, nodes)
}
