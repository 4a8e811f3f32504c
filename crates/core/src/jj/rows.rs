//! Rows under a tree whose shape depends on the rows alone.
//!
//! A node ends after a row or a child when the hash of the last key below it says so, or when it
//! is full. Every constant here is part of the format: it decides the ids of equal rows.

use rkyv::{Archive, Deserialize, Serialize};

use crate::entry::{MAX_PATH_DEPTH, MAX_TREE_LEVEL};
use crate::id::ObjectId;
use crate::object::{DecodeError, Link, MAX_OBJECT_BYTES, Object, ObjectKind};

/// The least items of a node that a hash may end: each level is shorter than the one below it by
/// this factor, whatever names someone chooses.
const MIN_ITEMS: usize = 32;
/// Zero bits of a key's hash that end a node, other bits on each level: with [`MIN_ITEMS`], about
/// 160 items in the mean. Larger than a folder's, because jj reads a directory whole: nearly
/// every one shall be one object.
const CUT_BITS: usize = 7;
/// The most items of a node.
const MAX_ITEMS: usize = 1024;
/// A node ends with the row by which its weight reaches this. With [`MAX_ROW_WEIGHT`] it keeps a
/// node below the most bytes of an object.
const MAX_WEIGHT: usize = 1 << 20;
/// The most that one row may weigh, in bytes: a bookmark in conflict between 50,000 commits.
pub const MAX_ROW_WEIGHT: usize = 2 << 20;
/// The most bytes of a row's key: of a file's name, of a bookmark's with its remote's. Keys are
/// kept beside the index entries of nodes, so they are not as long as rows may be.
pub const MAX_ROW_KEY: usize = 4096;

const _: () = assert!(MAX_WEIGHT + MAX_ROW_WEIGHT < MAX_OBJECT_BYTES);
const _: () = assert!((MAX_TREE_LEVEL as usize + 1) * CUT_BITS <= 256, "a hash has 256 bits");

/// A row: it has a key, by which rows are sorted and distinct.
pub(crate) trait Row: Sized {
    /// The kind of the nodes above such rows.
    const KIND: ObjectKind;
    /// Whether there may be no rows at all.
    const MAY_BE_EMPTY: bool;

    /// Its key. Other keys for other things.
    fn key(&self) -> Vec<u8>;
    /// At least what its archive takes, in bytes.
    fn weight(&self) -> usize;
    /// The rules of the row alone.
    ///
    /// # Errors
    /// The rule that is broken, in words.
    fn validate(&self) -> Result<(), String>;
    /// Whether a row of key `next` may come right after one of key `before`, which is lower.
    fn may_follow(before: Option<&[u8]>, next: &[u8]) -> bool {
        let _ = (before, next);
        true
    }
    /// What the row links, [`VIRTUAL`](super::VIRTUAL) aside.
    fn links(&self) -> Vec<Link>;

    /// The node's one encoding.
    fn encode(node: &Node<Self>) -> Vec<u8>;
    /// Reads what [`Row::encode`] made.
    ///
    /// # Errors
    /// Bytes that are not the one encoding of a node.
    fn decode(bytes: &[u8]) -> Result<Node<Self>, DecodeError>;
}

/// Makes nodes of rows of a type structured objects.
macro_rules! nodes_of {
    ($row:ty) => {
        impl crate::codec::Body for crate::jj::rows::Node<$row> {
            const KIND: crate::object::ObjectKind = <$row as crate::jj::rows::Row>::KIND;

            fn validate(&self) -> Result<(), String> {
                self.check()
            }
        }
    };
}
pub(super) use nodes_of;

/// A node: rows at level 0, nodes of the level below otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub(crate) struct Node<R> {
    pub level: u8,
    pub rows: Vec<R>,
    pub children: Vec<ObjectId>,
}

impl<R: Row> Node<R> {
    /// A leaf.
    pub(crate) fn leaf(rows: Vec<R>) -> Self {
        Self { level: 0, rows, children: Vec::new() }
    }

