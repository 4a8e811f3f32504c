//! A set as it would be with a few links more and a few less, to see what its digests would be.

use std::collections::BTreeMap;

use ark_core::Link;

use crate::prefix::Prefix;
use crate::trie::{Digest, Links, LinksUnder, Node, Nodes, NodesMut, digests, link_bytes, update};

/// The digests of the prefixes of `bits` bits, once `comes` are in the set and `goes` are not.
///
/// # Errors
/// What reading fails with.
pub(crate) fn digests_with<E, S: Links<Error = E> + Nodes<Error = E>>(
    source: &S,
    bits: u8,
    comes: &[Link],
    goes: &[Link],
) -> Result<Vec<Digest>, E> {
    let sorted = |links: &[Link]| {
        let mut links = links.to_vec();
        links.sort_unstable_by_key(|link| link_bytes(*link));
        links
    };
    let links = DraftLinks { source, comes: sorted(comes), goes: sorted(goes) };
    let mut nodes = DraftNodes { source, changed: BTreeMap::new() };
    update(&links, &mut nodes, comes.iter().chain(goes).map(|link| link.id))?;
    digests(&links, &nodes, Prefix::ROOT, bits)
}

/// In order, what comes and goes.
struct DraftLinks<'a, S> {
    source: &'a S,
    comes: Vec<Link>,
    goes: Vec<Link>,
}

impl<S: Links> Links for DraftLinks<'_, S> {
    type Error = S::Error;

    /// Only what has no node is asked for, or will have none: a leaf's worth, with what goes.
    fn links(&self, prefix: Prefix) -> Result<LinksUnder<'_, S::Error>, S::Error> {
        let links = self.source.links(prefix)?;
        let (comes, goes) = (under(&self.comes, prefix), under(&self.goes, prefix));
        if comes.is_empty() && goes.is_empty() {
            return Ok(links);
        }
        let mut links = links.collect::<Result<Vec<Link>, _>>()?;
        let goes_too = |link: &Link| {
            goes.binary_search_by_key(&link_bytes(*link), |it| link_bytes(*it)).is_ok()
        };
        links.retain(|link| !goes_too(link));
        links.extend(comes);
        // Two parts in order: what a stable sort takes little longer for than for one.
        links.sort_by_key(|link| link_bytes(*link));
        Ok(Box::new(links.into_iter().map(Ok)))
    }
}

/// Those of `links`, which are in order, that are under `prefix`.
fn under(links: &[Link], prefix: Prefix) -> &[Link] {
    let from = links.partition_point(|link| link.id < prefix.first());
    let to = links.partition_point(|link| link.id <= prefix.last());
    &links[from..to]
}

struct DraftNodes<'a, S> {
    source: &'a S,
    /// `None`: it would be gone.
    changed: BTreeMap<Prefix, Option<Node>>,
}

impl<S: Nodes> Nodes for DraftNodes<'_, S> {
    type Error = S::Error;

    fn node(&self, prefix: Prefix) -> Result<Option<Node>, S::Error> {
        match self.changed.get(&prefix) {
            Some(node) => Ok(node.clone()),
            None => self.source.node(prefix),
        }
    }
}

impl<S: Nodes> NodesMut for DraftNodes<'_, S> {
    fn put(&mut self, prefix: Prefix, node: &Node) -> Result<(), S::Error> {
        self.changed.insert(prefix, Some(node.clone()));
        Ok(())
    }

    fn remove(&mut self, prefix: Prefix) -> Result<(), S::Error> {
        self.changed.insert(prefix, None);
        Ok(())
    }
}
