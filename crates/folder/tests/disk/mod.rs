//! A disk in memory, as strict as a real one, on which plans are carried out.

use std::collections::BTreeMap;

use ark_core::{
    Behind, Content, DeviceId, Dot, Incarnation, Mtime, Name, ObjectId, Permissions, RelPath,
    Writer,
};
use ark_folder::base::{Cache, Record};
use ark_folder::fs::{Stat, StatKind};
use ark_folder::plan::Action;
use ark_folder::scan::FoundNode;
use ark_folder::wants::{Want, Wants};

pub type Base = BTreeMap<RelPath, Record>;
pub type Tree = BTreeMap<RelPath, (FoundNode, Permissions)>;

pub fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

pub fn file(content: &str) -> FoundNode {
    let size = content.len() as u64;
    FoundNode::File { content: Content::Raw(ObjectId::of(content.as_bytes())), size }
}

pub fn symlink(target: &str) -> FoundNode {
    FoundNode::Symlink { target: ObjectId::of(target.as_bytes()), size: target.len() as u64 }
}

fn behind(path: &RelPath, sequence: u64) -> Behind {
    let writer = Writer { device: DeviceId::from_bytes([1; 32]), incarnation: Incarnation::new(1) };
    let dot = Dot { writer, sequence };
    let name: &Name = path.names().last().unwrap();
    Behind { name: name.clone(), dots: vec![dot], permissions_dot: dot }
}

pub fn wants_of(before: &Tree, tree: &Tree) -> Wants {
    let gone = before.keys().map(|path| (path.clone(), None));
    let wanted = tree.iter().map(|(path, &(node, permissions))| {
        let behind = behind(path, 2);
        let want = Want { node, permissions, mtime: Mtime::default(), behind };
        (path.clone(), Some(want))
    });
    gone.chain(wanted).collect()
}

pub fn base_of(tree: &Tree) -> Base {
    let record = |(path, &(node, permissions)): (&RelPath, &(FoundNode, Permissions))| {
        (path.clone(), record(behind(path, 1), node, permissions))
    };
    tree.iter().map(record).collect()
}

fn record(behind: Behind, node: FoundNode, permissions: Permissions) -> Record {
    let stat = Stat {
        kind: StatKind::File,
        dev: 0,
        ino: 0,
        size: 0,
        mode: 0,
        mtime: Mtime::default(),
        ctime: Mtime::default(),
    };
    let cache = Some(Cache { stat, settled: true });
    Record { behind, node, permissions, mtime: Mtime::default(), cache }
}

/// The bits with which a directory's owner sees and reaches what is in it.
pub const SEARCH: u16 = 0o500;

/// The directories that `path` is in, outermost first.
pub fn above(path: &RelPath) -> impl DoubleEndedIterator<Item = RelPath> {
    (1..path.names().len()).map(|depth| RelPath::from(path.names()[..depth].to_vec()))
}

/// A disk in memory, as strict as a real one, with base beside it.
#[derive(Clone)]
pub struct Disk {
    pub tree: Tree,
    pub base: Base,
}

impl Disk {
    /// The directories above are there, and their owner may look through them.
    fn is_reached(&self, path: &RelPath) {
        for above in above(path) {
            let (node, bits) = self.tree[&above];
            assert_eq!(node, FoundNode::Directory, "{above:?} above {path:?}");
            assert_eq!(bits.bits() & SEARCH, SEARCH, "{above:?} above {path:?}");
        }
    }

    /// Besides, the owner of the parent may change it.
    fn parent_is_open(&self, path: &RelPath) {
        self.is_reached(path);
        if let Some(parent) = above(path).last() {
            assert_eq!(self.tree[&parent].1.bits() & 0o300, 0o300, "the parent of {path:?}");
        }
    }

    fn put(&mut self, path: &RelPath, want: &Want, permissions: Permissions) {
        self.parent_is_open(path);
        self.set(path, want, permissions);
    }

    fn set(&mut self, path: &RelPath, want: &Want, permissions: Permissions) {
        self.tree.insert(path.clone(), (want.node, permissions));
        let record = record(want.behind.clone(), want.node, permissions);
        self.base.insert(path.clone(), record);
    }

