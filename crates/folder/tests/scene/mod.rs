//! A folder, a base and a store without an index, for plans that are carried out on a real disk.
#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ark_core::{
    Behind, Content, DeviceId, Dot, Incarnation, Link, Mtime, ObjectId, Permissions, Read, RelPath,
    Writer,
};
use ark_folder::apply::{Applied, Control, Heed, apply};
use ark_folder::base::{BaseError, Cache, Record};
use ark_folder::fs::{Gate, Root};
use ark_folder::plan::{Action, Dirty, plan};
use ark_folder::scan::FoundNode;
use ark_folder::wants::{Want, Wants};
use bytes::Bytes;
use rustix::io::Errno;
use tempfile::TempDir;

/// A folder, its base, and the objects at hand.
pub struct Scene {
    pub folder: TempDir,
    pub root: Root,
    pub base: BTreeMap<RelPath, Record>,
    pub store: Store,
    pub control: Control,
}

/// What happens while a content is read.
pub type OnRead = Box<dyn Fn(&[u8]) + Sync>;

#[derive(Default)]
pub struct Store {
    pub objects: HashMap<ObjectId, Bytes>,
    /// Called with each content that is read.
    pub on_read: Option<OnRead>,
    pub reads: Mutex<usize>,
}

impl Read for Store {
    type Error = std::io::Error;

    fn read(&self, link: Link) -> Result<Bytes, std::io::Error> {
        let bytes = self.objects.get(&link.id).ok_or(std::io::ErrorKind::NotFound)?;
        *self.reads.lock().unwrap() += 1;
        if let Some(on_read) = &self.on_read {
            on_read(bytes);
        }
        Ok(bytes.clone())
    }
}

pub fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

/// The rules of all scenes.
pub fn is_ignored(path: &RelPath, _is_directory: bool) -> bool {
    path.names().last().unwrap().as_bytes().starts_with(b"ignored")
}

pub fn behind(path: &RelPath) -> Behind {
    let writer = Writer { device: DeviceId::from_bytes([1; 32]), incarnation: Incarnation::new(1) };
    let dot = Dot { writer, sequence: 1 };
    Behind { name: path.names().last().unwrap().clone(), dots: vec![dot], permissions_dot: dot }
}

impl Scene {
    pub fn new() -> Self {
        Self::behind(|_, _, _, _| Ok(()))
    }

    /// On a file system that can only rename and link.
    pub fn plain() -> Self {
        Self::behind(|_, operation, _, _| match operation {
            "rename to" | "exchange with" => Err(Errno::OPNOTSUPP),
            _ => Ok(()),
        })
    }

    /// Where nobody is root: what is done in a directory takes its owner's bits.
    pub fn unprivileged() -> Self {
        Self::behind(|folder, operation, directory, _| {
            let changes_names = matches!(
                operation,
                "create"
                    | "make directory"
                    | "rename"
                    | "rename to"
                    | "rename over"
                    | "exchange with"
                    | "remove"
            );
            let mode = folder.join(directory.to_string()).metadata().unwrap().mode();
            if changes_names && mode & 0o300 != 0o300 { Err(Errno::ACCESS) } else { Ok(()) }
        })
    }

    /// `pass` is called before every change, with the folder, and as a gate is.
    pub fn behind<P>(pass: P) -> Self
    where
        P: Fn(&Path, &str, &RelPath, &[u8]) -> Result<(), Errno> + Send + Sync + 'static,
    {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().to_owned();
        let gate =
            Gate::new(move |operation, directory, name| pass(&at, operation, directory, name));
        let root = Root::open_behind(folder.path(), gate).unwrap();
        let (base, store, control) = (BTreeMap::new(), Store::default(), Control::default());
        Self { folder, root, base, store, control }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub fn content(&mut self, content: &str) -> FoundNode {
        let id = ObjectId::of(content.as_bytes());
        self.store.objects.insert(id, Bytes::from(content.to_owned()));
        FoundNode::File { content: Content::Raw(id), size: content.len() as u64 }
    }

    /// A file or directory that is on disk and in base.
    pub fn known(&mut self, at: &str, content: Option<&str>) {
        let node = if let Some(content) = content {
            std::fs::write(self.path(at), content).unwrap();
            self.content(content)
        } else {
            std::fs::create_dir(self.path(at)).unwrap();
            FoundNode::Directory
        };
        let stat = self.root.stat(&path(at)).unwrap();
        let record = Record {
            behind: behind(&path(at)),
            node,
            permissions: stat.permissions(),
            mtime: stat.mtime,
            cache: Some(Cache { stat, settled: true }),
        };
        self.base.insert(path(at), record);
    }

    pub fn want(at: &str, node: FoundNode, mode: u32) -> Want {
        Want {
            node,
            permissions: Permissions::from_mode(mode),
            mtime: Mtime { seconds: 1_000_000_000, nanos: 5 },
            behind: behind(&path(at)),
        }
    }

    pub fn write(&mut self, at: &str, content: &str) -> Action {
        let node = self.content(content);
        Action::Write { path: path(at), want: Self::want(at, node, 0o640) }
    }

    /// Plans for `wants` and carries the plan out; base is told.
    pub fn reach(&mut self, wants: &Wants) -> Applied {
        let planned = plan::<_, BaseError>(wants, &self.base, &Dirty::default(), |_, _| Ok(None));
        let applied = self.apply(&planned.unwrap().actions);
        for (path, record) in applied.records.clone() {
            match record {
                Some(record) => drop(self.base.insert(path, record)),
                None => drop(self.base.remove(&path)),
            }
        }
        applied
    }

    pub fn mode(&self, at: &str) -> u32 {
        self.path(at).metadata().unwrap().mode() & 0o777
    }

    pub fn apply(&self, actions: &[Action]) -> Applied {
        self.apply_awaiting(&BTreeSet::new(), actions)
    }

    /// As [`Scene::apply`], while these paths are to be scanned or tried again.
    pub fn apply_awaiting(&self, awaited: &BTreeSet<RelPath>, actions: &[Action]) -> Applied {
        let granularity = self.root.granularity();
        let (root, store, control) = (&self.root, &self.store, &self.control);
        let heed = Heed { is_left_alone: &mut is_ignored, awaited };
        apply(root, store, &self.base, granularity, actions, control, heed).unwrap()
    }

    pub fn read(&self, at: &str) -> String {
        std::fs::read_to_string(self.path(at)).unwrap()
    }

    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}
