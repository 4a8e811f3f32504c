//! What a repo is compared with a peer's by: the links that its heads reach, and the trie over
//! them. Both are brought after the joined states in the transaction that changes those, so they
//! say what the index says, after any crash.
//!
//! A link is counted by how many links of the closure lead to it, heads by one each: so what a new
//! head adds and an old one leaves is found from the difference of the two alone, and what is
//! equal in both is not looked at.
//!
//! Of a large repo that was compared in this run there is a sketch in memory, too: [`Kept`].
//!
//! What changes much, as a first copy does, would keep the one thread that writes the index for
//! seconds: it is [caught up with](catch_up) beside it, and until then there is no trie.

pub(crate) mod catch_up;
mod count;
mod kept;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use ark_core::{Link, ObjectId, ObjectKind};
use ark_recon::{LinksUnder, NODE_BYTES, Node, Prefix, Sketch};
use bytes::Bytes;
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, Table, WriteTransaction};

use crate::error::{IndexError, ReadError};
use crate::index::{LINKS, NODES, NodeKey, ObjectKey, ROOTS, TopicNumber, node_key, object_keys};
use count::{CountError, Counting, Row, Window};
use kept::Change;
pub(crate) use kept::Kept;

/// Links that are counted in the transaction of a joined state: some 20 ms of it.
const MAX_COUNTED: usize = if cfg!(test) { 500 } else { 4096 };

/// Links of a repo's heads and of all that they link, as of one moment: what a session of
/// `ark_recon` asks. Holding it long keeps the space of what was replaced since.
pub struct Trie {
    topic: TopicNumber,
    links: ReadOnlyTable<&'static ObjectKey, u32>,
    nodes: ReadOnlyTable<&'static NodeKey, &'static [u8]>,
    kept: Arc<Kept>,
}

impl Trie {
    /// The trie of a repo; `None` while it is being made, or if it could not be kept, because an
    /// object that a head reaches is damaged.
    pub(crate) fn read(
        transaction: &ReadTransaction,
        topic: TopicNumber,
        kept: &Arc<Kept>,
    ) -> Result<Option<Self>, IndexError> {
        if roots_in(&transaction.open_table(ROOTS)?, topic)?.is_none() {
            return Ok(None);
        }
        let (links, nodes) = (transaction.open_table(LINKS)?, transaction.open_table(NODES)?);
        Ok(Some(Self { topic, links, nodes, kept: Arc::clone(kept) }))
    }
}

impl std::fmt::Debug for Trie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trie").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl ark_recon::Links for Trie {
    type Error = IndexError;

    fn links(&self, prefix: Prefix) -> Result<LinksUnder<'_, IndexError>, IndexError> {
        links_under(&self.links, self.topic, prefix)
    }
}

impl ark_recon::Nodes for Trie {
    type Error = IndexError;

    fn node(&self, prefix: Prefix) -> Result<Option<Node>, IndexError> {
        node_at(&self.nodes, self.topic, prefix)
    }
}

impl ark_recon::Source for Trie {
    type Failure = IndexError;

    fn sketch(&self, otherwise: u64) -> Result<Option<Arc<Sketch>>, IndexError> {
        self.kept.sketch(self, otherwise)
    }
}

fn links_under(
    table: &impl ReadableTable<&'static ObjectKey, u32>,
    topic: TopicNumber,
    prefix: Prefix,
) -> Result<LinksUnder<'_, IndexError>, IndexError> {
    let (first, _) = object_keys(topic, prefix.first());
    let (_, last) = object_keys(topic, prefix.last());
    let rows = table.range::<&ObjectKey>(&first..=&last)?;
    Ok(Box::new(rows.map(|row| link_of(row?.0.value()))))
}

fn link_of(key: &ObjectKey) -> Result<Link, IndexError> {
    let mut id = [0; 32];
    id.copy_from_slice(&key[4..36]);
    let kind = ObjectKind::from_u8(key[36]).ok_or(IndexError::Damaged { table: "links" })?;
    Ok(Link { id: ObjectId::from_bytes(id), kind })
}

fn node_at(
    table: &impl ReadableTable<&'static NodeKey, &'static [u8]>,
    topic: TopicNumber,
    prefix: Prefix,
) -> Result<Option<Node>, IndexError> {
    let Some(row) = table.get(&node_key(topic, prefix))? else { return Ok(None) };
    Node::from_bytes(row.value()).map(Some).ok_or(IndexError::Damaged { table: "nodes" })
}

/// A repo's links, wherever they are read.
struct LinksOf<'a, T> {
    topic: TopicNumber,
    links: &'a T,
}

impl<T: ReadableTable<&'static ObjectKey, u32>> ark_recon::Links for LinksOf<'_, T> {
    type Error = IndexError;

    fn links(&self, prefix: Prefix) -> Result<LinksUnder<'_, IndexError>, IndexError> {
        links_under(self.links, self.topic, prefix)
    }
}

struct WritingNodes<'b> {
    topic: TopicNumber,
    nodes: Table<'b, &'static NodeKey, &'static [u8]>,
}

impl ark_recon::Nodes for WritingNodes<'_> {
    type Error = IndexError;

    fn node(&self, prefix: Prefix) -> Result<Option<Node>, IndexError> {
        node_at(&self.nodes, self.topic, prefix)
    }
}

impl ark_recon::NodesMut for WritingNodes<'_> {
    fn put(&mut self, prefix: Prefix, node: &Node) -> Result<(), IndexError> {
        let bytes: [u8; NODE_BYTES] = node.to_bytes();
        self.nodes.insert(&node_key(self.topic, prefix), bytes.as_slice())?;
        Ok(())
    }

    fn remove(&mut self, prefix: Prefix) -> Result<(), IndexError> {
        self.nodes.remove(&node_key(self.topic, prefix))?;
        Ok(())
    }
}

