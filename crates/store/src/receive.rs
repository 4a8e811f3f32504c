//! Objects from peers: what is closed is indexed, the rest is pending.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ark_core::{Checked, DecodeError, Link, MAX_OBJECT_BYTES, Object, Summary};

use crate::counters::count;
use crate::error::{IndexError, ReceiveError};
use crate::importer::Importer;
use crate::index::{View, insert_objects, insert_pending};
use crate::repo::RepoInner;

/// What became of received objects.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// What the structured ones link that is neither indexed nor pending here: to be fetched.
    /// Distinct.
    pub next: Vec<Link>,
    /// Structured ones that are not what their link says: not kept.
    pub rejected: Vec<(Link, DecodeError)>,
}

/// See [`Repo::receive`](crate::Repo::receive).
pub(crate) async fn receive(
    repo: &Arc<RepoInner>,
    objects: Vec<Object>,
) -> Result<Received, ReceiveError> {
    let store = &repo.store;
    let mut importer = Importer::new(store.blobs.clone(), store.index.clone());
    let mut sorting = Sorting::new(repo)?;
    // Parents are sent before what they link: backwards, the children are known first.
    for object in objects.into_iter().rev() {
        if sorting.take(&object)? {
            if object.link().kind.is_structured() {
                store.cache.insert(repo.number, object.link(), object.bytes().clone());
            }
            importer.add(object, store.topics.load(Ordering::Acquire)).await?;
        }
    }
    let imports = importer.finish().await?;
    let Sorting { indexable, pending, .. } = &mut sorting;
    let (indexable, pending) = (std::mem::take(indexable), std::mem::take(pending));
    let kept: HashSet<Link> =
        indexable.iter().map(|(link, _)| *link).chain(pending.iter().copied()).collect();
    if !kept.is_empty() {
        let (number, counts) = (repo.number, Arc::clone(&store.counts));
        let change = move |transaction: &redb::WriteTransaction| {
            let new = insert_objects(transaction, number, &indexable)?;
            count(&counts.indexed, new.len());
            let pending: Vec<Link> = pending.into_iter().collect();
            count(&counts.pending, insert_pending(transaction, number, &pending)?);
            Ok(())
        };
        store.barrier.pass(imports, None, change).await?;
    }
    sorting.into_received(&kept)
}

/// Received objects by what can be done with them.
struct Sorting<'a> {
    repo: &'a RepoInner,
    view: View,
    known: HashMap<Link, usize>,
    indexable: Vec<(Link, Summary)>,
    pending: HashSet<Link>,
    wanted: Vec<Link>,
    rejected: Vec<(Link, DecodeError)>,
}

impl<'a> Sorting<'a> {
    fn new(repo: &'a RepoInner) -> Result<Self, IndexError> {
        Ok(Self {
            repo,
            view: repo.store.index.view()?,
            known: HashMap::new(),
            indexable: Vec::new(),
            pending: HashSet::new(),
            wanted: Vec::new(),
            rejected: Vec::new(),
        })
    }

    /// Sorts an object in. Whether its bytes are to be imported.
    fn take(&mut self, object: &Object) -> Result<bool, IndexError> {
        let (link, number) = (object.link(), self.repo.number);
        if self.known.contains_key(&link) || self.view.is_indexed(number, link)? {
            return Ok(false);
        }
        let length = object.bytes().len();
        if length > MAX_OBJECT_BYTES {
            self.rejected.push((link, DecodeError::TooLarge { kind: link.kind, length }));
            return Ok(false);
        }
        if !self.repo.takes(link.kind) {
            let reason = "such a repo has no objects of this kind".to_owned();
            self.rejected.push((link, DecodeError::Invalid { kind: link.kind, reason }));
            return Ok(false);
        }
        match self.check(object)? {
            Ok(Checked::Complete(summary)) => {
                self.known.insert(link, self.indexable.len());
                self.indexable.push((link, summary));
                Ok(true)
            }
            Ok(Checked::Missing(children)) => {
                self.wanted.extend(children.into_iter().rev());
                Ok(!self.view.is_pending(number, link)? && self.pending.insert(link))
            }
            Err(error) => {
                self.rejected.push((link, error));
                Ok(false)
            }
        }
    }

    fn check(&self, object: &Object) -> Result<Result<Checked, DecodeError>, IndexError> {
        let mut failed = None;
        let child = |child| match self.known.get(&child) {
            Some(&at) => Some(self.indexable[at].1.clone()),
            None => self.view.summary(self.repo.number, child).unwrap_or_else(|error| {
                failed = Some(error);
                None
            }),
        };
        let checked = ark_core::check(object.link(), object.bytes(), child);
        failed.map_or(Ok(checked), Err)
    }

    /// What is to be fetched next, without what was kept meanwhile.
    fn into_received(self, kept: &HashSet<Link>) -> Result<Received, ReceiveError> {
        let view = self.repo.store.index.view()?;
        let mut next = Vec::new();
        let mut seen = HashSet::new();
        for link in self.wanted.into_iter().rev() {
            if seen.insert(link) && !kept.contains(&link) && !self.repo.has(&view, link)? {
                next.push(link);
            }
        }
        Ok(Received { next, rejected: self.rejected })
    }
}
