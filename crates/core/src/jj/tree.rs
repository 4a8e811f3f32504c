//! Directories of a jj repo.

use rkyv::{Archive, Deserialize, Serialize};

use super::rows::{self, Node, Opened, Row, nodes_of};
use super::{VIRTUAL, stored};
use crate::codec;
use crate::entry::Content;
use crate::id::ObjectId;
use crate::object::{DecodeError, Link, Object, ObjectKind};

/// The most bytes of a submodule's id, which is another system's commit id: git's have 20 or 32.
const MAX_SUBMODULE_ID: usize = 64;
/// At least what the archive takes for an entry beside its name.
const ENTRY_WEIGHT: usize = 192;

/// A name in a directory and what it is.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct TreeEntry {
    /// The name: not empty, no slash. What a file system makes of `..` is for whoever writes to
    /// one to refuse, as jj does.
    pub name: String,
    /// What it is.
    pub value: TreeValue,
}

/// What a name in a directory is.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum TreeValue {
    /// A file.
    File {
        /// Its bytes.
        content: Content,
        /// Whether it may be executed.
        is_executable: bool,
        /// Where it was copied from, if that is known.
        copy: Option<ObjectId>,
    },
    /// A symlink: the raw object that is its target, in UTF-8.
    Symlink(ObjectId),
    /// A directory.
    Tree(ObjectId),
    /// A commit of another repository, by that one's id.
    Submodule(Vec<u8>),
}

nodes_of!(TreeEntry);

impl Row for TreeEntry {
    const KIND: ObjectKind = ObjectKind::Tree;
    const MAY_BE_EMPTY: bool = false;

    fn key(&self) -> Vec<u8> {
        self.name.as_bytes().to_vec()
    }

    fn weight(&self) -> usize {
        ENTRY_WEIGHT + self.name.len()
    }

    fn validate(&self) -> Result<(), String> {
        if self.name.is_empty() || self.name.contains('/') {
            return Err(format!("{:?} is no name", self.name));
        }
        match &self.value {
            TreeValue::Submodule(id) if id.len() > MAX_SUBMODULE_ID => {
                Err(format!("a submodule's id of {} bytes", id.len()))
            }
            TreeValue::File { content, copy, .. }
                if content.link().id == VIRTUAL || *copy == Some(VIRTUAL) =>
            {
                Err("a file or a copy that nobody has".into())
            }
            TreeValue::Symlink(VIRTUAL) => Err("a target that nobody has".into()),
            _ => Ok(()),
        }
    }

    fn links(&self) -> Vec<Link> {
        match &self.value {
            TreeValue::File { content, copy, .. } => {
                let copy = copy.map(|id| Link { kind: ObjectKind::Copy, id });
                [content.link()].into_iter().chain(copy).collect()
            }
            TreeValue::Symlink(target) => vec![Link::raw(*target)],
            TreeValue::Tree(id) => {
                stored([id]).map(|id| Link { kind: ObjectKind::Tree, id }).collect()
            }
            TreeValue::Submodule(_) => Vec::new(),
        }
    }

    fn encode(node: &Node<Self>) -> Vec<u8> {
        codec::encode(node)
    }

    fn decode(bytes: &[u8]) -> Result<Node<Self>, DecodeError> {
        codec::decode(bytes)
    }
}

/// The directory of these entries, which may come in any order, and its nodes, children first:
/// none for the empty directory, which is [`VIRTUAL`].
///
/// # Errors
/// Entries that no directory may have.
pub fn tree(entries: Vec<TreeEntry>) -> Result<(ObjectId, Vec<Object>), DecodeError> {
    if entries.is_empty() { Ok((VIRTUAL, Vec::new())) } else { rows::build(entries) }
}

/// Opens all nodes of one level of a directory: the root alone, then what it names, until there
/// are entries. `level` is what they must be, where that is known.
///
/// # Errors
/// Bytes that are not canonical nodes, or do not stand here.
pub fn open_tree<'a>(
    level: Option<u8>,
    nodes: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Opened<TreeEntry>, DecodeError> {
    rows::open(level, nodes)
}