    /// The rules of a node that can be seen without its children.
    ///
    /// # Errors
    /// The rule that is broken, in words.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.level > MAX_TREE_LEVEL {
            return Err(format!("level {}, more than {MAX_TREE_LEVEL}", self.level));
        }
        if self.level > 0 {
            return match (self.rows.len(), self.children.len()) {
                (0, 1..=MAX_ITEMS) => Ok(()),
                (rows, children) => Err(format!("{rows} rows and {children} children")),
            };
        }
        if !self.children.is_empty() || (self.rows.is_empty() && !R::MAY_BE_EMPTY) {
            return Err("a leaf with children, or of nothing".into());
        }
        let mut fill = Fill::default();
        let mut before: Option<Vec<u8>> = None;
        for row in &self.rows {
            let key = check_row(row)?;
            if let Some(before) = &before {
                check_order::<R>(before, &key)?;
                if fill.ends(0, before) {
                    return Err("it goes on where it should have ended".into());
                }
            }
            fill.add(row.weight());
            before = Some(key);
        }
        Ok(())
    }

    /// What it links, in order.
    pub(crate) fn links(&self) -> Vec<Link> {
        let children = self.children.iter().map(|&id| Link { kind: R::KIND, id });
        self.rows.iter().flat_map(R::links).chain(children).collect()
    }

    fn object(&self) -> Object {
        Object::new(R::KIND, R::encode(self))
    }
}

/// The rules of a row alone, and its key.
fn check_row<R: Row>(row: &R) -> Result<Vec<u8>, String> {
    let (key, weight) = (row.key(), row.weight());
    if key.len() > MAX_ROW_KEY || weight > MAX_ROW_WEIGHT {
        return Err(format!("a row of {weight} bytes with a key of {}: too many", key.len()));
    }
    row.validate()?;
    Ok(key)
}

fn check_order<R: Row>(before: &[u8], next: &[u8]) -> Result<(), String> {
    if before < next && R::may_follow(Some(before), next) {
        Ok(())
    } else {
        Err("its rows are not sorted and distinct, or one is missing".into())
    }
}

/// How much of a node there is so far.
#[derive(Clone, Copy, Default)]
struct Fill {
    items: usize,
    weight: usize,
}

impl Fill {
    fn add(&mut self, weight: usize) {
        self.items += 1;
        self.weight += weight;
    }

    /// Whether the node of `level` ends here. `last` is the last key below its last item.
    fn ends(self, level: u8, last: &[u8]) -> bool {
        let is_full = self.items >= MAX_ITEMS || self.weight >= MAX_WEIGHT;
        is_full || (self.items >= MIN_ITEMS && is_boundary(level, last))
    }
}

/// Whether the bits of `level` in the hash of `key` are zero.
fn is_boundary(level: u8, key: &[u8]) -> bool {
    let hash = blake3::hash(key);
    let from = usize::from(level) * CUT_BITS;
    (from..from + CUT_BITS).all(|bit| hash.as_bytes()[bit / 8] >> (bit % 8) & 1 == 0)
}

/// The root of the tree over `rows`, which may come in any order, and its nodes, children first.
///
/// # Errors
/// Two rows of one key, or a row that breaks its rules.
pub(crate) fn build<R: Row>(mut rows: Vec<R>) -> Result<(ObjectId, Vec<Object>), DecodeError> {
    let invalid = |reason| DecodeError::Invalid { kind: R::KIND, reason };
    rows.sort_by_cached_key(R::key);
    if rows.is_empty() && !R::MAY_BE_EMPTY {
        return Err(invalid("no rows".into()));
    }
    let mut made = Vec::new();
    // Per node of the level that is being made its id and the last key below it.
    let mut nodes: Vec<(ObjectId, Vec<u8>)> = Vec::new();
    let mut close = |node: Node<R>, last: Vec<u8>, nodes: &mut Vec<(ObjectId, Vec<u8>)>| {
        let object = node.object();
        nodes.push((object.id(), last));
        made.push(object);
    };
    let (mut open, mut fill, mut before) = (Vec::new(), Fill::default(), None::<Vec<u8>>);
    for row in rows {
        let key = check_row(&row).map_err(invalid)?;
        match &before {
            Some(before) => check_order::<R>(before, &key).map_err(invalid)?,
            None if !R::may_follow(None, &key) => return Err(invalid("a row is missing".into())),
            None => {}
        }
        fill.add(row.weight());
        open.push(row);
        if fill.ends(0, &key) {
            close(Node::leaf(std::mem::take(&mut open)), key.clone(), &mut nodes);
            fill = Fill::default();
        }
        before = Some(key);
    }
    if !open.is_empty() || nodes.is_empty() {
        close(Node::leaf(open), before.unwrap_or_default(), &mut nodes);
    }
    let mut level = 0;
    while nodes.len() > 1 {
        level += 1;
        let mut above = Vec::new();
        let (mut children, mut fill) = (Vec::new(), Fill::default());
        let count = nodes.len();
        for (number, (id, last)) in std::mem::take(&mut nodes).into_iter().enumerate() {
            children.push(id);
            fill.add(0);
            if fill.ends(level, &last) || number + 1 == count {
                let children = std::mem::take(&mut children);
                close(Node { level, rows: Vec::new(), children }, last, &mut above);
                fill = Fill::default();
            }
        }
        nodes = above;
    }
    let (root, _) = nodes.pop().expect("a node was made");
    Ok((root, made))
}

