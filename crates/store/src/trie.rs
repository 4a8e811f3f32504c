//! What a repo is compared with a peer's by: the links that its heads reach, and the trie over
//! them. Both are brought after the joined states in the transaction that changes those, so they
//! say what the index says, after any crash.
//!
//! A link is counted by how many links of the closure lead to it, heads by one each: so what a new
//! head adds and an old one leaves is found from the difference of the two alone, and what is
//! equal in both is not looked at.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};

use ark_core::{Link, ObjectId, ObjectKind};
use ark_recon::{LinksUnder, NODE_BYTES, Node, Prefix};
use bytes::Bytes;
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, Table, WriteTransaction};

use crate::error::{IndexError, ReadError};
use crate::index::{
    LINKS, NODES, NodeKey, ObjectKey, ROOTS, TopicNumber, node_key, object_key, object_keys,
};

/// Counts held before they are written: a few megabytes.
const MAX_HELD: usize = if cfg!(test) { 500 } else { 1 << 16 };

/// Links of a repo's heads and of all that they link, as of one moment: what a session of
/// `ark_recon` asks. Holding it long keeps the space of what was replaced since.
pub struct Trie {
    topic: TopicNumber,
    links: ReadOnlyTable<&'static ObjectKey, u32>,
    nodes: ReadOnlyTable<&'static NodeKey, &'static [u8]>,
}

