//! What goes from one device to another: messages, announcements, what reconciliations find, and
//! objects.

use std::collections::{BTreeSet, HashSet};

use ark_core::{Link, Object, ObjectKind};
use ark_sync::{
    Announcement, AnswerCheck, Failure, Input, ItemHeader, MAX_ANNOUNCEMENT_BYTES, MAX_FRAME_BYTES,
    MAX_REQUEST_BYTES, Message, ObjectsRequest, Reconciliation, RequestId,
};
use bytes::Bytes;

use super::{Event, Manners, Sent, World, pair};
use crate::store::links_of;

impl World {
    pub(super) fn send(&mut self, from: usize, to: usize, message: Message) {
        let Some(&epoch) = self.connected.get(&pair(from, to)) else { return };
        let bytes = message.encode();
        assert!(bytes.len() <= MAX_FRAME_BYTES);
        assert_eq!(Message::decode(&bytes).as_ref(), Ok(&message));
        self.sent.push(Sent { at_ms: self.now_ms, from, to, bytes: bytes.len(), message });
        // In order on a stream, but not between streams.
        let last_ms = self.last_arrival.get(&(from, to)).copied().unwrap_or(0);
        let at_ms = self.delay(self.weather.delay_ms).max(last_ms);
        self.last_arrival.insert((from, to), at_ms);
        self.schedule(at_ms, Event::Message { from, to, epoch, bytes });
    }

    /// Announcements reach everybody whom connections reach, unless they are lost.
    pub(super) fn gossip(&mut self, from: usize, announcement: &Announcement) {
        let bytes = announcement.encode();
        assert!(bytes.len() <= MAX_ANNOUNCEMENT_BYTES);
        let mut reached = BTreeSet::from([from]);
        loop {
            let more: Vec<_> = self
                .connected
                .keys()
                .flat_map(|&(a, b)| [(a, b), (b, a)])
                .filter(|(a, b)| reached.contains(a) && !reached.contains(b))
                .map(|(_, b)| b)
                .collect();
            if more.is_empty() {
                break;
            }
            reached.extend(more);
        }
        for to in reached.into_iter().filter(|&to| to != from) {
            if self.dice.below(1000) >= self.weather.gossip_lost {
                let at_ms = self.delay(self.weather.delay_ms);
                self.schedule(at_ms, Event::Gossip { from, to, bytes: bytes.clone() });
            }
        }
    }

    /// After a round trip both know what the other's joined heads reach and theirs do not, as the
    /// real thing finds it.
    pub(super) fn reconcile(&mut self, at: usize, with: usize) {
        let now_ms = self.now_ms;
        self.devices[at].reconciliations.push((now_ms, with));
        let Some(&epoch) = self.connected.get(&pair(at, with)) else {
            panic!("a reconciliation with somebody who is not connected")
        };
        let at_ms = now_ms + 2 * self.weather.delay_ms.1;
        let sets = [at, with].map(|at| self.devices[at].store.reached());
        for (place, (to, from)) in [(at, with), (with, at)].into_iter().enumerate() {
            let links: Vec<Link> = sets[1 - place].difference(&sets[place]).copied().collect();
            let (peer, bytes) = (self.id(from), 500 + 40 * links.len() as u64);
            let reconciliation = Reconciliation {
                round_trips: if place == 0 { 2 } else { 0 },
                sent_bytes: 500,
                received_bytes: bytes,
                complete: true,
            };
            for input in
                [Input::Lacking { peer, links }, Input::Reconciled { peer, reconciliation }]
            {
                let input = Box::new(input);
                self.schedule(at_ms, Event::Reconciled { at: to, with: from, epoch, input });
            }
        }
    }

