//! What was read whole and is on its way to the disk: nobody is asked for it meanwhile.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ark_core::{Link, TopicId};
use tokio::sync::watch;

/// The objects that any request has read whole, until they are kept. As many as the store is
/// given at once.
#[derive(Debug, Default)]
pub(super) struct Wholes {
    objects: Mutex<HashMap<(TopicId, Link), watch::Receiver<bool>>>,
}

impl Wholes {
    /// An object of a repo was read.
    pub(super) fn add(self: &Arc<Self>, topic: TopicId, link: Link) -> Whole {
        let (kept, watch) = watch::channel(false);
        self.objects().entry((topic, link)).or_insert(watch);
        Whole { wholes: self.clone(), key: (topic, link), kept }
    }

    /// Waits for those of `links` that were read: which of them are kept by then.
    pub(super) async fn kept(&self, topic: TopicId, links: &[Link]) -> HashSet<Link> {
        let read: Vec<_> = {
            let objects = self.objects();
            let find = |&link| Some((link, objects.get(&(topic, link))?.clone()));
            links.iter().filter_map(find).collect()
        };
        let mut kept = HashSet::new();
        for (link, mut watch) in read {
            // An error: it could not be kept, so it is to be asked for.
            if watch.wait_for(|&kept| kept).await.is_ok() {
                kept.insert(link);
            }
        }
        kept
    }

    fn objects(&self) -> MutexGuard<'_, HashMap<(TopicId, Link), watch::Receiver<bool>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An object that was read whole. Where this is dropped without [`Whole::keep`], it is lost.
#[derive(Debug)]
pub(super) struct Whole {
    wholes: Arc<Wholes>,
    key: (TopicId, Link),
    kept: watch::Sender<bool>,
}

impl Whole {
    /// It is kept, and that was told.
    pub(super) fn keep(self) {
        self.kept.send_replace(true);
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        let mut objects = self.wholes.objects();
        // Two may have read the same: the one that came first is there.
        if objects.get(&self.key).is_some_and(|watch| watch.same_channel(&self.kept.subscribe())) {
            objects.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use ark_core::ObjectId;
    use tokio::task::yield_now;

    use super::*;

    fn link(n: u8) -> Link {
        Link::raw(ObjectId::from_bytes([n; 32]))
    }

    #[tokio::test]
    async fn what_was_read_is_waited_for() {
        let (wholes, topic) = (Arc::new(Wholes::default()), TopicId::derive("x", None));
        let [kept, lost] = [1, 2].map(|n| wholes.add(topic, link(n)));
        let elsewhere = wholes.add(TopicId::derive("y", None), link(3));
        let waiting = tokio::spawn({
            let wholes = wholes.clone();
            async move { wholes.kept(topic, &[1, 2, 3, 4].map(link)).await }
        });
        yield_now().await;
        assert!(!waiting.is_finished());
        drop(lost);
        yield_now().await;
        assert!(!waiting.is_finished());
        kept.keep();
        assert_eq!(waiting.await.unwrap(), HashSet::from([link(1)]));
        drop(elsewhere);
        assert!(wholes.objects().is_empty());
    }

    #[tokio::test]
    async fn the_second_to_read_does_not_end_the_first() {
        let (wholes, topic) = (Arc::new(Wholes::default()), TopicId::derive("x", None));
        let first = wholes.add(topic, link(1));
        drop(wholes.add(topic, link(1)));
        assert_eq!(wholes.objects().len(), 1);
        first.keep();
        assert!(wholes.objects().is_empty());
    }
}
