//! Publishing a state of this device's own: durable before told.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ark_core::{Dot, Head, Link, Object, ObjectKind, RepoKind, SignedState, State, Vector};
use redb::ReadableTable;
use tokio::sync::OwnedMutexGuard;

use crate::base::BaseChanges;
use crate::batch::{Batch, NewLinks, Ready};
use crate::counters::count;
use crate::error::{AddError, BlobError, CommitError, IndexError, PublishError};
use crate::index::{ISSUED, STATES, Slot, insert_objects, issued_key, state_key};
use crate::mend;
use crate::repo::{Issued, RepoInner};
use crate::rollback::living_incarnation;
use crate::states::Change;
use crate::tags::StateTag;

/// The right to publish in a repo, held by one at a time. Dropping it gives it back; its dot is
/// then free for the next.
#[derive(Debug)]
pub struct Publisher {
    repo: Arc<RepoInner>,
    kind: RepoKind,
    next: Issued,
    base: BaseChanges,
    _turn: OwnedMutexGuard<()>,
}

impl Publisher {
    /// Waits for the repo's turn, to publish states of this kind.
    pub(crate) async fn acquire(repo: Arc<RepoInner>, kind: RepoKind) -> Self {
        let turn = Arc::clone(&repo.publishing).lock_owned().await;
        let issued = repo.issued();
        let next = Issued {
            incarnation: issued.incarnation,
            revision: issued.revision + 1,
            sequence: issued.sequence + 1,
        };
        Self { repo, kind, next, base: BaseChanges::default(), _turn: turn }
    }

    /// Lets the publication change the [base](crate::Base) too, in its own transaction: as
    /// [`Base::apply`](crate::Base::apply) does, but there if and only if the state is. Replaces
    /// what was given before.
    #[must_use]
    pub fn with_base(
        mut self,
        changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
        meta: Vec<(String, Option<Vec<u8>>)>,
    ) -> Self {
        self.base = BaseChanges { records: changes, meta };
        self
    }

    /// The dot of what will be published: never used before.
    pub fn dot(&self) -> Dot {
        let device = self.repo.store.device;
        let writer = ark_core::Writer { device, incarnation: self.next.incarnation };
        Dot { writer, sequence: self.next.sequence }
    }

    /// Publishes the state with these heads (a new one under [`Publisher::dot`], those that stay
    /// under their own sequences): makes the batch and the state durable, then tells
    /// [`Change::Published`](crate::Change::Published). The batch must be of the same repo.
    ///
    /// # Errors
    /// Nothing was told. See [`PublishError`] for what to do.
    pub async fn publish(
        self,
        batch: Batch,
        heads: Vec<Head>,
        vector: Vector,
        held: Vec<Dot>,
    ) -> Result<SignedState, PublishError> {
        // On its own, so that a caller who stops waiting does not leave a state that is durable
        // and told nobody.
        let publishing = tokio::spawn(self.run(batch, heads, vector, held));
        let stopped = |error| BlobError::Stopped { source: Arc::new(error) };
        publishing.await.map_err(stopped)?
    }

    async fn run(
        mut self,
        batch: Batch,
        heads: Vec<Head>,
        vector: Vector,
        held: Vec<Dot>,
    ) -> Result<SignedState, PublishError> {
        let base = std::mem::take(&mut self.base);
        let Self { repo, kind, next, .. } = &self;
        let (store, kind) = (&repo.store, *kind);
        if let Some(found) = repo.kind().filter(|found| *found != kind) {
            return Err(PublishError::OtherKind { found });
        }
        if store.key_elsewhere.load(Ordering::Relaxed) {
            return Err(PublishError::KeyInUseElsewhere);
        }
        let Dot { writer, sequence } = self.dot();
        let (topic, revision) = (repo.topic, next.revision);
        let state = State { topic, kind, writer, revision, heads, vector, held };
        let links = state.head_links();
        if !batch.is_of(repo) {
            return Err(CommitError::NotClosed { missing: links }.into());
        }
        let signed = SignedState::sign(state, &store.key)?;
        let ready = batch.finish(&links).await?;
        hit(repo, "publish")?;
        // From here on the state may reach the disk: whatever happens, it was issued.
        if !repo.issue(*next) {
            return Err(PublishError::Incarnation);
        }
        let tag = StateTag::new(&signed, sequence).name();
        let error = match self.commit(&signed, &tag, ready, base).await {
            Ok(new) => {
                told(repo, &signed, new.into_links()).await;
                hit(repo, "committed")?;
                return Ok(signed);
            }
            Err(error) => error,
        };
        // A commit that answers an error may be durable all the same.
        if is_of_index(&error) {
            if mend::recall(repo).await.is_err() {
                // Not known, and told as soon as it is.
                return Err(error);
            }
            if repo.states().joined.get(&writer) == Some(&signed) {
                return Ok(signed);
            }
        }
        // Nobody was told; if this fails too, the next opening removes it.
        drop(store.blobs.untag(&tag).await);
        Err(error)
    }

