//! What the joined tree says about paths: which of them may have changed since the tree that
//! was last applied, and what each is to be.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ark_core::{
    Behind, Entry, Mtime, Name, Node, ObjectId, Permissions, Read, RelPath, Shown, TreeError,
    Version, diff, empty_directory, entries, get, shown_aside,
};

use crate::base::{BaseError, BaseRead};
use crate::scan::FoundNode;

/// Names of one directory that are looked up one by one before the whole directory is read.
const SINGLE_LOOKUPS: usize = 24;

/// What a path is to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// Kind and content.
    pub node: FoundNode,
    /// The permission bits.
    pub permissions: Permissions,
    /// The modification time to give; zero for directories.
    pub mtime: Mtime,
    /// The versions that are shown here.
    pub behind: Behind,
}

/// Per path what it is to show; `None`: nothing.
pub type Wants = BTreeMap<RelPath, Option<Want>>;

impl Want {
    fn new(name: &Name, version: &Version) -> Self {
        let node = found_node(&version.node);
        let dots = version.dots.clone();
        let behind = Behind { name: name.clone(), dots, permissions_dot: version.permissions_dot };
        Self { node, permissions: version.permissions, mtime: version.mtime, behind }
    }

    fn of_copy(copy: &Shown) -> Self {
        Self::new(&copy.of, &copy.version)
    }

    fn in_place(entry: &Entry) -> Option<Self> {
        entry.in_place().map(|version| Self::new(&entry.name, version))
    }
}

/// What a scan would find of a node.
pub(crate) const fn found_node(node: &Node) -> FoundNode {
    match *node {
        Node::File { content, size } => FoundNode::File { content, size },
        Node::Symlink { target, size } => FoundNode::Symlink { target, size },
        Node::Directory { .. } => FoundNode::Directory,
    }
}

/// The root of the directory that an entry has in place.
fn directory(entry: Option<&Entry>) -> Option<ObjectId> {
    match entry?.in_place()?.node {
        Node::Directory { root, .. } => Some(root),
        Node::File { .. } | Node::Symlink { .. } => None,
    }
}

/// All paths that the trees `from` and `to` (roots of directories) show differently, with what
/// `to` says. What is below a path that is no directory any more is not among them: nothing is
/// wanted there, see [`complete`].
///
/// # Errors
/// An object could not be read.
pub fn wants<R: Read>(
    read: &R,
    from: ObjectId,
    to: ObjectId,
) -> Result<Wants, TreeError<R::Error>> {
    let mut wants = Wants::new();
    let mut open = vec![(RelPath::root(), from, to)];
    while let Some((path, from, to)) = open.pop() {
        changed_copies(read, &path, from, to, &mut wants)?;
        for item in diff(read, from, to) {
            let (name, old, new) = item?;
            let path = path.join(name);
            let roots = (directory(old.as_ref()), directory(new.as_ref()));
            if let (old_root, Some(new_root)) = roots {
                let old_root = old_root.unwrap_or_else(empty_root);
                if old_root != new_root {
                    open.push((path.clone(), old_root, new_root));
                }
            }
            match new.as_ref().and_then(Want::in_place) {
                Some(want) => {
                    wants.insert(path, Some(want));
                }
                // A copy of another entry may be shown under the name that this one left.
                None => {
                    wants.entry(path).or_insert(None);
                }
            }
        }
    }
    Ok(wants)
}

/// As [`wants`], for all paths that any of the trees `from` shows differently than `to`.
///
/// # Errors
/// An object could not be read.
pub fn wants_of_any<R: Read>(
    read: &R,
    from: &[ObjectId],
    to: ObjectId,
) -> Result<Wants, TreeError<R::Error>> {
    let mut all = Wants::new();
    for &from in from {
        for (path, want) in wants(read, from, to)? {
            let known = all.entry(path).or_default();
            // A name that an entry left may show a copy, of which not all of them tell.
            *known = known.take().or(want);
        }
    }
    Ok(all)
}

/// The id of the directory without entries, which every reader given to this module must have.
pub fn empty_root() -> ObjectId {
    empty_directory().id()
}

/// The copies of one directory that are not shown alike in both trees.
fn changed_copies<R: Read>(
    read: &R,
    path: &RelPath,
    from: ObjectId,
    to: ObjectId,
    wants: &mut Wants,
) -> Result<(), TreeError<R::Error>> {
    let copies = |root| -> Result<BTreeMap<Name, Shown>, TreeError<R::Error>> {
        let copies = shown_aside(read, root)?;
        Ok(copies.into_iter().map(|copy| (copy.name.clone(), copy)).collect())
    };
    let (old, new) = (copies(from)?, copies(to)?);
    for (name, copy) in &new {
        if old.get(name) != Some(copy) {
            wants.insert(path.join(name.clone()), Some(Want::of_copy(copy)));
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        wants.entry(path.join(name.clone())).or_insert(None);
    }
    Ok(())
}

/// Looks single paths up in a tree. Remembers the directory it looked in last.
#[derive(Debug)]
pub struct Lookup<'a, R> {
    read: &'a R,
    root: ObjectId,
    parents: HashMap<RelPath, Option<ObjectId>>,
    last: Option<Directory>,
}

/// The directory that a [`Lookup`] looks in.
#[derive(Debug)]
struct Directory {
    path: RelPath,
    root: ObjectId,
    copies: HashMap<Name, Shown>,
    lookups: usize,
    /// All of it, once it is asked often enough.
    entries: Option<HashMap<Name, Entry>>,
}

impl<'a, R: Read> Lookup<'a, R> {
    /// Looks in the tree with this root directory.
    pub fn new(read: &'a R, root: ObjectId) -> Self {
        Self { read, root, parents: HashMap::new(), last: None }
    }

