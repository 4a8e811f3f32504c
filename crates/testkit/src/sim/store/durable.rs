//! What a crash leaves of a store and what a backup copies. One change of it is one transaction.

use std::collections::{BTreeMap, BTreeSet};

use ark_core::{
    Checked, Incarnation, Link, Object, ObjectId, Read, RelPath, SignedState, Summary, Writer,
    check, links,
};
use ark_folder::base::{Disowned, Record, Retry};
use bytes::Bytes;

/// As the real store's.
const MAX_MISSING: usize = 1024;

/// What the index and the blobs hold.
#[derive(Debug, Clone)]
pub(in crate::sim) struct Durable {
    pub(super) objects: BTreeMap<Link, Bytes>,
    pub(super) indexed: BTreeMap<Link, Summary>,
    pub(super) pending: BTreeSet<Link>,
    pub(super) joined: BTreeMap<Writer, SignedState>,
    pub(super) staged: BTreeMap<Writer, SignedState>,
    /// Highest revision and sequence per own writer.
    pub(super) issued: BTreeMap<Writer, u64>,
    pub(super) incarnation: Incarnation,
    /// Drawn at each start, and put into the witness.
    pub(super) token: u64,
    /// The index file that it was written to.
    pub(super) file: u64,
    /// What the folder recorded.
    pub(in crate::sim) base: Base,
}

/// What a folder records.
#[derive(Debug, Clone, Default)]
pub(in crate::sim) struct Base {
    pub(in crate::sim) records: BTreeMap<RelPath, Record>,
    pub(in crate::sim) retries: BTreeMap<RelPath, Retry>,
    /// The tree last applied, and the revisions that it stands for.
    pub(in crate::sim) applied: Option<(ObjectId, BTreeMap<Writer, u64>)>,
    /// The tree that is being applied.
    pub(in crate::sim) applying: Option<ObjectId>,
    /// Whether a tree was applied in part since one was applied whole.
    pub(in crate::sim) unfinished: bool,
    pub(in crate::sim) incarnations: Option<Incarnations>,
}

/// Under which incarnation base is written, and what of it is to be published anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sim) struct Incarnations {
    pub(in crate::sim) writer: Writer,
    pub(in crate::sim) started_at: u64,
    pub(in crate::sim) disowned: Vec<Disowned>,
}

/// There is no such object.
#[derive(Debug, thiserror::Error)]
#[error("no object {0:?}")]
pub(in crate::sim) struct Absent(Link);

/// The outcome of a walk over closures.
pub(super) enum Closure {
    Whole(Vec<(Link, Summary)>),
    Missing(Vec<Link>),
    Invalid(Link, String),
}

impl Read for Durable {
    type Error = Absent;

    fn read(&self, link: Link) -> Result<Bytes, Absent> {
        self.serve(link).cloned().ok_or(Absent(link))
    }
}

impl Durable {
    /// The bytes of what is indexed or pending.
    pub(in crate::sim) fn serve(&self, link: Link) -> Option<&Bytes> {
        let here = self.indexed.contains_key(&link) || self.pending.contains(&link);
        here.then(|| &self.objects[&link])
    }

    /// Whether the object is here, with all that it links.
    pub(in crate::sim) fn is_indexed(&self, link: Link) -> bool {
        self.indexed.contains_key(&link)
    }

    /// The newest joined state of every writer.
    pub(in crate::sim) const fn joined(&self) -> &BTreeMap<Writer, SignedState> {
        &self.joined
    }

    /// The staged states.
    pub(in crate::sim) const fn staged(&self) -> &BTreeMap<Writer, SignedState> {
        &self.staged
    }

    /// What of the closures of `roots` is neither indexed nor pending.
    pub(in crate::sim) fn missing(&self, roots: &[Link]) -> Vec<Link> {
        let mut stack: Vec<Link> = roots.iter().rev().copied().collect();
        let (mut seen, mut missing) = (BTreeSet::new(), Vec::new());
        while let Some(link) = stack.pop() {
            if missing.len() >= MAX_MISSING {
                break;
            }
            if self.indexed.contains_key(&link) || !seen.insert(link) {
                continue;
            }
            match self.serve(link) {
                Some(bytes) => {
                    stack.extend(links(link, bytes).unwrap_or_default().into_iter().rev());
                }
                None => missing.push(link),
            }
        }
        missing
    }

    /// Checks the closures of `roots` from the leaves up; what is not indexed is taken from
    /// `source`.
    pub(super) fn close<'a>(
        &self,
        roots: &[Link],
        source: impl Fn(Link) -> Option<&'a Bytes>,
    ) -> Closure {
        let mut done: BTreeMap<Link, Summary> = BTreeMap::new();
        let mut missing = BTreeSet::new();
        let mut stack: Vec<(Link, bool)> = roots.iter().rev().map(|&root| (root, false)).collect();
        while let Some((link, is_second)) = stack.pop() {
            if self.indexed.contains_key(&link)
                || done.contains_key(&link)
                || missing.contains(&link)
            {
                continue;
            }
            let Some(bytes) = source(link) else {
                missing.insert(link);
                continue;
            };
            let child = |child| done.get(&child).or_else(|| self.indexed.get(&child)).cloned();
            match check(link, bytes, child) {
                Ok(Checked::Complete(summary)) => drop(done.insert(link, summary)),
                // A child is missing, and was noted.
                Ok(Checked::Missing(_)) if is_second => {}
                Ok(Checked::Missing(children)) => {
                    stack.push((link, true));
                    stack.extend(children.into_iter().rev().map(|child| (child, false)));
                }
                Err(error) => return Closure::Invalid(link, error.to_string()),
            }
        }
        if missing.is_empty() {
            Closure::Whole(done.into_iter().collect())
        } else {
            Closure::Missing(missing.into_iter().take(MAX_MISSING).collect())
        }
    }

    pub(super) fn index(&mut self, objects: Vec<(Link, Summary)>) -> Vec<Link> {
        let mut new = Vec::new();
        for (link, summary) in objects {
            self.pending.remove(&link);
            if self.indexed.insert(link, summary).is_none() {
                new.push(link);
            }
        }
        new
    }

    /// Indexes the closures of `roots`, of which `objects` has what is new.
    ///
    /// # Errors
    /// It has not.
    pub(super) fn put(&mut self, objects: &[Object], roots: &[Link]) -> Result<Vec<Link>, String> {
        let new: BTreeMap<Link, &Bytes> =
            objects.iter().map(|object| (object.link(), object.bytes())).collect();
        let source = |link| new.get(&link).copied().or_else(|| self.serve(link));
        match self.close(roots, source) {
            Closure::Whole(whole) => {
                for (link, bytes) in new {
                    self.objects.entry(link).or_insert_with(|| bytes.clone());
                }
                Ok(self.index(whole))
            }
            Closure::Missing(missing) => Err(format!("not closed: {missing:?} missing")),
            Closure::Invalid(link, reason) => Err(format!("{link:?} is invalid: {reason}")),
        }
    }
}
