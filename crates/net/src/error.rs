//! Why the network side does not start.

use std::io;
use std::net::SocketAddr;

use ark_core::{DeviceId, TopicId};
use iroh::endpoint::BindError;

/// Why [`Net::start`](crate::Net::start) failed. Nothing is left open then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Another program (perhaps another ark) listens there.
    #[error("cannot listen on {addr}: the port is in use by another program")]
    Busy {
        /// The address of the config.
        addr: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}")]
    Bind {
        /// The address of the config.
        addr: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The endpoint could not be opened.
    #[error("cannot open the network endpoint")]
    Endpoint(#[source] Box<BindError>),
    /// The id of a remote is no public key, so no device can have it.
    #[error("remote {name:?}: {device} is not the id of any device")]
    NotADevice {
        /// The remote's name.
        name: String,
        /// The id.
        device: DeviceId,
    },
    /// A repo lists this device itself.
    #[error("remote {name:?} of repo {repo:?} is this device itself")]
    OwnDevice {
        /// The repo's id.
        repo: String,
        /// The remote's name.
        name: String,
    },
    /// Two repos have one topic.
    #[error("two repos have the topic {0}")]
    SameTopic(TopicId),
}
