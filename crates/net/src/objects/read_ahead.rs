//! Reading ahead of what is written, within a share of bytes.

use std::pin::Pin;
use std::sync::Arc;

use n0_future::{FuturesOrdered, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::lane::SHARE_UNIT;

/// Reads under way or waiting to be written at once per answer: hides the latency of small objects.
const MAX_READS: usize = 32;

/// The reads of one answer, in order. Answers that have one share never wait for each other in a
/// circle: only one that holds nothing waits for room, and what is read first is written first.
pub(super) struct ReadAhead<T> {
    share: Arc<Semaphore>,
    reads: FuturesOrdered<Reading<T>>,
}

type Reading<T> = Pin<Box<dyn Future<Output = (T, Room)> + Send>>;

/// Room for one object, given back when this is dropped: once it is written.
#[derive(Debug)]
pub(super) struct Room(#[expect(dead_code, reason = "it is only held")] OwnedSemaphorePermit);

impl<T> ReadAhead<T> {
    /// No reads yet. `share` has a permit for each [`SHARE_UNIT`] bytes.
    pub(super) fn new(share: Arc<Semaphore>) -> Self {
        Self { share, reads: FuturesOrdered::new() }
    }

    /// Room to read an object of `bytes`; `None` where something must be written before, or at
    /// shutdown.
    pub(super) async fn room(&mut self, bytes: usize) -> Option<Room> {
        if self.reads.len() >= MAX_READS {
            return None;
        }
        let units = u32::try_from(bytes.div_ceil(SHARE_UNIT)).ok()?;
        let permit = match self.share.clone().try_acquire_many_owned(units) {
            Ok(permit) => Some(permit),
            Err(_) if self.reads.is_empty() => {
                self.share.clone().acquire_many_owned(units).await.ok()
            }
            Err(_) => None,
        };
        permit.map(Room)
    }

    /// Begins a read.
    pub(super) fn push(&mut self, room: Room, read: impl Future<Output = T> + Send + 'static) {
        self.reads.push_back(Box::pin(async move { (read.await, room) }));
    }

    /// The outcome of the oldest read; `None` where there are no more.
    pub(super) async fn next(&mut self) -> Option<(T, Room)> {
        self.reads.next().await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    /// Bytes read and not yet written, now and at most.
    #[derive(Default)]
    struct Held {
        now: AtomicUsize,
        most: AtomicUsize,
    }

    impl Held {
        fn take(&self, bytes: usize) {
            let now = self.now.fetch_add(bytes, SeqCst) + bytes;
            self.most.fetch_max(now, SeqCst);
        }
    }

    /// Writes objects of these lengths, each after others had their turn, all of one share.
    async fn answer(share: Arc<Semaphore>, held: Arc<Held>, lengths: Vec<usize>) -> Vec<usize> {
        let (mut reads, mut written) = (ReadAhead::new(share), Vec::new());
        let mut queue = lengths.into_iter().enumerate().peekable();
        loop {
            while let Some(&(n, bytes)) = queue.peek() {
                let Some(room) = reads.room(bytes).await else { break };
                queue.next();
                let held = held.clone();
                reads.push(room, async move {
                    held.take(bytes);
                    // Later ones may be read before earlier ones.
                    for _ in 0..(n * 7) % 5 {
                        tokio::task::yield_now().await;
                    }
                    (n, bytes)
                });
            }
            let Some(((n, bytes), room)) = reads.next().await else { return written };
            tokio::task::yield_now().await;
            written.push(n);
            held.now.fetch_sub(bytes, SeqCst);
            drop(room);
        }
    }

    #[tokio::test]
    async fn answers_stay_within_their_share_and_all_end() {
        const UNITS: usize = 100;
        let share = Arc::new(Semaphore::new(UNITS));
        let held = Arc::new(Held::default());
        let lengths = |seed: usize| -> Vec<usize> {
            (0..200).map(|n| ((n * 31 + seed * 17) % UNITS) * SHARE_UNIT).collect()
        };
        let answers: Vec<_> = (0..8)
            .map(|seed| tokio::spawn(answer(share.clone(), held.clone(), lengths(seed))))
            .collect();
        for answer in answers {
            assert_eq!(answer.await.unwrap(), (0..200).collect::<Vec<_>>(), "in order");
        }
        let most = held.most.load(SeqCst);
        assert!(most <= UNITS * SHARE_UNIT, "{most} bytes were read ahead");
        assert!(most > UNITS * SHARE_UNIT / 2, "the share is used: {most}");
        assert_eq!(share.available_permits(), UNITS);
    }
}
