//! The one signed statement of a writer about a repo, and the heads that all states make.

use std::collections::BTreeMap;

use bytes::Bytes;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use rkyv::rancor::Error as ArchiveError;
use rkyv::{Archive, Deserialize, Serialize};

use crate::codec;
use crate::id::{Dot, ObjectId, TopicId, Vector, Writer};
use crate::object::{DecodeError, Link, ObjectKind};
use crate::snapshot::Snapshot;

mod act;

pub use act::{Said, list_again, take_over, update_heads};

/// The most heads that one writer may list. A folder has one; a jj repo has as many as it has
/// unresolved concurrent operations, which jj and ark both work to make few.
pub const MAX_HEADS: usize = 256;
/// The most dots of others that one state may hold to be heads.
pub const MAX_HELD: usize = 1024;
/// The most bytes of a signed state. The bounds of its parts keep it below (see the test), so
/// that a peer's length is refused before anything is read.
pub const MAX_STATE_BYTES: usize = 128 << 10;

/// What is signed begins with this, so that no signature made for another purpose fits.
const SIGNATURE_CONTEXT: &[u8] = b"ark state v1\0";
/// Length of the signature in bytes.
const SIGNATURE_BYTES: usize = 64;
/// The two bytes before the archive: a number that no kind of object has, and the version.
const HEADER: [u8; 2] = [0x80, 1];

/// What a repo is. The numbers are part of the format.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum RepoKind {
    /// A watched folder; heads are snapshots.
    Folder = 0,
    /// A jujutsu repository; heads are operations.
    Jj = 1,
}

impl RepoKind {
    /// The kind with this number, if there is one.
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Folder),
            1 => Some(Self::Jj),
            _ => None,
        }
    }

    /// The object of a head of such a repo. All else that it has is linked below its heads.
    pub const fn head_link(self, id: ObjectId) -> Link {
        let kind = match self {
            Self::Folder => ObjectKind::Snapshot,
            Self::Jj => ObjectKind::Operation,
        };
        Link { kind, id }
    }

    /// Whether such a repo may have objects of this kind. Those of others are refused wherever they
    /// come from: nothing of the repo links them.
    pub const fn has(self, kind: ObjectKind) -> bool {
        match kind {
            ObjectKind::Raw | ObjectKind::File => true,
            ObjectKind::Directory | ObjectKind::Snapshot => matches!(self, Self::Folder),
            ObjectKind::Commit
            | ObjectKind::Tree
            | ObjectKind::Copy
            | ObjectKind::View
            | ObjectKind::Predecessors
            | ObjectKind::Operation => matches!(self, Self::Jj),
        }
    }
}

/// A head of a writer's own.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Archive, Serialize, Deserialize,
)]
pub struct Head {
    /// The head's object: in a folder repo a snapshot, in a jj repo an operation.
    pub id: ObjectId,
    /// The sequence of the act that made it a head, from 1.
    pub sequence: u64,
}

/// What a writer says about a repo. A higher revision replaces the last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    /// The repo.
    pub topic: TopicId,
    /// What the repo is.
    pub kind: RepoKind,
    /// Who says this.
    pub writer: Writer,
    /// Its count of states of this repo, from 1.
    pub revision: u64,
    /// Its own heads, in order of sequence, ids and sequences distinct. At most [`MAX_HEADS`];
    /// in a folder repo at most one.
    pub heads: Vec<Head>,
    /// What it has taken in, its own acts included. In a folder repo its snapshot's vector.
    pub vector: Vector,
    /// Of the dots of others that it has taken in, those that it still holds to be heads:
    /// sorted, distinct, at most [`MAX_HELD`]. Empty in a folder repo.
    pub held: Vec<Dot>,
}

/// The archive of a state.
#[derive(Archive, Serialize, Deserialize)]
struct Wire {
    topic: TopicId,
    kind: u8,
    writer: Writer,
    revision: u64,
    heads: Vec<Head>,
    vector: Vec<Dot>,
    held: Vec<Dot>,
}

impl State {
    /// The objects of its heads: what must be here whole before the state is joined.
    pub fn head_links(&self) -> Vec<Link> {
        self.heads.iter().map(|head| self.kind.head_link(head.id)).collect()
    }

