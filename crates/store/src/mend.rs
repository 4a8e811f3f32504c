//! After the index failed: it is opened again although nobody writes, and memory is brought after
//! what it holds, because a commit that answered an error may have been durable.

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;

use crate::error::IndexError;
use crate::index::{Health, STATES, Slot, WeakWriter, state_key};
use crate::publish;
use crate::repo::RepoInner;
use crate::rollback::Record;
use crate::states::StateRow;
use crate::store::Inner;

/// A file that does not open is tried again after this long, then twice as long, and so on.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest such pause: a disk that was away is noticed to be back within it.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Watches over the index of an open store. The task ends with the store.
pub(crate) fn start(store: &Arc<Inner>) {
    let (health, writer) = (store.index.health(), store.index.writer().downgrade());
    tokio::spawn(watch_over(health, writer, Arc::downgrade(store)));
}

async fn watch_over(mut health: watch::Receiver<Health>, writer: WeakWriter, store: Weak<Inner>) {
    while health.changed().await.is_ok() {
        let mut pause = FIRST_PAUSE;
        loop {
            let Some(writer) = writer.upgrade() else { return };
            match writer.mend().await {
                Ok(()) => break,
                Err(IndexError::Closed) => return,
                Err(_) if health.borrow_and_update().lost.is_some() => return,
                Err(_) => {}
            }
            drop(writer);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        let Some(store) = store.upgrade() else { return };
        if let Err(error) = recall_all(&store).await {
            // Then it failed again, and this task hears of it.
            tracing::warn!(%error, "the index is open again and could not be read");
        }
    }
}

/// Brings the incarnation and every open repo after the index.
async fn recall_all(store: &Arc<Inner>) -> Result<(), IndexError> {
    store.recall_incarnation().await?;
    let repos: Vec<_> = store.repos().values().filter_map(Weak::upgrade).collect();
    for repo in repos {
        let _turn = repo.publishing.lock().await;
        recall(&repo).await?;
    }
    Ok(())
}

/// Tells a state of this device's own that is in the index and not in memory. The caller has the
/// repo's turn to publish.
pub(crate) async fn recall(repo: &Arc<RepoInner>) -> Result<(), IndexError> {
    let writer = repo.store.writer();
    let key = state_key(repo.number, Slot::Joined, writer);
    let index = &repo.store.index;
    index.writer().mend().await?;
    let Some(row) = index.begin_read()?.open_table(STATES)?.get(&key)? else { return Ok(()) };
    if repo.states().joined.get(&writer).is_some_and(|known| known.bytes() == row.value()) {
        return Ok(());
    }
    let state = StateRow::read(key.as_slice(), row.value())?.state;
    publish::told(repo, &state, Vec::new()).await;
    Ok(())
}

impl Inner {
    /// Takes the incarnation that the index has for the living one.
    async fn recall_incarnation(&self) -> Result<(), IndexError> {
        let _renewal = self.renewal.lock().await;
        let living = Record::read(&self.index.begin_read()?)?.incarnation;
        let old = self.writer();
        if let Some(incarnation) = living.filter(|living| *living != old.incarnation) {
            *self.incarnation.write().unwrap_or_else(PoisonError::into_inner) = incarnation;
            self.tell_incarnation(old);
        }
        Ok(())
    }
}
