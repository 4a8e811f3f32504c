//! What one jj process takes in on its way into the index.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ark_core::{
    Checked, DecodeError, Link, MAX_OBJECT_BYTES, Object, ObjectId, ObjectKind, RepoKind, Summary,
};
use bytes::Bytes;
use tokio::sync::{Mutex, MutexGuard};

use super::{Changing, JjRepo};
use crate::batch::NewLinks;
use crate::closure::FLUSH_OBJECTS;
use crate::counters::count;
use crate::error::{BlobError, IndexError, LeaseError, PutError, ReadError, UpdateError};
use crate::importer::Importer;
use crate::index::{View, insert_objects};
use crate::repo::{RepoInner, blocking};

/// A jj process's hold on its repo. What it puts is kept, and can be got by it, until a barrier
/// makes it durable and indexes it, or the lease is dropped: what no barrier covered is given back
/// then.
///
/// Once a put or a barrier has failed in the store the lease is broken, and each later one fails:
/// what was put and not covered by a barrier has to be put again, by another lease.
#[derive(Clone, Debug)]
pub struct Lease {
    jj: JjRepo,
    leased: Arc<Leased>,
}

#[derive(Debug)]
struct Leased {
    taken: Mutex<Taken>,
    /// Held by the barrier, one at a time.
    turn: Mutex<()>,
}

/// What is taken in and not yet known to be indexed.
#[derive(Debug)]
struct Taken {
    importer: Importer,
    /// Since the last barrier began. All that it links is indexed, or here.
    open: HashMap<Link, Summary>,
    /// What a barrier is making durable.
    passing: HashMap<Link, Summary>,
    /// What was indexed and nobody was told of.
    new: NewLinks,
    is_broken: bool,
}

impl Taken {
    fn get(&self, link: Link) -> Option<&Summary> {
        self.open.get(&link).or_else(|| self.passing.get(&link))
    }

    fn check_whole(&self) -> Result<(), LeaseError> {
        if self.is_broken { Err(LeaseError::Broken) } else { Ok(()) }
    }

    /// Lets everything go: what was put after what failed may link that.
    fn fail(&mut self, repo: &RepoInner) {
        self.is_broken = true;
        self.importer = importer(repo);
        self.open = HashMap::new();
        self.passing = HashMap::new();
    }

    fn check(
        &self,
        repo: &RepoInner,
        view: &View,
        object: &Object,
    ) -> Result<Result<Checked, DecodeError>, IndexError> {
        let mut failed = None;
        let child = |child| match self.get(child) {
            Some(summary) => Some(summary.clone()),
            None => view.summary(repo.number, child).unwrap_or_else(|error| {
                failed = Some(error);
                None
            }),
        };
        let checked = ark_core::check(object.link(), object.bytes(), child);
        failed.map_or(Ok(checked), Err)
    }
}

fn importer(repo: &RepoInner) -> Importer {
    Importer::new(repo.store.blobs.clone(), repo.store.index.clone())
}

impl Lease {
    pub(super) fn new(jj: JjRepo) -> Self {
        let taken = Taken {
            importer: importer(&jj.repo),
            open: HashMap::new(),
            passing: HashMap::new(),
            new: NewLinks::default(),
            is_broken: false,
        };
        Self { jj, leased: Arc::new(Leased { taken: Mutex::new(taken), turn: Mutex::new(()) }) }
    }

    /// The bytes of an object that the repo has or this lease took in, checked against its id.
    ///
    /// # Errors
    /// It is not here, or not readable: never one for the other.
    pub async fn get(&self, link: Link) -> Result<Bytes, ReadError> {
        let repo = &self.jj.repo;
        let mut taken = self.leased.taken.lock().await;
        let is_taken = taken.get(link).is_some();
        // The cache has what other leases took in, too.
        if !is_taken && !repo.has(&repo.store.index.view()?, link)? {
            return Err(ReadError::Absent { link });
        }
        if let Some(bytes) = repo.cached(link) {
            return Ok(bytes);
        }
        if is_taken && let Err(error) = taken.importer.settle().await {
            taken.fail(repo);
            return Err(match LeaseError::from(error) {
                LeaseError::Index(error) => error.into(),
                LeaseError::Blob(source) => ReadError::Blob { link, source },
                LeaseError::Broken => ReadError::Absent { link },
            });
        }
        let bytes = repo.store.blobs.read(link).await?;
        repo.store.cache.insert(repo.number, link, bytes.clone());
        Ok(bytes)
    }

    /// Takes an object in. What it links was taken in before, or is indexed. Comes back before it
    /// is durable; waits while too many imports are under way.
    ///
    /// # Errors
    /// The object is not taken in; where the store failed the lease is broken.
    pub async fn put(&self, object: Object) -> Result<(), PutError> {
        let (repo, link, length) = (&self.jj.repo, object.link(), object.bytes().len());
        if length > MAX_OBJECT_BYTES {
            return Err(PutError::TooLarge { link, length });
        }
        if !RepoKind::Jj.has(link.kind) || !repo.takes(link.kind) {
            return Err(PutError::OtherKind { link });
        }
        let mut taken = self.leased.taken.lock().await;
        taken.check_whole()?;
        match take(&mut taken, repo, object).await {
            Err(PutError::Lease(error)) => {
                taken.fail(repo);
                return Err(error.into());
            }
            taken => taken?,
        }
        let is_full = taken.open.len() >= FLUSH_OBJECTS;
        drop(taken);
        if is_full { Ok(self.barrier().await?) } else { Ok(()) }
    }