    /// The dots of its own heads.
    pub fn head_dots(&self) -> impl Iterator<Item = Dot> + '_ {
        self.heads.iter().map(|head| Dot { writer: self.writer, sequence: head.sequence })
    }

    /// Whether the state and the snapshot of its head say the same: to be asked before joining,
    /// because whoever joins merges by the snapshot's vector and decides what is a head by the
    /// state's.
    ///
    /// # Errors
    /// They do not.
    pub fn check_snapshot(&self, snapshot: &Snapshot) -> Result<(), DecodeError> {
        if snapshot.vector == self.vector {
            Ok(())
        } else {
            invalid("its vector is not its snapshot's")
        }
    }

    /// Whether its own states take in `dot` without holding it any more.
    fn has_dropped(&self, dot: Dot) -> bool {
        dot.writer != self.writer && self.vector.has(dot) && self.held.binary_search(&dot).is_err()
    }

    fn validate(&self) -> Result<(), DecodeError> {
        if self.revision == 0 {
            return invalid("revision 0");
        }
        if self.heads.len() > MAX_HEADS || self.held.len() > MAX_HELD {
            let (heads, held) = (self.heads.len(), self.held.len());
            return invalid(format!("{heads} heads and {held} dots held: too many"));
        }
        if !self.heads.is_sorted_by(|a, b| a.sequence < b.sequence) {
            return invalid("its heads are not in order of distinct sequences");
        }
        if self.heads.first().is_some_and(|head| head.sequence == 0) {
            return invalid("a head with a sequence of 0");
        }
        let mut ids: Vec<_> = self.heads.iter().map(|head| head.id).collect();
        ids.sort_unstable();
        if !ids.is_sorted_by(|a, b| a < b) {
            return invalid("a head is listed twice");
        }
        if !self.head_dots().all(|dot| self.vector.has(dot)) {
            return invalid("it has not taken in its own head");
        }
        if !self.held.is_sorted_by(|a, b| a < b) {
            return invalid("the dots held are not sorted and distinct");
        }
        if self.held.iter().any(|dot| dot.sequence == 0 || dot.writer == self.writer) {
            return invalid("it holds a dot of its own, or a sequence of 0");
        }
        if !self.held.iter().all(|&dot| self.vector.has(dot)) {
            return invalid("it holds a dot that it has not taken in");
        }
        match self.kind {
            RepoKind::Folder => self.validate_folder(),
            RepoKind::Jj => Ok(()),
        }
    }

    fn validate_folder(&self) -> Result<(), DecodeError> {
        if self.heads.len() > 1 || !self.held.is_empty() {
            return invalid("a folder's writer has one head at most and holds no others");
        }
        // A vector beyond the head would drop heads that nobody has merged: others' where there
        // is no head at all, its own to come where it speaks of later acts than the head's.
        let own = self.heads.first().map_or(0, |head| head.sequence);
        if self.vector.get(self.writer) != own || (own == 0 && !self.vector.is_empty()) {
            return invalid("it has taken in what its head has not");
        }
        Ok(())
    }

    fn to_wire(&self) -> Wire {
        Wire {
            topic: self.topic,
            kind: self.kind as u8,
            writer: self.writer,
            revision: self.revision,
            heads: self.heads.clone(),
            vector: self.vector.to_wire(),
            held: self.held.clone(),
        }
    }

    fn from_wire(wire: Wire) -> Result<Self, DecodeError> {
        let Some(kind) = RepoKind::from_u8(wire.kind) else {
            return invalid(format!("an unknown kind of repo, {}", wire.kind));
        };
        Vector::validate_wire(&wire.vector).map_err(|reason| DecodeError::State { reason })?;
        let vector = wire.vector.into_iter().map(|dot| (dot.writer, dot.sequence)).collect();
        let Wire { topic, writer, revision, heads, held, .. } = wire;
        let state = Self { topic, kind, writer, revision, heads, vector, held };
        state.validate()?;
        Ok(state)
    }
}

fn invalid<T>(reason: impl Into<String>) -> Result<T, DecodeError> {
    Err(DecodeError::State { reason: reason.into() })
}

/// A state with its signature, verified, as it travels and is kept: verbatim. Cheap to clone.
///
/// Its bytes are the signature (64 bytes, ed25519 by the writer's device over a context and the
/// rest), a header of two bytes, then an archive.
#[derive(Clone)]
pub struct SignedState {
    state: std::sync::Arc<State>,
    bytes: Bytes,
    hash: ObjectId,
}

