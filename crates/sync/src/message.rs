//! The messages of `ark/sync/1`: one stream per pair of devices and repo, [`Hello`] first; and the
//! first frames of the streams that are opened for one purpose beside it.

use std::fmt;

use ark_core::{
    DeviceId, MAX_STATE_BYTES, MAX_WRITERS, ObjectId, RepoKind, SignedState, TopicId, Writer,
};
use rkyv::{Archive, Deserialize, Serialize};

use crate::wire::{self, Body, RepoKindWire, WireError};

/// The version of what is said on the stream. It rises where a message changes its meaning; the
/// ALPN rises where an older side could not even read it.
pub const PROTOCOL: u32 = 4;

/// The most bytes of a frame. Several of the largest states fit, and a peer's claim costs at
/// most this much memory.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// The most devices that one repo lists. Far more than any person owns, and its list still fits
/// a frame many times over.
pub const MAX_LISTED: usize = 1024;

/// Room in a frame of states for what the archive adds to their bytes, per state and in all.
const STATE_OVERHEAD_BYTES: usize = 32;

/// What a device may do in a repo, as the one that lists it grants.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Archive, Serialize, Deserialize)]
#[repr(u8)]
pub enum Role {
    /// Reads and writes.
    Peer = 0,
    /// Pulls; its states are ignored.
    Reader = 1,
    /// Holds for others: relays, writes nothing.
    Mirror = 2,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Peer => "peer",
            Self::Reader => "reader",
            Self::Mirror => "mirror",
        })
    }
}

/// The first message of either side: what holds for the whole session.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`] of the sender.
    pub protocol: u32,
    /// The repo that the stream is for.
    pub topic: TopicId,
    /// What the repo is at the sender's; `None` where nothing has decided it yet.
    #[rkyv(with = RepoKindWire)]
    pub kind: Option<RepoKind>,
    /// What the sender lets the receiver do.
    pub role: Role,
    /// Whether the sender has a folder for the repo, and so owes `applied`.
    pub folder: bool,
    /// The devices whose states the sender takes, itself included: it owes nothing for others,
    /// and so not for those that it lists as readers or mirrors.
    /// Sorted, distinct, at most [`MAX_LISTED`].
    pub listed: Vec<DeviceId>,
}

/// The newest state that the sender knows of one writer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct SummaryEntry {
    /// Whose state.
    pub writer: Writer,
    /// Its revision, from 1.
    pub revision: u64,
    /// Its hash: of two states of one revision the greater stands.
    pub hash: ObjectId,
}

impl SummaryEntry {
    /// Names `state`.
    pub fn of(state: &SignedState) -> Self {
        let (writer, revision) = (state.state().writer, state.state().revision);
        Self { writer, revision, hash: state.hash() }
    }
}

/// What the sender has of one writer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct HaveEntry {
    /// Whose states.
    pub writer: Writer,
    /// The newest revision whose closure is durable there, from 1.
    pub durable: u64,
    /// The newest revision that its folder shows; 0 for none. At most `durable`.
    pub applied: u64,
}

/// What the sender has of writers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Archive, Serialize, Deserialize)]
pub struct Have {
    /// Sorted by writer, distinct, at most [`MAX_WRITERS`].
    pub writers: Vec<HaveEntry>,
    /// Whether its first scan is done. True where there is no folder to scan.
    pub scanned: bool,
}