    /// What `path` is to show.
    ///
    /// # Errors
    /// An object could not be read.
    pub fn want(&mut self, path: &RelPath) -> Result<Option<Want>, TreeError<R::Error>> {
        let Some((parent, name)) = path.split_last() else { return Ok(None) };
        if let Some(want) = self.entry_in(&parent, name)?.as_ref().and_then(Want::in_place) {
            return Ok(Some(want));
        }
        let copy = self.open(&parent)?.and_then(|directory| directory.copies.get(name));
        Ok(copy.map(Want::of_copy))
    }

    /// The entry `name` of the directory that holds the shown path `path`.
    ///
    /// # Errors
    /// An object could not be read.
    pub fn entry(
        &mut self,
        path: &RelPath,
        name: &Name,
    ) -> Result<Option<Entry>, TreeError<R::Error>> {
        match path.split_last() {
            Some((parent, _)) => self.entry_in(&parent, name),
            None => Ok(None),
        }
    }

    fn entry_in(
        &mut self,
        parent: &RelPath,
        name: &Name,
    ) -> Result<Option<Entry>, TreeError<R::Error>> {
        let read = self.read;
        let Some(directory) = self.open(parent)? else { return Ok(None) };
        directory.lookups += 1;
        if directory.entries.is_none() && directory.lookups > SINGLE_LOOKUPS {
            let mut all = HashMap::new();
            for entry in entries(read, directory.root) {
                let entry = entry?;
                all.insert(entry.name.clone(), entry);
            }
            directory.entries = Some(all);
        }
        match &directory.entries {
            Some(entries) => Ok(entries.get(name).cloned()),
            None => get(read, directory.root, name),
        }
    }

    /// The directory at `parent`; `None` where the tree has none.
    fn open(&mut self, parent: &RelPath) -> Result<Option<&mut Directory>, TreeError<R::Error>> {
        if self.last.as_ref().is_none_or(|last| last.path != *parent) {
            let Some(root) = self.directory_root(parent)? else { return Ok(None) };
            let copies = shown_aside(self.read, root)?;
            let copies = copies.into_iter().map(|copy| (copy.name.clone(), copy)).collect();
            let path = parent.clone();
            self.last = Some(Directory { path, root, copies, lookups: 0, entries: None });
        }
        Ok(self.last.as_mut())
    }

    fn directory_root(&mut self, path: &RelPath) -> Result<Option<ObjectId>, TreeError<R::Error>> {
        if let Some(root) = self.parents.get(path) {
            return Ok(*root);
        }
        let mut known = 0;
        let mut root = Some(self.root);
        for depth in (1..path.names().len()).rev() {
            let ancestor = RelPath::from(path.names()[..depth].to_vec());
            if let Some(found) = self.parents.get(&ancestor) {
                (known, root) = (depth, *found);
                break;
            }
        }
        for depth in known..path.names().len() {
            root = match root {
                Some(root) => directory(get(self.read, root, &path.names()[depth])?.as_ref()),
                None => None,
            };
            self.parents.insert(RelPath::from(path.names()[..=depth].to_vec()), root);
        }
        Ok(root)
    }
}

/// Why what is wanted could not be found out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WantsError<E: std::error::Error + 'static> {
    /// The joined tree could not be read.
    #[error(transparent)]
    Tree(#[from] TreeError<E>),
    /// Base could not be read.
    #[error(transparent)]
    Base(#[from] BaseError),
}

/// Adds to `wants` what follows from it by base: the paths to `revisit` (retries, and what a
/// local change touched), the directories on the way to what is wanted, and all that base has
/// below what is no directory any more.
///
/// # Errors
/// The tree or base could not be read.
pub fn complete<R: Read, B: BaseRead>(
    wants: &mut Wants,
    revisit: &BTreeSet<RelPath>,
    base: &B,
    joined: &mut Lookup<'_, R>,
) -> Result<(), WantsError<R::Error>> {
    for path in revisit {
        if !wants.contains_key(path) {
            wants.insert(path.clone(), joined.want(path)?);
        }
    }
    add_parents(wants, base, joined)?;
    let mut below = Vec::new();
    let mut covered: Option<&RelPath> = None;
    for (path, want) in wants.iter() {
        let is_directory = matches!(want, Some(Want { node: FoundNode::Directory, .. }));
        if is_directory || covered.is_some_and(|top| path.starts_with(top)) {
            continue;
        }
        if base.get(path)?.is_some_and(|record| record.node == FoundNode::Directory) {
            covered = Some(path);
            for item in base.below(path)? {
                below.push(item?.0);
            }
        }
    }
    for path in below {
        wants.entry(path).or_insert(None);
    }
    Ok(())
}

/// A parent that base does not have as a directory must be wanted as one first.
fn add_parents<R: Read, B: BaseRead>(
    wants: &mut Wants,
    base: &B,
    joined: &mut Lookup<'_, R>,
) -> Result<(), WantsError<R::Error>> {
    let mut seen = BTreeSet::new();
    let mut parents = Vec::new();
    for path in wants.iter().filter(|(_, want)| want.is_some()).map(|(path, _)| path) {
        let mut path = path.split_last().map(|(parent, _)| parent);
        while let Some(parent) = path.take_if(|parent| !parent.is_root()) {
            if wants.contains_key(&parent) || !seen.insert(parent.clone()) {
                break;
            }
            if base.get(&parent)?.is_none_or(|record| record.node != FoundNode::Directory) {
                parents.push(parent.clone());
            }
            path = parent.split_last().map(|(parent, _)| parent);
        }
    }
    for parent in parents {
        let want = joined.want(&parent)?;
        wants.insert(parent, want);
    }
    Ok(())
}
