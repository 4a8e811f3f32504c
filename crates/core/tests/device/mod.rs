//! Devices with a disk that a user works on, as the folder crate would have them: what is on disk
//! is compared with what was applied, the difference put into the joined tree and published, and
//! the joined tree applied.

#![allow(dead_code, reason = "each test uses its part")]

use std::collections::{BTreeMap, BTreeSet};

use ark_core::{
    Behind, Checked, Content, Dot, Head, Link, LocalChange, Mtime, Name, Node, NodeKind, Object,
    ObjectId, ObjectKind, Permissions, Put, Read, RelPath, RepoKind, Snapshot, State, Summary,
    TopicId, Tree, What, Writer, check, dir, heads, join, put_in, shown,
};

use crate::memory::{Memory, name, path, writer};

/// What stands at a path of the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Thing {
    File(String),
    Symlink(String),
    Directory,
}

impl Thing {
    pub fn kind(&self) -> NodeKind {
        match self {
            Self::File(_) => NodeKind::File,
            Self::Symlink(_) => NodeKind::Symlink,
            Self::Directory => NodeKind::Directory,
        }
    }
}

type Disk = BTreeMap<RelPath, (Thing, u32)>;

/// The versions that users wrote: where, by which act, what; and whether someone who saw it
/// overwrote or removed it.
#[derive(Default)]
pub struct Oracle {
    pub written: BTreeMap<(RelPath, Dot), Thing>,
    pub dropped: BTreeSet<(RelPath, Dot)>,
    /// Directories that stood only for what was in them, and so may stand when that is gone.
    pub held_up: BTreeSet<RelPath>,
}

impl Oracle {
    fn take_in(&mut self, dot: Dot, changes: &[LocalChange], disk: &Disk) {
        for change in changes {
            let (parent, _) = change.path.split_last().unwrap();
            if !matches!(change.what, What::Permissions(_))
                && let Some(behind) = &change.behind
            {
                let at = parent.join(behind.name.clone());
                self.dropped.extend(behind.dots.iter().map(|dot| (at.clone(), *dot)));
            }
            if let What::Put { .. } = change.what {
                self.written.insert((change.path.clone(), dot), disk[&change.path].0.clone());
            }
        }
    }

    fn look_at(&mut self, memory: &Memory, root: ObjectId) {
        for (path, (_, dots)) in versions(memory, root).1 {
            if dots.iter().all(|dot| self.dropped.contains(&(path.clone(), *dot))) {
                self.held_up.insert(path);
            }
        }
    }
}

/// One device.
pub struct Device {
    pub writer: Writer,
    pub states: BTreeMap<Writer, State>,
    pub disk: Disk,
    /// What was last applied, with what was behind each path.
    base: BTreeMap<RelPath, (Thing, u32, Behind)>,
    sequence: u64,
    /// Seconds; goes on by one with each thing written.
    pub clock: i64,
}

impl Device {
    pub fn new(number: u8) -> Self {
        Self {
            writer: writer(number),
            states: BTreeMap::new(),
            disk: Disk::new(),
            base: BTreeMap::new(),
            sequence: 0,
            clock: 0,
        }
    }

    pub fn write(&mut self, at: &str, text: &str) {
        let bits = match self.disk.get(&path(at)) {
            Some((Thing::File(_), bits)) => *bits,
            _ => 0o644,
        };
        self.put(&path(at), Thing::File(text.into()), bits);
    }

    pub fn link(&mut self, at: &str, target: &str) {
        self.put(&path(at), Thing::Symlink(target.into()), 0o777);
    }

    pub fn make_dir(&mut self, at: &str) {
        self.put(&path(at), Thing::Directory, 0o755);
    }

    pub fn chmod(&mut self, at: &str, bits: u32) {
        self.disk.get_mut(&path(at)).unwrap().1 = bits;
    }

    /// Puts a thing on disk; what was there and below goes, and parents are made.
    pub fn put(&mut self, at: &RelPath, thing: Thing, bits: u32) {
        if thing != Thing::Directory || self.disk.get(at).is_none_or(|old| old.0 != thing) {
            self.remove_path(at);
        }
        let mut parent = at.clone();
        while let Some(above) = parent.split_last().map(|(above, _)| above)
            && !above.is_root()
        {
            let place = self.disk.entry(above.clone()).or_insert((Thing::Directory, 0o755));
            if place.0 != Thing::Directory {
                *place = (Thing::Directory, 0o755);
            }
            parent = above;
        }
        self.disk.insert(at.clone(), (thing, bits));
    }

    pub fn remove(&mut self, at: &str) {
        self.remove_path(&path(at));
    }

