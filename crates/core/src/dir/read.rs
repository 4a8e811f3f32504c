//! Reading directories: one entry, all in order, and what differs between two.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::vec::IntoIter;

use super::node::{Child, DirNode};
use crate::entry::{Entry, MAX_TREE_LEVEL, Name, Totals};
use crate::id::ObjectId;
use crate::object::{DecodeError, Link, Object, ObjectKind, Read, TreeError};

static EMPTY: LazyLock<Object> = LazyLock::new(|| DirNode::leaf(Vec::new()).encode());

/// The directory without entries. Its root need not be readable for it to be read.
pub fn empty_directory() -> Object {
    EMPTY.clone()
}

/// Reads a node; of the level that its parent says, where there is one.
pub(super) fn load<R: Read>(
    read: &R,
    id: ObjectId,
    level: Option<u8>,
) -> Result<DirNode, TreeError<R::Error>> {
    if id == EMPTY.id() && level.is_none() {
        return Ok(DirNode::leaf(Vec::new()));
    }
    let link = Link::directory(id);
    let bytes = read.read(link).map_err(|source| TreeError::Read { link, source })?;
    let node = DirNode::decode(&bytes).and_then(|node| match level {
        Some(level) if node.level() != level || node.len() == 0 => Err(DecodeError::Invalid {
            kind: ObjectKind::Directory,
            reason: format!("level {} with {} items below {level}", node.level(), node.len()),
        }),
        _ => Ok(node),
    });
    node.map_err(|source| TreeError::Decode { link, source })
}

/// The level of a node's children. A decoded inner node is of level 1 or more.
pub(super) fn below(node: &DirNode) -> u8 {
    node.level().saturating_sub(1)
}

/// The entry `name` of the directory `root`.
///
/// # Errors
/// A node that cannot be read, or is damaged.
pub fn get<R: Read>(
    read: &R,
    root: ObjectId,
    name: &Name,
) -> Result<Option<Entry>, TreeError<R::Error>> {
    let mut node = load(read, root, None)?;
    for _ in 0..=MAX_TREE_LEVEL {
        if node.level() == 0 {
            let found = node.entries.binary_search_by(|entry| entry.name.cmp(name));
            return Ok(found.ok().map(|at| node.entries.swap_remove(at)));
        }
        let at = node.children.partition_point(|child| child.last < *name);
        let Some(child) = node.children.get(at) else { return Ok(None) };
        node = load(read, child.id, Some(below(&node)))?;
    }
    Err(TreeError::TooDeep { link: Link::directory(root) })
}

/// Those of `names` that the directory `root` has, each node read once. `names` are sorted.
pub(crate) fn get_all<R: Read>(
    read: &R,
    root: ObjectId,
    names: &[&Name],
) -> Result<BTreeMap<Name, Entry>, TreeError<R::Error>> {
    let mut found = BTreeMap::new();
    let mut open = vec![(load(read, root, None)?, names)];
    while let Some((node, mut names)) = open.pop() {
        let level = below(&node);
        for child in node.children {
            let (here, after) = names.split_at(names.partition_point(|name| **name <= child.last));
            if !here.is_empty() {
                open.push((load(read, child.id, Some(level))?, here));
            }
            names = after;
        }
        let wanted = |entry: &Entry| names.binary_search(&&entry.name).is_ok();
        let entries = node.entries.into_iter().filter(wanted);
        found.extend(entries.map(|entry| (entry.name.clone(), entry)));
    }
    Ok(found)
}

/// What is in the directory `root`, all the way down.
///
/// # Errors
/// Its root node cannot be read, or is damaged.
pub fn directory_totals<R: Read>(read: &R, root: ObjectId) -> Result<Totals, TreeError<R::Error>> {
    Ok(load(read, root, None)?.totals())
}

/// The entries of a directory in byte order of names. Ends after the first error.
#[derive(Debug)]
pub struct Entries<'a, R> {
    cursor: Cursor<'a, R>,
    /// Whether only entries are wanted that have something set aside, themselves or below.
    only_aside: bool,
}

/// The entries of the directory `root` in byte order of names. Reads one node at a time.
pub fn entries<R: Read>(read: &R, root: ObjectId) -> Entries<'_, R> {
    Entries { cursor: Cursor::new(read, root), only_aside: false }
}

/// Those entries of the directory `root` that have versions set aside, and the directories in it
/// that have some below. Nodes without any are not read.
pub fn entries_aside<R: Read>(read: &R, root: ObjectId) -> Entries<'_, R> {
    Entries { cursor: Cursor::new(read, root), only_aside: true }
}

impl<R: Read> Iterator for Entries<'_, R> {
    type Item = Result<Entry, TreeError<R::Error>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(Item::Node { totals: Some(totals), .. }) = &self.cursor.next
                && self.only_aside
                && totals.aside == 0
            {
                self.cursor.advance();
            } else if matches!(self.cursor.next, Some(Item::Node { .. })) {
                if let Err(error) = self.cursor.open() {
                    return Some(Err(error));
                }
            } else {
                let entry = self.cursor.take_entry()?;
                let aside = |entry: &Entry| entry.versions.iter().any(|v| v.totals().aside > 0);
                if !self.only_aside || aside(&entry) {
                    return Some(Ok(entry));
                }
            }
        }
    }
}

