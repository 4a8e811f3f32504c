//! What the engine knows, as the status shows it.

use ark_sync::{Amount, PeerView, View};
use tokio::time::Instant;

use super::{Driver, SHOW_INTERVAL};
use crate::options::{Remote, RepoOptions};
use crate::status::{Behind, RemoteStatus, RepoStatus};

impl Driver {
    /// Brings the status up to date: always when nothing else waits, else now and then.
    pub(super) fn show(&mut self, idle: bool) {
        let recent = self.shown_at.is_some_and(|at| at.elapsed() < SHOW_INTERVAL);
        if !idle && recent {
            return;
        }
        self.shown_at = Some(Instant::now());
        self.board.show(self.status());
    }

    /// How things stand now.
    pub(super) fn status(&self) -> RepoStatus {
        status(&self.options, &self.engine.view(), |remote| {
            self.refused_by.get(&remote.device).copied().unwrap_or(false)
        })
    }
}

/// The status of a repo whose engine shows `view`.
pub(crate) fn status(
    options: &RepoOptions,
    view: &View,
    refused_by: impl Fn(&Remote) -> bool,
) -> RepoStatus {
    let mut remotes: Vec<RemoteStatus> = options
        .remotes
        .iter()
        .map(|remote| {
            let peer = view.peers.get(&remote.device).cloned().unwrap_or_default();
            remote_status(remote, peer, refused_by(remote))
        })
        .collect();
    remotes.sort_by_key(|remote| remote.device);
    RepoStatus {
        id: options.id.clone(),
        topic: options.topic,
        remotes,
        known: view.known.clone(),
        durable: view.durable.clone(),
        applied: view.applied.clone(),
        staged: view.staged,
        stuck: view.stuck.clone(),
        requests: view.requests,
        behind: behind(view.missing),
        received: behind(view.received),
        reconciliation: view.reconciliations,
        ignored: view.counters,
        problems: view.problems.iter().map(ToString::to_string).collect(),
    }
}

fn remote_status(remote: &Remote, peer: PeerView, refuses_us: bool) -> RemoteStatus {
    RemoteStatus {
        device: remote.device,
        name: remote.name.clone(),
        connected: peer.connected,
        in_touch: peer.in_touch,
        refuses_us,
        scanned: peer.scanned,
        has_folder: peer.folder,
        granted: peer.granted,
        listed: peer.listed,
        durable: peer.durable,
        applied: peer.applied,
        behind: behind(peer.behind),
    }
}

fn behind(amount: Amount) -> Behind {
    Behind { objects: amount.objects, bytes: amount.bytes }
}
