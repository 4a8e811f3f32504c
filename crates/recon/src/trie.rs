//! The canonical trie over a set of links: 16 ways a level, by the hashes' prefixes.
//!
//! A prefix has a [`Digest`]: how many links are under it, and a hash of them. Up to
//! [`LEAF_LINKS`] links are a leaf, whose hash is over the links in order; more have a node, whose
//! hash is over the digests of the 16 prefixes that are four bits longer. Both depend on the set
//! alone, and both are as hard to forge as BLAKE3: no sum or XOR of hashes is.
//!
//! Only nodes of more than a leaf's worth of links are kept, each with its children's digests:
//! one for 250 links or more, which is at most three bytes a link. Leaves are what the table of
//! links says, so they have no row that could disagree with it, and an insert writes a few nodes
//! instead of a leaf of 8 KiB.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;

use ark_core::Link;

use crate::prefix::{LEVEL_BITS, MAX_PREFIX_BITS, Prefix, start_of};

/// The most links of a leaf. Rehashing one is reading so many rows: some 50 us.
pub const LEAF_LINKS: usize = 256;
/// Children of a node.
const WAYS: usize = 1 << LEVEL_BITS;
/// Length of an encoded digest: the count as 8 bytes, little-endian, and the hash.
const DIGEST_BYTES: usize = 8 + 32;
/// Length of an encoded node.
pub const NODE_BYTES: usize = WAYS * DIGEST_BYTES;
/// Length of an encoded link: the id, then the kind's number.
pub(crate) const LINK_BYTES: usize = 32 + 1;

/// Contexts of the hashes; part of the format.
const LEAF_CONTEXT: &str = "ark recon leaf v1";
const NODE_CONTEXT: &str = "ark recon node v1";

/// The links of a set under one prefix, in order of id and then of kind.
pub type LinksUnder<'a, E> = Box<dyn Iterator<Item = Result<Link, E>> + 'a>;

/// A set of links, as of one moment.
pub trait Links {
    /// Why it cannot be read.
    type Error;

    /// The links under `prefix`, in order of id and then of the kind's number.
    ///
    /// # Errors
    /// What the store's reading fails with; so may each item.
    fn links(&self, prefix: Prefix) -> Result<LinksUnder<'_, Self::Error>, Self::Error>;
}

/// The nodes of a set's trie, as of the same moment.
pub trait Nodes {
    /// Why it cannot be read or written.
    type Error;

    /// The node at `prefix`, if there is one.
    ///
    /// # Errors
    /// What the store's reading fails with.
    fn node(&self, prefix: Prefix) -> Result<Option<Node>, Self::Error>;
}

/// Nodes that can be changed.
pub trait NodesMut: Nodes {
    /// Keeps the node at `prefix` in place of any that was there.
    ///
    /// # Errors
    /// What the store's writing fails with.
    fn put(&mut self, prefix: Prefix, node: &Node) -> Result<(), Self::Error>;

    /// Forgets the node at `prefix`.
    ///
    /// # Errors
    /// What the store's writing fails with.
    fn remove(&mut self, prefix: Prefix) -> Result<(), Self::Error>;
}

impl Nodes for BTreeMap<Prefix, Node> {
    type Error = Infallible;

    fn node(&self, prefix: Prefix) -> Result<Option<Node>, Infallible> {
        Ok(self.get(&prefix).cloned())
    }
}

impl NodesMut for BTreeMap<Prefix, Node> {
    fn put(&mut self, prefix: Prefix, node: &Node) -> Result<(), Infallible> {
        self.insert(prefix, node.clone());
        Ok(())
    }

    fn remove(&mut self, prefix: Prefix) -> Result<(), Infallible> {
        BTreeMap::remove(self, &prefix);
        Ok(())
    }
}

/// What is under a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Digest {
    /// How many links.
    pub count: u64,
    /// The hash over them; zeros where there are none.
    pub hash: [u8; 32],
}

impl Digest {
    /// Of nothing.
    pub const EMPTY: Self = Self { count: 0, hash: [0; 32] };

    fn to_bytes(self) -> [u8; DIGEST_BYTES] {
        let mut bytes = [0; DIGEST_BYTES];
        bytes[..8].copy_from_slice(&self.count.to_le_bytes());
        bytes[8..].copy_from_slice(&self.hash);
        bytes
    }

    fn from_bytes(bytes: &[u8; DIGEST_BYTES]) -> Self {
        let (mut count, mut hash) = ([0; 8], [0; 32]);
        count.copy_from_slice(&bytes[..8]);
        hash.copy_from_slice(&bytes[8..]);
        Self { count: u64::from_le_bytes(count), hash }
    }

