//! What kind of repo it is: that of the first state that is joined or published, where nothing was
//! joined before the start and the config does not say. From then on states and objects of the other
//! kind are not taken.

use ark_core::{DeviceId, Link, RepoKind, SignedState};

use super::Engine;
use crate::view::Problem;

impl Engine {
    /// A state of this kind is joined or published.
    pub(super) fn decided(&mut self, kind: RepoKind) {
        if self.options.kind.is_some() {
            return;
        }
        self.options.kind = Some(kind);
        let open = self.peers.iter().filter(|(_, peer)| peer.is_open());
        let said = open.filter_map(|(&device, peer)| Some((device, peer.hello.as_ref()?.kind?)));
        let apart: Vec<(DeviceId, RepoKind)> = said.filter(|(_, found)| *found != kind).collect();
        for &(device, _) in &apart {
            // Its stream stands, and says nothing any more.
            self.disconnected(device);
        }
        let pulled = self.pulls.iter().map(|(writer, pull)| (writer.device, &pull.current.state));
        let pulled = pulled.filter(|(_, state)| self.is_foreign(state));
        let pulled: Vec<_> = pulled.map(|(device, state)| (device, state.state().kind)).collect();
        for (device, found) in apart.into_iter().chain(pulled) {
            self.problem(Problem::WrongKind { device, found });
        }
        self.drop_pulls();
    }

    /// Whether a state is of another kind than the repo is.
    pub(super) fn is_foreign(&self, state: &SignedState) -> bool {
        self.options.kind.is_some_and(|kind| kind != state.state().kind)
    }

    /// Whether there may be such an object in the repo.
    pub(super) fn takes(&self, link: Link) -> bool {
        self.options.kind.is_none_or(|kind| kind.has(link.kind))
    }
}