impl Trie {
    /// The trie of a repo; `None` if it could not be kept, because an object that a head reaches
    /// is damaged.
    pub(crate) fn read(
        transaction: &ReadTransaction,
        topic: TopicNumber,
    ) -> Result<Option<Self>, IndexError> {
        let roots = transaction.open_table(ROOTS)?.get(topic)?;
        if roots.is_some_and(|roots| Roots::read(roots.value()).is_none()) {
            return Ok(None);
        }
        let (links, nodes) = (transaction.open_table(LINKS)?, transaction.open_table(NODES)?);
        Ok(Some(Self { topic, links, nodes }))
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

/// The tables inside a transaction that changes them.
struct Writing<'a, 'b> {
    topic: TopicNumber,
    links: &'a Table<'b, &'static ObjectKey, u32>,
}

impl ark_recon::Links for Writing<'_, '_> {
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
struct Roots(BTreeSet<Link>);

impl Roots {
    /// As a row has them: their ids; of which kind they are is given by the first byte.
    fn to_bytes(&self) -> Vec<u8> {
        let ids = self.0.iter().flat_map(|link| *link.id.as_bytes());
        [ObjectKind::Snapshot as u8].into_iter().chain(ids).collect()
    }

    /// `None`: the tables were given up.
    fn read(bytes: &[u8]) -> Option<Self> {
        let (&kind, ids) = bytes.split_first()?;
        let kind = ObjectKind::from_u8(kind)?;
        let (ids, _) = ids.as_chunks();
        Some(Self(ids.iter().map(|id| Link { id: ObjectId::from_bytes(*id), kind }).collect()))
    }
}

/// Why the tables cannot be brought after the heads.
enum FollowError {
    Index(IndexError),
    /// An object cannot be read.
    Read {
        error: ReadError,
        /// Whether some counts were written already.
        is_partial: bool,
    },
}

impl FollowError {
    /// Whether the tables can go on from where they are once it has passed.
    fn passes(&self) -> bool {
        match self {
            Self::Index(_) => false,
            Self::Read { error, is_partial } => {
                let is_lasting =
                    matches!(error, ReadError::Absent { .. } | ReadError::Damaged { .. });
                !is_lasting && !is_partial
            }
        }
    }
}

impl<E: Into<IndexError>> From<E> for FollowError {
    fn from(error: E) -> Self {
        Self::Index(error.into())
    }
}

/// Brings a repo's tables after its heads, which are `heads` once `transaction` is committed.
/// `read` gives the bytes of an object that a head reaches or reached. Nothing but comparisons
/// needs the tables, so what is wrong with them fails nothing else: where an object cannot be read
/// now they stay behind until the next change, where it is damaged, or they are, they are given up
/// until the store is opened again.
pub(crate) fn follow(
    transaction: &WriteTransaction,
    topic: TopicNumber,
    heads: impl IntoIterator<Item = Link>,
    read: impl FnMut(Link) -> Result<Bytes, ReadError>,
) -> Result<(), IndexError> {
    let new = Roots(heads.into_iter().collect());
    let mut table = transaction.open_table(ROOTS)?;
    let old = match table.get(topic)? {
        None => Roots(BTreeSet::new()),
        Some(row) => match Roots::read(row.value()) {
            Some(old) => old,
            None => return Ok(()),
        },
    };
    if old.0 == new.0 {
        return Ok(());
    }
    match count(transaction, topic, &old, &new, read) {
        Ok(()) => drop(table.insert(topic, new.to_bytes().as_slice())?),
        Err(error) if error.passes() => {
            tracing::warn!("what a repo is compared by stays behind its heads for now");
        }
        Err(FollowError::Read { error, .. }) => give_up(transaction, topic, &mut table, &error)?,
        Err(FollowError::Index(error @ IndexError::Damaged { .. })) => {
            give_up(transaction, topic, &mut table, &error)?;
        }
        Err(FollowError::Index(error)) => return Err(error),
    }
    Ok(())
}

fn give_up(
    transaction: &WriteTransaction,
    topic: TopicNumber,
    roots: &mut Table<'_, TopicNumber, &'static [u8]>,
    why: &dyn std::fmt::Display,
) -> Result<(), IndexError> {
    tracing::warn!(%why, "no more comparisons in this repo before the next start");
    clear(transaction, topic)?;
    roots.insert(topic, [].as_slice())?;
    Ok(())
}

/// Whether a repo's tables are of other heads than these, as in a store of before there were any.
pub(crate) fn is_behind(
    transaction: &ReadTransaction,
    topic: TopicNumber,
    heads: impl IntoIterator<Item = Link>,
) -> Result<bool, IndexError> {
    let new: BTreeSet<Link> = heads.into_iter().collect();
    Ok(match transaction.open_table(ROOTS)?.get(topic)? {
        None => !new.is_empty(),
        Some(row) => Roots::read(row.value()).is_some_and(|old| old.0 != new),
    })
}

/// Lets tables that were given up be made anew.
pub(crate) fn retry(transaction: &WriteTransaction) -> Result<(), IndexError> {
    transaction.open_table(ROOTS)?.retain(|_, roots| Roots::read(roots).is_some())?;
    Ok(())
}

/// Empties a repo's tables, but for what they are of.
fn clear(transaction: &WriteTransaction, topic: TopicNumber) -> Result<(), IndexError> {
    let mut links = transaction.open_table(LINKS)?;
    let (first, _) = object_keys(topic, Prefix::ROOT.first());
    let (_, last) = object_keys(topic, Prefix::ROOT.last());
    links.retain_in::<&ObjectKey, _>(&first..=&last, |_, _| false)?;
    clear_nodes(&mut transaction.open_table(NODES)?, topic)
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

fn count(
    transaction: &WriteTransaction,
    topic: TopicNumber,
    old: &Roots,
    new: &Roots,
    read: impl FnMut(Link) -> Result<Bytes, ReadError>,
) -> Result<(), FollowError> {
    let links = transaction.open_table(LINKS)?;
    let (held, changed) = (HashMap::new(), Vec::new());
    let mut counting = Counting { topic, links, read, held, changed, is_flushed: false };
    // First what comes, then what goes: what is under both is never taken for gone.
    for &root in new.0.difference(&old.0) {
        counting.enter(root)?;
    }
    for &root in old.0.difference(&new.0) {
        counting.leave(root)?;
    }
    counting.write()?;
    let Counting { links, changed, is_flushed, .. } = counting;
    let mut nodes = WritingNodes { topic, nodes: transaction.open_table(NODES)? };
    let links = Writing { topic, links: &links };
    if is_flushed {
        clear_nodes(&mut nodes.nodes, topic)?;
        ark_recon::rebuild(&links, &mut nodes)?;
    } else {
        ark_recon::update(&links, &mut nodes, changed)?;
    }
    Ok(())
}

/// How often a link was linked, and is.
#[derive(Clone, Copy, Debug)]
struct Count {
    before: u32,
    now: u32,
}

struct Counting<'a, R> {
    topic: TopicNumber,
    links: Table<'a, &'static ObjectKey, u32>,
    read: R,
    held: HashMap<Link, Count>,
    /// Ids of the links that came or went.
    changed: Vec<ObjectId>,
    /// Whether so many came or went that they are not noted.
    is_flushed: bool,
}

impl<R: FnMut(Link) -> Result<Bytes, ReadError>> Counting<'_, R> {
    fn count(&mut self, link: Link) -> Result<&mut Count, FollowError> {
        if self.held.len() >= MAX_HELD && !self.held.contains_key(&link) {
            self.write()?;
            self.changed = Vec::new();
            self.is_flushed = true;
        }
        Ok(match self.held.entry(link) {
            std::collections::hash_map::Entry::Occupied(held) => held.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                let row = self.links.get(&object_key(self.topic, link))?;
                let before = row.map_or(0, |row| row.value());
                place.insert(Count { before, now: before })
            }
        })
    }

    fn enter(&mut self, root: Link) -> Result<(), FollowError> {
        let mut stack = vec![root];
        while let Some(link) = stack.pop() {
            let count = self.count(link)?;
            count.now = count.now.saturating_add(1);
            if count.now == 1 {
                stack.extend(self.children(link)?);
            }
        }
        Ok(())
    }

    fn leave(&mut self, root: Link) -> Result<(), FollowError> {
        let mut stack = vec![root];
        while let Some(link) = stack.pop() {
            let count = self.count(link)?;
            let damaged = IndexError::Damaged { table: "links" };
            count.now = count.now.checked_sub(1).ok_or(damaged)?;
            if count.now == 0 {
                stack.extend(self.children(link)?);
            }
        }
        Ok(())
    }

    fn children(&mut self, link: Link) -> Result<Vec<Link>, FollowError> {
        if !link.kind.is_structured() {
            return Ok(Vec::new());
        }
        let is_partial = self.is_flushed;
        let failed = |error| FollowError::Read { error, is_partial };
        let bytes = (self.read)(link).map_err(failed)?;
        // What is indexed was checked; it is the disk that lies.
        let links = ark_core::links(link, &bytes);
        links.map_err(|error| failed(ReadError::Damaged { link, reason: error.to_string() }))
    }

    /// Writes what is held, in order of key.
    fn write(&mut self) -> Result<(), IndexError> {
        let held = self.held.drain().filter(|(_, count)| count.before != count.now);
        let mut held: Vec<_> = held.collect();
        held.sort_unstable_by_key(|(link, _)| object_key(self.topic, *link));
        for (link, count) in held {
            let key = object_key(self.topic, link);
            if count.now == 0 {
                self.links.remove(&key)?;
            } else {
                self.links.insert(&key, count.now)?;
            }
            if count.before == 0 || count.now == 0 {
                self.changed.push(link.id);
            }
        }
        Ok(())
    }
}
