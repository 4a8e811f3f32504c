//! The sketch of a large repo's trie, in memory, from one session of reconciliation to the next.
//!
//! It is made by a session, once it and those before it would read half as much for want of it as
//! making it takes: of a million links in about a second. The thread that writes the index has no
//! part in that: from the first session on it only notes what each of its transactions changes, as
//! a chain from one root's digest to the next, and a session goes along that as far as the digest
//! that it sees. So what was noted by a transaction that failed is left behind, and nothing is ever
//! used with a set that it is not of. Where the chain does not lead to what sessions see, as after
//! more changed than is noted, another is begun.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ark_core::{Link, TopicId};
use ark_recon::{Digest, Prefix, Sketch, digest};

use super::Trie;
use crate::error::IndexError;

/// See [`Sketch::LEAST_LINKS`].
const LEAST_LINKS: u64 = if cfg!(test) { 300 } else { Sketch::LEAST_LINKS };
/// Of a set of more links none is made: a session would keep others waiting for seconds, and would
/// read no more for want of it.
const MOST_LINKS: u64 = 1 << 22;
/// Changed links that are noted, some 300 kB. The transaction that passes this brings the sketch
/// after those before it, which takes some milliseconds, or ends the chain if there is none.
pub(super) const MAX_NOTED: usize = if cfg!(test) { 100 } else { 8192 };
/// What a change takes besides its links, in links.
const CHANGE_LINKS: usize = 4;

/// What is kept for a repo that has [`LEAST_LINKS`] or more and was compared in this run: about a
/// megabyte, and 0.6 more while a session holds what was before.
#[derive(Debug)]
pub(crate) struct Kept {
    topic: TopicId,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    chain: Option<Chain>,
    /// Links that sessions would read for want of a sketch.
    missed: u64,
}

/// A sketch, or where one may begin, and what changed since.
#[derive(Debug)]
struct Chain {
    sketch: Making,
    /// Of what the sketch is, or is being made, or might be.
    digest: Digest,
    /// One after the other.
    after: Vec<Change>,
}

#[derive(Debug)]
enum Making {
    /// Not begun.
    None,
    /// By a session.
    Begun,
    Made(Arc<Sketch>),
}

/// What a transaction changes.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) comes: Vec<Link>,
    pub(super) goes: Vec<Link>,
    /// Of the set with it.
    pub(super) digest: Digest,
}

