//! Plans carried out on a real disk that is not always what base says.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use ark_core::{
    Behind, Content, DeviceId, Dot, Incarnation, Link, Mtime, ObjectId, Permissions, Read, RelPath,
    Writer,
};
use ark_folder::apply::{Applied, Control, MAX_BATCH_WRITES, apply, batch_length};
use ark_folder::base::{Cache, Hold, Record};
use ark_folder::fs::Root;
use ark_folder::plan::Action;
use ark_folder::scan::FoundNode;
use ark_folder::wants::Want;
use bytes::Bytes;
use tempfile::TempDir;

/// A folder, its base, and the objects at hand.
struct Scene {
    folder: TempDir,
    root: Root,
    base: BTreeMap<RelPath, Record>,
    store: Store,
    control: Control,
}

/// What happens while a content is read.
type OnRead = Box<dyn Fn(&[u8]) + Sync>;

#[derive(Default)]
struct Store {
    objects: HashMap<ObjectId, Bytes>,
    /// Called with each content that is read.
    on_read: Option<OnRead>,
    reads: Mutex<usize>,
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

fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

fn behind(path: &RelPath) -> Behind {
    let writer = Writer { device: DeviceId::from_bytes([1; 32]), incarnation: Incarnation::new(1) };
    let dot = Dot { writer, sequence: 1 };
    Behind { name: path.names().last().unwrap().clone(), dots: vec![dot], permissions_dot: dot }
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path()).unwrap();
        let (base, store, control) = (BTreeMap::new(), Store::default(), Control::default());
        Self { folder, root, base, store, control }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn content(&mut self, content: &str) -> FoundNode {
        let id = ObjectId::of(content.as_bytes());
        self.store.objects.insert(id, Bytes::from(content.to_owned()));
        FoundNode::File { content: Content::Raw(id), size: content.len() as u64 }
    }