    pub fn remove_path(&mut self, at: &RelPath) {
        self.disk.retain(|path, _| !path.starts_with(at));
    }

    /// Moves a path with all that is below it.
    pub fn rename(&mut self, from: &RelPath, to: &RelPath) {
        if to.starts_with(from) || from.starts_with(to) {
            return;
        }
        let moved: Vec<_> = self
            .disk
            .range(from.clone()..)
            .map_while(|(path, what)| {
                let rest = path.names().get(from.names().len()..)?.to_vec();
                path.starts_with(from).then(|| (rest, what.clone()))
            })
            .collect();
        self.remove_path(from);
        for (rest, (thing, bits)) in moved {
            let at = rest.into_iter().fold(to.clone(), |path, name| path.join(name));
            self.put(&at, thing, bits);
        }
    }

    /// The differences of disk and base, as a scan would find them.
    fn changes(&mut self, memory: &Memory) -> Vec<LocalChange> {
        let mut changes = Vec::new();
        for (path, (.., behind)) in &self.base {
            if !self.disk.contains_key(path) {
                let behind = Some(behind.clone());
                changes.push(LocalChange { path: path.clone(), behind, what: What::Remove });
            }
        }
        for (path, (thing, bits)) in &self.disk {
            let permissions = Permissions::from_mode(*bits);
            let base = self.base.get(path);
            let what = match base {
                Some((was, had, _)) if was == thing && had == bits => continue,
                Some((was, ..)) if was == thing => What::Permissions(permissions),
                _ => {
                    self.clock += 1;
                    let mtime = Mtime { seconds: self.clock, nanos: 0 };
                    let put = to_put(memory, thing, mtime);
                    let permissions_changed = base.is_none_or(|(_, had, _)| had != bits);
                    What::Put { put, permissions, permissions_changed }
                }
            };
            let behind = base.map(|(.., behind)| behind.clone());
            changes.push(LocalChange { path: path.clone(), behind, what });
        }
        changes
    }

    pub fn joined(&self, memory: &Memory) -> Tree {
        let heads = heads(self.states.values());
        let (merged, _) = memory.with(|overlay| join(overlay, &heads).unwrap());
        assert_eq!(merged.equivocations, []);
        merged.tree
    }

    /// Publishes what the user did, put into the newest joined tree, and applies the result.
    pub fn publish(&mut self, memory: &Memory, oracle: &mut Oracle) {
        let changes = self.changes(memory);
        if !changes.is_empty() {
            let joined = self.joined(memory);
            let dot = Dot { writer: self.writer, sequence: self.sequence + 1 };
            self.sequence = dot.sequence;
            oracle.take_in(dot, &changes, &self.disk);
            let (root, _) = memory.with(|overlay| put_in(overlay, &joined, dot, &changes).unwrap());
            let reversed: Vec<_> = changes.into_iter().rev().collect();
            let again = memory.with(|overlay| put_in(overlay, &joined, dot, &reversed).unwrap());
            assert_eq!(again.0, root, "the order of changes matters");
            oracle.look_at(memory, root);
            let mut vector = joined.vector;
            vector.take_in(dot);
            let wall_time_ms = self.clock * 1000;
            let snapshot = Snapshot { root, vector: vector.clone(), wall_time_ms }.encode();
            memory.put(&snapshot);
            let state = State {
                topic: TopicId::derive("trees", None),
                kind: RepoKind::Folder,
                writer: self.writer,
                revision: dot.sequence,
                heads: vec![Head { id: snapshot.id(), sequence: dot.sequence }],
                vector,
                held: Vec::new(),
            };
            self.states.insert(self.writer, state);
        }
        self.apply(memory);
    }

    /// Makes the disk what the joined tree shows. Nothing may be unpublished.
    fn apply(&mut self, memory: &Memory) {
        let tree = self.joined(memory);
        self.base = seen(memory, tree.root);
        self.disk = self
            .base
            .iter()
            .map(|(path, (thing, bits, _))| (path.clone(), (thing.clone(), *bits)))
            .collect();
    }

    /// Takes in the states that another device knows. What the user did meanwhile stays on disk,
    /// to be published against what was applied before.
    pub fn receive(&mut self, states: &BTreeMap<Writer, State>) {
        for (writer, state) in states {
            let known = self.states.get(writer).map_or(0, |state| state.revision);
            if *writer != self.writer && known < state.revision {
                self.states.insert(*writer, state.clone());
            }
        }
    }

