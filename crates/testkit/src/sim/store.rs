//! A store of one repo in memory that keeps the promises of the real one with the real formats:
//! indexed means that the closure is indexed and was checked from the leaves up
//! ([`ark_core::check`]), received objects that are not closed are pending, states are staged and
//! joined whole or not at all, a state is durable before anybody hears of it.
//!
//! [`Durable`] is what a crash leaves and what a backup copies; one change of it is one
//! transaction. The rest is memory.

mod durable;

use std::collections::{BTreeMap, BTreeSet};

use ark_core::{
    Checked, DeviceId, Head, Incarnation, Link, Object, ObjectId, RepoKind, SignedState, Snapshot,
    State, TopicId, Vector, Writer, check, heads,
};
use ark_sync::{JoinOutcome, StageOutcome};
use bytes::Bytes;
use ed25519_dalek::SigningKey;

use super::dice::Dice;
use durable::Closure;
pub(super) use durable::{Absent, Base, Durable, Incarnations};

/// The repo that all devices keep.
pub(super) fn topic() -> TopicId {
    TopicId::derive("simulated", None)
}

/// See the module.
#[derive(Debug)]
pub(super) struct Store {
    durable: Durable,
    /// The index file as the file system knows it: a copy put back is another one.
    file: u64,
    key: SigningKey,
    device: DeviceId,
    waiting: BTreeMap<Writer, SignedState>,
    begun: BTreeSet<Writer>,
    invalid: BTreeMap<Writer, ObjectId>,
    /// Staged, and not waited for to be durable.
    unheard: BTreeSet<Writer>,
}

/// A state that is about to be published.
#[derive(Debug, Clone)]
pub(super) struct Prospect {
    pub(super) head: Link,
    pub(super) vector: Vector,
    /// The objects of the scan and of the tree, in any order.
    pub(super) objects: Vec<Object>,
}

impl Store {
    /// An empty store, never opened.
    pub(super) fn new(key: SigningKey) -> Self {
        let device = DeviceId::from_bytes(key.verifying_key().to_bytes());
        let durable = Durable {
            objects: BTreeMap::new(),
            indexed: BTreeMap::new(),
            pending: BTreeSet::new(),
            joined: BTreeMap::new(),
            staged: BTreeMap::new(),
            issued: BTreeMap::new(),
            incarnation: Incarnation::new(0),
            token: 0,
            file: 0,
            base: Base::default(),
        };
        Self {
            durable,
            file: 0,
            key,
            device,
            waiting: BTreeMap::new(),
            begun: BTreeSet::new(),
            invalid: BTreeMap::new(),
            unheard: BTreeSet::new(),
        }
    }

    /// Opens it: unless it proves to be the one last open, by the witness and the index file, the
    /// device takes a new incarnation. Whether it did.
    pub(super) fn open(&mut self, witness: &mut Option<u64>, dice: &mut Dice) -> bool {
        let is_token = witness.is_some_and(|token| token == self.durable.token);
        let is_last = is_token && self.durable.file == self.file;
        if !is_last {
            self.durable.incarnation = Incarnation::new(dice.any());
        }
        self.durable.file = self.file;
        self.durable.token = dice.any();
        *witness = Some(self.durable.token);
        !is_last
    }

    /// The process ends: memory is lost, and perhaps what was not waited for.
    pub(super) fn crash(&mut self, dice: &mut Dice) {
        for writer in std::mem::take(&mut self.unheard) {
            if dice.percent(50) {
                self.durable.staged.remove(&writer);
            }
        }
        self.waiting.clear();
        self.begun.clear();
        self.invalid.clear();
    }

    /// What is on disk.
    pub(super) const fn durable(&self) -> &Durable {
        &self.durable
    }

    /// A copy put back.
    pub(super) fn restore(&mut self, copy: Durable) {
        self.durable = copy;
        self.file += 1;
    }

    /// Loses what was written after this, and nobody notices.
    pub(super) fn lose(&mut self, copy: Durable) {
        self.durable = copy;
    }

    /// Passes for the one last open, whatever it is.
    pub(super) fn forge(&mut self, witness: &mut Option<u64>) {
        *witness = witness.map(|_| self.durable.token);
        self.durable.file = self.file;
    }

    /// What the folder recorded, to be changed in one transaction.
    pub(super) const fn base(&mut self) -> &mut Base {
        &mut self.durable.base
    }

