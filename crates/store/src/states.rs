//! The states of a repo as the store holds them, and what is told when they change.

use std::collections::BTreeMap;
use std::sync::Arc;

use ark_core::{
    DecodeError, DeviceId, Incarnation, Link, ObjectId, RepoKind, SignedState, Snapshot, State,
    Writer, heads,
};
use redb::ReadableTable;

use crate::error::IndexError;
use crate::index::{STATES, Slot, StateKey, TopicNumber, state_keys, writer_in};

/// The newest states of all writers of a repo.
#[derive(Clone, Debug, Default)]
pub struct States {
    /// Joined: their closures are indexed, durably. This device's own state is among them, and
    /// so are those of its earlier incarnations.
    pub joined: BTreeMap<Writer, SignedState>,
    /// Staged: newer than the writer's joined state, still being pulled.
    pub staged: BTreeMap<Writer, SignedState>,
    /// Newer than the writer's staged state, which is finished first. In memory only.
    pub waiting: BTreeMap<Writer, SignedState>,
}

/// The outcome of [`Repo::stage`](crate::Repo::stage).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Staged {
    /// Staged; these objects, and what they link, are to be fetched, then
    /// [`Repo::join`](crate::Repo::join) is to be called.
    Staged {
        /// Some of what is missing, at most [`MAX_MISSING`](crate::MAX_MISSING).
        missing: Vec<Link>,
    },
    /// Staged, and all that it needs is here: call [`Repo::join`](crate::Repo::join).
    Complete,
    /// Known already, or older than what is known.
    Old,
    /// An older state of this writer is being pulled and is finished first; this one waits. It
    /// is staged when that one is joined or [abandoned](crate::Repo::abandon), which
    /// [`Change::Staged`] tells.
    Waiting,
    /// The writer made two states of one revision. The greater hash stands: `stands` says what
    /// became of it. Recorded durably, see [`Repo::equivocations`](crate::Repo::equivocations).
    Equivocation {
        /// The two hashes.
        seen: Equivocation,
        /// The outcome for the state that was given: `Old` if it has the lesser hash.
        stands: Box<Staged>,
    },
    /// Of another kind than the repo here is already: to be shown, not joined.
    WrongKind {
        /// The kind it says.
        found: RepoKind,
    },
    /// Of another repo: the peer mixed something up.
    WrongTopic,
    /// It says that the living incarnation of this device wrote what it never issued: a machine
    /// image was rolled back, or the key runs twice. The device has taken a new incarnation
    /// ([`Change::Incarnation`]); the old one is one more writer.
    OwnFork {
        /// The outcome for the state that was given.
        then: Box<Staged>,
    },
    /// Its closure was pulled and found invalid before; it is not pulled again. Or it is another
    /// device's, which says more than once that this one wrote what it never issued.
    Invalid,
}

/// Two states of one writer and revision: its key signs on two machines, or its store was rolled
/// back and not noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Equivocation {
    /// Who made them.
    pub writer: Writer,
    /// Their revision.
    pub revision: u64,
    /// The hash that stands.
    pub stands: ObjectId,
    /// The lesser hash.
    pub dropped: ObjectId,
}

impl Equivocation {
    /// The hashes as a row of the index has them.
    pub(crate) fn hashes(&self) -> [u8; 64] {
        let mut hashes = [0; 64];
        hashes[..32].copy_from_slice(self.stands.as_bytes());
        hashes[32..].copy_from_slice(self.dropped.as_bytes());
        hashes
    }

    /// Reads a row of the index: topic, device, incarnation and revision are its key.
    pub(crate) fn read(key: &[u8; 52], hashes: &[u8; 64]) -> Self {
        let mut device = [0; 32];
        device.copy_from_slice(&key[4..36]);
        let number = |at: usize| {
            key[at..at + 8].iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
        };
        let id = |at: usize| {
            let mut id = [0; 32];
            id.copy_from_slice(&hashes[at..at + 32]);
            ObjectId::from_bytes(id)
        };
        let device = DeviceId::from_bytes(device);
        let writer = Writer { device, incarnation: Incarnation::new(number(36)) };
        Self { writer, revision: number(44), stands: id(0), dropped: id(32) }
    }
}

