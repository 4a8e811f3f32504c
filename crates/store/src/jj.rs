//! jj's side of a repo: its heads, and leases, by which jj processes read and write.
//!
//! A change of heads is a state of this device's own, as a folder's snapshot is: durable before it
//! is told. `ark_core::update_heads` says what is in it.

mod lease;

use std::sync::Arc;

use ark_core::{
    DeviceId, Dot, MAX_HEADS, ObjectId, RepoKind, Said, SignedState, State, Writer, heads,
    list_again, take_over, update_heads,
};
use tokio::sync::broadcast;

use crate::batch::{Batch, NewLinks};
use crate::error::{IndexError, PublishError, RepoError};
use crate::index::{ISSUED, issued_key};
use crate::publish::Publisher;
use crate::repo::RepoInner;
use crate::rollback::is_forked;
use crate::states::{Change, States};

pub use lease::Lease;

/// Incarnations that a device may take while one change of heads is published. More than one is
/// a peer's lie or a key that runs twice, and the store bounds both.
const MAX_INCARNATIONS: usize = 4;

/// Heads taken over at a time: as many as a state may list, of as many devices.
const MAX_TAKEN_OVER: usize = MAX_HEADS;

/// A jj repo. Cheap to clone.
#[derive(Clone, Debug)]
pub struct JjRepo {
    repo: Arc<RepoInner>,
}

/// How heads are changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Changing {
    /// In any case.
    Anyway,
    /// Only if all that are to be dropped are heads.
    IfAllAre,
}

impl JjRepo {
    pub(crate) fn new(repo: &Arc<RepoInner>) -> Result<Self, RepoError> {
        let asked = RepoKind::Jj;
        match repo.kind() {
            Some(found) if found != asked => Err(RepoError::OtherKind { found, asked }),
            _ => Ok(Self { repo: Arc::clone(repo) }),
        }
    }

    /// The operations that are the repo's heads, in order of id; none before the first one.
    pub fn heads(&self) -> Vec<ObjectId> {
        let states = self.repo.states();
        let now = heads(states.joined.values().map(SignedState::state));
        let mut ids: Vec<ObjectId> = now.into_iter().map(|head| head.id).collect();
        ids.sort_unstable();
        ids
    }

    /// A lease for one jj process.
    pub fn lease(&self) -> Lease {
        Lease::new(self.clone())
    }

    /// Makes heads of devices that are `gone`, as the config lists them no more, this one's own, so
    /// that they are heads for those, too, who never had their states.
    ///
    /// # Errors
    /// Not all were.
    pub async fn take_over(
        &self,
        gone: impl Fn(DeviceId) -> bool + Send + Sync,
    ) -> Result<(), PublishError> {
        for _ in 0..MAX_TAKEN_OVER {
            let said = |joined: &[&State], dot| {
                take_over(joined.iter().copied(), dot, |writer| gone(writer.device))
            };
            if !self.say(&NewLinks::default(), said).await? {
                break;
            }
        }
        Ok(())
    }

    /// Lists the heads again that this device made as another writer, but for those that `instead`,
    /// which is to be joined in the place of that writer's state, lists, too.
    pub(crate) async fn list_again(&self, instead: &State) -> Result<(), PublishError> {
        for _ in 0..MAX_HEADS {
            let said = |joined: &[&State], dot| list_again(joined.iter().copied(), dot, instead);
            if !self.say(&NewLinks::default(), said).await? {
                break;
            }
        }
        Ok(())
    }

    /// What happens from now on: heads may be others after [`Change::Published`] and
    /// [`Change::Joined`].
    pub fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.repo.subscribe()
    }

    /// Changes the heads, durably, and tells it with what is `new` in the index. Whether they were
    /// to be changed: they are as asked then.
    async fn change(
        &self,
        old: &[ObjectId],
        new: Option<ObjectId>,
        changing: Changing,
        told: &NewLinks,
    ) -> Result<bool, PublishError> {
        let mut is_refused = false;
        let said = |joined: &[&State], dot| {
            let now = heads(joined.iter().copied());
            let is_head = |id: &ObjectId| now.iter().any(|head| head.id == *id);
            is_refused = changing == Changing::IfAllAre && !old.iter().all(is_head);
            if is_refused {
                return None;
            }
            update_heads(joined.iter().copied(), dot, old, new)
        };
        self.say(told, said).await?;
        Ok(!is_refused)
    }

    /// Dots of heads that this device made as a writer that another machine writes as, too, of which
    /// nothing is joined yet: they may stand for other heads as well, which nobody here had. They are
    /// held until then, whatever is dropped.
    fn doubtful(&self, states: &States) -> Result<Vec<Dot>, IndexError> {
        let own = self.repo.store.writer();
        let is_old = |writer: &Writer| writer.device == own.device && *writer != own;
        let mut doubtful = Vec::new();
        for (writer, state) in states.joined.iter().filter(|(writer, _)| is_old(writer)) {
            let read = self.repo.store.index.begin_read()?;
            let is_own = || {
                let issued =
                    read.open_table(ISSUED)?.get(&issued_key(self.repo.number, *writer))?;
                let revision = issued.map_or(0, |issued| issued.value().0);
                Ok::<_, IndexError>(state.state().revision <= revision)
            };
            if is_forked(&read, writer.incarnation)? && is_own()? {
                let said = states.joined.values().map(SignedState::state);
                let now = heads(said).into_iter().flat_map(|head| head.dots);
                doubtful.extend(now.filter(|dot| dot.writer == *writer));
            }
        }
        Ok(doubtful)
    }

    /// Publishes what `said` makes of the joined states under a dot of this device's, and whether
    /// that was anything.
    async fn say(
        &self,
        told: &NewLinks,
        mut said: impl FnMut(&[&State], Dot) -> Option<Said> + Send,
    ) -> Result<bool, PublishError> {
        let mut tries = 0;
        loop {
            let publisher = Publisher::acquire(Arc::clone(&self.repo), RepoKind::Jj).await;
            let states = self.repo.states();
            let doubtful = self.doubtful(&states)?;
            let said = {
                let joined: Vec<&State> = states.joined.values().map(SignedState::state).collect();
                said(&joined, publisher.dot())
            };
            let Some(Said { heads, vector, mut held }) = said else { return Ok(false) };
            held.extend(doubtful);
            held.sort_unstable();
            held.dedup();
            let batch = Batch::telling(Arc::clone(&self.repo), told.clone());
            match publisher.publish(batch, heads, vector, held).await {
                Ok(_) => return Ok(true),
                Err(PublishError::Incarnation) if tries < MAX_INCARNATIONS => {
                    tries += 1;
                    // Who takes the new one is done when this is free.
                    drop(self.repo.store.renewal.lock().await);
                }
                Err(error) => return Err(error),
            }
        }
    }
}