    /// A file or directory that is on disk and in base.
    fn known(&mut self, at: &str, content: Option<&str>) {
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

    fn want(at: &str, node: FoundNode, mode: u32) -> Want {
        Want {
            node,
            permissions: Permissions::from_mode(mode),
            mtime: Mtime { seconds: 1_000_000_000, nanos: 5 },
            behind: behind(&path(at)),
        }
    }

    fn write(&mut self, at: &str, content: &str) -> Action {
        let node = self.content(content);
        Action::Write { path: path(at), want: Self::want(at, node, 0o640) }
    }

    fn apply(&self, actions: &[Action]) -> Applied {
        let granularity = self.root.granularity();
        let (root, store, control) = (&self.root, &self.store, &self.control);
        apply(root, store, &self.base, granularity, actions, control).unwrap()
    }

    fn read(&self, at: &str) -> String {
        std::fs::read_to_string(self.path(at)).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn content_bits_and_time_are_as_wanted() {
    let mut scene = Scene::new();
    scene.known("old", Some("before"));
    let directory = Scene::want("d", FoundNode::Directory, 0o555);
    let actions = [
        Action::MakeDirectory { path: path("d"), want: directory.clone() },
        scene.write("d/new", "new content"),
        scene.write("old", "after"),
        scene.write("empty", ""),
        Action::SetPermissions { path: path("d"), want: directory },
    ];
    let applied = scene.apply(&actions);
    assert_eq!(applied.attempted, 5);
    assert!(applied.dirty.is_empty() && applied.retries.is_empty(), "{applied:?}");
    assert_eq!((scene.read("d/new"), scene.read("old")), ("new content".into(), "after".into()));
    let found = scene.path("d/new").metadata().unwrap();
    assert_eq!(
        (found.mode() & 0o777, found.mtime(), found.mtime_nsec()),
        (0o640, 1_000_000_000, 5)
    );
    assert_eq!(scene.path("d").metadata().unwrap().mode() & 0o777, 0o555);
    assert_eq!(scene.names(), ["d", "empty", "old"]);
    for at in ["d", "d/new", "old", "empty"] {
        let record = applied.records[&path(at)].as_ref().unwrap();
        let now = scene.root.stat(&path(at)).unwrap();
        let cache = record.cache.as_ref().unwrap();
        assert!(now.unchanged(&cache.stat) || at == "d", "{at}: the next scan sees no change");
        assert!(cache.settled, "{at}");
        assert_eq!(record.permissions, now.permissions());
    }
}

#[test]
fn what_is_not_as_base_says_is_left_and_told() {
    let mut scene = Scene::new();
    for at in ["edited", "removed", "moved from", "chmodded", "swapped", "other"] {
        scene.known(at, Some(at));
    }
    let actions = [
        scene.write("edited", "wanted"),
        scene.write("new", "wanted"),
        Action::Remove { path: path("removed") },
        Action::Move {
            from: path("moved from"),
            to: path("to"),
            want: {
                let node = scene.content("moved from");
                Scene::want("to", node, 0o644)
            },
        },
        Action::SetPermissions {
            path: path("chmodded"),
            want: {
                let node = scene.content("chmodded");
                Scene::want("chmodded", node, 0o600)
            },
        },
        Action::Exchange {
            from: path("swapped"),
            back: {
                let node = scene.content("other");
                Scene::want("swapped", node, 0o644)
            },
            to: path("other"),
            want: {
                let node = scene.content("swapped");
                Scene::want("other", node, 0o644)
            },
        },
        scene.write("fine", "wanted"),
    ];
    for at in ["edited", "removed", "moved from", "chmodded", "swapped", "new"] {
        std::fs::write(scene.path(at), "by the user").unwrap();
    }
    let applied = scene.apply(&actions);
    for at in ["edited", "removed", "moved from", "chmodded", "swapped", "new"] {
        assert_eq!(scene.read(at), "by the user", "{at}");
        assert!(applied.dirty.contains(&path(at)), "{at}");
    }
    assert_eq!(scene.read("other"), "other");
    assert_eq!(scene.read("fine"), "wanted");
    assert_eq!(applied.records.keys().collect::<Vec<_>>(), [&path("fine")]);
    assert!(applied.retries.values().all(|retry| retry.hold == Hold::Blocked));
    assert_eq!(scene.names().len(), 8, "nothing is left over: {:?}", scene.names());
}

#[test]
fn an_edit_while_content_is_written_is_kept() {
    let mut scene = Scene::new();
    scene.known("f", Some("before"));
    let target = scene.path("f");
    scene.store.on_read = Some(Box::new(move |_| std::fs::write(&target, "by the user").unwrap()));
    let action = scene.write("f", "wanted");
    let applied = scene.apply(&[action]);
    assert_eq!(scene.read("f"), "by the user");
    assert!(applied.dirty.contains(&path("f")) && applied.records.is_empty());
    assert_eq!(scene.names(), ["f"]);
}

#[test]
fn what_fails_fails_alone() {
    let mut scene = Scene::new();
    scene.known("lost", Some("before"));
    let long = "n".repeat(300);
    let missing = FoundNode::File { content: Content::Raw(ObjectId::of(b"gone")), size: 4 };
    let actions = [
        Action::MakeDirectory {
            path: path(&format!("{long}d")),
            want: Scene::want("d", FoundNode::Directory, 0o755),
        },
        Action::Write { path: path("lost"), want: Scene::want("lost", missing, 0o644) },
        scene.write(&long, "too long a name"),
        scene.write(&format!("{long}d/in it"), "in a directory that cannot be"),
        scene.write("fine", "wanted"),
    ];
    let applied = scene.apply(&actions);
    assert_eq!((scene.read("lost"), scene.read("fine")), ("before".into(), "wanted".into()));
    assert_eq!(scene.names(), ["fine", "lost"]);
    let hold = |at: &str| applied.retries[&path(at)].hold;
    assert_eq!(hold("lost"), Hold::Failed);
    assert_eq!(hold(&long), Hold::Skipped);
    assert_eq!(hold(&format!("{long}d/in it")), Hold::Skipped, "as its directory");
    assert!(applied.retries[&path(&long)].reason.contains("long"), "{:?}", applied.retries);
    assert!(applied.dirty.is_empty());
}

#[test]
fn a_directory_with_something_in_it_stays() {
    let mut scene = Scene::new();
    scene.known("d", None);
    std::fs::write(scene.path("d/ignored"), "").unwrap();
    scene.known("e", None);
    scene.known("e/ours", Some("1"));
    let actions = ["d", "e"].map(|at| Action::RemoveDirectory { path: path(at) });
    let applied = scene.apply(&actions);
    assert!(applied.records.is_empty());
    assert_eq!(applied.retries[&path("d")].hold, Hold::Skipped);
    assert_eq!(applied.retries[&path("e")].hold, Hold::Blocked, "waits for what is in it");
}

#[test]
fn it_ends_at_once_and_leaves_nothing_half_done() {
    let mut scene = Scene::new();
    let actions: Vec<Action> =
        (0..200).map(|number| scene.write(&format!("f{number}"), &format!("{number}"))).collect();
    let control: &'static Control = Box::leak(Box::default());
    scene.store.on_read = Some(Box::new(move |_| {
        if control.bytes.load(Ordering::Relaxed) > 50 {
            control.stop.store(true, Ordering::Relaxed);
        }
    }));
    let granularity = scene.root.granularity();
    let applied =
        apply(&scene.root, &scene.store, &scene.base, granularity, &actions, control).unwrap();
    assert!(applied.attempted > 0 && applied.attempted < 200, "{}", applied.attempted);
    assert_eq!(applied.records.len(), applied.attempted);
    assert_eq!(scene.names().len(), applied.attempted);
    // What was not attempted can be.
    let rest = scene.apply(&actions[applied.attempted..]);
    assert_eq!((rest.records.len(), scene.names().len()), (200 - applied.attempted, 200));
}

#[test]
fn a_special_file_in_the_way_is_said() {
    let mut scene = Scene::new();
    let fifo = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, scene.path("pipe"), fifo, mode, 0).unwrap();
    let action = scene.write("pipe", "wanted");
    let applied = scene.apply(&[action]);
    let retry = &applied.retries[&path("pipe")];
    assert_eq!(retry.hold, Hold::Skipped);
    assert!(retry.reason.contains("FIFO"), "{retry:?}");
}

#[test]
fn moved_files_get_the_bits_and_time_wanted() {
    let mut scene = Scene::new();
    scene.known("a", Some("of a"));
    scene.known("b", Some("of b"));
    std::fs::set_permissions(scene.path("b"), std::fs::Permissions::from_mode(0o600)).unwrap();
    scene.known("b", Some("of b"));
    let moved = scene.content("of b");
    let action =
        Action::Move { from: path("b"), to: path("a"), want: Scene::want("a", moved, 0o755) };
    let applied = scene.apply(&[action]);
    assert!(applied.retries.is_empty(), "{applied:?}");
    assert_eq!((scene.read("a"), scene.names()), ("of b".into(), vec!["a".to_owned()]));
    let found = scene.path("a").metadata().unwrap();
    assert_eq!((found.mode() & 0o777, found.mtime()), (0o755, 1_000_000_000));
    assert_eq!(applied.records[&path("b")], None);
    assert_eq!(*scene.store.reads.lock().unwrap(), 0, "no content was read");
}

#[test]
fn what_is_gone_is_not_adopted() {
    let mut scene = Scene::new();
    for at in ["gone", "edited", "fine"] {
        scene.known(at, Some("content"));
    }
    scene.known("d", None);
    let adopt = |scene: &Scene, at: &str| {
        let mut want = Scene::want(at, scene.base[&path(at)].node, 0o644);
        want.behind.dots.push(Dot { sequence: 2, ..want.behind.dots[0] });
        Action::Adopt { path: path(at), want }
    };
    let actions = ["d", "edited", "fine", "gone"].map(|at| adopt(&scene, at));
    std::fs::remove_file(scene.path("gone")).unwrap();
    std::fs::write(scene.path("edited"), "other content").unwrap();
    let applied = scene.apply(&actions);
    assert_eq!(applied.records.keys().collect::<Vec<_>>(), [&path("d"), &path("fine")]);
    assert_eq!(applied.records[&path("d")].as_ref().unwrap().behind.dots.len(), 2);
    assert_eq!(applied.dirty, BTreeSet::from([path("edited"), path("gone")]));
}

#[test]
fn what_went_into_a_directory_moved_away_is_not_done() {
    let mut scene = Scene::new();
    let outside = tempfile::tempdir_in(scene.folder.path().parent().unwrap()).unwrap();
    scene.known("d", None);
    scene.known("d/old", Some("before"));
    let (from, to) = (scene.path("d"), outside.path().join("d"));
    // Its temporary is in the directory when that is moved.
    scene.store.on_read = Some(Box::new(move |_| drop(std::fs::rename(&from, &to))));
    let actions = [scene.write("d/new", "wanted"), scene.write("fine", "wanted")];
    let applied = scene.apply(&actions);
    assert_eq!(applied.records.keys().collect::<Vec<_>>(), [&path("fine")]);
    assert_eq!(applied.retries[&path("d/new")].hold, Hold::Blocked);
    assert!(applied.dirty.contains(&path("d")));
}

#[test]
fn batches_are_bounded() {
    let mut scene = Scene::new();
    let small: Vec<Action> =
        (0..MAX_BATCH_WRITES + 9).map(|n| scene.write(&n.to_string(), "")).collect();
    assert_eq!(batch_length(&small), MAX_BATCH_WRITES);
    let huge = FoundNode::File { content: Content::Chunked(ObjectId::of(b"")), size: 1 << 40 };
    let huge = Action::Write { path: path("huge"), want: Scene::want("huge", huge, 0o644) };
    assert_eq!(batch_length(&[huge.clone(), huge]), 1);
    assert_eq!(batch_length(&[]), 0);
}
