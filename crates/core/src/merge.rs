//! The merge of two trees with what each has taken in, and the joined tree of all heads.
//!
//! Per name, over versions, matched by dot: on both sides: kept, aside if it is aside on either;
//! on one side, and the other has taken its dot in: overwritten or deleted there knowingly, so
//! gone; on one side otherwise: kept. No ancestor and no history is needed. Directory versions
//! of a name are one: dots united, children merged, also against nothing. Of what is kept and
//! not aside one content stays in place, the same choice everywhere.

mod versions;

use std::collections::BTreeMap;

pub(crate) use versions::{Bits, Kept, bits, settled};

use crate::dir::{Diff, Difference, diff, edit_into, empty_directory};
use crate::entry::{Entry, MAX_PATH_DEPTH, Mtime, Name, Node, NodeKind, RelPath, Totals, Version};
use crate::id::{Dot, ObjectId, Vector};
use crate::object::{Link, Object, Overlay, Read, TreeError};
use crate::snapshot::Snapshot;
use crate::state::JoinedHead;
use versions::{Side, equivocal_dots, merged_bits, merged_files};

/// The most equivocations that one merge reports: enough to name the writer at fault.
const MAX_EQUIVOCATIONS: usize = 64;

/// A root directory and what was taken in to make it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tree {
    /// The root node of the root directory.
    pub root: ObjectId,
    /// The acts taken in.
    pub vector: Vector,
}

impl Tree {
    /// Nothing, of which nothing is known.
    pub fn empty() -> Self {
        Self { root: empty_directory().id(), vector: Vector::empty() }
    }
}

/// The outcome of a merge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Merged {
    /// The merged tree.
    pub tree: Tree,
    /// Dots under which one name has several contents: their writer used a sequence twice. All
    /// contents are kept. Only of names that differed, and at most 64.
    pub equivocations: Vec<(RelPath, Dot)>,
}

/// Merges two trees. It depends on the trees and vectors alone, and not on their order.
///
/// # Errors
/// A node that cannot be read or is damaged; an entry with more versions than one may have.
pub fn merge<R: Read>(
    overlay: &mut Overlay<R>,
    a: &Tree,
    b: &Tree,
) -> Result<Merged, TreeError<R::Error>> {
    let mut merger = Merger {
        read: &*overlay,
        vectors: (&a.vector, &b.vector),
        open: Vec::new(),
        made: Vec::new(),
        equivocations: Vec::new(),
    };
    let root = merger.roots(a.root, b.root)?;
    let Merger { made, equivocations, .. } = merger;
    for object in made {
        overlay.put(object);
    }
    let mut vector = a.vector.clone();
    vector.take_in_all(&b.vector);
    Ok(Merged { tree: Tree { root, vector }, equivocations })
}

/// The joined tree of a repo's heads: their snapshots merged in order of dot. A head whose dots
/// another one has taken in is older and left out. No heads make the empty tree.
///
/// # Errors
/// As [`merge`]; a snapshot that cannot be read or is damaged.
pub fn join<R: Read>(
    overlay: &mut Overlay<R>,
    heads: &[JoinedHead],
) -> Result<Merged, TreeError<R::Error>> {
    let mut heads: Vec<_> = heads.iter().collect();
    heads.sort_by(|a, b| a.dots.cmp(&b.dots));
    let mut trees = Vec::with_capacity(heads.len());
    for head in heads {
        let link = Link::snapshot(head.id);
        let bytes = overlay.read(link).map_err(|source| TreeError::Read { link, source })?;
        let Snapshot { root, vector, .. } =
            Snapshot::decode(&bytes).map_err(|source| TreeError::Decode { link, source })?;
        trees.push((head, Tree { root, vector }));
    }
    // One by one, so that of two that claim each other one stays.
    let mut at = 0;
    while at < trees.len() {
        let has = |vector: &Vector| trees[at].0.dots.iter().all(|dot| vector.has(*dot));
        let is_older =
            trees.iter().enumerate().any(|(other, (_, tree))| other != at && has(&tree.vector));
        if is_older {
            trees.remove(at);
        } else {
            at += 1;
        }
    }
    let mut trees = trees.into_iter().map(|(_, tree)| tree);
    let Some(first) = trees.next() else {
        overlay.put(empty_directory());
        return Ok(Merged { tree: Tree::empty(), equivocations: Vec::new() });
    };
    let mut joined = Merged { tree: first, equivocations: Vec::new() };
    for tree in trees {
        let Merged { tree, mut equivocations } = merge(overlay, &joined.tree, &tree)?;
        joined.tree = tree;
        equivocations.retain(|found| !joined.equivocations.contains(found));
        joined.equivocations.append(&mut equivocations);
        joined.equivocations.truncate(MAX_EQUIVOCATIONS);
    }
    Ok(joined)
}

/// The root and the totals of a directory.
type Directory = (ObjectId, Totals);

/// A merge under way. It reads only what lay there before, so what it makes is kept apart. Open
/// directories are on a stack of their own: paths are deeper than a thread's stack may be.
struct Merger<'a, R> {
    read: &'a R,
    vectors: (&'a Vector, &'a Vector),
    open: Vec<Open<'a, R>>,
    made: Vec<Object>,
    equivocations: Vec<(RelPath, Dot)>,
}

