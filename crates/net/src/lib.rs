//! Drives `sync` and `recon` over one iroh endpoint: gossip, the sync and object protocols,
//! discovery, access.
//!
//! - Only devices that the config names connect, checked on the authenticated id, in both
//!   directions; per repo, a device reads or is told only what it is listed for.
//! - Nothing a peer sends is believed: frames are bounded before they are read, objects are
//!   hashed against the link that was asked for, states are verified before anything else.
//! - Every queue is bounded. A peer that does not keep up is disconnected, and a summary
//!   exchange on reconnection makes good what it missed.
//! - With relay disabled, no discovery, no port mapping and loopback binds, nothing leaves the
//!   machine.

mod accept;
mod access;
mod backoff;
mod blobs;
mod board;
mod endpoint;
mod error;
mod frame;
mod gossip;
mod lane;
mod net;
mod network;
mod objects;
mod options;
mod outbox;
mod peer;
mod reconcile;
mod repo;
mod seal;
mod session;
mod shared;
mod status;

pub use ark_sync::{Counters, Reconciliations};
pub use error::StartError;
pub use net::{Net, Past};
pub use options::{
    DEFAULT_ENUMERATE_THRESHOLD, Discovery, Options, Relay, Remote, RepoOptions, Role,
};
pub use status::{Behind, NetStatus, PathKind, PeerStatus, Refused, RemoteStatus, RepoStatus};
