//! What the unit tests of several modules use.

use std::collections::BTreeSet;

use ark_core::{DeviceId, Incarnation, TopicId, Writer};
use ark_net::{Behind, Counters, Reconciliations, RemoteStatus, RepoStatus, Role};

use super::wait::Revisions;

pub(super) fn device(number: u8) -> DeviceId {
    DeviceId::from_bytes([number; 32])
}

pub(super) fn writer(number: u8) -> Writer {
    Writer { device: device(number), incarnation: Incarnation::new(1) }
}

pub(super) fn revisions(pairs: &[(u8, u64)]) -> Revisions {
    pairs.iter().map(|&(number, revision)| (writer(number), revision)).collect()
}

/// A remote with a folder that has said everything and has applied what it stored.
pub(super) fn remote(has: &[(u8, u64)]) -> RemoteStatus {
    RemoteStatus {
        device: device(9),
        name: "nine".to_owned(),
        connected: true,
        in_touch: true,
        refuses_us: false,
        scanned: true,
        has_folder: true,
        granted: Some(Role::Peer),
        listed: None,
        durable: revisions(has),
        applied: revisions(has),
        behind: Behind::default(),
    }
}

/// A repo of which these revisions are known, whether they are in the store or not.
pub(super) fn shared(known: &[(u8, u64)]) -> RepoStatus {
    RepoStatus {
        id: "repo".to_owned(),
        topic: TopicId::derive("repo", None),
        remotes: Vec::new(),
        known: revisions(known),
        durable: Revisions::new(),
        applied: Revisions::new(),
        staged: 0,
        stuck: BTreeSet::new(),
        requests: 0,
        behind: Behind::default(),
        received: Behind::default(),
        reconciliation: Reconciliations::default(),
        ignored: Counters::default(),
        problems: Vec::new(),
    }
}