    /// The writer that this device is.
    pub(super) const fn writer(&self) -> Writer {
        Writer { device: self.device, incarnation: self.durable.incarnation }
    }

    /// The sequence, which is the revision too, that the next publication will have.
    pub(super) fn next_sequence(&self) -> u64 {
        self.issued() + 1
    }

    fn issued(&self) -> u64 {
        let writer = self.writer();
        let told = self.durable.joined.get(&writer).map_or(0, |state| state.state().revision);
        self.durable.issued.get(&writer).copied().unwrap_or(0).max(told)
    }

    /// The state of a writer that is joined.
    pub(super) fn hash_of(&self, writer: Writer) -> Option<ObjectId> {
        self.durable.joined.get(&writer).map(SignedState::hash)
    }

    /// Indexes what a merge made.
    ///
    /// # Errors
    /// It is not closed.
    pub(super) fn keep(&mut self, objects: &[Object], root: Link) -> Result<(), String> {
        self.durable.put(objects, &[root]).map(drop)
    }

    /// Publishes, with what base is to say, in one transaction. The state, and what is new.
    ///
    /// # Errors
    /// The objects are not closed, or no peer would take the state.
    pub(super) fn publish(
        &mut self,
        prospect: Prospect,
        base: impl FnOnce(&mut Base),
    ) -> Result<(SignedState, Vec<Link>), String> {
        let (writer, sequence) = (self.writer(), self.next_sequence());
        let Prospect { head, vector, objects } = prospect;
        let new = self.durable.put(&objects, &[head])?;
        let state = State {
            topic: topic(),
            kind: RepoKind::Folder,
            writer,
            revision: sequence,
            heads: vec![Head { id: head.id, sequence }],
            vector,
            held: Vec::new(),
        };
        let signed = SignedState::sign(state, &self.key).map_err(|error| error.to_string())?;
        self.durable.issued.insert(writer, sequence);
        self.durable.joined.insert(writer, signed.clone());
        base(&mut self.durable.base);
        Ok((signed, new))
    }

    /// Takes objects from a peer: what is closed is indexed, the rest is pending. What they link
    /// that is not here.
    ///
    /// # Errors
    /// One of them is not what its link says.
    pub(super) fn receive(&mut self, objects: &[(Link, Bytes)]) -> Result<Vec<Link>, String> {
        let durable = &mut self.durable;
        let mut wanted = Vec::new();
        // Parents are sent before what they link: backwards, the children are known first.
        for (link, bytes) in objects.iter().rev() {
            if durable.indexed.contains_key(link) {
                continue;
            }
            let child = |child| durable.indexed.get(&child).cloned();
            let checked = check(*link, bytes, child);
            match checked.map_err(|error| format!("{link:?} is invalid: {error}"))? {
                Checked::Complete(summary) => drop(durable.index(vec![(*link, summary)])),
                Checked::Missing(children) => {
                    wanted.extend(children.into_iter().rev());
                    durable.pending.insert(*link);
                }
            }
            durable.objects.insert(*link, bytes.clone());
        }
        let mut seen = BTreeSet::new();
        wanted.retain(|link| durable.serve(*link).is_none() && seen.insert(*link));
        wanted.reverse();
        Ok(wanted)
    }

    /// Drops all that is staged of a writer.
    pub(super) fn abandon(&mut self, writer: Writer) {
        self.durable.staged.remove(&writer);
        self.waiting.remove(&writer);
        self.begun.remove(&writer);
    }

    /// Stages a state; if `replacing`, in the place of all that is staged.
    pub(super) fn stage(
        &mut self,
        state: &SignedState,
        replacing: bool,
        dice: &mut Dice,
    ) -> StageOutcome {
        let writer = state.state().writer;
        if replacing {
            self.abandon(writer);
        }
        if self.is_fork(state) {
            self.durable.incarnation = Incarnation::new(dice.any());
            return StageOutcome::OwnFork { then: Box::new(self.decide(state)) };
        }
        self.decide(state)
    }

    /// Whether the state shows what the living incarnation of this device never issued.
    fn is_fork(&self, given: &SignedState) -> bool {
        let (state, own, issued) = (given.state(), self.writer(), self.issued());
        if state.vector.get(own) > issued {
            return true;
        }
        let joined = self.durable.joined.get(&own);
        state.writer == own
            && joined.is_none_or(|joined| joined != given && state.revision >= issued)
    }

