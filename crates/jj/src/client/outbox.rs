//! What was put and no barrier has acknowledged: it is kept here, to be sent again.

use std::collections::{HashMap, VecDeque};

use ark_core::{Link, Object};
use bytes::Bytes;

/// The most bytes that are kept. Where there is no room, who puts waits for a barrier.
const MAX_BYTES: usize = 32 << 20;
/// From so many on a barrier is due, though nobody has asked for one: the other half is filled
/// meanwhile.
const HEAVY_BYTES: usize = MAX_BYTES / 2;
/// What an object takes beside its bytes.
const OBJECT_BYTES: usize = 256;

/// Objects in the order in which they were put. Each has a place, counted from the first one ever.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// `None` in the place of one that was let go.
    queue: VecDeque<Option<Object>>,
    held: HashMap<Link, Bytes>,
    /// The place of the first in the queue.
    first: u64,
    /// That of the first that was not sent on this connection.
    sent: u64,
    bytes: usize,
}

impl Outbox {
    /// The bytes, if it is here.
    pub(super) fn get(&self, link: Link) -> Option<Bytes> {
        self.held.get(&link).cloned()
    }

    /// Adds an object, or gives it back where there is no room for it. One that is here is not
    /// added again.
    pub(super) fn push(&mut self, object: Object) -> Result<(), Object> {
        if self.held.contains_key(&object.link()) {
            return Ok(());
        }
        let bytes = self.bytes + cost(&object);
        if bytes > MAX_BYTES && !self.queue.is_empty() {
            return Err(object);
        }
        self.bytes = bytes;
        self.held.insert(object.link(), object.bytes().clone());
        self.queue.push_back(Some(object));
        Ok(())
    }

    /// The place after the last one.
    pub(super) fn end(&self) -> u64 {
        self.first + self.queue.len() as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn is_heavy(&self) -> bool {
        self.bytes >= HEAVY_BYTES
    }

    /// The place of the first that was not sent.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// The next one to be sent, which then is.
    pub(super) fn send(&mut self) -> Option<Object> {
        loop {
            let index = usize::try_from(self.sent - self.first).ok()?;
            let object = self.queue.get(index)?.clone();
            self.sent += 1;
            if object.is_some() {
                return object;
            }
        }
    }

    /// Lets an object go, if it is here.
    pub(super) fn remove(&mut self, link: Link) {
        let is_it = |object: &Object| object.link() == link;
        if let Some(place) = self.queue.iter_mut().find(|it| it.as_ref().is_some_and(is_it)) {
            self.bytes -= place.take().as_ref().map_or(0, cost);
            self.held.remove(&link);
        }
    }

    /// All before this place is durable.
    pub(super) fn acknowledge(&mut self, end: u64) {
        while self.first < end {
            let Some(object) = self.queue.pop_front() else { break };
            self.first += 1;
            let Some(object) = object else { continue };
            self.bytes -= cost(&object);
            self.held.remove(&object.link());
        }
        self.sent = self.sent.max(self.first);
    }

    /// Nothing that is here was sent.
    pub(super) fn send_again(&mut self) {
        self.sent = self.first;
    }
}

fn cost(object: &Object) -> usize {
    OBJECT_BYTES + object.bytes().len()
}

#[cfg(test)]
mod tests {
    use ark_core::ObjectKind;

    use super::*;

    fn object(n: u8, length: usize) -> Object {
        Object::new(ObjectKind::Raw, vec![n; length])
    }

    fn sent(outbox: &mut Outbox) -> Vec<u8> {
        std::iter::from_fn(|| outbox.send()).map(|object| object.bytes()[0]).collect()
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_in_order() {
        let mut outbox = Outbox::default();
        for n in [1, 2, 1, 3] {
            outbox.push(object(n, 1)).unwrap();
        }
        assert_eq!((sent(&mut outbox), outbox.end()), (vec![1, 2, 3], 3));
        outbox.acknowledge(1);
        assert!(outbox.get(object(1, 1).link()).is_none());
        assert!(outbox.get(object(2, 1).link()).is_some());
        outbox.push(object(4, 1)).unwrap();
        outbox.send_again();
        assert_eq!(sent(&mut outbox), [2, 3, 4]);
        outbox.acknowledge(outbox.end());
        assert!(outbox.is_empty());
        assert_eq!((outbox.bytes, outbox.held.len()), (0, 0));
        // What went may come again.
        outbox.push(object(1, 1)).unwrap();
        assert_eq!((sent(&mut outbox), outbox.end()), (vec![1], 5));
    }

    #[test]
    fn what_is_let_go_keeps_its_place_free() {
        let mut outbox = Outbox::default();
        for n in 1..=4 {
            outbox.push(object(n, 1)).unwrap();
        }
        for n in [2, 4, 9] {
            outbox.remove(object(n, 1).link());
        }
        assert_eq!((sent(&mut outbox), outbox.end()), (vec![1, 3], 4));
        assert!(outbox.get(object(2, 1).link()).is_none());
        outbox.acknowledge(2);
        outbox.send_again();
        outbox.push(object(2, 1)).unwrap();
        assert_eq!((sent(&mut outbox), outbox.end()), (vec![3, 2], 5));
        outbox.acknowledge(5);
        assert_eq!((outbox.bytes, outbox.held.len(), outbox.is_empty()), (0, 0, true));
    }

    #[test]
    fn it_is_bounded_in_bytes() {
        let mut outbox = Outbox::default();
        let mut n = 0;
        while outbox.push(object(n, 1 << 20)).is_ok() {
            assert_eq!(outbox.is_heavy(), outbox.bytes >= HEAVY_BYTES);
            n += 1;
        }
        assert!((20..=32).contains(&n), "{n}");
        assert!(outbox.is_heavy());
        outbox.acknowledge(2);
        outbox.push(object(n, 1 << 20)).unwrap();
        // One that is larger than all the room has it where there is nothing else.
        outbox.acknowledge(outbox.end());
        outbox.push(object(0, MAX_BYTES)).unwrap();
        outbox.push(object(1, 1)).unwrap_err();
    }
}
