//! How objects go from device to device: requests, answers in pieces, streams that break.

use std::collections::BTreeSet;

use ark_core::{Link, links};
use ark_sync::{
    AnswerCheck, Failure, ITEM_HEADER_BYTES, Input, ItemHeader, MAX_REQUEST_BYTES, ObjectsRequest,
    RequestId,
};
use bytes::Bytes;

use super::{BROKEN_AFTER_MS, Event, World, pair};

impl World {
    pub(super) fn ask(&mut self, at: usize, of: usize, id: RequestId, mut request: ObjectsRequest) {
        let life = self.devices[at].life;
        let durable = self.devices[at].store.durable();
        let (found, links) = request.links.into_iter().partition(|&link| durable.is_indexed(link));
        request.links = links;
        // What the device has made itself meanwhile is not asked for.
        if !Vec::is_empty(&found) {
            self.tell(at, life, self.now_ms, Input::Found { links: found });
        }
        if request.links.is_empty() {
            let missing = Vec::new();
            return self.tell(at, life, self.now_ms, Input::RequestEnded { request: id, missing });
        }
        let bytes = request.encode();
        if bytes.len() > MAX_REQUEST_BYTES {
            return self.find(format!("{at} sends a request of {} bytes", bytes.len()));
        }
        self.counts.requests += 1;
        self.traffic.objects += bytes.len() as u64;
        self.note(|| format!("{at} asks {of} for {} objects", request.links.len()));
        let at_ms = self.after(self.weather.delay_ms);
        self.schedule(at_ms, Event::Ask { at: of, from: at, life, id, bytes });
    }

    /// A provider's answer, as it looks when the request arrives.
    pub(super) fn answer(&mut self, at: usize, to: usize, life: u64, id: RequestId, bytes: &[u8]) {
        if !self.connected.contains_key(&pair(at, to)) {
            let broken = Input::RequestFailed { request: id, failure: Failure::Broken };
            let at_ms = self.now_ms + BROKEN_AFTER_MS;
            return self.tell(to, life, at_ms, broken);
        }
        let request = match ObjectsRequest::decode(bytes) {
            Ok(request) => request,
            Err(error) => return self.find(format!("{to} sent what is no request: {error}")),
        };
        let store = self.devices[at].store.durable();
        let mut items: Vec<(Link, Bytes)> = Vec::new();
        let mut missing = Vec::new();
        for &link in &request.links {
            match store.serve(link) {
                Some(bytes) => items.push((link, bytes.clone())),
                None => missing.push(link),
            }
        }
        if request.ahead {
            let mut sent: BTreeSet<Link> = request.links.iter().copied().collect();
            let mut next = 0;
            while let Some((link, bytes)) = items.get(next) {
                let ahead = links(*link, bytes).unwrap_or_default();
                let ahead: Vec<Link> =
                    ahead.into_iter().filter(|it| it.kind.is_structured()).collect();
                for link in ahead.into_iter().filter(|link| sent.insert(*link)) {
                    items.extend(store.serve(link).map(|bytes| (link, bytes.clone())));
                }
                next += 1;
            }
        }
        if let Err(why) = check_answer(&request, &items) {
            return self.find(format!("{at} answers {to} as it may not: {why}"));
        }
        let headers = ITEM_HEADER_BYTES * (items.len() + missing.len());
        let sent = items.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        self.traffic.objects += (headers + sent) as u64;
        let mut at_ms = self.after(self.weather.delay_ms);
        let pieces = usize::try_from(self.weather.objects_at_once).unwrap_or(usize::MAX);
        for piece in items.chunks(pieces) {
            let items = piece.to_vec();
            self.schedule(at_ms, Event::Items { at: to, from: at, life, id, items });
            at_ms += self.dice.between((0, self.weather.delay_ms.1));
        }
        at_ms += self.weather.store_ms.1;
        self.tell(to, life, at_ms, Input::RequestEnded { request: id, missing });
    }

    pub(super) fn tell(&mut self, at: usize, life: u64, at_ms: u64, input: Input) {
        self.schedule(at_ms, Event::Tell { at, life, input: Box::new(input) });
    }

    pub(super) fn told(&mut self, at: usize, input: Input) {
        self.note(|| format!("{at} hears {input:?}"));
        if let Input::RequestEnded { request, .. } | Input::RequestFailed { request, .. } = &input {
            let running = self.devices[at].running.as_ref();
            if running.is_some_and(|running| running.cancelled.contains(request)) {
                return;
            }
        }
        self.feed(at, input);
    }

    pub(super) fn receive(
        &mut self,
        at: usize,
        from: usize,
        id: RequestId,
        items: &[(Link, Bytes)],
    ) {
        let device = &mut self.devices[at];
        let life = device.life;
        let Some(running) = &mut device.running else { return };
        if running.cancelled.contains(&id) {
            return;
        }
        if !self.connected.contains_key(&pair(at, from)) {
            running.cancelled.insert(id);
            let broken = Input::RequestFailed { request: id, failure: Failure::Broken };
            return self.feed(at, broken);
        }
        let next = match device.store.receive(items) {
            Ok(_) if self.weather.is_walk_slow() => Vec::new(),
            Ok(next) => next,
            Err(why) => return self.find(format!("{at} cannot take what {from} sent: {why}")),
        };
        let length = |bytes: &Bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let received = items.iter().map(|(link, bytes)| (*link, length(bytes))).collect();
        let rejected = Vec::new();
        // What the store found is old by the time it is told.
        let at_ms = self.now_ms + self.dice.below(self.weather.store_ms.1);
        self.tell(at, life, at_ms, Input::Stored { request: id, received, next, rejected });
    }
}

/// Whether an answer is one that the protocol allows.
fn check_answer(request: &ObjectsRequest, items: &[(Link, Bytes)]) -> Result<(), String> {
    let mut check = AnswerCheck::new(request);
    for (link, bytes) in items {
        let length = u32::try_from(bytes.len()).map_err(|error| error.to_string())?;
        let header = ItemHeader::Present { link: *link, length };
        let decoded = ItemHeader::decode(&header.encode()).map_err(|error| error.to_string())?;
        check.expect(&decoded).map_err(|error| error.to_string())?;
    }
    Ok(())
}