/// One name on which two directories differ: its entries in the first and in the second.
pub type Difference = (Name, Option<Entry>, Option<Entry>);

/// The names on which two directories differ, in byte order. Ends after the first error.
#[derive(Debug)]
pub struct Diff<'a, R> {
    a: Cursor<'a, R>,
    b: Cursor<'a, R>,
}

/// The names on which the directories `a` and `b` differ. What both have in common is not read,
/// up to the nodes around each difference. A directory differs where anything below it does.
pub fn diff<R: Read>(read: &R, a: ObjectId, b: ObjectId) -> Diff<'_, R> {
    Diff { a: Cursor::new(read, a), b: Cursor::new(read, b) }
}

impl<R: Read> Diff<'_, R> {
    /// Opens or skips nodes until entries, or the ends, are next on both sides.
    fn settle(&mut self) -> Result<(), TreeError<R::Error>> {
        loop {
            let (open_a, open_b) = match (&self.a.next, &self.b.next) {
                (Some(Item::Node { id: a, .. }), Some(Item::Node { id: b, .. })) if a == b => {
                    self.a.advance();
                    self.b.advance();
                    continue;
                }
                (Some(Item::Node { level: a, .. }), Some(Item::Node { level: b, .. })) => {
                    // A root's level is not known before it is read: both are opened.
                    let order = a.zip(*b).map_or(Ordering::Equal, |(a, b)| a.cmp(&b));
                    (order.is_ge(), order.is_le())
                }
                (a, b) => {
                    (matches!(a, Some(Item::Node { .. })), matches!(b, Some(Item::Node { .. })))
                }
            };
            if !open_a && !open_b {
                return Ok(());
            }
            for (cursor, open) in [(&mut self.a, open_a), (&mut self.b, open_b)] {
                if open {
                    cursor.open()?;
                }
            }
        }
    }
}

impl<R: Read> Iterator for Diff<'_, R> {
    type Item = Result<Difference, TreeError<R::Error>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Err(error) = self.settle() {
                self.a.end();
                self.b.end();
                return Some(Err(error));
            }
            let order = match (self.a.entry(), self.b.entry()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => a.name.cmp(&b.name),
            };
            let a = order.is_le().then(|| self.a.take_entry()).flatten();
            let b = order.is_ge().then(|| self.b.take_entry()).flatten();
            if a != b {
                let name = a.as_ref().or(b.as_ref()).map(|entry| entry.name.clone())?;
                return Some(Ok((name, a, b)));
            }
        }
    }
}

/// A walk over a tree that opens nodes only when told to.
#[derive(Debug)]
struct Cursor<'a, R> {
    read: &'a R,
    next: Option<Item>,
    /// What comes after `next`: of the leaf it is in, then of the nodes above, innermost last.
    leaf: IntoIter<Entry>,
    above: Vec<(u8, IntoIter<Child>)>,
}

#[derive(Debug)]
enum Item {
    /// A node not opened. Of a root, level and totals are not known yet.
    Node {
        id: ObjectId,
        level: Option<u8>,
        totals: Option<Totals>,
    },
    Entry(Entry),
}

impl<'a, R: Read> Cursor<'a, R> {
    fn new(read: &'a R, root: ObjectId) -> Self {
        let next = Some(Item::Node { id: root, level: None, totals: None });
        Self { read, next, leaf: Vec::new().into_iter(), above: Vec::new() }
    }

    /// Goes past the next item.
    fn advance(&mut self) {
        self.next = self.leaf.next().map(Item::Entry);
        while self.next.is_none()
            && let Some((level, children)) = self.above.last_mut()
        {
            match children.next() {
                Some(Child { id, totals, .. }) => {
                    let (level, totals) = (Some(*level), Some(totals));
                    self.next = Some(Item::Node { id, level, totals });
                }
                None => drop(self.above.pop()),
            }
        }
    }

    /// Replaces the next item, if it is a node, by what is in it. After an error it is at its end.
    fn open(&mut self) -> Result<(), TreeError<R::Error>> {
        let Some(Item::Node { id, level, .. }) = self.next else { return Ok(()) };
        match load(self.read, id, level) {
            Ok(node) if node.level() == 0 => self.leaf = node.entries.into_iter(),
            Ok(node) => self.above.push((below(&node), node.children.into_iter())),
            Err(error) => {
                self.end();
                return Err(error);
            }
        }
        self.advance();
        Ok(())
    }

    /// The next item, if it is an entry.
    fn entry(&self) -> Option<&Entry> {
        match &self.next {
            Some(Item::Entry(entry)) => Some(entry),
            _ => None,
        }
    }

    /// Goes past the next item and gives it, if it is an entry.
    fn take_entry(&mut self) -> Option<Entry> {
        match self.next.take() {
            Some(Item::Entry(entry)) => {
                self.advance();
                Some(entry)
            }
            other => {
                self.next = other;
                None
            }
        }
    }

    fn end(&mut self) {
        self.next = None;
        self.leaf = Vec::new().into_iter();
        self.above.clear();
    }
}