    /// Of prefixes that lie beside each other.
    fn over(parts: &[Self]) -> Self {
        let count = count_of(parts);
        if count == 0 {
            return Self::EMPTY;
        }
        let mut hasher = blake3::Hasher::new_derive_key(NODE_CONTEXT);
        for part in parts {
            hasher.update(&part.to_bytes());
        }
        Self { count, hash: *hasher.finalize().as_bytes() }
    }
}

/// How many links under all of them. Saturating, since the counts may come from a damaged disk.
pub(crate) fn count_of(parts: &[Digest]) -> u64 {
    parts.iter().fold(0, |sum, part| sum.saturating_add(part.count))
}

/// A kept node: the digests of its 16 children, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node([Digest; WAYS]);

impl Node {
    /// The encoding, for a table's value.
    pub fn to_bytes(&self) -> [u8; NODE_BYTES] {
        let mut bytes = [0; NODE_BYTES];
        for (place, digest) in bytes.as_chunks_mut().0.iter_mut().zip(&self.0) {
            *place = digest.to_bytes();
        }
        bytes
    }

    /// What [`Node::to_bytes`] made. `None` for bytes of another length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (parts, rest) = bytes.as_chunks();
        let mut node = Self([Digest::EMPTY; WAYS]);
        if parts.len() != WAYS || !rest.is_empty() {
            return None;
        }
        for (digest, part) in node.0.iter_mut().zip(parts) {
            *digest = Digest::from_bytes(part);
        }
        Some(node)
    }

    fn digest(&self) -> Digest {
        Digest::over(&self.0)
    }
}

/// Brings the nodes to what `links` says, where since the last time nothing changed but the
/// presence of links with these ids (in any order; more ids cost time only). Each changed node is
/// written once. Returns the root's digest.
///
/// # Errors
/// What reading or writing fails with; the nodes are then to be discarded with the transaction.
pub fn update<L: Links, N: NodesMut<Error = L::Error>>(
    links: &L,
    nodes: &mut N,
    changed: impl IntoIterator<Item = ark_core::ObjectId>,
) -> Result<Digest, L::Error> {
    let mut starts: Vec<u64> = changed.into_iter().map(start_of).collect();
    starts.sort_unstable();
    starts.dedup();
    if starts.is_empty() {
        return digest(links, nodes, Prefix::ROOT);
    }
    update_under(links, nodes, Prefix::ROOT, &starts)
}

fn update_under<L: Links, N: NodesMut<Error = L::Error>>(
    links: &L,
    nodes: &mut N,
    prefix: Prefix,
    mut starts: &[u64],
) -> Result<Digest, L::Error> {
    let Some(mut node) = node_at(nodes, prefix)? else {
        return build(&mut Ahead::new(links.links(prefix)?), nodes, prefix);
    };
    while let Some(first) = starts.first() {
        let at = way(prefix, *first);
        let child = prefix.narrowed(LEVEL_BITS, at);
        let (these, others) = starts.split_at(starts.partition_point(|s| *s <= child.last_start()));
        node.0[at] = update_under(links, nodes, child, these)?;
        starts = others;
    }
    if count_of(&node.0) <= LEAF_LINKS as u64 {
        // No child has a node: one that had would have more than a leaf's worth.
        nodes.remove(prefix)?;
        return Ahead::new(links.links(prefix)?).leaf(prefix);
    }
    nodes.put(prefix, &node)?;
    Ok(node.digest())
}

/// The nodes of all of `links`, where none are kept yet. Returns the root's digest.
///
/// # Errors
/// What reading or writing fails with.
pub fn rebuild<L: Links, N: NodesMut<Error = L::Error>>(
    links: &L,
    nodes: &mut N,
) -> Result<Digest, L::Error> {
    build(&mut Ahead::new(links.links(Prefix::ROOT)?), nodes, Prefix::ROOT)
}

/// Builds what is under `prefix`, where there is no node, from the links in order.
fn build<E, N: NodesMut<Error = E>>(
    links: &mut Ahead<'_, E>,
    nodes: &mut N,
    prefix: Prefix,
) -> Result<Digest, E> {
    if links.fit_a_leaf(prefix)? {
        return links.leaf(prefix);
    }
    let mut node = Node([Digest::EMPTY; WAYS]);
    for (at, digest) in node.0.iter_mut().enumerate() {
        *digest = build(links, nodes, prefix.narrowed(LEVEL_BITS, at))?;
    }
    nodes.put(prefix, &node)?;
    Ok(node.digest())
}

/// The digest of what is under `prefix`.
///
/// # Errors
/// What reading fails with.
pub fn digest<L: Links, N: Nodes<Error = L::Error>>(
    links: &L,
    nodes: &N,
    prefix: Prefix,
) -> Result<Digest, L::Error> {
    Ok(digests(links, nodes, prefix, 0)?[0])
}

