//! Walks over what objects link: what of a closure is missing, and, where nothing is, the
//! summaries under which it can be indexed. Neither recurses, and neither holds more than a
//! bounded part of a large closure.
//!
//! What nests is bounded: no directory is deeper than its paths may be long. A history is not: it
//! is as deep as it is long. Of one that is longer than what is held the beginning is checked
//! first, and indexed; then the walk comes again from its end.

use std::collections::{HashMap, HashSet, VecDeque};

use ark_core::{Checked, DecodeError, Link, MAX_PATH_DEPTH, MAX_TREE_LEVEL, ObjectKind, Summary};
use bytes::Bytes;

use crate::error::{IndexError, ReadError};
use crate::index::{TopicNumber, View};

/// The most objects that nest on the way from a head to the deepest one: every directory on the
/// longest path with all levels of its tree, then a file's; in a jj repo a view's before them.
const MAX_DEPTH: usize = (MAX_PATH_DEPTH + 2) * (MAX_TREE_LEVEL as usize + 1);
/// Objects held that wait for what they link, and links of theirs that were not looked at yet:
/// together so many, some 16 MB.
const MAX_WAITING: usize = 1 << 18;
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

/// An object that waits for what it links.
struct Frame {
    link: Link,
    /// What was not looked at yet: the last first.
    children: Vec<Link>,
}

/// Whether an object is a step of a history: it links the one before it, of its own kind.
fn is_step(kind: ObjectKind) -> bool {
    matches!(kind, ObjectKind::Commit | ObjectKind::Operation | ObjectKind::Copy)
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
    /// From a root on: each links the next.
    stack: VecDeque<Frame>,
    /// How many of those nest.
    depth: usize,
    /// How many there are, with their children.
    waiting: usize,
    /// The most of that.
    most: usize,
    /// Some of those were too many: the root is to be walked from again.
    forgot: bool,
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
    close_holding(topic, view, source, roots, (limit, MAX_WAITING))
}

fn close_holding<S: Source>(
    topic: TopicNumber,
    view: View,
    source: &mut S,
    roots: &[Link],
    (limit, most): (usize, usize),
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
        stack: VecDeque::new(),
        depth: 0,
        waiting: 0,
        most,
        forgot: false,
    };
    for &root in roots {
        walk.root(root)?;
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

    /// Goes through all that a root links; again while the way was too long to be held, each time
    /// as far as that is at least.
    fn root(&mut self, root: Link) -> Result<(), S::Error> {
        loop {
            self.forgot = false;
            self.visit(root)?;
            while !self.ended() && self.step()? {}
            if !self.forgot || self.ended() || !self.missing.is_empty() {
                return Ok(());
            }
        }
    }

    /// Goes on to the next child of the innermost object, or finishes that object. `false` when
    /// nothing is left.
    fn step(&mut self) -> Result<bool, S::Error> {
        let Some(frame) = self.stack.back_mut() else { return Ok(false) };
        if let Some(child) = frame.children.pop() {
            self.waiting -= 1;
            if frame.children.is_empty() {
                // Of a long history nothing is kept but its links.
                frame.children = Vec::new();
            }
            self.visit(child)?;
            return Ok(true);
        }
        let link = frame.link;
        self.stack.pop_back();
        self.waiting -= 1;
        self.depth -= usize::from(!is_step(link.kind));
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
                Some(Checked::Missing(children)) => self.wait(link, children),
                None => {}
            },
        }
        Ok(())
    }

    /// Keeps an object until what it links is done.
    fn wait(&mut self, link: Link, mut children: Vec<Link>) {
        if !is_step(link.kind) {
            if self.depth >= MAX_DEPTH {
                let reason = format!("nested more than {MAX_DEPTH} objects deep");
                self.invalid = Some((link, DecodeError::Invalid { kind: link.kind, reason }));
                return;
            }
            self.depth += 1;
        }
        // The steps before it last, when nothing else of it is left to be held.
        children.sort_by_key(|child| !is_step(child.kind));
        children.shrink_to_fit();
        self.waiting += 1 + children.len();
        while self.waiting > self.most
            && let Some(first) = self.stack.pop_front()
        {
            self.waiting -= 1 + first.children.len();
            self.depth -= usize::from(!is_step(first.link.kind));
            self.forgot = true;
        }
        self.stack.push_back(Frame { link, children });
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

#[cfg(test)]
mod tests;