impl Kept {
    pub(crate) fn new(topic: TopicId) -> Self {
        Self { topic, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sketch of `trie`. Where there is none, up to `otherwise` links are read for want of it:
    /// once that sums up to half of all that there are, it is made.
    pub(super) fn sketch(
        &self,
        trie: &Trie,
        otherwise: u64,
    ) -> Result<Option<Arc<Sketch>>, IndexError> {
        let root = digest(trie, trie, Prefix::ROOT)?;
        match self.look(root, otherwise) {
            Look::Found(sketch) => Ok(Some(sketch)),
            Look::Without => Ok(None),
            Look::Make => {
                let made = Sketch::of(trie, self.topic).map(Arc::new);
                self.made(root, made.as_ref().ok());
                made.map(Some)
            }
        }
    }

    /// What there is for a set with this digest. If it is to be made, [`Kept::made`] is to follow.
    pub(super) fn look(&self, root: Digest, otherwise: u64) -> Look {
        if !(LEAST_LINKS..=MOST_LINKS).contains(&root.count) {
            return Look::Without;
        }
        let state = &mut *self.state();
        if let Some(found) = state.chain.as_mut().and_then(|chain| chain.at(root)) {
            return Look::Found(found);
        }
        state.missed = state.missed.saturating_add(otherwise.min(root.count));
        let is_worth_it = state.missed >= root.count / 2;
        match &mut state.chain {
            // Somebody is at it, and what is made leads here.
            Some(chain) if chain.is_being_made() && chain.leads_to(root) => return Look::Without,
            Some(chain) if !chain.is_begun() && chain.leads_to(root) => {}
            // It is of another moment, and may serve others yet.
            Some(chain) if chain.is_begun() && !is_worth_it => return Look::Without,
            // From here on all changes are noted.
            other => *other = Some(Chain::new(root)),
        }
        if !is_worth_it {
            return Look::Without;
        }
        state.missed = 0;
        if let Some(chain) = &mut state.chain {
            chain.begin(root);
        }
        Look::Make
    }

    /// A sketch of the set with this digest was made, or could not be.
    pub(super) fn made(&self, root: Digest, sketch: Option<&Arc<Sketch>>) {
        let mut state = self.state();
        let is_it = |chain: &&mut Chain| chain.is_being_made() && chain.digest == root;
        if let Some(chain) = state.chain.as_mut().filter(is_it) {
            chain.sketch = match sketch {
                Some(sketch) => Making::Made(Arc::clone(sketch)),
                None => Making::None,
            };
        }
    }

    /// Whether changes are to be noted.
    pub(super) fn is_noted(&self) -> bool {
        self.state().chain.is_some()
    }

    /// Notes a change of the set that had the digest `before`, whether or not the transaction will
    /// be committed.
    pub(super) fn note(&self, before: Digest, change: Change) {
        let mut state = self.state();
        let Some(chain) = &mut state.chain else { return };
        if change.digest.count < LEAST_LINKS || !chain.note(before, change) {
            state.chain = None;
        }
    }

    /// Drops what is kept: the set changes, and nobody says by what.
    pub(super) fn forget(&self) {
        *self.state() = State::default();
    }
}

/// See [`Kept::look`].
#[derive(Debug)]
pub(super) enum Look {
    Found(Arc<Sketch>),
    Without,
    Make,
}

impl Chain {
    fn new(digest: Digest) -> Self {
        Self { sketch: Making::None, digest, after: Vec::new() }
    }

    fn is_begun(&self) -> bool {
        !matches!(self.sketch, Making::None)
    }

    fn is_being_made(&self) -> bool {
        matches!(self.sketch, Making::Begun)
    }

    /// How many changes there are up to the set with this digest.
    fn place_of(&self, digest: Digest) -> Option<usize> {
        let last = self.after.iter().rposition(|change| change.digest == digest);
        last.map(|last| last + 1).or_else(|| (self.digest == digest).then_some(0))
    }

    fn leads_to(&self, digest: Digest) -> bool {
        self.place_of(digest).is_some()
    }

    /// Begins to make a sketch of the set with this digest, to which it leads.
    fn begin(&mut self, digest: Digest) {
        let place = self.place_of(digest).unwrap_or_default();
        self.after.drain(..place);
        self.digest = digest;
        self.sketch = Making::Begun;
    }

    /// The sketch of the set with this digest; what was before is not known any more then.
    fn at(&mut self, digest: Digest) -> Option<Arc<Sketch>> {
        let place = self.place_of(digest)?;
        let Making::Made(sketch) = &mut self.sketch else { return None };
        for Change { comes, goes, digest } in self.after.drain(..place) {
            Arc::make_mut(sketch).change(&comes, &goes, digest);
        }
        self.digest = digest;
        Some(Arc::clone(sketch))
    }

    /// Whether it goes on.
    fn note(&mut self, before: Digest, change: Change) -> bool {
        let Some(place) = self.place_of(before) else { return false };
        // What was noted after that was not committed.
        self.after.truncate(place);
        if change.digest == before {
            return true;
        }
        self.after.push(change);
        let links = |it: &Change| CHANGE_LINKS + it.comes.len() + it.goes.len();
        let noted = self.after.iter().map(links).sum::<usize>();
        noted <= MAX_NOTED || self.at(before).is_some()
    }
}

#[cfg(test)]
impl Kept {
    /// What is kept, with how many changes are noted; `None`: not even where one may begin.
    pub(super) fn kept(&self) -> Option<(Option<Arc<Sketch>>, usize)> {
        let state = self.state();
        state.chain.as_ref().map(|chain| {
            let sketch = match &chain.sketch {
                Making::Made(sketch) => Some(Arc::clone(sketch)),
                Making::None | Making::Begun => None,
            };
            (sketch, chain.after.len())
        })
    }
}