/// The heads that the tables are of.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
struct Roots(BTreeSet<Link>);

/// In the place of [`Roots`]: the tables are of nothing in particular. They are being made, or that
/// was interrupted, or cannot be done.
const UNKNOWN: &[u8] = &[];

impl Roots {
    /// As a row has them: their ids; of which kind they are, as all heads of a repo are of one, is
    /// given by the first byte.
    fn to_bytes(&self) -> Vec<u8> {
        let kind = self.0.first().map_or(ObjectKind::Snapshot, |link| link.kind);
        let ids = self.0.iter().flat_map(|link| *link.id.as_bytes());
        [kind as u8].into_iter().chain(ids).collect()
    }

    /// `None`: [`UNKNOWN`].
    fn read(bytes: &[u8]) -> Option<Self> {
        let (&kind, ids) = bytes.split_first()?;
        let kind = ObjectKind::from_u8(kind)?;
        let (ids, _) = ids.as_chunks();
        Some(Self(ids.iter().map(|id| Link { id: ObjectId::from_bytes(*id), kind }).collect()))
    }
}

/// The heads that a repo's tables are of; `None`: [`UNKNOWN`].
fn roots_in(
    table: &impl ReadableTable<TopicNumber, &'static [u8]>,
    topic: TopicNumber,
) -> Result<Option<Roots>, IndexError> {
    let row = table.get(topic)?;
    Ok(row.map_or_else(|| Some(Roots::default()), |row| Roots::read(row.value())))
}

/// What became of the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Followed {
    /// They are of the heads, or nothing is to be done about it now.
    Done,
    /// Too much changed: they are to be [caught up](catch_up) when the transaction is committed.
    Later,
}

/// Brings a repo's tables after its heads, which are `heads` once `transaction` is committed.
/// `read` gives the bytes of an object that a head reaches or reached. Nothing but comparisons
/// needs the tables, so what is wrong with them fails nothing else: where an object cannot be read
/// now they stay behind until the next change, where it is damaged, or they are, they are made
/// anew then.
pub(crate) fn follow(
    transaction: &WriteTransaction,
    topic: TopicNumber,
    kept: &Kept,
    heads: impl IntoIterator<Item = Link>,
    read: impl FnMut(Link) -> Result<Bytes, ReadError>,
) -> Result<Followed, IndexError> {
    let new = Roots(heads.into_iter().collect());
    let mut table = transaction.open_table(ROOTS)?;
    let Some(old) = roots_in(&table, topic)? else { return Ok(Followed::Later) };
    if old == new {
        return Ok(Followed::Done);
    }
    match count(transaction, (topic, kept), &old, &new, read) {
        Ok(()) => drop(table.insert(topic, new.to_bytes().as_slice())?),
        Err(CountError::TooMany) => return Ok(Followed::Later),
        Err(error) if error.lasts() => {
            tracing::warn!(%error, "what a repo is compared by is damaged");
            table.insert(topic, UNKNOWN)?;
        }
        Err(CountError::Index(error)) => return Err(error),
        Err(error) => {
            tracing::warn!(%error, "what a repo is compared by stays behind its heads for now");
        }
    }
    Ok(Followed::Done)
}

/// Whether a repo's tables are not of these heads, as in a store of before there were any.
pub(crate) fn is_behind(
    transaction: &ReadTransaction,
    topic: TopicNumber,
    heads: impl IntoIterator<Item = Link>,
) -> Result<bool, IndexError> {
    let new = Roots(heads.into_iter().collect());
    Ok(roots_in(&transaction.open_table(ROOTS)?, topic)? != Some(new))
}

fn clear_nodes(
    nodes: &mut Table<'_, &'static NodeKey, &'static [u8]>,
    topic: TopicNumber,
) -> Result<(), IndexError> {
    let first = node_key(topic, Prefix::ROOT);
    let mut last = [u8::MAX; 13];
    last[..4].copy_from_slice(&first[..4]);
    nodes.retain_in::<&NodeKey, _>(&first..=&last, |_, _| false)?;
    Ok(())
}

/// Brings the tables from one set of heads to another.
fn count(
    transaction: &WriteTransaction,
    (topic, kept): (TopicNumber, &Kept),
    old: &Roots,
    new: &Roots,
    read: impl FnMut(Link) -> Result<Bytes, ReadError>,
) -> Result<(), CountError> {
    let mut links = transaction.open_table(LINKS)?;
    let mut counting = Counting::new(topic, Some(&links), read, Window::All { most: MAX_COUNTED });
    counting.turn(old, new)?;
    let rows = counting.into_rows();
    let mut nodes = WritingNodes { topic, nodes: transaction.open_table(NODES)? };
    let root = || ark_recon::digest(&LinksOf { topic, links: &links }, &nodes, Prefix::ROOT);
    let before = kept.is_noted().then(root).transpose()?;
    let links_of = |is: fn(&Row) -> bool| -> Vec<Link> {
        rows.iter().filter(|row| is(row)).map(|row| row.link).collect()
    };
    let (comes, goes) = (links_of(Row::came), links_of(Row::went));
    for row in &rows {
        row.write(&mut links, topic)?;
    }
    let changed = comes.iter().chain(&goes).map(|link| link.id);
    let digest = ark_recon::update(&LinksOf { topic, links: &links }, &mut nodes, changed)?;
    if let Some(before) = before {
        kept.note(before, Change { comes, goes, digest });
    }
    Ok(())
}
