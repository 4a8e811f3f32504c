//! What the network side is started with. Values are checked by whoever read them (the config);
//! nothing here is parsed.

use std::net::SocketAddr;

use ark_core::{DeviceId, SealingKey, TopicId};
use iroh::{RelayUrl, SecretKey};

pub use ark_sync::Role;

/// [`Options::enumerate_threshold`] where nobody chose another: fewer links than this cost less to
/// list than what tells them apart.
pub const DEFAULT_ENUMERATE_THRESHOLD: usize = 8;

/// How the endpoint is opened. Only what is named here is opened, and with [`Relay::Disabled`],
/// no discovery, no port mapping and loopback binds nothing leaves the machine.
#[derive(Clone, Debug)]
pub struct Options {
    /// The device's key; its public half is the device id.
    pub secret_key: SecretKey,
    /// The UDP addresses to listen on, and no others; empty: any free port, on IPv4 and, where
    /// the system has it, IPv6.
    pub bind: Vec<SocketAddr>,
    /// Through which relays devices that cannot reach each other directly may talk.
    pub relay: Relay,
    /// How addresses of devices are looked up, and this device's published. Empty: not at all.
    pub discovery: Vec<Discovery>,
    /// Whether to ask the router to forward a port (`UPnP`, NAT-PMP, PCP).
    pub port_mapping: bool,
    /// A bucket of at most so many links that differs is told in a reconciliation by listing them.
    pub enumerate_threshold: usize,
    /// For tests: all gossip that arrives is dropped. No config says so.
    pub lose_gossip: bool,
}

#[cfg(test)]
impl Options {
    /// A device of this key on a free port of loopback, that nothing leads to and from but what a
    /// test says.
    pub(crate) fn on_loopback(secret_key: SecretKey) -> Self {
        Self {
            secret_key,
            bind: vec![(std::net::Ipv4Addr::LOCALHOST, 0).into()],
            relay: Relay::Disabled,
            discovery: Vec::new(),
            port_mapping: false,
            enumerate_threshold: DEFAULT_ENUMERATE_THRESHOLD,
            lose_gossip: false,
        }
    }
}

/// Which relay servers are used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Relay {
    /// The public ones of n0.
    Default,
    /// None.
    Disabled,
    /// These.
    Urls(Vec<RelayUrl>),
}

/// A way to find the addresses of a device by its id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Discovery {
    /// DNS records, published by pkarr over the public servers of n0.
    Dns,
    /// Multicast DNS on the local network.
    Mdns,
    /// The mainline DHT.
    Dht,
}

/// One repo that is kept in step.
#[derive(Clone, Debug)]
pub struct RepoOptions {
    /// The id in the config: for texts only, never sent.
    pub id: String,
    /// The id on the wire.
    pub topic: TopicId,
    /// Seals gossip payloads.
    pub sealing: SealingKey,
    /// Where its objects and states are.
    pub repo: ark_store::Repo,
    /// The other devices of the repo.
    pub remotes: Vec<Remote>,
    /// Whether a folder shows the repo on this device: then its `applied` is owed to others.
    pub has_folder: bool,
}

/// A device that a repo lists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remote {
    /// Its name in the config, for texts.
    pub name: String,
    /// Its id.
    pub device: DeviceId,
    /// What it may do in the repo.
    pub role: Role,
    /// Addresses to try; others may be found by discovery.
    pub addrs: Vec<SocketAddr>,
    /// Its home relay, where known.
    pub relay: Option<RelayUrl>,
}
