//! The checks of directory nodes and of the snapshots over them.

use rkyv::{Archive, Deserialize, Serialize};

use super::{Children, ensure};
use crate::dir::node::{Child, DirNode};
use crate::entry::{Content, MAX_PATH_DEPTH, Name, Node, Totals, Version};
use crate::id::{Dot, MAX_WRITERS, ObjectId, Vector};
use crate::snapshot::Snapshot;

/// Of a node of a directory's tree.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub(super) struct DirectorySummary {
    level: u8,
    files: u64,
    bytes: u64,
    aside: u64,
    /// The first and the last name below it; both empty in the empty directory.
    first: Vec<u8>,
    last: Vec<u8>,
    /// Whether another node may stand after it on its level.
    is_closed: bool,
    /// Whether it may be the root of a directory: the lowest node that has everything below it.
    is_root: bool,
    /// How many names the longest path in it has.
    depth: u16,
    /// Per writer the greatest sequence of the dots below it, in order of writer.
    dots: Vec<Dot>,
}

impl DirectorySummary {
    pub(super) fn totals(&self) -> Totals {
        Totals { files: self.files, bytes: self.bytes, aside: self.aside }
    }
}

/// What the checks of a node's parts find out on the way.
struct Sum {
    /// The first name below it.
    first: Vec<u8>,
    depth: u16,
    dots: Vector,
    /// Whether the last of its children may be followed by another; so for a leaf, too.
    may_go_on: bool,
}

impl Sum {
    /// Takes in what is below, `names` names further down.
    fn add(&mut self, below: &DirectorySummary, names: u16) {
        self.depth = self.depth.max(below.depth.saturating_add(names));
        below.dots.iter().for_each(|&dot| self.dots.take_in(dot));
    }

    fn summary(self, node: &DirNode) -> Result<DirectorySummary, String> {
        ensure(usize::from(self.depth) <= MAX_PATH_DEPTH, || {
            format!("paths of {} names, more than {MAX_PATH_DEPTH}", self.depth)
        })?;
        ensure(self.dots.len() <= MAX_WRITERS, || {
            format!("{} writers, more than {MAX_WRITERS}", self.dots.len())
        })?;
        let Totals { files, bytes, aside } = node.totals();
        Ok(DirectorySummary {
            level: node.level(),
            files,
            bytes,
            aside,
            first: self.first,
            last: node.last().map_or_else(Vec::new, |name| name.as_bytes().to_vec()),
            is_closed: self.may_go_on && node.closed(),
            is_root: node.level() == 0 || node.len() > 1,
            depth: self.depth,
            dots: self.dots.to_wire(),
        })
    }
}

pub(super) fn check_directory(
    node: &DirNode,
    children: &Children,
) -> Result<DirectorySummary, String> {
    let first = node.first().map(Name::as_bytes).unwrap_or_default().to_vec();
    let depth = u16::from(!node.entries().is_empty());
    let mut sum = Sum { first, depth, dots: Vector::empty(), may_go_on: true };
    for entry in node.entries() {
        for version in &entry.versions {
            check_version(version, children, &mut sum)
                .map_err(|reason| format!("{:?}: {reason}", entry.name))?;
        }
    }
    if node.level() > 0 {
        check_children(node, children, &mut sum)?;
    }
    sum.summary(node)
}

fn check_version(version: &Version, children: &Children, sum: &mut Sum) -> Result<(), String> {
    for &dot in version.dots.iter().chain([&version.permissions_dot]) {
        sum.dots.take_in(dot);
    }
    match version.node {
        Node::File { content: Content::Chunked(id), size } => children.check_content(id, size),
        Node::File { content: Content::Raw(id), size } | Node::Symlink { target: id, size } => {
            let length = children.raw_length(id)?;
            ensure(length == size, || format!("{length} bytes where {size} are said to be"))
        }
        Node::Directory { root, totals } => {
            let found = check_root(children, root)?;
            sum.add(found, 1);
            ensure(found.totals() == totals, || {
                format!("{:?} in a directory said to have {totals:?}", found.totals())
            })
        }
    }
}

fn check_root(children: &Children, root: ObjectId) -> Result<&DirectorySummary, String> {
    let found = children.directory(root)?;
    ensure(found.is_root, || format!("node {root} is not the root of a directory"))?;
    Ok(found)
}

fn check_children(node: &DirNode, children: &Children, sum: &mut Sum) -> Result<(), String> {
    let mut before: Option<&DirectorySummary> = None;
    for Child { id, last, totals } in node.children() {
        let found = children.directory(*id)?;
        ensure(found.level.checked_add(1) == Some(node.level()), || {
            format!("node {id} is of level {}", found.level)
        })?;
        ensure(found.totals() == *totals && found.last == last.as_bytes(), || {
            format!("node {id} has other totals or another last name")
        })?;
        match before {
            None => sum.first.clone_from(&found.first),
            Some(before) => {
                ensure(before.is_closed, || format!("the node before {id} is not closed"))?;
                ensure(before.last < found.first, || format!("node {id} begins too early"))?;
            }
        }
        sum.add(found, 0);
        before = Some(found);
    }
    sum.may_go_on = before.is_some_and(|last| last.is_closed);
    Ok(())
}

pub(super) fn check_snapshot(snapshot: &Snapshot, children: &Children) -> Result<Totals, String> {
    let root = check_root(children, snapshot.root)?;
    // A dot that the vector lacks would read as new wherever it was long dropped, and one of a
    // writer's acts to come would collide with that act.
    ensure(root.dots.iter().all(|&dot| snapshot.vector.has(dot)), || {
        "its tree has a dot that its vector lacks".into()
    })?;
    Ok(root.totals())
}

#[cfg(test)]
mod tests;
