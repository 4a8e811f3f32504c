//! What a session may cost: a set that is read through a meter, and counters of bytes and rounds.

use std::cell::Cell;

use crate::prefix::Prefix;
use crate::session::Violation;
use crate::trie::{Links, LinksUnder, Node, Nodes};

/// How often a session may read its whole set: an honest one reads it once, once more for each
/// time that cells were too few (six times at most), and once a level where it goes down; three
/// times before that, where what kept cells say is not true.
const MAX_PASSES: u64 = 16;
/// Links that a session may read besides, however small its set is.
const MIN_READS: u64 = 1 << 18;
/// What reading a node counts, in links: it is of about so many bytes. Where there is none it
/// counts as one.
const NODE_READS: u64 = 20;
/// The most bytes that a session sends, and that it takes: the names of a million objects each
/// way. A larger difference takes several sessions.
const MAX_SESSION_BYTES: u64 = 64 << 20;
/// What may be answered before anything that was answered is made use of: four groups of the
/// most cells, several times.
const FREE_ANSWER_BYTES: u64 = 4 << 20;
/// Bytes answered per byte taken, beyond that. An honest opener wants or offers what it learns:
/// at least eight bytes for each 20 of cells.
const ANSWER_FACTOR: u64 = 64;

/// Why a session stops.
pub(crate) enum Halt<E> {
    /// The set cannot be read.
    Source(E),
    /// The other side broke the rules.
    Violation(Violation),
    /// A ceiling was reached.
    Ceiling,
}

impl<E> From<Violation> for Halt<E> {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

/// What a session has left.
#[derive(Debug)]
pub(crate) struct Meter {
    reads: Cell<u64>,
    sent: u64,
    received: u64,
}

impl Meter {
    /// For a set of `count` links.
    pub(crate) fn new(count: u64) -> Self {
        let reads = Cell::new(count.saturating_mul(MAX_PASSES).saturating_add(MIN_READS));
        Self { reads, sent: 0, received: 0 }
    }

    pub(crate) fn receive<E>(&mut self, bytes: usize) -> Result<(), Halt<E>> {
        self.received += bytes as u64;
        if self.received > MAX_SESSION_BYTES { Err(Halt::Ceiling) } else { Ok(()) }
    }

    pub(crate) fn send<E>(&mut self, bytes: usize) -> Result<(), Halt<E>> {
        self.sent += bytes as u64;
        if self.sent > MAX_SESSION_BYTES { Err(Halt::Ceiling) } else { Ok(()) }
    }

    /// Like [`Meter::send`], for who is asked.
    pub(crate) fn answer<E>(&mut self, bytes: usize) -> Result<(), Halt<E>> {
        self.send(bytes)?;
        let allowed = FREE_ANSWER_BYTES + ANSWER_FACTOR * self.received;
        if self.sent > allowed { Err(Halt::Ceiling) } else { Ok(()) }
    }

    /// `source`, read on this account.
    pub(crate) fn over<'a, S>(&'a self, source: &'a S) -> Metered<'a, S> {
        Metered { source, reads: &self.reads }
    }
}

/// A set of which no more can be read than is allowed.
pub(crate) struct Metered<'a, S> {
    source: &'a S,
    reads: &'a Cell<u64>,
}

fn take<E>(reads: &Cell<u64>, count: u64) -> Result<(), Halt<E>> {
    let left = reads.get().checked_sub(count).ok_or(Halt::Ceiling)?;
    reads.set(left);
    Ok(())
}

impl<S: Links> Links for Metered<'_, S> {
    type Error = Halt<S::Error>;

    fn links(&self, prefix: Prefix) -> Result<LinksUnder<'_, Self::Error>, Self::Error> {
        let links = self.source.links(prefix).map_err(Halt::Source)?;
        take(self.reads, 1)?;
        Ok(Box::new(links.map(|link| {
            take(self.reads, 1)?;
            link.map_err(Halt::Source)
        })))
    }
}

impl<S: Nodes> Nodes for Metered<'_, S> {
    type Error = Halt<S::Error>;

    fn node(&self, prefix: Prefix) -> Result<Option<Node>, Self::Error> {
        let node = self.source.node(prefix).map_err(Halt::Source)?;
        take(self.reads, if node.is_some() { NODE_READS } else { 1 })?;
        Ok(node)
    }
}
