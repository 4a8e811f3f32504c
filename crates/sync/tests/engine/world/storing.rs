//! What the stores do for the engines.

use ark_core::Link;
use ark_sync::{Effect, Input, RequestId, StoreStep};
use bytes::Bytes;

use super::World;

impl World {
    pub(super) fn receive(&mut self, at: usize, id: RequestId, items: &[(Link, Bytes)]) {
        let device = &mut self.devices[at];
        if device.cancelled.contains(&id) {
            return;
        }
        let (life, is_full) = (device.life, device.store.is_full);
        let input = if is_full {
            device.cancelled.insert(id);
            let step = StoreStep::Receive { request: id };
            Input::StoreFailed { step, reason: "no space".to_owned() }
        } else {
            let next = device.store.receive(items);
            let length = |bytes: &Bytes| u32::try_from(bytes.len()).unwrap();
            let received = items.iter().map(|(link, bytes)| (*link, length(bytes))).collect();
            Input::Stored { request: id, received, next, rejected: Vec::new() }
        };
        // What the store found is old by the time it is told.
        let at_ms = self.now_ms + self.dice.below(self.weather.store_ms.1);
        self.tell(at, life, at_ms, input);
    }

    pub(super) fn step(&mut self, at: usize, step: Effect) {
        let device = &mut self.devices[at];
        let (life, is_full) = (device.life, device.store.is_full);
        let input = match step {
            Effect::Lookup { writer, revision, links } => {
                let absent = device.store.missing(&links, usize::MAX);
                Input::LookedUp { writer, revision, absent }
            }
            Effect::Stage { state, .. } if is_full => Input::StoreFailed {
                step: StoreStep::Stage { writer: state.state().writer },
                reason: "no space".to_owned(),
            },
            Effect::Join { writer } if is_full => Input::StoreFailed {
                step: StoreStep::Join { writer },
                reason: "no space".to_owned(),
            },
            Effect::Abandon { writer } if is_full => Input::StoreFailed {
                step: StoreStep::Abandon { writer },
                reason: "no space".to_owned(),
            },
            Effect::Abandon { writer } => {
                device.store.staged.remove(&writer);
                Input::Abandoned { writer }
            }
            Effect::Stage { state, replacing } => {
                device.staged += 1;
                let outcome = device.store.stage(&state, replacing);
                Input::Staged { writer: state.state().writer, outcome }
            }
            Effect::Join { writer } => {
                let outcome = device.store.join(writer);
                if let ark_sync::JoinOutcome::Joined(state) = &outcome {
                    device.joins.push((writer, state.state().revision));
                }
                Input::JoinResult { writer, outcome }
            }
            other => panic!("no step of the store: {other:?}"),
        };
        let at_ms = self.now_ms + self.dice.below(self.weather.store_ms.1);
        self.tell(at, life, at_ms, input);
    }
}
