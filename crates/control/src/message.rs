//! What is asked of a daemon, and what it says. The field names of [`Status`] are the keys of
//! `ark status --json`: keys may be added, not renamed.

use rkyv::{Archive, Deserialize, Serialize};

/// A question to the daemon.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum Request {
    /// What is in step, what is moving, who is connected.
    Status,
    /// The same, again and again: at once, and then whenever it may have changed, at most every
    /// `interval_ms` milliseconds.
    Watch {
        /// The shortest time between two answers.
        interval_ms: u64,
    },
    /// Answered when the repos asked are in step, or at the timeout.
    Wait {
        /// The repo's id; `None`: all of them.
        repo: Option<String>,
        /// How long, in milliseconds.
        timeout_ms: u64,
    },
    /// From here on the connection is a conversation of jj's, see [`crate::jj`].
    Jj {
        /// Its version, [`JJ_VERSION`](crate::jj::JJ_VERSION).
        version: u16,
        /// The repo's id.
        repo: String,
    },
}

/// The daemon's answer.
#[derive(Clone, PartialEq, Debug, Archive, Serialize, Deserialize)]
pub enum Response {
    /// To [`Request::Status`] and [`Request::Watch`].
    Status(Status),
    /// To [`Request::Wait`].
    Wait(WaitOutcome),
    /// To [`Request::Jj`]: granted.
    Jj,
    /// The request cannot be answered; the text says why.
    Refused(String),
}

/// How a wait ended.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum WaitOutcome {
    /// Everything asked for is in step.
    InStep,
    /// It is not; what is missing, a line each.
    Missing(Vec<String>),
    /// There is no repo of that id.
    UnknownRepo,
}

/// Everything `ark status` tells.
#[derive(Clone, PartialEq, Debug, Archive, Serialize, Deserialize, serde::Serialize)]
pub struct Status {
    /// This device's id, 64 hex digits.
    pub device: String,
    /// The daemon's version.
    pub version: String,
    /// The addresses it listens on, with their ports.
    pub listening: Vec<String>,
    /// The repos, in the order of the config.
    pub repos: Vec<RepoStatus>,
    /// Every device that the config names.
    pub peers: Vec<PeerStatus>,
    /// Devices that were refused.
    pub refused: Vec<RefusedPeer>,
}

/// One repo.
#[derive(Clone, PartialEq, Debug, Archive, Serialize, Deserialize, serde::Serialize)]
pub struct RepoStatus {
    /// Its id in the config.
    pub id: String,
    /// `"folder"`, `"jj"` for a jj repository, or `"mirror"` where this device only holds what may
    /// become either.
    pub kind: String,
    /// `"in-step"`, `"syncing"`, `"waiting"` or `"error"`.
    pub state: String,
    /// The heads, 64 hex digits each: equal on devices that are in step.
    pub heads: Vec<String>,
    /// How many states of others are known whose content is not here yet.
    pub staged: u64,
    /// What is still to be pulled, as far as it is known.
    pub pending: Amount,
    /// Files in the folder.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Where on this machine the folder is.
    pub folder: Option<String>,
    /// Whether the first scan since the daemon started is done.
    pub scanned: bool,
    /// Names shown for versions set aside by a conflict.
    pub conflicts: Vec<String>,
    /// What is wrong, a sentence each.
    pub problems: Vec<String>,
    /// What is under way in the folder.
    pub progress: Option<Progress>,
    /// How the pull of `pending` goes.
    pub receiving: Option<Progress>,
    /// What comparing the repo's objects with other devices' took, since the daemon started.
    pub reconciliation: Reconciliation,
}

/// What it took to find out, set against set, which objects one of two devices lacks. Where all
/// that was announced came, none is needed.
#[derive(
    Clone, Copy, PartialEq, Eq, Default, Debug, Archive, Serialize, Deserialize, serde::Serialize,
)]
pub struct Reconciliation {
    /// How often it was done, begun by either side.
    pub sessions: u64,
    /// Round trips in all, of those that this device began.
    pub round_trips: u64,
    /// Those of the last one.
    pub last_round_trips: u64,
    /// Bytes sent for it.
    pub sent_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
}

/// An amount of data.
#[derive(
    Clone, Copy, PartialEq, Eq, Default, Debug, Archive, Serialize, Deserialize, serde::Serialize,
)]
pub struct Amount {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How far a piece of long work is. Totals are 0 where they are not known.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize, serde::Serialize)]
pub struct Progress {
    /// `"scanning"`, `"publishing"`, `"applying"`, `"receiving"` or `"sending"`.
    pub phase: String,
    /// Files, or objects, done.
    pub items_done: u64,
    /// Files, or objects, in all.
    pub items_total: u64,
    /// Bytes done.
    pub bytes_done: u64,
    /// Bytes in all.
    pub bytes_total: u64,
    /// Milliseconds since it began.
    pub elapsed_ms: u64,
    /// How fast it goes.
    pub bytes_per_second: u64,
    /// Seconds until it is done, at that rate.
    pub seconds_left: Option<u64>,
}

/// One device that the config names.
#[derive(Clone, PartialEq, Debug, Archive, Serialize, Deserialize, serde::Serialize)]
pub struct PeerStatus {
    /// Its name in the config.
    pub name: String,
    /// Its id, 64 hex digits.
    pub node_id: String,
    /// Whether it is connected.
    pub connected: bool,
    /// `"direct"`, `"relay"` or `"none"`.
    pub path: String,
    /// Why it is not connected, where that is known.
    pub problem: Option<String>,
    /// Round-trip time in milliseconds.
    pub rtt_ms: Option<f64>,
    /// When it was last connected (RFC 3339, UTC).
    pub last_seen: Option<String>,
    /// Stream and gossip payload received since the daemon started, discarded included.
    pub rx_bytes: u64,
    /// Likewise sent.
    pub tx_bytes: u64,
    /// The repos that it is listed for.
    pub repos: Vec<PeerRepo>,
}

/// What a peer lacks of one repo.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize, serde::Serialize)]
pub struct PeerRepo {
    /// The repo's id.
    pub id: String,
    /// What the config here lets the device do: `"peer"`, `"reader"` or `"mirror"`.
    pub role: String,
    /// What its config lets this device do; absent until it said.
    pub granted: Option<String>,
    /// Whether both sides list each other for it and talk about it.
    pub connected: bool,
    /// Whether it said that it does not list this device for it.
    pub refused: bool,
    /// Whether it has said that its first scan is done.
    pub scanned: bool,
    /// What it is known to lack.
    pub behind: Amount,
    /// How its pull goes.
    pub sending: Option<Progress>,
}

/// A device that wanted to connect and is not in the config.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize, serde::Serialize)]
pub struct RefusedPeer {
    /// Its id, 64 hex digits.
    pub node_id: String,
    /// When it last tried (RFC 3339, UTC).
    pub last_seen: String,
    /// The line under `remotes` that would admit it.
    pub admit: String,
}
