//! Local changes put into the joined tree: what a device publishes.
//!
//! A published snapshot is not what a scan found, but the joined tree with the local changes put
//! in. A change drops the dots that were behind the path where it was made, and no others, and
//! adds its version under the new dot; then the rule of the merge picks what is in place.

use std::collections::BTreeMap;

use crate::dir::{edit_into, empty_directory, get_all};
use crate::entry::{
    Content, Entry, MAX_PATH_DEPTH, Mtime, Name, Node, NodeKind, Permissions, RelPath, Totals,
    Version,
};
use crate::id::{Dot, ObjectId};
use crate::merge::{Bits, Kept, Tree, bits, settled};
use crate::object::{Link, Object, Overlay, Read, TreeError};

/// The bits of a directory that has to be made because something is published in it, and the
/// joined tree has none there: what a shell would give it.
const PARENT_PERMISSIONS: Permissions = Permissions::from_mode(0o755);

/// What was behind a shown path when the device last applied it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Behind {
    /// The entry's own name: another than the shown one for copies.
    pub name: Name,
    /// The dots of the version that was shown.
    pub dots: Vec<Dot>,
    /// The dot of its permission bits.
    pub permissions_dot: Dot,
}

/// What a path now is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Put {
    /// A regular file.
    File {
        /// Its content.
        content: Content,
        /// Its length in bytes.
        size: u64,
        /// When it was modified.
        mtime: Mtime,
    },
    /// A symbolic link.
    Symlink {
        /// The raw object with the target's bytes.
        target: ObjectId,
        /// Their count.
        size: u64,
        /// When it was made.
        mtime: Mtime,
    },
    /// A directory; what is in it is put by changes of its own.
    Directory,
}

/// One path that is not as it was applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalChange {
    /// As shown. Not the root.
    pub path: RelPath,
    /// What was applied there; `None` where nothing was.
    pub behind: Option<Behind>,
    /// What happened to it.
    pub what: What,
}

/// What happened to a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// It is gone.
    Remove,
    /// It has other content, or is new.
    Put {
        /// What it now is.
        put: Put,
        /// Its bits.
        permissions: Permissions,
        /// Whether the bits are others than those applied; true where nothing was applied.
        permissions_changed: bool,
    },
    /// It has other bits, and the content that was applied.
    Permissions(Permissions),
}

/// Puts `changes`, in any order, one per path, into the joined tree under `dot`, which is a new
/// one; gives the new root. New nodes go into `overlay`.
///
/// Parents that the joined tree lacks are made where something is put in them. Removing a
/// directory drops its dots; it stays while anything is in it.
///
/// # Errors
/// A node that cannot be read or is damaged; a path deeper than [`MAX_PATH_DEPTH`]; an entry with
/// more versions than one may have.
pub fn put_in<R: Read>(
    overlay: &mut Overlay<R>,
    joined: &Tree,
    dot: Dot,
    changes: &[LocalChange],
) -> Result<ObjectId, TreeError<R::Error>> {
    let mut top = Changed::default();
    for change in changes {
        let Some((name, parents)) = change.path.names().split_last() else { continue };
        if parents.len() >= MAX_PATH_DEPTH {
            return Err(TreeError::TooDeep { link: Link::directory(joined.root) });
        }
        let mut directory = &mut top;
        for parent in parents {
            directory = directory.name(parent).below.get_or_insert_default();
        }
        if let Some(behind) = &change.behind {
            directory.name(&behind.name).behind.push((behind, &change.what));
        }
        if let What::Put { put, permissions, permissions_changed } = &change.what {
            let behind = change.behind.as_ref();
            let seen = behind.map(|behind| behind.permissions_dot);
            let kept = seen.filter(|_| !permissions_changed);
            let bits = NewBits { bits: (*permissions, kept.unwrap_or(dot)), seen };
            directory.name(name).put = Some((put, bits));
        }
    }
    let (root, made) = {
        let mut putting = Putting { read: &*overlay, dot, open: Vec::new(), made: Vec::new() };
        let root = putting.root(joined.root, top)?;
        (root, putting.made)
    };
    for object in made {
        overlay.put(object);
    }
    if root == empty_directory().id() {
        overlay.put(empty_directory());
    }
    Ok(root)
}

/// The changes in one directory, per name of an entry.
#[derive(Default)]
struct Changed<'c>(BTreeMap<&'c Name, ChangedName<'c>>);

impl<'c> Changed<'c> {
    fn name(&mut self, name: &'c Name) -> &mut ChangedName<'c> {
        self.0.entry(name).or_default()
    }
}

/// The changes to one entry.
#[derive(Default)]
struct ChangedName<'c> {
    /// The changes of the paths that show versions of this entry, with what was behind them.
    behind: Vec<(&'c Behind, &'c What)>,
    /// What was put at the path of this name.
    put: Option<(&'c Put, NewBits)>,
    /// The changes in the directory of this name. Boxed by the map it holds.
    below: Option<Changed<'c>>,
}

impl ChangedName<'_> {
    /// Whether a change overwrote or removed what this dot wrote.
    fn drops(&self, dot: &Dot) -> bool {
        let is_gone = |what: &What| !matches!(what, What::Permissions(_));
        self.behind.iter().any(|(behind, what)| is_gone(what) && behind.dots.contains(dot))
    }
}

