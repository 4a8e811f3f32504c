//! What an engine knows, as plain data: for `ark status` and `ark wait`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ark_core::{DeviceId, Link, ObjectId, RepoKind, Writer};

use crate::message::Role;
use crate::session::Violation;

/// A picture of one repo's sync. All of it is of one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    /// Newest revision known of every listed writer, whether joined or not.
    pub known: BTreeMap<Writer, u64>,
    /// Newest revision joined of every writer: its closure is durable here.
    pub durable: BTreeMap<Writer, u64>,
    /// Newest revision of every writer that the folder here shows, as the folder said.
    pub applied: BTreeMap<Writer, u64>,
    /// States that are staged, or wait to be.
    pub staged: usize,
    /// The writers whose state to come cannot be joined as things are: nobody connected has it, or
    /// an object of it is invalid. Nothing is owed for these beyond what is durable.
    pub stuck: BTreeSet<Writer>,
    /// Objects known to be missing here; bytes are estimated.
    pub missing: Amount,
    /// Objects received since the start.
    pub received: Amount,
    /// Requests under way.
    pub requests: usize,
    /// Every remote of the config, connected or not.
    pub peers: BTreeMap<DeviceId, PeerView>,
    /// What somebody should know or do; bounded, oldest first.
    pub problems: Vec<Problem>,
    /// What was ignored, since the start.
    pub counters: Counters,
    /// Reconciliations of either side, since the start.
    pub reconciliations: Reconciliations,
}

/// A remote, as far as it told. What it said last stays when it disconnects.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, shown as such")]
pub struct PeerView {
    /// Its stream for this repo stands and it has said its hello.
    pub connected: bool,
    /// It is connected and has said what it has since: all the states that it had to tell came
    /// before. A peer that is connected and not in touch is owed an answer yet.
    pub in_touch: bool,
    /// It has said that its first scan is done, or it has no folder to scan. Where it is
    /// connected, it has said so since: then all the states that it had to tell came before.
    pub scanned: bool,
    /// It has a folder for the repo, and so owes `applied`.
    pub folder: bool,
    /// What it lets this device do, as it said last; `None` until it said.
    pub granted: Option<Role>,
    /// The devices whose states it takes, itself included; `None` until it said. Those that it
    /// lists as readers or mirrors are not among them.
    pub listed: Option<BTreeSet<DeviceId>>,
    /// Per writer the newest revision durable there.
    pub durable: BTreeMap<Writer, u64>,
    /// Per writer the newest revision applied there.
    pub applied: BTreeMap<Writer, u64>,
    /// Joined here, and neither durable there nor of a writer that it does not list. Objects are
    /// counted where they came in since the start; bytes are partly estimated.
    pub behind: Amount,
}

impl PeerView {
    /// Whether it takes states of this writer. Until it said, it is taken to.
    pub fn lists(&self, writer: Writer) -> bool {
        self.listed.as_ref().is_none_or(|listed| listed.contains(&writer.device))
    }
}

/// An amount of data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Amount {
    /// Objects.
    pub objects: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Amount {
    /// The sum, saturating: lengths come from peers.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            objects: self.objects.saturating_add(other.objects),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

/// How often something was ignored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// States that do not decode or whose signature is wrong.
    pub forged: u64,
    /// States known already, or older than what is known.
    pub stale: u64,
    /// States of devices that are not listed here, or that may not write.
    pub unlisted: u64,
    /// States of another repo or kind.
    pub foreign: u64,
    /// Sessions ended for a breach of the protocol.
    pub violations: u64,
    /// Requests that failed or were cut off.
    pub requests_failed: u64,
    /// Objects that a provider did not have.
    pub objects_refused: u64,
}

/// What reconciliations cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reconciliations {
    /// Those in which anything was said.
    pub sessions: u64,
    /// Round trips of those that this device opened.
    pub round_trips: u64,
    /// Round trips of the last one that this device opened.
    pub last_round_trips: u32,
    /// Bytes sent, lengths of frames included.
    pub sent_bytes: u64,
    /// Bytes received, likewise.
    pub received_bytes: u64,
}

