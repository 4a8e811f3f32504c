//! Local changes put into the joined tree: what a device publishes.
//!
//! A published snapshot is not what a scan found, but the joined tree with the local changes put
//! in. A change drops the dots that were behind the path where it was made, and no others, and
//! adds its version under the new dot; then the rule of the merge picks what is in place.

use std::collections::BTreeMap;

use crate::dir::{content_order, edit_into, empty_directory, get_all};
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
    let mut putting = Putting { read: &*overlay, dot, made: Vec::new() };
    let (root, _) = putting.directory(joined.root, top)?;
    let Putting { made, .. } = putting;
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

/// Changes being put in. It reads only what lay there before, so what it makes is kept apart.
struct Putting<'a, R> {
    read: &'a R,
    dot: Dot,
    made: Vec<Object>,
}

impl<R: Read> Putting<'_, R> {
    fn directory(
        &mut self,
        root: ObjectId,
        changed: Changed<'_>,
    ) -> Result<(ObjectId, Totals), TreeError<R::Error>> {
        let names: Vec<&Name> = changed.0.keys().copied().collect();
        let mut entries = get_all(self.read, root, &names)?;
        let mut edits = BTreeMap::new();
        for (name, changed) in changed.0 {
            let old = entries.remove(name);
            let new = self.entry(name, old.as_ref(), changed)?;
            if new != old {
                edits.insert(name.clone(), new);
            }
        }
        edit_into(self.read, root, edits, &mut self.made)
    }

    fn entry(
        &mut self,
        name: &Name,
        entry: Option<&Entry>,
        mut changed: ChangedName<'_>,
    ) -> Result<Option<Entry>, TreeError<R::Error>> {
        let below = changed.below.take();
        let directory = self.directory_version(entry, &changed, below)?;
        let mut files = Vec::new();
        for version in entry.map_or(&[][..], |entry| &entry.versions) {
            let mut dots = version.dots.clone();
            dots.retain(|dot| !changed.drops(dot));
            if version.node.kind() != NodeKind::Directory && !dots.is_empty() {
                let Version { node, mtime, aside, .. } = *version;
                files.push(Kept { node, dots, bits: bits(version), mtime, in_place: !aside });
            }
        }
        if let Some((put, new)) = changed.put
            && let Some((node, mtime)) = file_node(put)
        {
            files.push(Kept { node, dots: vec![self.dot], bits: new.bits, mtime, in_place: true });
        }
        for file in &mut files {
            let order = content_order(&file.node);
            file.bits = if file.in_place {
                self.bits_in_place(entry, &changed, file.node.kind()).unwrap_or(file.bits)
            } else {
                let own = |version: &&Version| content_order(&version.node) == order;
                let version = entry.and_then(|entry| entry.versions.iter().find(own));
                let new = version.and_then(|version| new_bits_of(version, &changed, self.dot));
                new.map_or(file.bits, |new| new.met_with(Some(file.bits), self.dot))
            };
        }
        Ok(settled(name.clone(), files, directory))
    }

    /// The directory of a name, if there is to be one.
    fn directory_version(
        &mut self,
        entry: Option<&Entry>,
        changed: &ChangedName<'_>,
        below: Option<Changed<'_>>,
    ) -> Result<Option<Version>, TreeError<R::Error>> {
        let old = entry.and_then(Entry::in_place).filter(|v| v.node.kind() == NodeKind::Directory);
        let (mut root, mut totals) = match old.map(|version| version.node) {
            Some(Node::Directory { root, totals }) => (root, totals),
            _ => (empty_directory().id(), Totals::default()),
        };
        if let Some(below) = below {
            (root, totals) = self.directory(root, below)?;
        }
        let is_empty = root == empty_directory().id();
        let had = old.map_or(&[][..], |version| &version.dots);
        let mut dots: Vec<Dot> = had.iter().copied().filter(|dot| !changed.drops(dot)).collect();
        if matches!(changed.put, Some((Put::Directory, _))) {
            dots.push(self.dot);
        }
        if dots.is_empty() && is_empty {
            return Ok(None);
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
        let node = Node::Directory { root, totals };
        let mtime = Mtime::default();
        Ok(Some(Version { node, dots, permissions, permissions_dot, mtime, aside: false }))
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