    fn decide(&mut self, given: &SignedState) -> StageOutcome {
        let writer = given.state().writer;
        let (joined, staged) = (self.durable.joined.get(&writer), self.durable.staged.get(&writer));
        if staged == Some(given) {
            return match self.needed(given) {
                missing if missing.is_empty() => StageOutcome::Complete,
                missing => {
                    self.begun.insert(writer);
                    StageOutcome::Staged { missing }
                }
            };
        }
        let known: Vec<SignedState> = [joined, staged].into_iter().flatten().cloned().collect();
        for known in known {
            let same = known.state().revision == given.state().revision;
            let replaces = given.replaces(&known);
            if same && known != *given {
                let then = if replaces { self.place(given) } else { self.old(writer) };
                return StageOutcome::Equivocation { then: Box::new(then) };
            }
            if !replaces {
                return self.old(writer);
            }
        }
        self.place(given)
    }

    fn old(&self, writer: Writer) -> StageOutcome {
        StageOutcome::Old { joined: self.durable.joined.get(&writer).cloned() }
    }

    fn place(&mut self, given: &SignedState) -> StageOutcome {
        let writer = given.state().writer;
        if self.invalid.get(&writer) == Some(&given.hash()) {
            return StageOutcome::Invalid;
        }
        let is_pulled = self.durable.staged.contains_key(&writer) && self.begun.contains(&writer);
        if is_pulled {
            if self.waiting.get(&writer).is_some_and(|waiting| !given.replaces(waiting)) {
                return self.old(writer);
            }
            self.waiting.insert(writer, given.clone());
            return StageOutcome::Waiting;
        }
        self.put_staged(given)
    }

    fn put_staged(&mut self, given: &SignedState) -> StageOutcome {
        let writer = given.state().writer;
        self.waiting.remove(&writer);
        self.durable.staged.insert(writer, given.clone());
        self.unheard.insert(writer);
        self.begun.remove(&writer);
        match self.needed(given) {
            missing if missing.is_empty() => StageOutcome::Complete,
            missing => {
                self.begun.insert(writer);
                StageOutcome::Staged { missing }
            }
        }
    }

    /// The heads that there would be with `state`.
    fn roots_with(&self, state: &SignedState) -> Vec<Link> {
        let writer = state.state().writer;
        let others = self.durable.joined.values().filter(|it| it.state().writer != writer);
        let after = others.chain([state]).map(SignedState::state);
        heads(after).into_iter().map(|head| Link::snapshot(head.id)).collect()
    }

    fn needed(&self, state: &SignedState) -> Vec<Link> {
        self.durable.missing(&self.roots_with(state))
    }

    /// Joins the staged state of a writer, in one transaction.
    pub(super) fn join(&mut self, writer: Writer) -> JoinOutcome {
        let Some(state) = self.durable.staged.get(&writer).cloned() else {
            let joined = self.durable.joined.get(&writer).cloned();
            return JoinOutcome::NothingStaged { joined };
        };
        let roots = self.roots_with(&state);
        let whole = match self.durable.close(&roots, |link| self.durable.serve(link)) {
            Closure::Whole(whole) => whole,
            Closure::Missing(missing) => {
                self.begun.insert(writer);
                return JoinOutcome::Missing(missing);
            }
            Closure::Invalid(link, reason) => return self.drop_invalid(&state, link, reason),
        };
        for link in roots.iter().filter(|link| state.state().head_links().contains(link)) {
            let snapshot = Snapshot::decode(&self.durable.objects[link]);
            let checked = snapshot.and_then(|snapshot| state.state().check_snapshot(&snapshot));
            if let Err(error) = checked {
                return self.drop_invalid(&state, *link, error.to_string());
            }
        }
        self.durable.index(whole);
        self.durable.staged.remove(&writer);
        self.durable.joined.insert(writer, state.clone());
        // A transaction carries along all that came before it.
        self.unheard.clear();
        self.begun.remove(&writer);
        if let Some(waiting) = self.waiting.remove(&writer) {
            self.put_staged(&waiting);
        }
        JoinOutcome::Joined(state)
    }

    fn drop_invalid(&mut self, state: &SignedState, link: Link, reason: String) -> JoinOutcome {
        let writer = state.state().writer;
        self.invalid.insert(writer, state.hash());
        self.durable.staged.remove(&writer);
        JoinOutcome::Invalid { link, reason }
    }
}