    pub(super) fn ask(&mut self, at: usize, of: usize, id: RequestId, mut request: ObjectsRequest) {
        let device = &mut self.devices[at];
        let indexed = &device.store.indexed;
        let (found, links) = request.links.into_iter().partition(|link| indexed.contains(link));
        request.links = links;
        let life = device.life;
        if !Vec::is_empty(&found) {
            self.tell(at, life, self.now_ms, Input::Found { links: found });
        }
        if request.links.is_empty() {
            let missing = Vec::new();
            return self.tell(at, life, self.now_ms, Input::RequestEnded { request: id, missing });
        }
        let device = &mut self.devices[at];
        for &link in &request.links {
            let twice = device.flying.insert(link, id);
            assert_eq!(twice, None, "{link:?} is asked for twice at once");
            assert!(!device.told.contains(&link), "{link:?} was stored and is asked for");
        }
        let bytes = request.encode();
        assert!(bytes.len() <= MAX_REQUEST_BYTES);
        assert_eq!(ObjectsRequest::decode(&bytes).as_ref(), Ok(&request));
        device.requests.push((self.now_ms, of, request));
        let at_ms = self.delay(self.weather.delay_ms);
        self.schedule(at_ms, Event::Ask { at: of, from: at, life, id, bytes });
    }

    /// A provider's answer, as it looks when the request arrives.
    pub(super) fn answer(&mut self, at: usize, to: usize, life: u64, id: RequestId, bytes: &[u8]) {
        let request = ObjectsRequest::decode(bytes).unwrap();
        let manners = self.devices[at].manners;
        if !self.connected.contains_key(&pair(at, to)) || manners == Manners::Silent {
            let broken = Input::RequestFailed { request: id, failure: Failure::Broken };
            return self.tell(to, life, self.now_ms + 5_000, broken);
        }
        let store = &self.devices[at].store;
        let serve = |link| store.serve(link).filter(|_| manners != Manners::HasNothing);
        let mut items: Vec<(Link, Bytes)> = Vec::new();
        let mut missing = Vec::new();
        for &link in &request.links {
            match serve(link) {
                Some(bytes) => items.push((link, bytes.clone())),
                None => missing.push(link),
            }
        }
        if request.ahead {
            let mut sent: HashSet<Link> = request.links.iter().copied().collect();
            let mut next = 0;
            while next < items.len() {
                let (link, bytes) = &items[next];
                let links = links_of(*link, bytes);
                let ahead = links.into_iter().filter(|link| link.kind.is_structured());
                for link in ahead.filter(|link| sent.insert(*link)).collect::<Vec<_>>() {
                    items.extend(serve(link).map(|bytes| (link, bytes.clone())));
                }
                next += 1;
            }
        }
        if manners == Manners::Unasked {
            let object = Object::new(ObjectKind::Raw, b"have this".to_vec());
            items.insert(0, (object.link(), object.into_bytes()));
        }
        if manners == Manners::WrongBytes {
            for (_, bytes) in &mut items {
                *bytes = Bytes::from_static(b"something else");
            }
        }
        let mut check = AnswerCheck::new(&request);
        let is_good = items.iter().all(|(link, bytes)| {
            let length = u32::try_from(bytes.len()).unwrap();
            check.expect(&ItemHeader::Present { link: *link, length }).is_ok()
                && Object::new(link.kind, bytes.clone()).link() == *link
        });
        if !is_good {
            let violation = Input::RequestFailed { request: id, failure: Failure::Violation };
            return self.tell(to, life, self.now_ms + 1, violation);
        }
        let mut at_ms = self.delay(self.weather.delay_ms);
        while !items.is_empty() {
            let some: Vec<_> = items.drain(..items.len().min(16)).collect();
            let length: usize = some.iter().map(|(_, bytes)| bytes.len()).sum();
            at_ms += length as u64 * self.weather.slowness / 1000;
            self.schedule(at_ms, Event::Items { at: to, life, id, items: some });
        }
        at_ms += self.weather.store_ms.1;
        self.tell(to, life, at_ms, Input::RequestEnded { request: id, missing });
    }
}