/// A directory being merged.
struct Open<'a, R> {
    a: ObjectId,
    b: ObjectId,
    differences: Diff<'a, R>,
    /// What makes the result of each side.
    of_a: BTreeMap<Name, Option<Entry>>,
    of_b: BTreeMap<Name, Option<Entry>>,
    /// The name whose own directory is being merged, on top of this one.
    below: Option<Difference>,
}

impl<R: Read> Merger<'_, R> {
    fn roots(&mut self, a: ObjectId, b: ObjectId) -> Result<ObjectId, TreeError<R::Error>> {
        if a == b {
            return Ok(a);
        }
        self.open(a, b)?;
        let mut root = a;
        while let Some(top) = self.open.last_mut() {
            if let Some(difference) = top.differences.next() {
                self.enter(difference?)?;
            } else if let Some(Open { a, b, of_a, of_b, .. }) = self.open.pop() {
                let merged = self.close((a, of_a), (b, of_b))?;
                root = merged.0;
                if let Some(difference) = self.open.last_mut().and_then(|top| top.below.take()) {
                    self.settle(difference, Some(merged));
                }
            }
        }
        Ok(root)
    }

    fn open(&mut self, a: ObjectId, b: ObjectId) -> Result<(), TreeError<R::Error>> {
        if self.open.len() > MAX_PATH_DEPTH {
            return Err(TreeError::TooDeep { link: Link::directory(a) });
        }
        let differences = diff(self.read, a, b);
        let (of_a, of_b) = (BTreeMap::new(), BTreeMap::new());
        self.open.push(Open { a, b, differences, of_a, of_b, below: None });
        Ok(())
    }

    /// Makes the merged directory, of the side that it differs from the least.
    fn close(
        &mut self,
        (a, of_a): (ObjectId, BTreeMap<Name, Option<Entry>>),
        (b, of_b): (ObjectId, BTreeMap<Name, Option<Entry>>),
    ) -> Result<Directory, TreeError<R::Error>> {
        let (root, edits) = if of_a.len() <= of_b.len() { (a, of_a) } else { (b, of_b) };
        let merged = edit_into(self.read, root, edits, &mut self.made)?;
        if merged.0 == empty_directory().id() {
            // It may stand for a side that has no directory here.
            self.made.push(empty_directory());
        }
        Ok(merged)
    }

    /// Merges a name, or first the directory of that name.
    fn enter(&mut self, difference: Difference) -> Result<(), TreeError<R::Error>> {
        let (name, a, b) = &difference;
        self.report_equivocations(name, a.as_ref(), b.as_ref());
        match (children(a.as_ref()), children(b.as_ref())) {
            (None, None) => self.settle(difference, None),
            (Some(a), Some(b)) if a.0 == b.0 => self.settle(difference, Some(a)),
            (a, b) => {
                let root = |side: Option<Directory>| side.map_or(empty_directory().id(), |d| d.0);
                if let Some(top) = self.open.last_mut() {
                    top.below = Some(difference);
                }
                self.open(root(a), root(b))?;
            }
        }
        Ok(())
    }

    /// Merges a name whose directory, if either side has one, has become `merged`.
    fn settle(&mut self, (name, a, b): Difference, merged: Option<Directory>) {
        let sides = (Side::new(a.as_ref(), self.vectors.0), Side::new(b.as_ref(), self.vectors.1));
        let directory = merged.and_then(|merged| directory(&sides.0, &sides.1, merged));
        let files = merged_files(&sides.0, &sides.1);
        let entry = settled(name.clone(), files, directory);
        let Some(top) = self.open.last_mut() else { return };
        if entry != a {
            top.of_a.insert(name.clone(), entry.clone());
        }
        if entry != b {
            top.of_b.insert(name, entry);
        }
    }

    fn report_equivocations(&mut self, name: &Name, a: Option<&Entry>, b: Option<&Entry>) {
        for dot in equivocal_dots(a, b) {
            if self.equivocations.len() < MAX_EQUIVOCATIONS {
                let parents = self.open.iter().filter_map(|open| open.below.as_ref());
                let names = parents.map(|(parent, ..)| parent).chain([name]).cloned();
                self.equivocations.push((RelPath::from(names.collect::<Vec<_>>()), dot));
            }
        }
    }
}

/// What is in the directory that an entry has, if it has one.
fn children(entry: Option<&Entry>) -> Option<Directory> {
    entry?.versions.iter().find_map(|version| match version.node {
        Node::Directory { root, totals } => Some((root, totals)),
        Node::File { .. } | Node::Symlink { .. } => None,
    })
}

/// The directory of a name, of which at least one side has one, if it stays: a dot of it
/// survives, or anything in it does.
fn directory(a: &Side<'_>, b: &Side<'_>, (root, totals): Directory) -> Option<Version> {
    let (of_a, of_b) = (a.directory(), b.directory());
    let (permissions, permissions_dot) = merged_bits(a, b, NodeKind::Directory)?;
    let kept = [
        of_a.map_or(Vec::new(), |version| b.keeps(version)),
        of_b.map_or(Vec::new(), |version| a.keeps(version)),
    ];
    let mut dots = kept.concat();
    if dots.is_empty() {
        if root == empty_directory().id() {
            return None;
        }
        dots =
            [of_a, of_b].into_iter().flatten().flat_map(|version| &version.dots).copied().collect();
    }
    dots.sort_unstable();
    dots.dedup();
    let (node, mtime) = (Node::Directory { root, totals }, Mtime::default());
    Some(Version { node, dots, permissions, permissions_dot, mtime, aside: false })
}