/// The digests of the `1 << fan` prefixes that are `fan` bits longer than `prefix`, in order. A
/// prefix between two levels has the hash over the children under it.
pub(crate) fn digests<L: Links, N: Nodes<Error = L::Error>>(
    links: &L,
    nodes: &N,
    prefix: Prefix,
    fan: u8,
) -> Result<Vec<Digest>, L::Error> {
    if prefix.bits() + fan == 0 {
        return Ok(vec![match nodes.node(Prefix::ROOT)? {
            Some(node) => node.digest(),
            None => Ahead::new(links.links(Prefix::ROOT)?).leaf(Prefix::ROOT)?,
        }]);
    }
    let mut digests = Vec::with_capacity(1 << fan);
    // The node whose children are, or lie under, the prefixes asked for.
    let above = (prefix.bits() + fan - 1) / LEVEL_BITS * LEVEL_BITS;
    let within = above.saturating_sub(prefix.bits());
    for at in 0..1 << within {
        let part = prefix.narrowed(within, at);
        let node = part.shortened(above);
        let children = children(links, nodes, node)?;
        let each = 1 << (above + LEVEL_BITS - prefix.bits() - fan);
        let first = part.place_under(node) << (above + LEVEL_BITS - part.bits());
        let parts = children[first..].chunks(each).take(1 << (fan - within));
        digests.extend(parts.map(|parts| match parts {
            [digest] => *digest,
            parts => Digest::over(parts),
        }));
    }
    Ok(digests)
}

/// The digests of the children of `prefix`, which is on a level, whether a node is kept or not.
fn children<L: Links, N: Nodes<Error = L::Error>>(
    links: &L,
    nodes: &N,
    prefix: Prefix,
) -> Result<[Digest; WAYS], L::Error> {
    if let Some(node) = node_at(nodes, prefix)? {
        return Ok(node.0);
    }
    let mut links = Ahead::new(links.links(prefix)?);
    let mut children = [Digest::EMPTY; WAYS];
    for (at, digest) in children.iter_mut().enumerate() {
        *digest = links.leaf(prefix.narrowed(LEVEL_BITS, at))?;
    }
    Ok(children)
}

/// The node at `prefix`; none is so deep that it would have no room for children.
fn node_at<N: Nodes>(nodes: &N, prefix: Prefix) -> Result<Option<Node>, N::Error> {
    if prefix.bits() < MAX_PREFIX_BITS { nodes.node(prefix) } else { Ok(None) }
}

/// Which child of `prefix` an id is under that begins with `start`.
fn way(prefix: Prefix, start: u64) -> usize {
    let shift = 64 - u32::from(prefix.bits()) - u32::from(LEVEL_BITS);
    usize::try_from(start >> shift & (WAYS as u64 - 1)).expect("four bits")
}

/// The 33 bytes by which a link is sorted, hashed and sent.
pub(crate) fn link_bytes(link: Link) -> [u8; LINK_BYTES] {
    let mut bytes = [link.kind as u8; LINK_BYTES];
    bytes[..32].copy_from_slice(link.id.as_bytes());
    bytes
}

/// Links in order, of which a leaf's worth can be seen before they are taken.
struct Ahead<'a, E> {
    seen: VecDeque<Link>,
    rest: LinksUnder<'a, E>,
}

impl<'a, E> Ahead<'a, E> {
    fn new(links: LinksUnder<'a, E>) -> Self {
        Self { seen: VecDeque::new(), rest: links }
    }

    /// Whether what is left under `prefix`, with nothing left before it, is a leaf.
    fn fit_a_leaf(&mut self, prefix: Prefix) -> Result<bool, E> {
        if prefix.bits() >= MAX_PREFIX_BITS {
            return Ok(true);
        }
        while self.seen.len() <= LEAF_LINKS {
            let Some(link) = self.rest.next().transpose()? else { return Ok(true) };
            self.seen.push_back(link);
        }
        Ok(!prefix.contains(self.seen[LEAF_LINKS].id))
    }

    /// Takes what is under `prefix`, with nothing left before it, as a leaf.
    fn leaf(&mut self, prefix: Prefix) -> Result<Digest, E> {
        let mut hasher = blake3::Hasher::new_derive_key(LEAF_CONTEXT);
        let mut count = 0;
        loop {
            if self.seen.is_empty() {
                self.seen.extend(self.rest.next().transpose()?);
            }
            match self.seen.front() {
                Some(link) if prefix.contains(link.id) => hasher.update(&link_bytes(*link)),
                _ => break,
            };
            self.seen.pop_front();
            count += 1;
        }
        if count == 0 {
            return Ok(Digest::EMPTY);
        }
        Ok(Digest { count, hash: *hasher.finalize().as_bytes() })
    }
}