/// Something that somebody should know or do. `Display` says it in one sentence.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum Problem {
    /// A state of a device that the config does not list was refused.
    UnlistedWriter {
        /// The device.
        device: DeviceId,
    },
    /// A state of a device was refused, because the config does not let it write.
    NotAWriter {
        /// The device.
        device: DeviceId,
        /// Its name in the config.
        name: String,
        /// What it may do.
        role: Role,
    },
    /// A remote, or a state, says that the repo is of another kind.
    WrongKind {
        /// Who says so.
        device: DeviceId,
        /// What is said.
        found: RepoKind,
    },
    /// A remote speaks another version of the protocol.
    Protocol {
        /// The remote.
        device: DeviceId,
        /// Its version.
        found: u32,
    },
    /// A remote takes nothing that this device writes.
    Role {
        /// The remote.
        device: DeviceId,
        /// What it grants.
        granted: Role,
    },
    /// A remote broke the protocol and was cut off.
    Misbehaved {
        /// The remote.
        device: DeviceId,
        /// What it did.
        violation: Violation,
    },
    /// A writer made two states of one revision.
    Equivocation {
        /// The writer.
        writer: Writer,
        /// The revision.
        revision: u64,
    },
    /// A peer showed a state of this device that it never made.
    OwnFork {
        /// The writer that this device was.
        writer: Writer,
    },
    /// An object of a state's closure is not what its link says: the state is not joined.
    Invalid {
        /// Whose state.
        writer: Writer,
        /// The object.
        link: Link,
        /// What is wrong with it.
        reason: String,
    },
    /// Every connected provider answered that it does not have an object that is needed.
    Unavailable {
        /// Whose state needs it.
        writer: Writer,
        /// One of the objects.
        object: ObjectId,
    },
    /// The store cannot write: what was tried is tried again.
    Store {
        /// What the store says.
        reason: String,
    },
    /// More writers than a repo may have; the ones beyond are refused.
    TooManyWriters,
    /// A state names more writers than can be taken in, and is refused.
    TooManyNamed {
        /// The device whose state it is.
        device: DeviceId,
    },
    /// More incarnations of one device than a repo takes; the ones beyond are refused.
    TooManyIncarnations {
        /// The device.
        device: DeviceId,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnlistedWriter { device } => write!(
                f,
                "states of device {device} are refused, because it is not listed for this repo; \
                 to admit it, add to remotes: {{ name = \"...\", node_id = \"{device}\" }}"
            ),
            Self::NotAWriter { device, name, role } => write!(
                f,
                "states of device {device} are refused, because it is listed here as {role}: what \
                 it writes stays there; to take it, list {{ name = \"{name}\", node_id = \
                 \"{device}\", role = \"peer\" }}"
            ),
            Self::WrongKind { device, found } => write!(
                f,
                "device {device} holds this repo as {}: nothing is exchanged",
                match found {
                    RepoKind::Folder => "a folder",
                    RepoKind::Jj => "a jj repository",
                }
            ),
            Self::Protocol { device, found } => {
                write!(f, "device {device} speaks version {found} of the sync protocol: update it")
            }
            Self::Role { device, granted } => write!(
                f,
                "device {device} takes nothing of what is written here: its config lists this \
                 device as {granted} (role = \"{granted}\")"
            ),
            Self::Misbehaved { device, violation } => {
                write!(f, "device {device} broke the protocol: {violation}")
            }
            Self::Equivocation { writer, revision } => write!(
                f,
                "device {} made two states of revision {revision}: does its key run twice?",
                writer.device
            ),
            Self::OwnFork { writer } => write!(
                f,
                "a peer shows a state of this device ({writer}) that was never made here: a \
                 restored copy, or its key runs twice; it goes on under a new incarnation"
            ),
            Self::Invalid { writer, link, reason } => write!(
                f,
                "the state of device {} cannot be joined: {:?} object {} is invalid: {reason}",
                writer.device, link.kind, link.id
            ),
            Self::Unavailable { writer, object } => write!(
                f,
                "the state of device {} waits: no connected device has object {object}",
                writer.device
            ),
            Self::Store { reason } => {
                write!(f, "the store cannot write, and tries again: {reason}")
            }
            Self::TooManyWriters => {
                f.write_str("more writers than a repo may have: those beyond are refused")
            }
            Self::TooManyNamed { device } => write!(
                f,
                "a state of device {device} names more writers than a repo takes in: it is refused"
            ),
            Self::TooManyIncarnations { device } => write!(
                f,
                "device {device} has begun anew more often than a repo takes: what it writes is \
                 refused. Is its state directory kept when it restarts? Give it a new key"
            ),
        }
    }
}