/// A message of `ark/sync/1`.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum Message {
    /// The first message, once.
    Hello(Hello),
    /// The newest states known, staged ones included: the other side sends what is missing or
    /// older here. Sorted by writer, distinct, at most [`MAX_WRITERS`].
    Summary(Vec<SummaryEntry>),
    /// Asks for the newest joined states of these writers. Sorted, distinct, at most
    /// [`MAX_WRITERS`].
    WantStates(Vec<Writer>),
    /// Signed states, verbatim, whose closures are durable at the sender's. At least one, each at
    /// most [`MAX_STATE_BYTES`].
    States(Vec<Vec<u8>>),
    /// What is durable and applied at the sender's, of all writers. It replaces what was said
    /// before.
    Have(Have),
    /// The first frame of a stream of its own: begins a reconciliation of the links that both
    /// sides hold. The frames of `ark_recon` follow. On a repo's stream it is a breach.
    Reconcile {
        /// The repo.
        topic: TopicId,
        /// Never used before by the sender on this connection for this repo.
        epoch: u64,
    },
    /// The first frame of a stream of its own, and the only one: asks whether the receiver lists
    /// the sender for this repo. Answered by the stream's end, or its reset where it does not. On
    /// a repo's stream it is a breach.
    Ask(TopicId),
    /// Takes the place of [`Hello::listed`]: the sender's config has changed. Likewise sorted,
    /// distinct, at most [`MAX_LISTED`].
    Listed(Vec<DeviceId>),
    /// What has changed since the last [`Message::Have`] or message like this on the stream, of
    /// which there was one: entries of other writers stand. In a mesh of n devices an edit makes
    /// n of these for each of n - 1 others, so they must not name all n writers.
    HaveChanged(Have),
}

impl Message {
    /// The encoding, without the frame's length. At most [`MAX_FRAME_BYTES`].
    pub fn encode(&self) -> Vec<u8> {
        wire::encode(self)
    }

    /// Decodes a frame's body: strictly what [`Message::encode`] makes of a valid message.
    ///
    /// # Errors
    /// Anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode(bytes)
    }

    /// Splits states over as many messages as their bytes need.
    pub(crate) fn states(states: impl IntoIterator<Item = Vec<u8>>) -> Vec<Self> {
        let mut messages = Vec::new();
        let mut batch = Vec::new();
        let mut length = STATE_OVERHEAD_BYTES;
        for state in states {
            let more = state.len() + STATE_OVERHEAD_BYTES;
            if length + more > MAX_FRAME_BYTES && !batch.is_empty() {
                messages.push(Self::States(std::mem::take(&mut batch)));
                length = STATE_OVERHEAD_BYTES;
            }
            length += more;
            batch.push(state);
        }
        if !batch.is_empty() {
            messages.push(Self::States(batch));
        }
        messages
    }
}

impl Body for Message {
    const LIMIT: usize = MAX_FRAME_BYTES;

    fn validate(&self) -> Result<(), WireError> {
        match self {
            Self::Hello(Hello { listed, .. }) | Self::Listed(listed) => {
                ordered(listed, MAX_LISTED, "a list of devices", |device| *device)
            }
            Self::Summary(entries) => {
                if entries.iter().any(|entry| entry.revision == 0) {
                    return Err(WireError::Invalid("a summary with revision 0"));
                }
                ordered(entries, MAX_WRITERS, "a summary", |entry| entry.writer)
            }
            Self::WantStates(writers) => {
                ordered(writers, MAX_WRITERS, "a wish for states", |writer| *writer)
            }
            Self::States(states) => {
                if states.is_empty() || states.len() > MAX_WRITERS {
                    return Err(WireError::Invalid("no states, or more than writers may be"));
                }
                if states.iter().any(|state| state.len() > MAX_STATE_BYTES) {
                    return Err(WireError::Invalid("a state longer than any may be"));
                }
                Ok(())
            }
            Self::Have(have) | Self::HaveChanged(have) => {
                if have.writers.iter().any(|entry| entry.durable == 0) {
                    return Err(WireError::Invalid("a have with revision 0"));
                }
                if have.writers.iter().any(|entry| entry.applied > entry.durable) {
                    return Err(WireError::Invalid("a have with more applied than durable"));
                }
                ordered(&have.writers, MAX_WRITERS, "a have", |entry| entry.writer)
            }
            Self::Reconcile { .. } | Self::Ask(_) => Ok(()),
        }
    }
}

fn ordered<T, K: Ord>(
    items: &[T],
    limit: usize,
    what: &'static str,
    key: impl Fn(&T) -> K,
) -> Result<(), WireError> {
    // The text names the list; that it is too long or out of order is all that can be wrong.
    if items.len() > limit || !items.is_sorted_by(|a, b| key(a) < key(b)) {
        return Err(WireError::Invalid(what));
    }
    Ok(())
}
