//! What gossip carries, before it is sealed.

use ark_core::{Link, SignedState};
use rkyv::with::Map;
use rkyv::{Archive, Deserialize, Serialize};

use crate::message::SummaryEntry;
use crate::wire::{self, Body, LinkWire, WireError};

/// The most bytes of an announcement before it is sealed. Sealed it may have 3,900 (iroh-gossip
/// drops what is over 4,096 with its own header); a nonce of 24 and a tag of 16 bytes are added,
/// and 20 bytes are left for a version and what may come.
pub const MAX_ANNOUNCEMENT_BYTES: usize = 3_840;

/// What is announced.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum Announced {
    /// The state itself, signed, verbatim.
    State(Vec<u8>),
    /// A state too large to be carried: to be asked for.
    Named(SummaryEntry),
}

/// A writer's own newest state and, where they fit, the objects new since its previous one. A
/// hint only: losing every one costs latency, never correctness.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Announcement {
    /// The state.
    pub state: Announced,
    /// New objects: all, or the structured ones, or none.
    #[rkyv(with = Map<LinkWire>)]
    pub new: Vec<Link>,
}

/// Bytes of one link in an announcement.
const LINK_BYTES: usize = 33;

impl Announcement {
    /// Announces `state` with as much of `new` as fits: all, else the structured ones (whoever
    /// has them knows what content to ask for), else none; by name where the state alone is too
    /// large.
    pub fn fitting(state: &SignedState, new: &[Link]) -> Self {
        let structured = new.iter().copied().filter(|link| link.kind.is_structured()).collect();
        for links in [new.to_vec(), structured, Vec::new()] {
            if state.bytes().len() + links.len() * LINK_BYTES > MAX_ANNOUNCEMENT_BYTES {
                continue;
            }
            let announcement = Self { state: Announced::State(state.bytes().to_vec()), new: links };
            if announcement.encode().len() <= MAX_ANNOUNCEMENT_BYTES {
                return announcement;
            }
        }
        Self { state: Announced::Named(SummaryEntry::of(state)), new: Vec::new() }
    }

    /// The encoding, not sealed.
    pub fn encode(&self) -> Vec<u8> {
        wire::encode(self)
    }

    /// Decodes what was unsealed: strictly what [`Announcement::encode`] makes of a valid one.
    ///
    /// # Errors
    /// Anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode(bytes)
    }
}

impl Body for Announcement {
    const LIMIT: usize = MAX_ANNOUNCEMENT_BYTES;

    fn validate(&self) -> Result<(), WireError> {
        match &self.state {
            Announced::Named(SummaryEntry { revision: 0, .. }) => {
                Err(WireError::Invalid("an announcement of revision 0"))
            }
            Announced::Named(_) if !self.new.is_empty() => {
                Err(WireError::Invalid("new objects beside a state that is only named"))
            }
            _ => Ok(()),
        }
    }
}