impl SignedState {
    /// Signs `state`, whose heads and held dots are brought into order.
    ///
    /// # Errors
    /// A state that no peer would accept, or a key that is not its device's.
    pub fn sign(mut state: State, key: &SigningKey) -> Result<Self, DecodeError> {
        state.heads.sort_unstable_by_key(|head| head.sequence);
        state.held.sort_unstable();
        let wire = state.to_wire();
        Vector::validate_wire(&wire.vector).map_err(|reason| DecodeError::State { reason })?;
        state.validate()?;
        let device = state.writer.device;
        if key.verifying_key().as_bytes() != device.as_bytes() {
            return Err(DecodeError::Signature { device });
        }
        let mut signed = SIGNATURE_CONTEXT.to_vec();
        signed.extend_from_slice(&HEADER);
        signed.extend_from_slice(&codec::archive(&wire));
        let mut bytes = key.sign(&signed).to_bytes().to_vec();
        bytes.extend_from_slice(&signed[SIGNATURE_CONTEXT.len()..]);
        let hash = ObjectId::of(&bytes);
        Ok(Self { state: state.into(), bytes: bytes.into(), hash })
    }

    /// Reads a state from a peer or a disk: the signature verified, every rule checked.
    ///
    /// # Errors
    /// Bytes that [`SignedState::sign`] would not have made.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_STATE_BYTES {
            return invalid(format!("{} bytes, more than {MAX_STATE_BYTES}", bytes.len()));
        }
        let Some((signature, body)) = bytes.split_first_chunk::<SIGNATURE_BYTES>() else {
            return invalid("shorter than a signature");
        };
        let Some(archive) = body.strip_prefix(&HEADER) else {
            return invalid("its header is of another kind, or of a newer version");
        };
        let wire = rkyv::from_bytes::<Wire, ArchiveError>(archive)
            .map_err(|error| DecodeError::State { reason: error.to_string() })?;
        if codec::archive(&wire).as_slice() != archive {
            return invalid("not in canonical form");
        }
        verify(&wire.writer, signature, body)?;
        let state = State::from_wire(wire)?.into();
        let bytes = Bytes::copy_from_slice(bytes);
        Ok(Self { state, hash: ObjectId::of(&bytes), bytes })
    }

    /// What it says.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The bytes: signature, header, archive.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The hash of [`SignedState::bytes`].
    pub fn hash(&self) -> ObjectId {
        self.hash
    }

    /// Whether it replaces `other`, a state of the same writer and repo: a higher revision, or
    /// of two states of one revision (which only a broken writer makes) the greater hash.
    pub fn replaces(&self, other: &Self) -> bool {
        (self.state.revision, self.hash) > (other.state.revision, other.hash)
    }
}

impl PartialEq for SignedState {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for SignedState {}

impl std::fmt::Debug for SignedState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let State { writer, revision, .. } = &*self.state;
        write!(f, "SignedState({writer:?} r{revision} {})", self.hash.short())
    }
}

fn verify(
    writer: &Writer,
    signature: &[u8; SIGNATURE_BYTES],
    body: &[u8],
) -> Result<(), DecodeError> {
    let wrong = |_| DecodeError::Signature { device: writer.device };
    let key = VerifyingKey::from_bytes(writer.device.as_bytes()).map_err(wrong)?;
    let mut signed = SIGNATURE_CONTEXT.to_vec();
    signed.extend_from_slice(body);
    // Strict: also refuses keys of small order, under which one signature fits many messages.
    key.verify_strict(&signed, &Signature::from_bytes(signature)).map_err(wrong)
}

/// A head of a repo, as all states together make it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinedHead {
    /// The head's object.
    pub id: ObjectId,
    /// The acts that made it a head: sorted, distinct, never empty. Several where writers made
    /// the same head on their own.
    pub dots: Vec<Dot>,
}

/// The heads of a repo: a pure function of the newest joined state of each writer.
///
/// A head with dot d of writer w counts while w's own state lists it and no other writer's
/// state has taken d in without still holding it. Heads of equal id are one head with all their
/// dots. Sorted by first dot.
///
/// `states` has one state per writer, in any order, of one repo.
pub fn heads<'a>(states: impl IntoIterator<Item = &'a State>) -> Vec<JoinedHead> {
    let states: Vec<&State> = states.into_iter().collect();
    let mut by_id: BTreeMap<ObjectId, Vec<Dot>> = BTreeMap::new();
    for state in &states {
        for (head, dot) in state.heads.iter().zip(state.head_dots()) {
            if !states.iter().any(|other| other.has_dropped(dot)) {
                by_id.entry(head.id).or_default().push(dot);
            }
        }
    }
    let mut heads: Vec<_> = by_id
        .into_iter()
        .map(|(id, mut dots)| {
            dots.sort_unstable();
            JoinedHead { id, dots }
        })
        .collect();
    heads.sort_unstable_by(|a, b| a.dots.cmp(&b.dots));
    heads
}

#[cfg(test)]
mod tests;