/// Bits found here, with the dot that sets them: the new one, or where they did not change the
/// one they had; and the dot of those that were applied here.
#[derive(Clone, Copy)]
struct NewBits {
    bits: Bits,
    seen: Option<Dot>,
}

impl NewBits {
    /// The bits to have, where the joined tree has others: the rule of the merge, for a side that
    /// has taken in the bits it saw, and for the joined tree, which has taken in all but `dot`.
    fn met_with(self, joined: Option<Bits>, dot: Dot) -> Bits {
        match joined {
            None => self.bits,
            Some(joined) if self.bits.1 != dot && joined.1 != self.bits.1 => joined,
            Some(joined) if self.bits.1 == dot && self.seen == Some(joined.1) => self.bits,
            Some(joined) => self.bits.max(joined),
        }
    }
}

/// The root and the totals of a directory.
type Children = (ObjectId, Totals);

/// Changes being put in. It reads only what lay there before, so what it makes is kept apart.
/// Open directories are on a stack of their own: paths are deeper than a thread's stack may be.
struct Putting<'c, R> {
    read: &'c R,
    dot: Dot,
    open: Vec<Open<'c>>,
    made: Vec<Object>,
}

/// A directory being changed.
struct Open<'c> {
    root: ObjectId,
    /// Those entries that are changed, as they were, and the changes not put in yet.
    entries: BTreeMap<Name, Entry>,
    changed: std::collections::btree_map::IntoIter<&'c Name, ChangedName<'c>>,
    /// What was changed.
    edits: BTreeMap<Name, Option<Entry>>,
    /// The name whose own directory is being changed, on top of this one.
    below: Option<(&'c Name, Option<Entry>, ChangedName<'c>)>,
}

impl<'c, R: Read> Putting<'c, R> {
    fn root(
        &mut self,
        root: ObjectId,
        changed: Changed<'c>,
    ) -> Result<ObjectId, TreeError<R::Error>> {
        self.open(root, changed)?;
        let mut outcome = root;
        while let Some(top) = self.open.last_mut() {
            if let Some((name, mut changed)) = top.changed.next() {
                let entry = top.entries.remove(name);
                if let Some(below) = changed.below.take() {
                    let (root, _) = children(entry.as_ref());
                    top.below = Some((name, entry, changed));
                    self.open(root, below)?;
                } else {
                    let children = children(entry.as_ref());
                    self.settle(name, entry.as_ref(), &changed, children);
                }
            } else if let Some(Open { root, edits, .. }) = self.open.pop() {
                let children = edit_into(self.read, root, edits, &mut self.made)?;
                outcome = children.0;
                let below = self.open.last_mut().and_then(|top| top.below.take());
                if let Some((name, entry, changed)) = below {
                    self.settle(name, entry.as_ref(), &changed, children);
                }
            }
        }
        Ok(outcome)
    }

    fn open(&mut self, root: ObjectId, changed: Changed<'c>) -> Result<(), TreeError<R::Error>> {
        let names: Vec<&Name> = changed.0.keys().copied().collect();
        let entries = get_all(self.read, root, &names)?;
        let (changed, edits) = (changed.0.into_iter(), BTreeMap::new());
        self.open.push(Open { root, entries, changed, edits, below: None });
        Ok(())
    }

    /// Changes an entry; what is in its directory has become `children`.
    fn settle(
        &mut self,
        name: &'c Name,
        old: Option<&Entry>,
        changed: &ChangedName<'_>,
        children: Children,
    ) {
        let directory = self.directory(old, changed, children);
        let files = self.files(old, changed);
        let new = settled(name.clone(), files, directory);
        if let Some(top) = self.open.last_mut()
            && new.as_ref() != old
        {
            top.edits.insert(name.clone(), new);
        }
    }

    /// The files and symlinks of an entry.
    fn files(&self, entry: Option<&Entry>, changed: &ChangedName<'_>) -> Vec<Kept> {
        let mut files = Vec::new();
        for version in entry.map_or(&[][..], |entry| &entry.versions) {
            let mut dots = version.dots.clone();
            dots.retain(|dot| !changed.drops(dot));
            if version.node.kind() != NodeKind::Directory && !dots.is_empty() {
                let bits = if version.aside {
                    let new = new_bits_of(version, changed, self.dot);
                    new.map_or(bits(version), |new| new.met_with(Some(bits(version)), self.dot))
                } else {
                    bits(version)
                };
                let Version { node, mtime, aside, .. } = *version;
                files.push(Kept { node, dots, bits, mtime, in_place: !aside });
            }
        }
        if let Some((put, new)) = changed.put
            && let Some((node, mtime)) = file_node(put)
        {
            files.push(Kept { node, dots: vec![self.dot], bits: new.bits, mtime, in_place: true });
        }
        for file in files.iter_mut().filter(|file| file.in_place) {
            let in_place = self.bits_in_place(entry, changed, file.node.kind());
            file.bits = in_place.unwrap_or(file.bits);
        }
        files
    }

