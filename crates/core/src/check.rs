//! What is checked of an object before it is indexed: that it is canonical, and that what it
//! says of its children is true of them.

use crate::chunk::FileNode;
use crate::entry::Totals;
use crate::object::{DecodeError, Link, ObjectKind};
use crate::snapshot::Snapshot;

/// What a parent must know of an indexed child, so that it can be checked without reading the
/// child again. Kept by the store beside the index entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Summary(About);

#[derive(Clone, PartialEq, Eq, Debug)]
enum About {
    Raw { length: u64 },
    Snapshot,
}

impl Summary {
    /// Its one encoding, for the index.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self.0 {
            About::Raw { length } => length.to_le_bytes().to_vec(),
            About::Snapshot => Vec::new(),
        }
    }

    /// Reads what [`Summary::to_bytes`] made; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(About::Raw { length: u64::from_le_bytes(bytes) }))
    }

    /// Files and bytes below the object: of a directory all that is in it, of content its
    /// bytes as one file, of a snapshot its root directory's.
    pub fn totals(&self) -> Totals {
        match self.0 {
            About::Raw { length } => Totals { files: 1, bytes: length, aside: 0 },
            About::Snapshot => Totals::default(),
        }
    }
}

/// The outcome of [`check`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Checked {
    /// All that it links is indexed and is what the object says: it may be indexed too.
    Complete(Summary),
    /// What it links that is not indexed yet: distinct, in order of appearance.
    Missing(Vec<Link>),
}

/// What an object links: distinct, in order of appearance. A raw object links nothing.
///
/// # Errors
/// Bytes that are not a canonical object of that kind.
pub fn links(link: Link, bytes: &[u8]) -> Result<Vec<Link>, DecodeError> {
    match link.kind {
        ObjectKind::Raw => Ok(Vec::new()),
        ObjectKind::File => {
            let node = FileNode::decode(bytes)?;
            Ok(node.children.iter().map(|child| node.link(child)).collect())
        }
        ObjectKind::Snapshot => Ok(vec![Snapshot::decode(bytes)?.link()]),
        ObjectKind::Directory => Ok(Vec::new()),
    }
}

/// Checks an object whose hash was verified against `link`. `child` gives the summary of an
/// object that is indexed, and `None` for one that is not.
///
/// # Errors
/// Bytes that are not a canonical object of that kind, or that say what is not true of their
/// children: such an object is never indexed, and whoever sent it is at fault.
pub fn check(
    link: Link,
    bytes: &[u8],
    mut child: impl FnMut(Link) -> Option<Summary>,
) -> Result<Checked, DecodeError> {
    let missing: Vec<Link> =
        links(link, bytes)?.into_iter().filter(|&link| child(link).is_none()).collect();
    Ok(if missing.is_empty() {
        Checked::Complete(Summary(About::Snapshot))
    } else {
        Checked::Missing(missing)
    })
}
