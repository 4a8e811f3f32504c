//! Counting how many links of a repo's closure lead to each link, from the difference of its
//! heads.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use ark_core::{Link, ObjectId};
use bytes::Bytes;
use redb::{ReadableTable, Table};

use super::Roots;
use crate::error::{IndexError, ReadError};
use crate::index::{ObjectKey, TopicNumber, object_key};

/// Why it cannot be counted.
#[derive(Debug, thiserror::Error)]
pub(super) enum CountError {
    #[error(transparent)]
    Index(IndexError),
    /// An object cannot be read.
    #[error(transparent)]
    Read(ReadError),
    /// There are more than the window allows.
    #[error("too many links changed at once")]
    TooMany,
}

impl CountError {
    /// Whether it is so until something is mended.
    pub(super) fn lasts(&self) -> bool {
        matches!(
            self,
            Self::Read(ReadError::Absent { .. } | ReadError::Damaged { .. })
                | Self::Index(IndexError::Damaged { .. })
        )
    }
}

impl<E: Into<IndexError>> From<E> for CountError {
    fn from(error: E) -> Self {
        Self::Index(error.into())
    }
}

/// Which links are counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Window {
    /// All, or [`CountError::TooMany`].
    All { most: usize },
    /// Those from here on; where there are more than `most` of them, those before `until`, which
    /// is set so that there are not. Structured ones are counted wherever they are, since the walk
    /// needs to know; they are a small part of all.
    From { first: ObjectId, until: Option<ObjectId>, most: usize },
}

impl Window {
    fn has(self, id: ObjectId) -> bool {
        match self {
            Self::All { .. } => true,
            Self::From { first, until, .. } => id >= first && until.is_none_or(|until| id < until),
        }
    }
}

/// How often a link was linked, and is.
#[derive(Clone, Copy, Debug)]
struct Count {
    before: u32,
    now: u32,
}

/// A link whose count changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) link: Link,
    count: Count,
}

impl Row {
    /// Whether the link is there and was not.
    pub(super) fn came(&self) -> bool {
        self.count.before == 0
    }

    /// Whether the link was there and is not.
    pub(super) fn went(&self) -> bool {
        self.count.now == 0
    }

    pub(super) fn write(
        &self,
        links: &mut Table<'_, &'static ObjectKey, u32>,
        topic: TopicNumber,
    ) -> Result<(), IndexError> {
        let key = object_key(topic, self.link);
        if self.count.now == 0 {
            links.remove(&key)?;
        } else {
            links.insert(&key, self.count.now)?;
        }
        Ok(())
    }
}

/// A walk over what two sets of heads do not share.
pub(super) struct Counting<'a, T, R> {
    topic: TopicNumber,
    /// The counts of before; `None`: all are zero.
    links: Option<&'a T>,
    read: R,
    window: Window,
    counts: HashMap<Link, Count>,
}

impl<'a, T, R> Counting<'a, T, R>
where
    T: ReadableTable<&'static ObjectKey, u32>,
    R: FnMut(Link) -> Result<Bytes, ReadError>,
{
    pub(super) fn new(topic: TopicNumber, links: Option<&'a T>, read: R, window: Window) -> Self {
        Self { topic, links, read, window, counts: HashMap::new() }
    }

    /// Counts what is different where the heads are `new` and were `old`.
    pub(super) fn turn(&mut self, old: &Roots, new: &Roots) -> Result<(), CountError> {
        // First what comes, then what goes: what is under both is never taken for gone.
        for &root in new.0.difference(&old.0) {
            self.enter(root)?;
        }
        for &root in old.0.difference(&new.0) {
            self.leave(root)?;
        }
        Ok(())
    }

    /// Where the window ended up to end; `None`: nowhere.
    pub(super) fn until(&self) -> Option<ObjectId> {
        match self.window {
            Window::All { .. } => None,
            Window::From { until, .. } => until,
        }
    }

    /// What changed in the window, in order of key.
    pub(super) fn into_rows(self) -> Vec<Row> {
        let Self { topic, window, counts, .. } = self;
        let rows = counts.into_iter().map(|(link, count)| Row { link, count });
        let mut rows: Vec<Row> = rows
            .filter(|row| row.count.before != row.count.now && window.has(row.link.id))
            .collect();
        rows.sort_unstable_by_key(|row| object_key(topic, row.link));
        rows
    }

    fn enter(&mut self, root: Link) -> Result<(), CountError> {
        let mut stack = vec![root];
        while let Some(link) = stack.pop() {
            let Some(count) = self.count(link)? else { continue };
            count.now = count.now.saturating_add(1);
            if count.now == 1 {
                stack.extend(self.children(link)?);
            }
        }
        Ok(())
    }

    fn leave(&mut self, root: Link) -> Result<(), CountError> {
        let mut stack = vec![root];
        while let Some(link) = stack.pop() {
            let Some(count) = self.count(link)? else { continue };
            let damaged = IndexError::Damaged { table: "links" };
            count.now = count.now.checked_sub(1).ok_or(damaged)?;
            if count.now == 0 {
                stack.extend(self.children(link)?);
            }
        }
        Ok(())
    }

    /// `None`: the link is not counted.
    fn count(&mut self, link: Link) -> Result<Option<&mut Count>, CountError> {
        if !link.kind.is_structured() && !self.window.has(link.id) {
            return Ok(None);
        }
        if !self.counts.contains_key(&link) {
            self.make_room()?;
        }
        Ok(Some(match self.counts.entry(link) {
            Entry::Occupied(count) => count.into_mut(),
            Entry::Vacant(place) => {
                let row = self.links.map(|links| links.get(&object_key(self.topic, link)));
                let before = row.transpose()?.flatten().map_or(0, |row| row.value());
                place.insert(Count { before, now: before })
            }
        }))
    }

    /// Sees to it that one more may be counted.
    fn make_room(&mut self) -> Result<(), CountError> {
        match &mut self.window {
            Window::All { most } if self.counts.len() >= *most => Err(CountError::TooMany),
            Window::From { until, most, .. } if self.counts.len() >= *most => {
                let raw = self.counts.keys().filter(|link| !link.kind.is_structured());
                let mut ids: Vec<ObjectId> = raw.map(|link| link.id).collect();
                let middle = ids.len() / 2;
                if middle < *most / 4 {
                    // Structured ones all but fill it: there is little to be had.
                    *most *= 2;
                    return Ok(());
                }
                *until = Some(*ids.select_nth_unstable(middle).1);
                let window = self.window;
                self.counts.retain(|link, _| link.kind.is_structured() || window.has(link.id));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn children(&mut self, link: Link) -> Result<Vec<Link>, CountError> {
        if !link.kind.is_structured() {
            return Ok(Vec::new());
        }
        let bytes = (self.read)(link).map_err(CountError::Read)?;
        // What is indexed was checked; it is the disk that lies.
        let links = ark_core::links(link, &bytes);
        let damaged =
            |error: ark_core::DecodeError| ReadError::Damaged { link, reason: error.to_string() };
        links.map_err(|error| CountError::Read(damaged(error)))
    }
}
