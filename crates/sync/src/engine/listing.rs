//! A config that has changed: other devices are listed, while the streams with the rest go on.

use std::collections::BTreeMap;

use ark_core::{DeviceId, Writer};

use super::{Engine, Remote};
use crate::admission::may_write;
use crate::message::Message;
use crate::pull::Phase;
use crate::view::Problem;

impl Engine {
    /// Takes up another list. Whoever stays is told whose states are taken now, and asked for those
    /// that were not.
    pub(super) fn listed(&mut self, remotes: BTreeMap<DeviceId, Remote>) {
        let unlisted = self.peers.keys().filter(|device| !remotes.contains_key(device));
        for peer in unlisted.copied().collect::<Vec<_>>() {
            self.disconnected(peer);
            self.peers.remove(&peer);
        }
        for &device in remotes.keys() {
            self.peers.entry(device).or_default();
        }
        let before = self.taken();
        self.options.remotes = remotes;
        self.drop_pulls();
        self.drop_problems();
        let open: Vec<_> =
            self.peers.iter().filter(|(_, it)| it.is_audible()).map(|(&peer, _)| peer).collect();
        let taken = self.taken();
        for peer in open.into_iter().filter(|_| taken != before) {
            self.send(peer, Message::Listed(taken.clone()));
        }
        self.send_summaries();
        self.ask_haves();
        self.check_roles();
    }

    /// Whether a writer's device may write no more.
    pub(super) fn is_dropped(&self, writer: Writer) -> bool {
        !may_write(self.options.writer.device, &self.options.remotes, writer.device)
    }

    /// What is to come of those that may write no more is not waited for; only for the answer of
    /// the store, where it is joining at this moment, or saying what is missing.
    fn drop_pulls(&mut self) {
        let (own, remotes) = (self.options.writer.device, &self.options.remotes);
        let is_dropped = |device| !may_write(own, remotes, device);
        let mut lanes = Vec::new();
        self.pulls.retain(|writer, pull| {
            let is_kept = pull.phase == Phase::Joining || !is_dropped(writer.device);
            if is_kept && is_dropped(writer.device) {
                (pull.next, pull.shelved) = (None, None);
            } else if !is_kept {
                lanes.extend(pull.lane);
            }
            is_kept
        });
        for lane in lanes {
            self.fetcher.close(lane);
        }
    }

    /// What the list of before was the reason of.
    fn drop_problems(&mut self) {
        let remotes = &self.options.remotes;
        self.problems.retain(|problem| match problem {
            Problem::UnlistedWriter { device } => !remotes.contains_key(device),
            Problem::NotAWriter { device, name, role } => remotes
                .get(device)
                .is_some_and(|remote| remote.name == *name && remote.role == *role),
            Problem::WrongKind { device, .. }
            | Problem::Protocol { device, .. }
            | Problem::Role { device, .. }
            | Problem::Misbehaved { device, .. } => remotes.contains_key(device),
            _ => true,
        });
    }
}
