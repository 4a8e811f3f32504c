//! What runs a device's folder, and the user in front of it.

use std::collections::BTreeSet;

use ark_core::RelPath;
use ark_sync::{Input, Role};
use bytes::Bytes;

use super::{Event, Extent, Fault, Folder, World};
use crate::sim::folder::{Context, Said};
use crate::sim::user::User;

/// Seconds that a device's clock shows at the start.
const EPOCH_S: i64 = 1_700_000_000;

impl World {
    /// Lets an idle folder look at once whether there is something to do.
    pub(super) fn wake_folder(&mut self, at: usize) {
        let device = &mut self.devices[at];
        let life = device.life;
        let Some(running) = &mut device.running else { return };
        if running.folder.as_ref().is_some_and(Folder::is_idle) {
            running.turn += 1;
            let turn = running.turn;
            self.schedule(self.now_ms, Event::Folder { at, life, turn });
        }
    }

    pub(super) fn hint(&mut self, at: usize, extent: Extent) {
        let running = self.devices[at].running.as_mut();
        if let Some(folder) = running.and_then(|running| running.folder.as_mut()) {
            folder.hint(extent);
            self.wake_folder(at);
        }
    }

    fn clock(&self, at: usize) -> i64 {
        EPOCH_S + i64::try_from(self.now_ms / 1000).unwrap_or(0) + self.devices[at].clock_off
    }

    pub(super) fn folder(&mut self, at: usize, turn: u64) {
        let clock = self.clock(at);
        let device = &mut self.devices[at];
        let life = device.life;
        let Some(running) = device.running.as_mut().filter(|it| it.turn == turn) else { return };
        let Some(folder) = &mut running.folder else { return };
        let loses = self.weather.fault == Some(Fault::ToldBeforeDurable);
        let before = loses.then(|| device.store.durable().clone());
        let is_heard = device.role == Role::Peer;
        let mut cx = Context {
            store: &mut device.store,
            disk: &mut device.disk,
            oracle: if is_heard { &mut self.oracle } else { &mut self.unheard },
            dice: &mut self.dice,
            weather: &self.weather,
            now_ms: self.now_ms,
            clock,
            said: Vec::new(),
        };
        let next = folder.step(&mut cx);
        let said = cx.said;
        running.turn += 1;
        let turn = running.turn;
        match next {
            Ok(Some(at_ms)) => self.schedule(at_ms, Event::Folder { at, life, turn }),
            Ok(None) => {}
            Err(why) => return self.find(format!("the folder of {at}: {why}")),
        }
        if said.iter().any(|said| matches!(said, Said::Published(..))) {
            self.devices[at].before_publication = before;
        }
        for said in said {
            self.hear(at, said);
        }
    }

    fn hear(&mut self, at: usize, said: Said) {
        match said {
            Said::Published(state, new) => {
                self.counts.publications += 1;
                self.feed(at, Input::Published { state, new });
            }
            Said::Applied(revisions) => {
                self.counts.applied += 1;
                self.feed(at, Input::Applied { revisions });
            }
            Said::Scanned => self.feed(at, Input::Scanned),
            Said::Touched(paths) => self.see(at, paths),
            Said::Note(text) => self.note(|| format!("{at} {text}")),
        }
    }

    /// The watch sees something, sometimes in parts, sometimes only that it lost count.
    fn see(&mut self, at: usize, paths: BTreeSet<RelPath>) {
        let life = self.devices[at].life;
        let mut extents = Vec::new();
        if self.dice.percent(1) {
            extents.push(Extent::Everything);
        } else if self.dice.percent(20) {
            extents.extend(paths.into_iter().map(|path| Extent::Paths([path].into())));
        } else {
            extents.push(Extent::Paths(paths));
        }
        for extent in extents {
            let at_ms = self.after(self.weather.quiet_ms);
            self.schedule(at_ms, Event::Hint { at, life, extent });
        }
    }

    /// The user of a device does something.
    pub(in crate::sim) fn use_folder(&mut self, at: usize) {
        let settles = self.weather.settles > 0 && self.more_dice.percent(self.weather.settles);
        let deed = if settles { self.user(at).and_then(|mut user| user.settle()) } else { None };
        let deed = deed.or_else(|| self.user(at).and_then(|mut user| user.act()));
        let Some((words, paths)) = deed else { return };
        self.note(|| format!("{at} {words}"));
        self.see(at, paths);
    }

    /// The user of a device writes a file.
    pub(in crate::sim) fn write(&mut self, at: usize, path: &RelPath, content: Bytes) {
        let Some((words, paths)) = self.user(at).map(|mut user| user.save(path, content)) else {
            return;
        };
        self.note(|| format!("{at} {words}"));
        self.see(at, paths);
    }

    fn user(&mut self, at: usize) -> Option<User<'_>> {
        let clock = self.clock(at);
        let device = &mut self.devices[at];
        let is_heard = device.role == Role::Peer;
        device.has_folder.then_some(User {
            disk: &mut device.disk,
            oracle: if is_heard { &mut self.oracle } else { &mut self.unheard },
            dice: &mut self.dice,
            clock,
            next: &mut self.next_content,
        })
    }
}
