//! What is known, as plain data.

use std::collections::BTreeMap;

use ark_core::{DeviceId, Writer};

use super::Engine;
use crate::session::Peer;
use crate::view::{Amount, Counters, PeerView, Problem, View};

impl Engine {
    /// What is known now.
    pub fn view(&self) -> View {
        let durable: BTreeMap<Writer, u64> =
            self.joined.iter().map(|(&writer, it)| (writer, it.state().revision)).collect();
        let mut known = durable.clone();
        for (&writer, pull) in &self.pulls {
            let revision = pull.newest().state().revision;
            known.entry(writer).and_modify(|it| *it = revision.max(*it)).or_insert(revision);
        }
        let unavailable = self.pulls.iter().filter_map(|(&writer, pull)| {
            let (object, _) = pull.vain.as_ref().filter(|_| pull.lane.is_none())?;
            Some(Problem::Unavailable { writer, object: *object })
        });
        let peers =
            self.peers.iter().map(|(&device, peer)| (device, self.peer_view(peer))).collect();
        View {
            known,
            durable,
            applied: self.applied.clone(),
            staged: self.pulls.len(),
            stuck: self.pulls.keys().copied().filter(|&it| self.is_stuck(it)).collect(),
            missing: self.fetcher.missing(),
            received: self.received,
            requests: self.fetcher.requests(),
            peers,
            problems: self.problems.iter().cloned().chain(unavailable).collect(),
            reconciliations: self.reconciling.counts(),
            counters: Counters { objects_refused: self.fetcher.refused, ..self.counters },
        }
    }

    fn peer_view(&self, peer: &Peer) -> PeerView {
        let hello = peer.hello.as_ref();
        let mut view = PeerView {
            connected: peer.is_open(),
            in_touch: peer.is_open() && peer.is_current(),
            scanned: peer.scanned && peer.is_current(),
            folder: hello.is_some_and(|hello| hello.folder),
            granted: hello.map(|hello| hello.role),
            listed: hello.map(|hello| hello.listed.iter().copied().collect()),
            durable: peer.writers.values().map(|entry| (entry.writer, entry.durable)).collect(),
            applied: peer.writers.values().map(|entry| (entry.writer, entry.applied)).collect(),
            behind: Amount::default(),
        };
        for (&writer, state) in &self.joined {
            let theirs = view.durable.get(&writer).copied().unwrap_or(0);
            if self.is_relayed(state) && view.lists(writer) && theirs < state.state().revision {
                view.behind = view.behind.plus(self.growth_after(writer, theirs));
            }
        }
        view
    }

    /// What the revisions of a writer after `revision` brought, as far as it was seen; of one
    /// object at least.
    fn growth_after(&self, writer: Writer, revision: u64) -> Amount {
        let newer = self.growth.get(&writer).into_iter().flatten();
        let sum = newer
            .filter(|(of, _)| *of > revision)
            .fold(Amount::default(), |sum, (_, amount)| sum.plus(*amount));
        Amount { objects: sum.objects.max(1), ..sum }
    }

    /// The name of a remote in the config.
    pub fn name_of(&self, device: DeviceId) -> Option<&str> {
        self.options.remotes.get(&device).map(|remote| remote.name.as_str())
    }
}
