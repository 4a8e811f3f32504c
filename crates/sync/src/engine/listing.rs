//! A config that has changed: other devices are listed, while the streams with the rest go on.

use std::collections::BTreeMap;

use ark_core::{DeviceId, Writer};

use super::{Engine, Leaving, Remote};
use crate::admission::may_write;
use crate::effect::Effect;
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

    /// Whether a writer's device may write no more, or what is pulled of it is of another kind than
    /// the repo has become.
    pub(super) fn is_dropped(&self, writer: Writer) -> bool {
        !may_write(self.options.writer.device, &self.options.remotes, writer.device)
            || self.pulls.get(&writer).is_some_and(|pull| self.is_foreign(&pull.current.state))
    }

    /// What is to come of those that may write no more is not waited for; only for the answer of
    /// the store, where it is staging or joining at this moment, or saying what is missing.
    pub(super) fn drop_pulls(&mut self) {
        let pulled = self.pulls.keys().copied();
        for writer in pulled.filter(|&writer| self.is_dropped(writer)).collect::<Vec<_>>() {
            match self.pulls.get_mut(&writer) {
                Some(pull) if matches!(pull.phase, Phase::Staging { .. } | Phase::Joining) => {
                    (pull.next, pull.shelved) = (None, None);
                    if let Some(lane) = pull.lane.take() {
                        self.fetcher.close(lane);
                    }
                }
                _ => self.let_go(writer),
            }
        }
    }

    /// Waits no more for what is to come of a writer, and has the store drop it: otherwise it would
    /// finish that first where the writer is listed again and has made a newer one. The store does
    /// nothing else for the writer at this moment.
    pub(super) fn let_go(&mut self, writer: Writer) {
        let Some(pull) = self.pulls.remove(&writer) else { return };
        if let Some(lane) = pull.lane {
            self.fetcher.close(lane);
        }
        self.leaving.insert(writer, Leaving::Due);
    }

    /// Has the store drop what was let go.
    pub(super) fn abandon(&mut self) {
        for (&writer, leaving) in &mut self.leaving {
            if *leaving == Leaving::Due {
                *leaving = Leaving::Told;
                self.effects.push(Effect::Abandon { writer });
            }
        }
    }

    /// The store has dropped it. What came meanwhile, of a writer that is listed again, was not
    /// taken: whoever has it is asked to send it again.
    pub(super) fn abandoned(&mut self, writer: Writer) {
        self.leaving.remove(&writer);
        self.store_worked();
        if !self.is_dropped(writer) {
            self.send_summaries();
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