    fn take(&mut self, path: &RelPath) -> FoundNode {
        self.parent_is_open(path);
        self.base.remove(path);
        self.tree.remove(path).unwrap_or_else(|| panic!("{path:?} is not there")).0
    }

    pub fn act(&mut self, action: &Action) {
        let is_directory = |disk: &Self, path: &RelPath| {
            disk.tree.get(path).is_some_and(|found| found.0 == FoundNode::Directory)
        };
        match action {
            Action::Adopt { path, want } => {
                let (node, permissions) = self.tree[path];
                assert_eq!((node, permissions), (want.node, want.permissions));
                self.base.get_mut(path).unwrap().behind = want.behind.clone();
            }
            Action::Forget { path } => {
                self.base.remove(path);
            }
            Action::Open { path } => {
                self.is_reached(path);
                assert!(is_directory(self, path), "{path:?} is no directory");
                let (_, bits) = self.tree.get_mut(path).unwrap();
                *bits = opened(*bits);
                self.base.get_mut(path).unwrap().permissions = *bits;
            }
            Action::MakeDirectory { path, want } => {
                assert!(!self.tree.contains_key(path), "{path:?} is in the way");
                self.put(path, want, opened(want.permissions));
            }
            Action::Move { from, to, want } => {
                let moved = self.take(from);
                assert_eq!(moved, want.node);
                assert!(!is_directory(self, to), "{to:?} is a directory");
                self.put(to, want, want.permissions);
            }
            Action::Exchange { from, back, to, want } => {
                let (a, b) = (self.take(from), self.take(to));
                assert_eq!((a, b), (want.node, back.node));
                self.put(from, back, back.permissions);
                self.put(to, want, want.permissions);
            }
            Action::Write { path, want } => {
                assert!(!is_directory(self, path), "{path:?} is a directory");
                self.put(path, want, want.permissions);
            }
            Action::Remove { path } => {
                assert!(!is_directory(self, path), "{path:?} is a directory");
                self.take(path);
            }
            Action::RemoveDirectory { path } => {
                let below = self.tree.keys().find(|other| *other > path && other.starts_with(path));
                assert_eq!(below, None, "{path:?} is not empty");
                assert_eq!(self.take(path), FoundNode::Directory);
            }
            Action::SetPermissions { path, want } => {
                self.is_reached(path);
                assert_eq!(self.tree[path].0, want.node);
                self.set(path, want, want.permissions);
            }
        }
    }

    /// What a scan makes of a crash before base was told: what is as wanted is adopted, what is
    /// gone is forgotten. Anything else would be taken for an edit.
    pub fn recover(&mut self, before: &Base, wants: &Wants) {
        let mut base = Base::new();
        for (path, &(node, permissions)) in &self.tree {
            let old = before.get(path);
            if old.is_some_and(|old| (old.node, old.permissions) == (node, permissions)) {
                base.insert(path.clone(), old.unwrap().clone());
                continue;
            }
            if let Some(old) = old
                && (old.node, opened(old.permissions)) == (FoundNode::Directory, permissions)
            {
                base.insert(path.clone(), record(old.behind.clone(), node, permissions));
                continue;
            }
            let want = wants.get(path).and_then(Option::as_ref);
            let want = want.filter(|want| want.node == node);
            let want = want.unwrap_or_else(|| panic!("{path:?} would be taken for an edit"));
            base.insert(path.clone(), record(want.behind.clone(), node, permissions));
        }
        self.base = base;
    }
}

/// What ark gives a directory to work in it.
fn opened(bits: Permissions) -> Permissions {
    Permissions::from_mode(u32::from(bits.bits() | 0o700))
}

/// Whether something can come to be at a path that is no directory.
pub fn possible(disk: &Disk, path: &RelPath) -> bool {
    let (parent, _) = path.split_last().unwrap();
    let directory = Some(FoundNode::Directory);
    let there = |path: &RelPath| disk.tree.get(path).map(|found| found.0);
    (parent.is_root() || there(&parent) == directory) && there(path) != directory
}
