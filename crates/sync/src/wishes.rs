//! States that somebody is known to have and that are not here: whom to ask for them, and when.

use std::collections::BTreeMap;

use ark_core::{DeviceId, MAX_WRITERS, Writer};

/// How long a state that a peer has is waited for before it is asked for: gossip usually brings
/// it, with the objects that are new, within a round trip.
const GRACE_MS: u64 = 100;
/// How long an answer is waited for before another peer is asked.
const ANSWER_MS: u64 = 10_000;

#[derive(Debug)]
struct Wish {
    due_ms: u64,
    asked: Option<DeviceId>,
    /// Who was said to have it by an announcement, while nobody says so himself.
    named: Option<DeviceId>,
}

/// At most one wish per writer, and at most [`MAX_WRITERS`]: all fit one message.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    by_writer: BTreeMap<Writer, Wish>,
}

impl Wishes {
    /// A peer has a state of `writer` that is not known here.
    pub(crate) fn heard(&mut self, writer: Writer, now_ms: u64) {
        if self.by_writer.len() >= MAX_WRITERS {
            return;
        }
        let due_ms = now_ms.saturating_add(GRACE_MS);
        self.by_writer.entry(writer).or_insert(Wish { due_ms, asked: None, named: None });
    }

    /// An announcement was too large to carry the state itself, which `named` should have.
    pub(crate) fn named(&mut self, writer: Writer, named: DeviceId, now_ms: u64) {
        if self.by_writer.len() >= MAX_WRITERS {
            return;
        }
        let fresh = Wish { due_ms: now_ms, asked: None, named: None };
        let wish = self.by_writer.entry(writer).or_insert(fresh);
        wish.named = Some(named);
        if wish.asked.is_none() {
            wish.due_ms = now_ms;
        }
    }

    /// A state of `writer` came: perhaps an older one than that which a peer has. If nobody has a
    /// newer one the wish is dropped when it is due.
    pub(crate) fn came(&mut self, writer: Writer, now_ms: u64) {
        if let Some(wish) = self.by_writer.get_mut(&writer) {
            let due_ms = now_ms.saturating_add(GRACE_MS);
            *wish = Wish { due_ms, asked: None, named: None };
        }
    }

    /// Whoever was asked is gone: its answers are not waited for.
    pub(crate) fn disconnected(&mut self, peer: DeviceId, now_ms: u64) {
        for wish in self.by_writer.values_mut().filter(|wish| wish.asked == Some(peer)) {
            wish.due_ms = now_ms;
        }
    }

    /// When the next is due.
    pub(crate) fn due_at(&self) -> Option<u64> {
        self.by_writer.values().map(|wish| wish.due_ms).min()
    }

    /// Whom to ask for what, now. `who` gives, sorted, the connected peers that have a state of
    /// the writer which is not known here; where there are none the wish is dropped. A wish that
    /// stays is asked of the next peer when its answer does not come.
    pub(crate) fn due(
        &mut self,
        now_ms: u64,
        who: impl Fn(Writer, Option<DeviceId>) -> Vec<DeviceId>,
    ) -> BTreeMap<DeviceId, Vec<Writer>> {
        let mut asks: BTreeMap<DeviceId, Vec<Writer>> = BTreeMap::new();
        self.by_writer.retain(|&writer, wish| {
            if wish.due_ms > now_ms {
                return true;
            }
            let candidates = who(writer, wish.named.take());
            let next = candidates.iter().find(|peer| Some(**peer) > wish.asked);
            let Some(&peer) = next.or(candidates.first()) else { return false };
            wish.asked = Some(peer);
            wish.due_ms = now_ms.saturating_add(ANSWER_MS);
            asks.entry(peer).or_default().push(writer);
            true
        });
        asks
    }
}

#[cfg(test)]
mod tests {
    use ark_core::Incarnation;

    use super::*;

    #[test]
    fn an_older_state_does_not_end_the_wish_for_a_newer_one() {
        let device = |n| DeviceId::from_bytes([n; 32]);
        let writer = Writer { device: device(9), incarnation: Incarnation::new(1) };
        let mut wishes = Wishes::default();
        wishes.heard(writer, 1_000);
        wishes.came(writer, 1_010);
        let due_ms = wishes.due_at().unwrap();
        let asked = wishes.due(due_ms, |_, _| vec![device(1)]);
        assert_eq!(asked, BTreeMap::from([(device(1), vec![writer])]));
        wishes.came(writer, 2_000);
        assert!(wishes.due(2_000 + GRACE_MS, |_, _| Vec::new()).is_empty());
        assert_eq!(wishes.due_at(), None, "it was the newest");
    }

    #[test]
    fn waits_for_gossip_then_asks_one_after_the_other() {
        let device = |n| DeviceId::from_bytes([n; 32]);
        let writer = Writer { device: device(9), incarnation: Incarnation::new(1) };
        let mut wishes = Wishes::default();
        let both = |_, _| vec![device(1), device(2)];
        wishes.heard(writer, 1_000);
        assert!(wishes.due(1_000, both).is_empty(), "gossip may still bring it");
        let mut now_ms = 1_000 + GRACE_MS;
        for peer in [1, 2, 1] {
            assert_eq!(wishes.due(now_ms, both), BTreeMap::from([(device(peer), vec![writer])]));
            assert!(wishes.due(now_ms, both).is_empty(), "asked already");
            now_ms += ANSWER_MS;
        }
        wishes.disconnected(device(1), now_ms - 1);
        assert_eq!(wishes.due_at(), Some(now_ms - 1));
        assert!(wishes.due(now_ms, |_, _| Vec::new()).is_empty());
        assert_eq!(wishes.due_at(), None, "nobody has it");
    }
}
