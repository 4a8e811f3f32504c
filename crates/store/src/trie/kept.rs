//! The sketch of a large repo's trie, in memory, from one session of reconciliation to the next.
//!
//! It is made by a session, once those before it have read half as much for want of it as making it
//! takes: of a million links in about a second, once in a run. The thread that writes the index has
//! no part in that: it only notes what each of its transactions changes, as a chain from one root's
//! digest to the next, and a session goes along that as far as the digest that it sees. So what was
//! noted by a transaction that failed is left behind, and nothing is ever used with a set that it is
//! not of.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ark_core::{Link, TopicId};
use ark_recon::{Digest, Prefix, Sketch, digest};

use super::Trie;
use crate::error::IndexError;

/// See [`Sketch::LEAST_LINKS`].
const LEAST_LINKS: u64 = if cfg!(test) { 300 } else { Sketch::LEAST_LINKS };
/// Changed links that are noted: 270 kB of them. From then on a transaction brings the sketch after
/// those before it, which takes some milliseconds.
pub(super) const MAX_NOTED: usize = if cfg!(test) { 100 } else { 8192 };

/// What is kept for a repo: up to a megabyte, where it has [`LEAST_LINKS`] or more and was compared
/// in this run.
#[derive(Debug)]
pub(crate) struct Kept {
    topic: TopicId,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    chain: Option<Chain>,
    /// Links that sessions read for want of a sketch.
    missed: u64,
}

/// A sketch, and what changed since.
#[derive(Debug)]
struct Chain {
    /// `None`: it is being made.
    sketch: Option<Arc<Sketch>>,
    /// Of what the sketch is, or is being made.
    digest: Digest,
    /// One after the other.
    after: Vec<Change>,
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

    /// The sketch of `trie`. Where there is none, `otherwise` links are read for want of it: once
    /// that sums up to half of all that there are, it is made.
    pub(super) fn sketch(
        &self,
        trie: &Trie,
        otherwise: u64,
    ) -> Result<Option<Arc<Sketch>>, IndexError> {
        let root = digest(trie, trie, Prefix::ROOT)?;
        if root.count < LEAST_LINKS {
            return Ok(None);
        }
        {
            let mut state = self.state();
            if let Some(chain) = &mut state.chain {
                return Ok(chain.at(root));
            }
            state.missed = state.missed.saturating_add(otherwise);
            if state.missed < root.count / 2 {
                return Ok(None);
            }
            *state = State {
                chain: Some(Chain { sketch: None, digest: root, after: Vec::new() }),
                missed: 0,
            };
        }
        let made = Sketch::of(trie, self.topic).map(Arc::new);
        let mut state = self.state();
        let is_it = |chain: &&mut Chain| chain.sketch.is_none() && chain.digest == root;
        if let Some(chain) = state.chain.as_mut().filter(is_it) {
            match &made {
                Ok(sketch) => chain.sketch = Some(Arc::clone(sketch)),
                Err(_) => state.chain = None,
            }
        }
        made.map(Some)
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

impl Chain {
    /// How many changes there are up to the set with this digest.
    fn place_of(&self, digest: Digest) -> Option<usize> {
        let last = self.after.iter().rposition(|change| change.digest == digest);
        last.map(|last| last + 1).or_else(|| (self.digest == digest).then_some(0))
    }

    /// The sketch of the set with this digest; what was before is not known any more then.
    fn at(&mut self, digest: Digest) -> Option<Arc<Sketch>> {
        let place = self.place_of(digest)?;
        let sketch = self.sketch.as_mut()?;
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
        self.after.push(change);
        let noted = self.after.iter().map(|it| it.comes.len() + it.goes.len()).sum::<usize>();
        noted <= MAX_NOTED || self.at(before).is_some()
    }
}

#[cfg(test)]
impl Kept {
    /// What is kept, with how many changes are noted.
    pub(super) fn kept(&self) -> Option<(Option<Arc<Sketch>>, usize)> {
        let state = self.state();
        state.chain.as_ref().map(|chain| (chain.sketch.clone(), chain.after.len()))
    }
}
