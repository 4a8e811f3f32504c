//! What devices say: on streams in order, by gossip as a hint.

use ark_core::SignedState;
use ark_sync::{Announcement, Input, MAX_ANNOUNCEMENT_BYTES, MAX_FRAME_BYTES, Message};

use super::{Event, Fault, World, pair};

impl World {
    pub(super) fn send(&mut self, from: usize, to: usize, message: &Message) {
        let Some(&epoch) = self.connected.get(&pair(from, to)) else { return };
        let bytes = message.encode();
        if bytes.len() > MAX_FRAME_BYTES {
            return self.find(format!("{from} sends a message of {} bytes", bytes.len()));
        }
        self.counts.messages += 1;
        self.traffic.messages += bytes.len() as u64;
        self.counts.states += u64::from(matches!(message, Message::States(_)));
        self.counts.summaries += u64::from(matches!(message, Message::Summary(_)));
        self.note(|| format!("{from} to {to}: {}", kind(message)));
        // In order on a stream, but not between streams.
        let last_ms = self.last_arrival.get(&(from, to)).copied().unwrap_or(0);
        let at_ms = self.after(self.weather.delay_ms).max(last_ms);
        self.last_arrival.insert((from, to), at_ms);
        self.schedule(at_ms, Event::Message { from, to, epoch, bytes });
    }

    /// A device's queue of gossip ran over. All that it is in touch with are to hear at once what it
    /// knows, and send what it missed.
    pub(super) fn lag(&mut self, at: usize) {
        let asked = self.counts.summaries;
        if self.weather.fault != Some(Fault::LagIgnored) {
            self.feed(at, Input::Lagged);
        }
        let Some(running) = &self.devices[at].running else { return };
        let view = running.engine.view();
        let in_touch = view.peers.values().filter(|peer| peer.in_touch).count() as u64;
        let asked = self.counts.summaries - asked;
        if asked < in_touch {
            self.find(format!("{at} lagged, and asks {asked} of {in_touch}"));
        }
    }

    /// Announcements reach everybody whom connections reach, in any order, some twice, some not.
    pub(super) fn gossip(&mut self, from: usize, announcement: &Announcement) {
        let bytes = announcement.encode();
        if bytes.len() > MAX_ANNOUNCEMENT_BYTES {
            return self.find(format!("{from} announces {} bytes", bytes.len()));
        }
        self.counts.announcements += 1;
        let reached = self.reached(from);
        for to in reached.into_iter().filter(|&to| to != from) {
            self.traffic.gossip += bytes.len() as u64;
            let life = self.devices[to].life;
            if self.dice.percent(self.weather.gossip_lost) {
                if self.dice.percent(self.weather.gossip_lags) {
                    let at_ms = self.after(self.weather.delay_ms);
                    self.schedule(at_ms, Event::Lagged { at: to, life });
                }
                continue;
            }
            let times = if self.dice.percent(self.weather.gossip_twice) { 2 } else { 1 };
            for _ in 0..times {
                let (_, most) = self.weather.delay_ms;
                let at_ms = self.after((1, most * 3));
                self.schedule(at_ms, Event::Gossip { to, from, life, bytes: bytes.clone() });
            }
        }
    }
}

fn kind(message: &Message) -> String {
    match message {
        Message::Hello(_) => "hello".to_owned(),
        Message::Summary(entries) => format!("a summary of {}", entries.len()),
        Message::WantStates(writers) => format!("wants {} states", writers.len()),
        Message::States(states) => {
            let states = states.iter().map(|bytes| SignedState::decode(bytes));
            format!("states {:?}", states.flatten().collect::<Vec<_>>())
        }
        Message::Have(_) => "have".to_owned(),
        other => format!("{other:?}"),
    }
}
