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

use crate::dir::{diff, edit_into, empty_directory};
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
        path: Vec::new(),
        made: Vec::new(),
        equivocations: Vec::new(),
    };
    let (root, _) = merger.directories((a.root, Totals::default()), (b.root, Totals::default()))?;
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

/// A merge under way. It reads only what lay there before, so what it makes is kept apart.
struct Merger<'a, R> {
    read: &'a R,
    vectors: (&'a Vector, &'a Vector),
    /// Where in the tree it is.
    path: Vec<Name>,
    made: Vec<Object>,
    equivocations: Vec<(RelPath, Dot)>,
}

impl<R: Read> Merger<'_, R> {
    fn directories(
        &mut self,
        a: Directory,
        b: Directory,
    ) -> Result<Directory, TreeError<R::Error>> {
        if a.0 == b.0 {
            return Ok(a);
        }
        if self.path.len() > MAX_PATH_DEPTH {
            return Err(TreeError::TooDeep { link: Link::directory(a.0) });
        }
        // What makes the result of each side.
        let (mut of_a, mut of_b) = (BTreeMap::new(), BTreeMap::new());
        for difference in diff(self.read, a.0, b.0) {
            let (name, entry_a, entry_b) = difference?;
            let merged = self.entries(&name, entry_a.as_ref(), entry_b.as_ref())?;
            match (merged == entry_a, merged == entry_b) {
                (true, _) => drop(of_b.insert(name, merged)),
                (_, true) => drop(of_a.insert(name, merged)),
                _ => {
                    of_a.insert(name.clone(), merged.clone());
                    of_b.insert(name, merged);
                }
            }
        }
        let (root, edits) = if of_a.len() <= of_b.len() { (a.0, of_a) } else { (b.0, of_b) };
        let merged = edit_into(self.read, root, edits, &mut self.made)?;
        if merged.0 == empty_directory().id() {
            // It may stand for a side that has no directory here.
            self.made.push(empty_directory());
        }
        Ok(merged)
    }

    fn entries(
        &mut self,
        name: &Name,
        a: Option<&Entry>,
        b: Option<&Entry>,
    ) -> Result<Option<Entry>, TreeError<R::Error>> {
        let sides = (Side::new(a, self.vectors.0), Side::new(b, self.vectors.1));
        for dot in equivocal_dots(&sides.0, &sides.1) {
            if self.equivocations.len() < MAX_EQUIVOCATIONS {
                let path = RelPath::from(self.path.clone()).join(name.clone());
                self.equivocations.push((path, dot));
            }
        }
        let files = merged_files(&sides.0, &sides.1);
        let directory = self.directory(name, &sides.0, &sides.1)?;
        Ok(settled(name.clone(), files, directory))
    }

    /// The directory of a name, if one stays: its own dot survives, or anything in it does.
    fn directory(
        &mut self,
        name: &Name,
        a: &Side<'_>,
        b: &Side<'_>,
    ) -> Result<Option<Version>, TreeError<R::Error>> {
        let (of_a, of_b) = (a.directory(), b.directory());
        let Some(bits) = merged_bits(a, b, NodeKind::Directory) else { return Ok(None) };
        let children = |version: Option<&Version>| match version.map(|version| version.node) {
            Some(Node::Directory { root, totals }) => (root, totals),
            _ => (empty_directory().id(), Totals::default()),
        };
        self.path.push(name.clone());
        let (root, totals) = self.directories(children(of_a), children(of_b))?;
        self.path.pop();
        let united = |of_a: Vec<Dot>, of_b: Vec<Dot>| {
            let mut dots = [of_a, of_b].concat();
            dots.sort_unstable();
            dots.dedup();
            dots
        };
        let kept = united(
            of_a.map_or(Vec::new(), |version| b.keeps(version)),
            of_b.map_or(Vec::new(), |version| a.keeps(version)),
        );
        let dots = match kept.is_empty() {
            false => kept,
            true if root == empty_directory().id() => return Ok(None),
            true => {
                let all =
                    |version: Option<&Version>| version.map_or(Vec::new(), |v| v.dots.clone());
                united(all(of_a), all(of_b))
            }
        };
        let (permissions, permissions_dot) = bits;
        let node = Node::Directory { root, totals };
        let mtime = Mtime::default();
        Ok(Some(Version { node, dots, permissions, permissions_dot, mtime, aside: false }))
    }
}
