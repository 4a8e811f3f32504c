//! Processes: how devices start and end, and what their configs say of each other.

use std::collections::{BTreeMap, BTreeSet};

use ark_core::{DeviceId, RepoKind};
use ark_sync::{Engine, EngineOptions, Input, Known, Remote, Role};

use super::{Event, Fault, Folder, Running, World};
use crate::sim::store::topic;

impl World {
    /// Starts a device that is off.
    pub(in crate::sim) fn start(&mut self, at: usize) {
        let remotes = self.remotes(at);
        let writers = writers(&remotes);
        let device = &mut self.devices[at];
        if device.running.is_some() {
            return;
        }
        device.life += 1;
        if self.weather.fault == Some(Fault::SequencesTwice) {
            device.store.forge(&mut device.witness);
        }
        let is_new = device.store.open(&mut device.witness, &mut self.dice);
        let writer = device.store.writer();
        if self.weather.fault == Some(Fault::InterruptionForgotten) {
            device.store.base().applying = None;
        }
        let folder = device.has_folder.then(|| Folder::new(&mut device.store, writers));
        let durable = device.store.durable();
        let known = Known {
            joined: durable.joined().values().cloned().collect(),
            staged: durable.staged().values().cloned().collect(),
            pending: !durable.staged().is_empty(),
            applied: BTreeMap::new(),
            scanned: false,
        };
        let applied = folder.as_ref().map(|folder| folder.applied().clone());
        let options = EngineOptions {
            topic: topic(),
            kind: Some(RepoKind::Folder),
            writer,
            folder: device.has_folder,
            remotes,
            seed: self.dice.any(),
        };
        device.running = Some(Running {
            engine: Engine::new(options, known),
            folder,
            timer_ms: None,
            turn: 0,
            cancelled: BTreeSet::new(),
        });
        self.note(|| format!("{at} starts as {writer:?}{}", if is_new { ", anew" } else { "" }));
        self.feed(at, Input::Timer);
        if let Some(revisions) = applied {
            self.feed(at, Input::Applied { revisions });
        }
        self.wake_folder(at);
        self.meet(at, 2_000);
    }

    /// The others that a device's config lists.
    pub(super) fn remotes(&self, at: usize) -> BTreeMap<DeviceId, Remote> {
        let remote = |&other: &usize| {
            let is_heard = at == 0 && self.weather.fault == Some(Fault::ReaderHeard);
            let role = if is_heard { Role::Peer } else { self.devices[other].role };
            (self.id(other), Remote { name: format!("device {other}"), role })
        };
        self.devices[at].listed.iter().map(remote).collect()
    }

    /// Changes what the config of a device lists: it is started anew with that, or takes it up while
    /// it runs.
    pub(in crate::sim) fn list(
        &mut self,
        at: usize,
        change: impl FnOnce(&mut BTreeSet<usize>) -> bool,
    ) {
        let is_running = self.devices[at].running.is_some();
        // By chance, but by no throw of the dice: what went before stays as it is.
        let goes_on = is_running && self.relists && self.next_event.is_multiple_of(2);
        if !goes_on {
            self.end(at, false);
        }
        if !change(&mut self.devices[at].listed) {
            return self.find(format!("the config of {at} was so already"));
        }
        let listed = self.devices[at].listed.clone();
        self.note(|| format!("{at} lists {listed:?}"));
        if goes_on {
            self.relist(at);
        } else if is_running {
            self.start_later(at, 50);
        }
    }

    /// Has a device take up what its config lists now. Its folder is begun anew, as other devices may
    /// write now.
    fn relist(&mut self, at: usize) {
        for other in 0..self.devices.len() {
            if !self.devices[at].listed.contains(&other) {
                self.disconnect(at, other);
            }
        }
        let remotes = self.remotes(at);
        let writers = writers(&remotes);
        self.feed(at, Input::Listed { remotes });
        let device = &mut self.devices[at];
        if let Some(running) = device.running.as_mut().filter(|_| device.has_folder) {
            let folder = Folder::new(&mut device.store, writers);
            let revisions = folder.applied().clone();
            running.folder = Some(folder);
            // The last one takes no step any more.
            running.turn += 1;
            self.feed(at, Input::FolderBegun);
            self.feed(at, Input::Applied { revisions });
            self.wake_folder(at);
        }
        self.meet(at, 2_000);
    }

    /// Ends a device's process where it is; perhaps the power fails, too.
    pub(in crate::sim) fn end(&mut self, at: usize, power_fails: bool) {
        if self.devices[at].running.is_none() {
            return;
        }
        for other in 0..self.devices.len() {
            self.disconnect(at, other);
        }
        let device = &mut self.devices[at];
        device.running = None;
        device.life += 1;
        device.store.crash(&mut self.dice);
        if let Some(before) = device.before_publication.take() {
            device.store.lose(before);
        }
        let unsynced = device.disk.unsynced();
        let kept = self.dice.index(unsynced + 1);
        if power_fails {
            device.disk.lose_power(kept);
        }
        self.note(|| {
            let power = if power_fails {
                format!("power, {kept} of {unsynced} kept")
            } else {
                "kill".into()
            };
            format!("{at} ends: {power}")
        });
    }

    /// Lets a device come back in a while.
    pub(in crate::sim) fn start_later(&mut self, at: usize, within_ms: u64) {
        let at_ms = self.after((0, within_ms));
        self.schedule(at_ms, Event::Start { at });
    }
}

/// The devices of a config that may write.
fn writers(remotes: &BTreeMap<DeviceId, Remote>) -> BTreeSet<DeviceId> {
    let writing = remotes.iter().filter(|(_, remote)| remote.role == Role::Peer);
    writing.map(|(&device, _)| device).collect()
}