/// What happened in a repo.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Change {
    /// This device published; the state is durable.
    Published {
        /// The state.
        state: SignedState,
        /// The objects that it brought into the index; empty if there are more than
        /// [`MAX_NEW_LINKS`](crate::MAX_NEW_LINKS).
        new: Arc<[Link]>,
    },
    /// A state of `writer` was joined, durably.
    Joined {
        /// Whose.
        writer: Writer,
    },
    /// A state of `writer` was staged.
    Staged {
        /// Whose.
        writer: Writer,
    },
    /// The closure of a staged state is not valid: the state was dropped.
    Invalid {
        /// Whose.
        writer: Writer,
        /// The object found invalid.
        link: Link,
        /// Why.
        error: DecodeError,
    },
    /// The device took a new incarnation. Whoever publishes in this repo must publish anew what
    /// was written since it was started: the old incarnation's dots may collide.
    Incarnation {
        /// The writer that this device was.
        old: Writer,
        /// The writer that it is now.
        new: Writer,
    },
}

/// The objects that must be here whole for `state` to be joined beside `joined`: the heads that
/// there are then. A head that a joined state has taken in without holding is not among them. One
/// that comes back to life, because a broken writer takes in less than it did, is.
pub(crate) fn roots_with(joined: &BTreeMap<Writer, SignedState>, state: &SignedState) -> Vec<Link> {
    let after = states_with(joined, state);
    heads(after).into_iter().map(|head| state.state().kind.head_link(head.id)).collect()
}

/// The heads of a repo's joined states, as `transaction` has them. Those that `known` has, too, are
/// not verified again.
pub(crate) fn heads_in(
    transaction: &redb::WriteTransaction,
    topic: TopicNumber,
    known: &States,
) -> Result<Vec<Link>, IndexError> {
    let table = transaction.open_table(STATES)?;
    let (first, last) = state_keys(topic, Slot::Joined);
    let mut joined = Vec::new();
    for row in table.range::<&StateKey>(&first..=&last)? {
        let (key, value) = row?;
        let writer = writer_in(key.value());
        let mut same = [&known.joined, &known.staged].into_iter().filter_map(|it| it.get(&writer));
        joined.push(match same.find(|state| state.bytes() == value.value()) {
            Some(state) => state.clone(),
            None => StateRow::read(key.value(), value.value())?.state,
        });
    }
    Ok(heads_of(&joined))
}

/// The objects of the heads that there are with these states joined, all of one repo.
pub(crate) fn heads_of<'a>(joined: impl IntoIterator<Item = &'a SignedState>) -> Vec<Link> {
    let joined: Vec<&State> = joined.into_iter().map(SignedState::state).collect();
    let Some(kind) = joined.first().map(|state| state.kind) else { return Vec::new() };
    heads(joined).into_iter().map(|head| kind.head_link(head.id)).collect()
}

/// The joined states with `state` in its writer's place.
fn states_with<'a>(
    joined: &'a BTreeMap<Writer, SignedState>,
    state: &'a SignedState,
) -> impl Iterator<Item = &'a State> {
    let writer = state.state().writer;
    let others = joined.values().filter(move |other| other.state().writer != writer);
    others.chain([state]).map(SignedState::state)
}

/// Whether each head that there would be with `state` says what its writer's state says.
pub(crate) fn check_heads(
    joined: &BTreeMap<Writer, SignedState>,
    state: &SignedState,
    snapshots: &BTreeMap<ObjectId, Snapshot>,
) -> Result<(), (Link, DecodeError)> {
    for state in states_with(joined, state) {
        for link in state.head_links() {
            if let Some(snapshot) = snapshots.get(&link.id) {
                state.check_snapshot(snapshot).map_err(|error| (link, error))?;
            }
        }
    }
    Ok(())
}

/// A state as a row of the index.
pub(crate) struct StateRow {
    pub(crate) slot: Slot,
    pub(crate) state: SignedState,
}

impl StateRow {
    /// Reads a row; what the disk returns is verified like what a peer sends.
    pub(crate) fn read(key: &[u8], value: &[u8]) -> Result<Self, IndexError> {
        let damaged = IndexError::Damaged { table: "states" };
        let slot = key.get(4).and_then(|&number| Slot::from_u8(number)).ok_or(damaged.clone())?;
        let state = SignedState::decode(value).map_err(|_| damaged)?;
        Ok(Self { slot, state })
    }
}