/// What a parent must know of an indexed node.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub(crate) struct RowsSummary {
    pub level: u8,
    /// The first and the last key below it; none where there is no row.
    pub first: Option<Vec<u8>>,
    pub last: Option<Vec<u8>>,
    /// Whether another node may stand after it on its level.
    pub is_closed: bool,
    /// Whether it may be the root: the lowest node that has everything below it.
    pub is_root: bool,
    /// Of a directory how many names the longest path in it has.
    pub depth: u16,
}

/// Checks a node against its children, `depth` being that of its rows.
///
/// # Errors
/// The rule that is broken, in words.
pub(crate) fn check_rows<'a, R: Row>(
    node: &Node<R>,
    depth: u16,
    child: impl Fn(ObjectId) -> Result<&'a RowsSummary, String>,
) -> Result<RowsSummary, String> {
    let mut fill = Fill::default();
    if node.level == 0 {
        node.rows.iter().for_each(|row| fill.add(row.weight()));
        let (first, last) = (node.rows.first().map(R::key), node.rows.last().map(R::key));
        let is_closed = last.as_ref().is_some_and(|last| fill.ends(0, last));
        let is_root = first.as_ref().is_none_or(|first| R::may_follow(None, first));
        return Ok(RowsSummary { level: 0, first, last, is_closed, is_root, depth });
    }
    let mut sum: Option<RowsSummary> = None;
    for &id in &node.children {
        let found = child(id)?;
        let (Some(first), Some(last)) = (&found.first, &found.last) else {
            return Err(format!("node {id} is of nothing"));
        };
        if found.level.checked_add(1) != Some(node.level) {
            return Err(format!("node {id} is of level {}", found.level));
        }
        if let Some(before) = &sum {
            let key = before.last.as_deref().unwrap_or_default();
            check_order::<R>(key, first)?;
            if !before.is_closed || fill.ends(node.level, key) {
                return Err(format!("node {id} stands where another should have ended"));
            }
        }
        fill.add(0);
        let sum = sum.get_or_insert_with(|| RowsSummary { depth, ..found.clone() });
        sum.is_closed = found.is_closed;
        sum.last = Some(last.clone());
        sum.depth = sum.depth.max(found.depth);
    }
    let mut sum = sum.ok_or("no children")?;
    let key = sum.last.as_deref().unwrap_or_default();
    sum.is_closed = sum.is_closed && fill.ends(node.level, key);
    sum.level = node.level;
    sum.is_root = node.children.len() > 1
        && sum.first.as_ref().is_some_and(|first| R::may_follow(None, first));
    Ok(sum)
}

/// That paths through a directory are not too long.
///
/// # Errors
/// They are.
pub(crate) fn check_depth(depth: u16) -> Result<u16, String> {
    if usize::from(depth) > MAX_PATH_DEPTH {
        return Err(format!("paths of {depth} names, more than {MAX_PATH_DEPTH}"));
    }
    Ok(depth)
}

/// What one level of a tree over rows says: see [`open_tree`](super::open_tree).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Opened<R> {
    /// It is the lowest: these are the rows, in order.
    Rows(Vec<R>),
    /// The nodes of the level below, in order. Their level is this one.
    Nodes(u8, Vec<ObjectId>),
}

/// Opens all nodes of one level, in order; the first level is the root alone. `level` is what they
/// must be, where that is known. No clock and no IO, so that the caller can fetch all of a level
/// at once.
///
/// # Errors
/// Bytes that are not a canonical node, or not one that stands here.
pub(super) fn open<'a, R: Row>(
    level: Option<u8>,
    nodes: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Opened<R>, DecodeError> {
    let invalid = |reason: String| DecodeError::Invalid { kind: R::KIND, reason };
    let (mut rows, mut children, mut level) = (Vec::new(), Vec::new(), level);
    for bytes in nodes {
        let node = R::decode(bytes)?;
        if *level.get_or_insert(node.level) != node.level {
            return Err(invalid("its level is not what the link to it said".into()));
        }
        rows.extend(node.rows);
        children.extend(node.children);
    }
    if let Some(below) = level.and_then(|level| level.checked_sub(1)) {
        return Ok(Opened::Nodes(below, children));
    }
    let mut before: Option<Vec<u8>> = None;
    for row in &rows {
        let key = row.key();
        match &before {
            Some(before) => check_order::<R>(before, &key).map_err(invalid)?,
            None if !R::may_follow(None, &key) => return Err(invalid("a row is missing".into())),
            None => {}
        }
        before = Some(key);
    }
    Ok(Opened::Rows(rows))
}
