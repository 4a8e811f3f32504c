//! New objects of a repo on their way into the index.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ark_core::{Checked, DecodeError, Link, MAX_OBJECT_BYTES, Object, Summary};

use crate::MAX_NEW_LINKS;
use crate::blobs::Import;
use crate::closure::FLUSH_OBJECTS;
use crate::counters::count;
use crate::error::{AddError, CommitError, IndexError};
use crate::importer::Importer;
use crate::index::{View, insert_objects};
use crate::repo::RepoInner;

/// New objects: imported as they are added, indexed by [`Batch::commit`] or
/// [`Publisher::publish`](crate::Publisher::publish). Dropping it forgets what was not indexed
/// yet; a large batch indexes what is closed as it grows, so that memory stays bounded.
#[derive(Debug)]
pub struct Batch {
    repo: Arc<RepoInner>,
    importer: Importer,
    /// Checked, all that they link indexed or among them; not yet indexed.
    closed: HashMap<Link, Summary>,
    /// What they link was not added yet.
    open: Vec<Object>,
    /// What was indexed already that was new, up to a bound.
    new: NewLinks,
}

/// A batch ready to be committed.
pub(crate) struct Ready {
    pub(crate) objects: Vec<(Link, Summary)>,
    pub(crate) imports: Vec<Arc<Import>>,
    pub(crate) new: NewLinks,
}

/// Objects that were not in the index before: all of them, or none where they are too many.
#[derive(Clone, Debug, Default)]
pub(crate) struct NewLinks {
    links: Vec<Link>,
    too_many: bool,
}

impl NewLinks {
    pub(crate) fn extend(&mut self, links: Vec<Link>) {
        self.too_many |= self.links.len() + links.len() > MAX_NEW_LINKS;
        if self.too_many {
            self.links = Vec::new();
        } else {
            self.links.extend(links);
        }
    }

    pub(crate) fn into_links(self) -> Vec<Link> {
        self.links
    }
}

impl Batch {
    pub(crate) fn new(repo: Arc<RepoInner>) -> Self {
        let importer = Importer::new(repo.store.blobs.clone(), repo.store.index.clone());
        Self { repo, importer, closed: HashMap::new(), open: Vec::new(), new: NewLinks::default() }
    }

    /// A batch of nothing, beside what was indexed before and is to be told with it.
    pub(crate) fn telling(repo: Arc<RepoInner>, new: NewLinks) -> Self {
        Self { new, ..Self::new(repo) }
    }

    /// Whether it is a batch of this repo.
    pub(crate) fn is_of(&self, repo: &Arc<RepoInner>) -> bool {
        Arc::ptr_eq(&self.repo, repo)
    }

    /// Adds an object. Children before parents is cheapest, any order works. Waits while too
    /// many imports are under way; an error of an earlier import may surface here.
    ///
    /// # Errors
    /// The object is not valid, or the disk failed or is full.
    pub async fn add(&mut self, object: Object) -> Result<(), AddError> {
        let (link, length) = (object.link(), object.bytes().len());
        if length > MAX_OBJECT_BYTES {
            return Err(AddError::TooLarge { link, length });
        }
        if !self.repo.takes(link.kind) {
            return Err(AddError::OtherKind { link });
        }
        if self.closed.contains_key(&link) {
            return Ok(());
        }
        let view = self.repo.store.index.view()?;
        if view.is_indexed(self.repo.number, link)? {
            return Ok(());
        }
        let checked = self.check(&view, &object)?;
        drop(view);
        let topics = self.repo.store.topics.load(Ordering::Acquire);
        match checked.map_err(|source| AddError::Decode { link, source })? {
            Checked::Complete(summary) => {
                self.cache(&object);
                self.importer.add(object, topics).await?;
                self.closed.insert(link, summary);
                if self.closed.len() >= FLUSH_OBJECTS {
                    self.flush().await?;
                }
            }
            Checked::Missing(_) => {
                self.open.push(object.clone());
                self.importer.add(object, topics).await?;
            }
        }
        Ok(())
    }

    /// Makes the objects durable and indexes them; what was new, empty if there are more than
    /// [`MAX_NEW_LINKS`]. For merged trees and the like, which nobody is told of.
    ///
    /// # Errors
    /// Something links what is not here, or the disk failed or is full.
    pub async fn commit(mut self) -> Result<Vec<Link>, CommitError> {
        self.close(&[])?;
        self.flush().await?;
        Ok(std::mem::take(&mut self.new).into_links())
    }

    /// Ends the imports and checks that everything, and `heads`, is closed.
    pub(crate) async fn finish(mut self, heads: &[Link]) -> Result<Ready, CommitError> {
        self.close(heads)?;
        let imports = self.importer.finish().await?;
        let objects = std::mem::take(&mut self.closed).into_iter().collect();
        Ok(Ready { objects, imports, new: std::mem::take(&mut self.new) })
    }

    /// What is written now is read soon: by the next merge.
    fn cache(&self, object: &Object) {
        self.repo.store.cache.insert(self.repo.number, object.link(), object.bytes().clone());
    }

    fn check(
        &self,
        view: &View,
        object: &Object,
    ) -> Result<Result<Checked, DecodeError>, IndexError> {
        let mut failed = None;
        let child = |child| match self.closed.get(&child) {
            Some(summary) => Some(summary.clone()),
            None => view.summary(self.repo.number, child).unwrap_or_else(|error| {
                failed = Some(error);
                None
            }),
        };
        let checked = ark_core::check(object.link(), object.bytes(), child);
        failed.map_or(Ok(checked), Err)
    }

    /// Closes what was added before what it links.
    fn close(&mut self, heads: &[Link]) -> Result<(), CommitError> {
        let view = self.repo.store.index.view()?;
        let mut missing = Vec::new();
        let mut progress = true;
        while std::mem::take(&mut progress) && !self.open.is_empty() {
            missing.clear();
            // Backwards: parents tend to be added before what they link.
            for object in std::mem::take(&mut self.open).into_iter().rev() {
                let link = object.link();
                let checked = self.check(&view, &object)?;
                match checked.map_err(|source| AddError::Decode { link, source })? {
                    Checked::Complete(summary) => {
                        self.cache(&object);
                        self.closed.insert(link, summary);
                        progress = true;
                    }
                    Checked::Missing(links) => {
                        missing.extend(links);
                        self.open.push(object);
                    }
                }
            }
            self.open.reverse();
        }
        if self.open.is_empty() {
            missing.clear();
        }
        for &head in heads {
            if !self.closed.contains_key(&head) && !view.is_indexed(self.repo.number, head)? {
                missing.push(head);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        // What was added and is not closed lacks only what is below it.
        let added: HashSet<Link> = self.open.iter().map(Object::link).collect();
        missing.retain(|link| !added.contains(link));
        missing.truncate(crate::MAX_MISSING);
        Err(CommitError::NotClosed { missing })
    }

    /// Makes what is closed durable and indexes it.
    async fn flush(&mut self) -> Result<(), AddError> {
        let imports = self.importer.finish().await?;
        let objects: Vec<_> = std::mem::take(&mut self.closed).into_iter().collect();
        if objects.is_empty() {
            return Ok(());
        }
        let store = &self.repo.store;
        let (number, counts) = (self.repo.number, Arc::clone(&store.counts));
        let inserted = store.barrier.pass(imports, None, move |transaction| {
            let new = insert_objects(transaction, number, &objects)?;
            count(&counts.indexed, new.len());
            Ok(new)
        });
        self.new.extend(inserted.await?);
        Ok(())
    }
}
