//! What peers are told that is here: each only what it was not told before on its stream.

use std::collections::BTreeMap;

use ark_core::Writer;

use crate::message::{Have, HaveEntry, Message};

/// Counts the changes of what is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(crate) struct Moment(u64);

/// What is told to all, once for all of them: of each peer only the moment is kept up to which it
/// was told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// With the moment of its last change.
    entries: BTreeMap<Writer, (HaveEntry, Moment)>,
    scanned: bool,
    /// When an entry last went: that is told only by telling all.
    shrunk: Moment,
    now: Moment,
}

impl Told {
    /// This is to be told from now on.
    pub(crate) fn update(&mut self, entries: Vec<HaveEntry>, scanned: bool) {
        let next = Moment(self.now.0 + 1);
        let mut before = std::mem::take(&mut self.entries);
        let mut has_changed = self.scanned != scanned;
        for entry in entries {
            let since = match before.remove(&entry.writer) {
                Some((known, since)) if known == entry => since,
                _ => next,
            };
            has_changed |= since == next;
            self.entries.insert(entry.writer, (entry, since));
        }
        if !before.is_empty() {
            self.shrunk = next;
            has_changed = true;
        }
        self.scanned = scanned;
        if has_changed {
            self.now = next;
        }
    }

    /// What is to be told to a peer that was told all up to `told`, if anything; afterwards it was
    /// told all up to the moment that comes with it.
    pub(crate) fn since(&self, told: Option<Moment>) -> (Option<Message>, Moment) {
        let told = told.filter(|told| *told >= self.shrunk);
        let is_news = |since: Moment| told.is_none_or(|told| since > told);
        let news = self.entries.values().filter(|(_, since)| is_news(*since));
        let writers = news.map(|(entry, _)| *entry).collect();
        let have = Have { writers, scanned: self.scanned };
        let message = match told {
            None => Some(Message::Have(have)),
            Some(told) => (told < self.now).then_some(Message::HaveChanged(have)),
        };
        (message, self.now)
    }
}

#[cfg(test)]
mod tests {
    use ark_core::{DeviceId, Incarnation};

    use super::*;

    fn entry(n: u8, durable: u64) -> HaveEntry {
        let device = DeviceId::from_bytes([n; 32]);
        HaveEntry {
            writer: Writer { device, incarnation: Incarnation::new(1) },
            durable,
            applied: 0,
        }
    }

    #[test]
    fn each_is_told_what_it_was_not() {
        let mut told = Told::default();
        told.update(vec![entry(1, 1), entry(2, 1)], false);
        let all = Have { writers: vec![entry(1, 1), entry(2, 1)], scanned: false };
        let (message, first) = told.since(None);
        assert_eq!(message, Some(Message::Have(all)));
        assert_eq!(told.since(Some(first)), (None, first));
        told.update(vec![entry(1, 1), entry(2, 1)], false);
        assert_eq!(told.since(Some(first)), (None, first));

        told.update(vec![entry(1, 1), entry(2, 2)], false);
        let (message, second) = told.since(Some(first));
        let changed = Have { writers: vec![entry(2, 2)], scanned: false };
        assert_eq!(message, Some(Message::HaveChanged(changed)));
        told.update(vec![entry(1, 1), entry(2, 2), entry(3, 1)], true);
        let changed = Have { writers: vec![entry(3, 1)], scanned: true };
        assert_eq!(told.since(Some(second)).0, Some(Message::HaveChanged(changed)));
        let changed = Have { writers: vec![entry(2, 2), entry(3, 1)], scanned: true };
        assert_eq!(told.since(Some(first)).0, Some(Message::HaveChanged(changed)));

        // What goes is told by telling what is left.
        let (_, third) = told.since(Some(second));
        told.update(vec![entry(1, 1), entry(3, 1)], true);
        let all = Have { writers: vec![entry(1, 1), entry(3, 1)], scanned: true };
        let (message, fourth) = told.since(Some(third));
        assert_eq!(message, Some(Message::Have(all)));
        assert_eq!(told.since(Some(fourth)), (None, fourth));
    }
}
