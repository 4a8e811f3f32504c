//! Connections between devices: who has whose address, what is cut, what stands.

use std::collections::BTreeSet;

use ark_sync::Input;

use super::{Event, World, pair};

impl World {
    pub(super) fn connect(&mut self, a: usize, b: usize) {
        let is_off = |at: usize| self.devices[at].running.is_none();
        let key = pair(a, b);
        let lists = |at: usize, other: usize| self.devices[at].listed.contains(&other);
        let is_apart = self.cut.contains(&key) || !lists(a, b) || !lists(b, a);
        if is_off(a) || is_off(b) || is_apart || self.connected.contains_key(&key) {
            return;
        }
        self.next_epoch += 1;
        self.counts.sessions += 1;
        self.connected.insert(key, self.next_epoch);
        self.note(|| format!("{a} and {b} connect"));
        self.feed(a, Input::PeerConnected { peer: self.id(b) });
        self.feed(b, Input::PeerConnected { peer: self.id(a) });
    }

    pub(super) fn disconnect(&mut self, a: usize, b: usize) {
        if self.connected.remove(&pair(a, b)).is_some() {
            self.note(|| format!("{a} and {b} lose each other"));
            self.break_sessions(a, b);
            self.feed(a, Input::PeerDisconnected { peer: self.id(b) });
            self.feed(b, Input::PeerDisconnected { peer: self.id(a) });
        }
    }

    /// A connection breaks; whoever has the other's address tries again.
    pub(in crate::sim) fn flap(&mut self, a: usize, b: usize) {
        self.disconnect(a, b);
        if self.edges.contains(&pair(a, b)) {
            let at_ms = self.after((1, 3_000));
            self.schedule(at_ms, Event::Connect { a, b });
        }
    }

    /// These are apart until the links are healed.
    pub(in crate::sim) fn cut(&mut self, a: usize, b: usize) {
        self.cut.insert(pair(a, b));
        self.disconnect(a, b);
    }

    /// All links work again.
    pub(in crate::sim) fn heal(&mut self) {
        self.cut.clear();
        for at in 0..self.devices.len() {
            self.meet(at, 3_000);
        }
    }

    pub(super) fn meet(&mut self, at: usize, within_ms: u64) {
        let edges: Vec<_> =
            self.edges.iter().copied().filter(|&(a, b)| a == at || b == at).collect();
        for (a, b) in edges {
            let at_ms = self.after((1, within_ms));
            self.schedule(at_ms, Event::Connect { a, b });
        }
    }

    /// The neighbours of a device that is to go get each other's addresses.
    pub(in crate::sim) fn bridge(&mut self, at: usize) {
        let neighbours = self.edges.iter().filter_map(|&(a, b)| {
            let is_its = a == at || b == at;
            is_its.then_some(if a == at { b } else { a })
        });
        let neighbours: Vec<usize> = neighbours.collect();
        for two in neighbours.windows(2) {
            self.edges.insert(pair(two[0], two[1]));
            self.schedule(self.now_ms, Event::Connect { a: two[0], b: two[1] });
        }
    }

    /// Whether two devices are connected.
    pub(in crate::sim) fn is_connected(&self, a: usize, b: usize) -> bool {
        self.connected.contains_key(&pair(a, b))
    }

    /// Whom gossip of a device may reach.
    pub(super) fn reached(&self, from: usize) -> BTreeSet<usize> {
        let mut reached = BTreeSet::from([from]);
        loop {
            let both = self.connected.keys().flat_map(|&(a, b)| [(a, b), (b, a)]);
            let more: Vec<_> = both
                .filter(|(a, b)| reached.contains(a) && !reached.contains(b))
                .map(|(_, b)| b)
                .collect();
            if more.is_empty() {
                return reached;
            }
            reached.extend(more);
        }
    }
}
