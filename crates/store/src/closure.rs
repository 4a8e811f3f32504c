//! Walks over what objects link: what of a closure is missing, and, where nothing is, the
//! summaries under which it can be indexed. Neither recurses, and neither holds more than a
//! bounded part of a large closure.

use std::collections::{HashMap, HashSet};

use ark_core::{Checked, DecodeError, Link, MAX_PATH_DEPTH, MAX_TREE_LEVEL, Summary};
use bytes::Bytes;

use crate::error::{IndexError, ReadError};
use crate::index::{TopicNumber, View};

/// The most objects on the way from a head to the deepest one: every directory on the longest
/// path with all levels of its tree, then a file's.
const MAX_DEPTH: usize = (MAX_PATH_DEPTH + 2) * (MAX_TREE_LEVEL as usize + 1);
/// Checked objects held until they are written to the index: a few megabytes.
pub(crate) const FLUSH_OBJECTS: usize = 16_384;

/// Bytes of what is here though not indexed.
pub(crate) enum Fetched {
    /// Here.
    Here(Bytes),
    /// Not here.
    Absent,
    /// Recorded as here, but lost: to be fetched again.
    Lost,
}

/// Where a walk gets what it needs.
pub(crate) trait Source {
    /// Why it fails.
    type Error: From<IndexError>;

    /// The bytes of an object that is not indexed.
    fn fetch(&mut self, view: &View, link: Link) -> Result<Fetched, Self::Error>;

    /// Indexes checked objects, children of all of which are indexed or among them; returns the
    /// index with them.
    fn flush(&mut self, objects: Vec<(Link, Summary)>) -> Result<View, Self::Error>;
}

/// The outcome of [`close`].
pub(crate) enum Closure {
    /// All is here. These are to be indexed, in any order; the rest is already.
    Whole(Vec<(Link, Summary)>),
    /// Not all is here.
    Missing {
        /// Some of what is not.
        missing: Vec<Link>,
        /// What is whole all the same, to be indexed like [`Closure::Whole`]: then no later walk
        /// looks at it again.
        done: Vec<(Link, Summary)>,
    },
    /// An object is not what its link says.
    Invalid { link: Link, error: DecodeError },
}

struct Frame {
    link: Link,
    children: Vec<Link>,
}

struct Walk<'a, S> {
    topic: TopicNumber,
    view: View,
    source: &'a mut S,
    /// Checked, not yet flushed.
    done: HashMap<Link, Summary>,
    /// Neither here whole, nor worth a second look.
    incomplete: HashSet<Link>,
    missing: Vec<Link>,
    limit: usize,
    invalid: Option<(Link, DecodeError)>,
    stack: Vec<Frame>,
}

/// Checks the closures of `roots` from the leaves up. Stops at what is indexed, and after
/// `limit` missing objects.
pub(crate) fn close<S: Source>(
    topic: TopicNumber,
    view: View,
    source: &mut S,
    roots: &[Link],
    limit: usize,
) -> Result<Closure, S::Error> {
    let mut walk = Walk {
        topic,
        view,
        source,
        done: HashMap::new(),
        incomplete: HashSet::new(),
        missing: Vec::new(),
        limit,
        invalid: None,
        stack: Vec::new(),
    };
    for &root in roots {
        walk.visit(root)?;
        while !walk.ended() && walk.step()? {}
        if walk.ended() {
            break;
        }
    }
    if let Some((link, error)) = walk.invalid {
        return Ok(Closure::Invalid { link, error });
    }
    let done = walk.done.into_iter().collect();
    Ok(match walk.missing {
        missing if missing.is_empty() => Closure::Whole(done),
        missing => Closure::Missing { missing, done },
    })
}