    /// Makes what was put before durable and indexes it, all in one commit. With nothing to do it
    /// comes back at once.
    ///
    /// # Errors
    /// Some of it is not, and may be lost: the lease is broken.
    pub async fn barrier(&self) -> Result<(), LeaseError> {
        // On its own: who stops waiting must not leave half of it to the next.
        let (repo, leased) = (Arc::clone(&self.jj.repo), Arc::clone(&self.leased));
        let passing = tokio::spawn(async move { leased.pass(&repo).await });
        passing.await.map_err(|error| BlobError::Stopped { source: Arc::new(error) })?
    }

    /// The ids of the objects of this kind in a range that are indexed or were taken in by this
    /// lease, in order: the lowest, `limit` at most.
    ///
    /// # Errors
    /// The index failed.
    pub async fn ids(
        &self,
        kind: ObjectKind,
        range: RangeInclusive<ObjectId>,
        limit: usize,
    ) -> Result<Vec<ObjectId>, IndexError> {
        let taken = self.leased.taken.lock().await;
        let links = taken.open.keys().chain(taken.passing.keys());
        let links = links.filter(|link| link.kind == kind && range.contains(&link.id));
        let mut ids: Vec<ObjectId> = links.map(|link| link.id).collect();
        drop(taken);
        let repo = Arc::clone(&self.jj.repo);
        let read = move || repo.store.index.view()?.ids(repo.number, kind, &range, limit);
        ids.extend(blocking(read).await?);
        ids.sort_unstable();
        ids.dedup();
        ids.truncate(limit);
        Ok(ids)
    }

    /// The operations that are the repo's heads, in order of id; none before the first one.
    pub fn heads(&self) -> Vec<ObjectId> {
        self.jj.heads()
    }

    /// In one act: drops those of `old` that are heads, `new` aside, and makes `new` one if it is
    /// none yet, whoever replaced `old` meanwhile. `new` was put before, or is indexed. It is
    /// durable and told when this comes back; where it changes nothing, nothing is said.
    ///
    /// # Errors
    /// Nothing was changed, or it is not known whether it was.
    pub async fn update_heads(
        &self,
        old: &[ObjectId],
        new: Option<ObjectId>,
    ) -> Result<(), UpdateError> {
        self.change(old, new, Changing::Anyway).await.map(|_| ())
    }

    /// As [`Lease::update_heads`], but only if all of `old`, of which `new` may be one, are heads
    /// in that moment; otherwise nothing is changed, and the answer is `false`.
    ///
    /// # Errors
    /// As [`Lease::update_heads`].
    pub async fn replace_heads(
        &self,
        old: &[ObjectId],
        new: ObjectId,
    ) -> Result<bool, UpdateError> {
        self.change(old, Some(new), Changing::IfAllAre).await
    }

    async fn change(
        &self,
        old: &[ObjectId],
        new: Option<ObjectId>,
        changing: Changing,
    ) -> Result<bool, UpdateError> {
        self.barrier().await?;
        let told = self.leased.taken.lock().await.new.clone();
        let (jj, leased, old) = (self.jj.clone(), Arc::clone(&self.leased), old.to_vec());
        let changing = async move {
            let is_changed = jj.change(&old, new, changing, &told).await?;
            if is_changed {
                // What was indexed since then is not told: it is a hint.
                leased.taken.lock().await.new = NewLinks::default();
            }
            Ok(is_changed)
        };
        // As for the barrier.
        let stopped = |error| LeaseError::Blob(BlobError::Stopped { source: Arc::new(error) });
        tokio::spawn(changing).await.map_err(stopped)?
    }
}

/// Takes an object in, unless it is here.
async fn take(
    taken: &mut MutexGuard<'_, Taken>,
    repo: &RepoInner,
    object: Object,
) -> Result<(), PutError> {
    let link = object.link();
    if taken.get(link).is_some() {
        return Ok(());
    }
    // As of now: what a barrier let go of is indexed in it.
    let view = repo.store.index.view().map_err(LeaseError::from)?;
    if view.is_indexed(repo.number, link).map_err(LeaseError::from)? {
        return Ok(());
    }
    let checked = taken.check(repo, &view, &object).map_err(LeaseError::from)?;
    drop(view);
    match checked.map_err(|source| PutError::Decode { link, source })? {
        Checked::Missing(missing) => Err(PutError::NotClosed { link, missing }),
        Checked::Complete(summary) => {
            repo.store.cache.insert(repo.number, link, object.bytes().clone());
            let topics = repo.store.topics.load(Ordering::Acquire);
            taken.importer.add(object, topics).await.map_err(LeaseError::from)?;
            taken.open.insert(link, summary);
            Ok(())
        }
    }
}

impl Leased {
    /// One barrier.
    async fn pass(&self, repo: &RepoInner) -> Result<(), LeaseError> {
        let _turn = self.turn.lock().await;
        let mut taken = self.taken.lock().await;
        taken.check_whole()?;
        if taken.open.is_empty() {
            return Ok(());
        }
        let imports = match taken.importer.finish().await {
            Ok(imports) => imports,
            Err(error) => {
                taken.fail(repo);
                return Err(error.into());
            }
        };
        taken.passing = std::mem::take(&mut taken.open);
        let objects: Vec<_> =
            taken.passing.iter().map(|(&link, summary)| (link, summary.clone())).collect();
        drop(taken);

        let (number, counts) = (repo.number, Arc::clone(&repo.store.counts));
        let indexed = repo.store.barrier.pass(imports, None, move |transaction| {
            let new = insert_objects(transaction, number, &objects)?;
            count(&counts.indexed, new.len());
            Ok(new)
        });
        let indexed = indexed.await;

        let mut taken = self.taken.lock().await;
        match indexed {
            Ok(new) => {
                taken.passing = HashMap::new();
                taken.new.extend(new);
                Ok(())
            }
            Err(error) => {
                taken.fail(repo);
                Err(error.into())
            }
        }
    }
}