    /// Texts of the disk, for tests to compare.
    pub fn shows(&self) -> Vec<(String, String)> {
        let text = |thing: &Thing| match thing {
            Thing::File(text) => text.clone(),
            Thing::Symlink(target) => format!("-> {target}"),
            Thing::Directory => "/".into(),
        };
        let mut texts: Vec<_> =
            self.disk.iter().map(|(path, (thing, _))| (path.to_string(), text(thing))).collect();
        texts.sort();
        texts
    }
}

/// All publish, then all take in what all have, until nothing changes: every device shows the
/// same then, and has the same root.
pub fn synchronise(memory: &Memory, oracle: &mut Oracle, devices: &mut [Device]) -> ObjectId {
    for device in devices.iter_mut() {
        device.publish(memory, oracle);
    }
    let all: Vec<_> = devices.iter().map(|device| device.states.clone()).collect();
    for device in devices.iter_mut() {
        for states in &all {
            device.receive(states);
        }
        device.publish(memory, oracle);
    }
    let root = devices[0].joined(memory).root;
    for device in devices.iter() {
        assert_eq!(device.joined(memory).root, root, "diverged");
        assert_eq!(device.disk, devices[0].disk);
    }
    root
}

fn to_put(memory: &Memory, thing: &Thing, mtime: Mtime) -> Put {
    let raw = |text: &str| {
        let object = Object::new(ObjectKind::Raw, text.as_bytes().to_vec());
        memory.put(&object);
        (object.id(), text.len() as u64)
    };
    match thing {
        Thing::File(text) => {
            let (id, size) = raw(text);
            Put::File { content: Content::Raw(id), size, mtime }
        }
        Thing::Symlink(text) => {
            let (target, size) = raw(text);
            Put::Symlink { target, size, mtime }
        }
        Thing::Directory => Put::Directory,
    }
}

fn from_node(memory: &Memory, node: &Node) -> Thing {
    let text = || {
        let bytes = memory.read(node.link()).unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    };
    match node.kind() {
        NodeKind::File => Thing::File(text()),
        NodeKind::Symlink => Thing::Symlink(text()),
        NodeKind::Directory => Thing::Directory,
    }
}

/// All that a tree shows, with what is behind each path.
fn seen(memory: &Memory, root: ObjectId) -> BTreeMap<RelPath, (Thing, u32, Behind)> {
    let mut seen = BTreeMap::new();
    let mut open = vec![(RelPath::root(), root)];
    while let Some((path, root)) = open.pop() {
        for shown in shown(memory, root).unwrap() {
            let at = path.join(shown.name);
            if let Node::Directory { root, .. } = shown.version.node {
                open.push((at.clone(), root));
            }
            let version = shown.version;
            let permissions_dot = version.permissions_dot;
            let behind = Behind { name: shown.of, dots: version.dots, permissions_dot };
            let thing = from_node(memory, &version.node);
            let what = (thing, version.permissions.bits().into(), behind);
            assert!(seen.insert(at, what).is_none(), "a name is shown twice");
        }
    }
    seen
}

type Files = BTreeMap<(RelPath, Dot), Thing>;
type Directories = BTreeMap<RelPath, (ObjectId, Vec<Dot>)>;

/// The files and symlinks of a tree, by entry and dot; and its directories.
pub fn versions(memory: &Memory, root: ObjectId) -> (Files, Directories) {
    let (mut files, mut directories) = (BTreeMap::new(), BTreeMap::new());
    let mut open = vec![(RelPath::root(), root)];
    while let Some((path, root)) = open.pop() {
        for entry in dir::entries(memory, root) {
            let entry = entry.unwrap();
            let at = path.join(entry.name);
            for version in entry.versions {
                if let Node::Directory { root, .. } = version.node {
                    open.push((at.clone(), root));
                    directories.insert(at.clone(), (root, version.dots));
                } else {
                    let thing = from_node(memory, &version.node);
                    let dots = version.dots.into_iter();
                    files.extend(dots.map(|dot| ((at.clone(), dot), thing.clone())));
                }
            }
        }
    }
    (files, directories)
}

/// That all below a link would be taken into an index.
pub fn check_all(memory: &Memory, link: Link) -> Summary {
    let bytes = memory.read(link).unwrap();
    match check(link, &bytes, |below| Some(check_all(memory, below))) {
        Ok(Checked::Complete(summary)) => summary,
        other => panic!("{other:?}"),
    }
}

pub fn shown_name(at: &str, text: &str) -> String {
    let digits = &ObjectId::of(text.as_bytes()).to_string()[..8];
    match at.rsplit_once('.') {
        Some((stem, extension)) => format!("{stem}.conflict-{digits}.{extension}"),
        None => format!("{at}.conflict-{digits}"),
    }
}

pub fn names(texts: &[&str]) -> Vec<Name> {
    texts.iter().map(name).collect()
}