    /// The directory of an entry, if there is to be one.
    fn directory(
        &mut self,
        entry: Option<&Entry>,
        changed: &ChangedName<'_>,
        (root, totals): Children,
    ) -> Option<Version> {
        let old = entry.and_then(Entry::in_place).filter(|v| v.node.kind() == NodeKind::Directory);
        let is_empty = root == empty_directory().id();
        let had = old.map_or(&[][..], |version| &version.dots);
        let mut dots: Vec<Dot> = had.iter().copied().filter(|dot| !changed.drops(dot)).collect();
        if matches!(changed.put, Some((Put::Directory, _))) {
            dots.push(self.dot);
        }
        if dots.is_empty() && is_empty {
            return None;
        }
        if dots.is_empty() {
            dots = if had.is_empty() { vec![self.dot] } else { had.to_vec() };
        }
        dots.sort_unstable();
        dots.dedup();
        if is_empty {
            self.made.push(empty_directory());
        }
        let found = self.bits_in_place(entry, changed, NodeKind::Directory);
        let (permissions, permissions_dot) = found.unwrap_or((PARENT_PERMISSIONS, self.dot));
        let (node, mtime) = (Node::Directory { root, totals }, Mtime::default());
        Some(Version { node, dots, permissions, permissions_dot, mtime, aside: false })
    }

    /// The bits of what is in place of this kind: those of the joined tree, as they were before
    /// anything was dropped, met with those found here.
    fn bits_in_place(
        &self,
        entry: Option<&Entry>,
        changed: &ChangedName<'_>,
        kind: NodeKind,
    ) -> Option<Bits> {
        let joined = entry.and_then(Entry::in_place).filter(|v| v.node.kind() == kind);
        let put = changed.put.filter(|(put, _)| kind_of(put) == kind).map(|(_, new)| new);
        let new = put.or_else(|| new_bits_in_place(entry?, joined?, changed, self.dot));
        match new {
            Some(new) => Some(new.met_with(joined.map(bits), self.dot)),
            None => joined.map(bits),
        }
    }
}

/// What is in the directory that an entry has; nothing, where it has none.
fn children(entry: Option<&Entry>) -> Children {
    match entry.and_then(Entry::in_place).map(|version| version.node) {
        Some(Node::Directory { root, totals }) => (root, totals),
        _ => (empty_directory().id(), Totals::default()),
    }
}

fn kind_of(put: &Put) -> NodeKind {
    match put {
        Put::File { .. } => NodeKind::File,
        Put::Symlink { .. } => NodeKind::Symlink,
        Put::Directory => NodeKind::Directory,
    }
}

fn file_node(put: &Put) -> Option<(Node, Mtime)> {
    match *put {
        Put::File { content, size, mtime } => Some((Node::File { content, size }, mtime)),
        Put::Symlink { target, size, mtime } => Some((Node::Symlink { target, size }, mtime)),
        Put::Directory => None,
    }
}

/// The bits that a change of bits alone gave to this version.
fn new_bits_of(version: &Version, changed: &ChangedName<'_>, dot: Dot) -> Option<NewBits> {
    changed.behind.iter().find_map(|(behind, what)| match what {
        What::Permissions(permissions)
            if version.dots.iter().any(|dot| behind.dots.contains(dot)) =>
        {
            Some(NewBits { bits: (*permissions, dot), seen: Some(behind.permissions_dot) })
        }
        _ => None,
    })
}

/// The bits that a change of bits alone gave to what is in place: it was made to this version, or
/// to one that the joined tree does not have any more, so to the file that took its place.
fn new_bits_in_place(
    entry: &Entry,
    in_place: &Version,
    changed: &ChangedName<'_>,
    dot: Dot,
) -> Option<NewBits> {
    let is_elsewhere = |behind: &Behind| {
        let mut aside = entry.aside().iter().flat_map(|version| &version.dots);
        aside.any(|dot| behind.dots.contains(dot))
    };
    new_bits_of(in_place, changed, dot).or_else(|| {
        changed.behind.iter().find_map(|(behind, what)| match what {
            What::Permissions(permissions)
                if in_place.node.kind() == NodeKind::File && !is_elsewhere(behind) =>
            {
                Some(NewBits { bits: (*permissions, dot), seen: Some(behind.permissions_dot) })
            }
            _ => None,
        })
    })
}