impl<S: Source> Walk<'_, S> {
    fn ended(&self) -> bool {
        self.invalid.is_some() || self.missing.len() >= self.limit
    }

    /// Goes on to the next child of the innermost object, or finishes that object. `false` when
    /// nothing is left.
    fn step(&mut self) -> Result<bool, S::Error> {
        let Some(frame) = self.stack.last_mut() else { return Ok(false) };
        if let Some(child) = frame.children.pop() {
            self.visit(child)?;
            return Ok(true);
        }
        let link = frame.link;
        self.stack.pop();
        match self.source.fetch(&self.view, link)? {
            Fetched::Here(bytes) => match self.check(link, &bytes)? {
                Some(Checked::Complete(summary)) => self.finish(link, summary)?,
                // A child is missing, and was noted when it was visited.
                Some(Checked::Missing(_)) => drop(self.incomplete.insert(link)),
                None => {}
            },
            Fetched::Absent | Fetched::Lost => self.miss(link),
        }
        Ok(true)
    }

    fn visit(&mut self, link: Link) -> Result<(), S::Error> {
        if self.done.contains_key(&link)
            || self.incomplete.contains(&link)
            || self.view.is_indexed(self.topic, link)?
        {
            return Ok(());
        }
        match self.source.fetch(&self.view, link)? {
            Fetched::Absent | Fetched::Lost => self.miss(link),
            Fetched::Here(bytes) => match self.check(link, &bytes)? {
                Some(Checked::Complete(summary)) => self.finish(link, summary)?,
                Some(Checked::Missing(_)) if self.stack.len() >= MAX_DEPTH => {
                    let reason = format!("nested more than {MAX_DEPTH} objects deep");
                    self.invalid = Some((link, DecodeError::Invalid { kind: link.kind, reason }));
                }
                Some(Checked::Missing(children)) => self.stack.push(Frame { link, children }),
                None => {}
            },
        }
        Ok(())
    }

    /// `None`: the object is invalid, which was noted.
    fn check(&mut self, link: Link, bytes: &Bytes) -> Result<Option<Checked>, S::Error> {
        let mut failed = None;
        let child = |child| match self.done.get(&child) {
            Some(summary) => Some(summary.clone()),
            None => self.view.summary(self.topic, child).unwrap_or_else(|error| {
                failed = Some(error);
                None
            }),
        };
        let checked = ark_core::check(link, bytes, child);
        match (failed, checked) {
            (Some(error), _) => Err(error.into()),
            (None, Ok(checked)) => Ok(Some(checked)),
            (None, Err(error)) => {
                self.invalid = Some((link, error));
                Ok(None)
            }
        }
    }

    fn finish(&mut self, link: Link, summary: Summary) -> Result<(), S::Error> {
        self.done.insert(link, summary);
        if self.done.len() >= FLUSH_OBJECTS {
            let objects = std::mem::take(&mut self.done).into_iter().collect();
            self.view = self.source.flush(objects)?;
        }
        Ok(())
    }

    fn miss(&mut self, link: Link) {
        if self.incomplete.insert(link) {
            self.missing.push(link);
        }
    }
}

/// What of the closures of `roots` is neither indexed nor pending, at most `limit`, and what is
/// pending but lost (which is among the former too).
pub(crate) fn missing(
    topic: TopicNumber,
    view: &View,
    mut fetch: impl FnMut(&View, Link) -> Result<Fetched, ReadError>,
    roots: &[Link],
    limit: usize,
) -> Result<Vec<Link>, ReadError> {
    let mut stack: Vec<Link> = roots.iter().rev().copied().collect();
    let mut seen = HashSet::new();
    let mut missing = Vec::new();
    while let Some(link) = stack.pop() {
        if missing.len() >= limit {
            break;
        }
        if view.is_indexed(topic, link)? || !seen.insert(link) {
            continue;
        }
        match fetch(view, link)? {
            Fetched::Absent | Fetched::Lost => missing.push(link),
            // What does not decode is found by the check before joining.
            Fetched::Here(bytes) => {
                stack.extend(ark_core::links(link, &bytes).unwrap_or_default().into_iter().rev());
            }
        }
    }
    Ok(missing)
}