    /// The barrier: state tagged, everything durable, index committed.
    async fn commit(
        &self,
        signed: &SignedState,
        tag: &str,
        ready: Ready,
        base: BaseChanges,
    ) -> Result<NewLinks, PublishError> {
        let (repo, store) = (&self.repo, &self.repo.store);
        let Ready { objects, mut imports, mut new } = ready;
        let object = Object::new(ObjectKind::Raw, signed.bytes().clone());
        let (import, set) = store.blobs.tag(tag, object).await?;
        imports.push(import);
        hit(repo, "tagged")?;
        let known = repo.states().joined.get(&signed.state().writer).map(|s| s.bytes().clone());
        let (number, next, bytes) = (repo.number, self.next, signed.bytes().clone());
        let kind = self.kind;
        let (writer, counts) = (signed.state().writer, Arc::clone(&store.counts));
        let publishing = Arc::clone(repo);
        let committed = store.barrier.pass(imports, Some(set), move |transaction| {
            if living_incarnation(transaction)? != Some(next.incarnation) {
                return Ok(Outcome::Renewed);
            }
            let mut states = transaction.open_table(STATES)?;
            let own = states.get(&state_key(number, Slot::Joined, writer))?;
            if own.as_ref().map(redb::AccessGuard::value) != known.as_deref() {
                return Ok(Outcome::Behind);
            }
            drop(own);
            // Here, where there is one at a time, and not before all else has worked.
            if let Err(found) = publishing.decide(kind) {
                return Ok(Outcome::OtherKind(found));
            }
            let new = insert_objects(transaction, number, &objects)?;
            count(&counts.indexed, new.len());
            states.insert(&state_key(number, Slot::Joined, writer), bytes.as_ref())?;
            let mut issued = transaction.open_table(ISSUED)?;
            let key = issued_key(number, writer);
            let before = issued.get(&key)?.map_or((0, 0), |value| value.value());
            if before >= (next.revision, next.sequence) {
                return Err(IndexError::Damaged { table: "issued" });
            }
            issued.insert(&key, (next.revision, next.sequence))?;
            base.write(transaction, number)?;
            drop(states);
            publishing.follow_heads(transaction)?;
            Ok(Outcome::Done(new))
        });
        match committed.await? {
            Outcome::Done(links) => new.extend(links),
            Outcome::Renewed => return Err(PublishError::Incarnation),
            Outcome::OtherKind(found) => return Err(PublishError::OtherKind { found }),
            // A commit that answered an error was durable after all. It is told now, and what is
            // published next is made over it.
            Outcome::Behind => {
                mend::recall(repo).await?;
                return Err(BlobError::Reopened.into());
            }
        }
        Ok(new)
    }
}

/// Tells what is durable now, and lets the previous state's tag go.
pub(crate) async fn told(repo: &Arc<RepoInner>, signed: &SignedState, new: Vec<Link>) {
    let writer = signed.state().writer;
    let mut replaced = None;
    repo.update_states(|states| replaced = states.joined.insert(writer, signed.clone()));
    repo.tell(Change::Published { state: signed.clone(), new: new.into() });
    if let Some(replaced) = replaced {
        // A tag too many is removed at the next opening.
        let prefix = StateTag::revision_prefix(&replaced);
        drop(repo.store.blobs.untag_all(&prefix).await);
    }
}

/// Whether the index failed: then it may have committed all the same.
fn is_of_index(error: &PublishError) -> bool {
    matches!(error, PublishError::Commit(CommitError::Add(AddError::Index(_))))
}

/// What the index's transaction found.
enum Outcome {
    Done(Vec<Link>),
    /// The device took a new incarnation.
    Renewed,
    /// A state of another kind was joined first.
    OtherKind(RepoKind),
    /// The index has another state of this device's than memory.
    Behind,
}

fn hit(repo: &RepoInner, name: &'static str) -> Result<(), PublishError> {
    repo.store
        .failpoints
        .hit(name)
        .map_err(|source| BlobError::Io { what: name, source: Arc::new(source) }.into())
}
