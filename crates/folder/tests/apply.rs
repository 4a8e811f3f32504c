//! Plans carried out on a real disk that is not always what base says.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use ark_core::{
    Behind, Content, DeviceId, Dot, Incarnation, Link, Mtime, ObjectId, Permissions, Read, RelPath,
    Writer,
};
use ark_folder::apply::{Applied, Control, MAX_BATCH_WRITES, apply, batch_length};
use ark_folder::base::{BaseError, Cache, Hold, Record};
use ark_folder::fs::{Gate, Root};
use ark_folder::plan::{Action, Dirty, plan};
use ark_folder::scan::FoundNode;
use ark_folder::wants::{Want, Wants};
use bytes::Bytes;
use rustix::io::Errno;
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
        Self::behind(|_, _, _, _| Ok(()))
    }

    /// On a file system that can only rename and link.
    fn plain() -> Self {
        Self::behind(|_, operation, _, _| match operation {
            "rename to" | "exchange with" => Err(Errno::OPNOTSUPP),
            _ => Ok(()),
        })
    }

    /// Where nobody is root: what is done in a directory takes its owner's bits.
    fn unprivileged() -> Self {
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
    fn behind<P>(pass: P) -> Self
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

    /// Plans for `wants` and carries the plan out; base is told.
    fn reach(&mut self, wants: &Wants) -> Applied {
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

    fn mode(&self, at: &str) -> u32 {
        self.path(at).metadata().unwrap().mode() & 0o777
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
    // And another one is put in its place.
    scene.store.on_read = Some(Box::new(move |_| {
        if std::fs::rename(&from, &to).is_ok() {
            std::fs::create_dir(&from).unwrap();
        }
    }));
    let actions = [scene.write("d/new", "wanted"), scene.write("fine", "wanted")];
    let applied = scene.apply(&actions);
    let moved: Vec<_> = std::fs::read_dir(outside.path().join("d")).unwrap().collect();
    assert_eq!(moved.len(), 1, "{moved:?}");
    let records: Vec<&RelPath> =
        applied.records.iter().filter(|(_, record)| record.is_some()).map(|(at, _)| at).collect();
    assert_eq!(records, [&path("fine")]);
    assert_eq!(applied.retries[&path("d/new")].hold, Hold::Blocked);
    assert!(applied.dirty.contains(&path("d")));
}

/// Between plan and action a directory was moved out, with all that base knows, and a symlink
/// leads there.
#[test]
fn a_parent_that_became_a_symlink_never_leads_out() {
    let mut scene = Scene::new();
    scene.known("d", None);
    for at in ["d/edited", "d/removed", "d/chmodded", "d/leaving", "arriving"] {
        scene.known(at, Some(at));
    }
    let outside = tempfile::tempdir().unwrap();
    let moved = outside.path().join("moved");
    std::fs::rename(scene.path("d"), &moved).unwrap();
    std::os::unix::fs::symlink(&moved, scene.path("d")).unwrap();
    let mut want = |at: &str, content: &str| {
        let node = scene.content(content);
        Scene::want(at, node, 0o600)
    };
    let actions = [
        Action::MakeDirectory {
            path: path("d/made"),
            want: Scene::want("d/made", FoundNode::Directory, 0o755),
        },
        Action::Move {
            from: path("arriving"),
            to: path("d/arrived"),
            want: want("d/arrived", "arriving"),
        },
        Action::Move { from: path("d/leaving"), to: path("left"), want: want("left", "d/leaving") },
        Action::SetPermissions { path: path("d/chmodded"), want: want("d/chmodded", "d/chmodded") },
        Action::Remove { path: path("d/removed") },
        Action::Write { path: path("d/edited"), want: want("d/edited", "wanted") },
        Action::Write { path: path("d/new"), want: want("d/new", "wanted") },
    ];
    let applied = scene.apply(&actions);
    let mut outside: Vec<_> =
        std::fs::read_dir(&moved).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    outside.sort();
    assert_eq!(outside, ["chmodded", "edited", "leaving", "removed"]);
    assert_eq!(std::fs::read_to_string(moved.join("edited")).unwrap(), "d/edited");
    assert_ne!(moved.join("chmodded").metadata().unwrap().mode() & 0o777, 0o600);
    assert_eq!(scene.names(), ["arriving", "d"]);
    // Where nothing is any more, nothing is left to remove.
    assert_eq!(applied.records, [(path("d/removed"), None)].into());
    assert!(applied.dirty.contains(&path("d")), "{applied:?}");
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

#[test]
fn a_record_that_proves_nothing_waits_for_a_scan() {
    let mut scene = Scene::new();
    for at in ["unsettled", "unseen", "seen"] {
        scene.known(at, Some("before"));
    }
    scene.base.get_mut(&path("unsettled")).unwrap().cache.as_mut().unwrap().settled = false;
    scene.base.get_mut(&path("unseen")).unwrap().cache = None;
    let mut actions = vec![Action::Remove { path: path("unseen") }];
    actions.extend(["seen", "unsettled"].map(|at| scene.write(at, "wanted")));
    let applied = scene.apply(&actions);
    assert_eq!(applied.dirty, BTreeSet::from([path("unseen"), path("unsettled")]));
    assert_eq!(applied.records.keys().collect::<Vec<_>>(), [&path("seen")]);
    assert_eq!(scene.read("unsettled"), "before");
    assert_eq!(scene.names(), ["seen", "unseen", "unsettled"]);
}

/// What an inode says must be durable before base says so: syncing the names in a directory does
/// not make the bits of what is in it durable.
#[test]
fn bits_and_times_are_synced() {
    let done = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&done);
    let mut scene = Scene::behind(move |_, operation, directory, name| {
        let name = String::from_utf8_lossy(name);
        let name = if name.starts_with(".ark-tmp-") { "temporary" } else { &name };
        log.lock().unwrap().push(format!("{operation} {directory}/{name}"));
        Ok(())
    });
    scene.known("chmod", Some("1"));
    scene.known("from", Some("2"));
    let moved = scene.base[&path("from")].node;
    let chmod = Scene::want("chmod", scene.base[&path("chmod")].node, 0o600);
    done.lock().unwrap().clear();
    let actions = [
        Action::MakeDirectory {
            path: path("d"),
            want: Scene::want("d", FoundNode::Directory, 0o700),
        },
        Action::Move { from: path("from"), to: path("to"), want: Scene::want("to", moved, 0o600) },
        scene.write("new", "content"),
        Action::SetPermissions { path: path("chmod"), want: chmod },
    ];
    let applied = scene.apply(&actions);
    assert_eq!(applied.records.len(), 5);
    let done = done.lock().unwrap();
    let last = |what: &str| {
        let at = done.iter().rposition(|done| done == what);
        at.unwrap_or_else(|| panic!("no {what} in {done:#?}"))
    };
    assert!(last("set mode and time of /temporary") < last("sync /temporary"), "{done:#?}");
    for (change, at) in
        [("change mode of", "chmod"), ("change mode of", "to"), ("set time of", "to")]
    {
        assert!(last(&format!("{change} /{at}")) < last(&format!("sync /{at}")), "{done:#?}");
    }
    assert!(last("make directory /d") < last("sync d/"), "{done:#?}");
    assert!(last("rename to /new") < last("sync /"), "{done:#?}");
}

#[test]
fn all_is_done_where_nothing_can_be_exchanged() {
    let mut scene = Scene::plain();
    for (at, content) in [
        ("replaced", "before"),
        ("swapped-1", "one"),
        ("swapped-2", "two"),
        ("moved", "moved"),
        ("moved-over", "over"),
        ("covered", "covered"),
        ("gone", "gone"),
    ] {
        scene.known(at, Some(content));
    }
    let node = |scene: &Scene, at: &str| scene.base[&path(at)].node;
    let want = |scene: &Scene, at: &str, of: &str| Scene::want(at, node(scene, of), 0o640);
    let actions = [
        Action::Exchange {
            from: path("swapped-1"),
            back: want(&scene, "swapped-1", "swapped-2"),
            to: path("swapped-2"),
            want: want(&scene, "swapped-2", "swapped-1"),
        },
        Action::Move { from: path("moved"), to: path("to"), want: want(&scene, "to", "moved") },
        Action::Move {
            from: path("moved-over"),
            to: path("covered"),
            want: want(&scene, "covered", "moved-over"),
        },
        Action::Remove { path: path("gone") },
        scene.write("new", "new"),
        scene.write("replaced", "after"),
    ];
    let applied = scene.apply(&actions);
    assert!(applied.retries.is_empty() && applied.dirty.is_empty(), "{applied:?}");
    let names = ["covered", "new", "replaced", "swapped-1", "swapped-2", "to"];
    assert_eq!(scene.names(), names);
    assert_eq!(names.map(|at| scene.read(at)), ["over", "new", "after", "two", "one", "moved"]);
}

/// An edit in the moment between the last look at a file and what is done about it.
#[test]
fn an_edit_in_the_last_moment_is_kept_where_nothing_can_be_exchanged() {
    for operation in ["remove", "swap", "move"] {
        let edited = AtomicBool::new(false);
        let mut scene = Scene::behind(move |folder, operation, _, name| match operation {
            "rename to" | "exchange with" => Err(Errno::OPNOTSUPP),
            "rename" if name == b"f" && !edited.swap(true, Ordering::Relaxed) => {
                std::fs::write(folder.join("f"), "edited in the last moment").unwrap();
                Ok(())
            }
            _ => Ok(()),
        });
        scene.known("f", Some("before"));
        scene.known("g", Some("other"));
        let node = |at: &str| scene.base[&path(at)].node;
        let action = match operation {
            "remove" => Action::Remove { path: path("f") },
            "swap" => Action::Exchange {
                from: path("f"),
                back: Scene::want("f", node("g"), 0o640),
                to: path("g"),
                want: Scene::want("g", node("f"), 0o640),
            },
            _ => Action::Move {
                from: path("f"),
                to: path("h"),
                want: Scene::want("h", node("f"), 0o640),
            },
        };
        let applied = scene.apply(&[action]);
        assert!(applied.dirty.contains(&path("f")), "{operation}: {applied:?}");
        assert!(applied.records.is_empty(), "{operation}: {applied:?}");
        let names = scene.names();
        assert!(names.iter().all(|name| !name.starts_with(".ark-")), "{operation}: {names:?}");
        let contents: BTreeSet<String> = names.iter().map(|at| scene.read(at)).collect();
        let expected = ["edited in the last moment", "other"].map(str::to_owned);
        assert_eq!(contents, BTreeSet::from(expected), "{operation}");
    }
}

#[test]
fn closed_directories_are_worked_in_and_closed_again() {
    let mut scene = Scene::unprivileged();
    for at in ["d", "d/e", "gone", "gone/below"] {
        scene.known(at, None);
    }
    for at in ["d/e/edited", "d/e/gone", "gone/f", "gone/below/f"] {
        scene.known(at, Some("before"));
    }
    for at in ["d", "d/e", "gone", "gone/below"] {
        let closed = std::fs::Permissions::from_mode(0o555);
        std::fs::set_permissions(scene.path(at), closed).unwrap();
        scene.base.get_mut(&path(at)).unwrap().permissions = Permissions::from_mode(0o555);
    }
    let file = scene.content("wanted");
    let mut wants: Wants = ["gone", "gone/f", "gone/below", "gone/below/f", "d/e/gone"]
        .map(|at| (path(at), None))
        .into();
    for at in ["d/e/edited", "d/e/new/f"] {
        wants.insert(path(at), Some(Scene::want(at, file, 0o640)));
    }
    let directory = Scene::want("d/e/new", FoundNode::Directory, 0o555);
    wants.insert(path("d/e/new"), Some(directory));
    let applied = scene.reach(&wants);
    assert!(applied.retries.is_empty() && applied.dirty.is_empty(), "{applied:?}");
    assert_eq!(scene.names(), ["d"]);
    assert_eq!(
        (scene.read("d/e/edited"), scene.read("d/e/new/f")),
        ("wanted".into(), "wanted".into())
    );
    assert!(!scene.path("d/e/gone").exists());
    assert_eq!(["d", "d/e", "d/e/new"].map(|at| scene.mode(at)), [0o555; 3]);
    for at in ["d", "d/e", "d/e/new"] {
        assert_eq!(scene.base[&path(at)].permissions, Permissions::from_mode(0o555), "{at}");
    }
}

/// What failed in a directory is done by the next plan though the directory was closed meanwhile.
#[test]
fn what_failed_in_a_closed_directory_is_done_later() {
    let full = Arc::new(AtomicBool::new(true));
    let is_full = Arc::clone(&full);
    let mut scene = Scene::behind(move |folder, operation, directory, _| {
        let mode = folder.join(directory.to_string()).metadata().unwrap().mode();
        match operation {
            "create" if is_full.load(Ordering::Relaxed) => Err(Errno::NOSPC),
            "create" | "rename" if mode & 0o300 != 0o300 => Err(Errno::ACCESS),
            _ => Ok(()),
        }
    });
    let file = scene.content("wanted");
    let wants: Wants = [
        (path("d"), Some(Scene::want("d", FoundNode::Directory, 0o555))),
        (path("d/f"), Some(Scene::want("d/f", file, 0o640))),
    ]
    .into();
    let applied = scene.reach(&wants);
    assert_eq!(applied.retries[&path("d/f")].hold, Hold::Failed);
    assert_eq!(scene.mode("d"), 0o555);
    full.store(false, Ordering::Relaxed);
    let applied = scene.reach(&wants);
    assert!(applied.retries.is_empty() && applied.dirty.is_empty(), "{applied:?}");
    assert_eq!((scene.read("d/f").as_str(), scene.mode("d")), ("wanted", 0o555));
}

#[test]
fn a_directory_not_known_where_a_file_is_wanted_is_said_and_scanned() {
    let mut scene = Scene::new();
    std::fs::create_dir(scene.path("build")).unwrap();
    let action = scene.write("build", "a file");
    let applied = scene.apply(&[action]);
    assert_eq!(applied.retries[&path("build")].hold, Hold::Skipped);
    assert!(applied.retries[&path("build")].reason.contains("not synced"));
    assert_eq!(applied.dirty, BTreeSet::from([path("build")]));
    assert_eq!(scene.names(), ["build"]);
}

/// Nothing is done outside of the folder, also in a directory that was in it a moment ago.
#[test]
fn a_directory_moved_out_between_two_actions_is_left_alone() {
    let mut scene = Scene::behind(|folder, operation, directory, _| {
        if operation == "remove" && directory.to_string() == "d" {
            // The first file was put aside and is being removed.
            let outside = folder.with_extension("outside");
            drop(std::fs::rename(folder.join("d"), outside));
        }
        Ok(())
    });
    scene.known("d", None);
    for at in ["d/1", "d/2", "d/3"] {
        scene.known(at, Some("before"));
    }
    let mut actions: Vec<Action> =
        ["d/1", "d/2"].map(|at| Action::Remove { path: path(at) }).into();
    actions.push(scene.write("d/3", "wanted"));
    let applied = scene.apply(&actions);
    let outside = scene.folder.path().with_extension("outside");
    let content = |at: &str| std::fs::read_to_string(outside.join(at)).unwrap();
    assert_eq!((content("2"), content("3")), ("before".into(), "before".into()));
    std::fs::remove_dir_all(&outside).unwrap();
    // Otherwise the user would seem to have deleted it, when he had it before him no more.
    assert_eq!(applied.records.get(&path("d/1")), Some(&None));
    assert!(applied.records.values().all(Option::is_none), "{:?}", applied.records);
}

/// Some confinements forbid to set mode bits where set-group-id is one of them.
#[test]
fn bits_that_are_right_are_not_set() {
    let mut scene = Scene::behind(|_, operation, _, _| match operation {
        "change mode of" => Err(Errno::PERM),
        _ => Ok(()),
    });
    let want = |at: &str, mode| Scene::want(at, FoundNode::Directory, mode);
    let actions = [
        Action::MakeDirectory { path: path("right"), want: want("right", 0o700) },
        Action::MakeDirectory { path: path("wrong"), want: want("wrong", 0o777) },
        scene.write("wrong/f", "content"),
    ];
    let applied = scene.apply(&actions);
    // It is used all the same, and what it lacks is said.
    assert_eq!(applied.retries.keys().collect::<Vec<_>>(), [&path("wrong")]);
    assert_eq!(applied.retries[&path("wrong")].hold, Hold::Skipped);
    assert_eq!(scene.read("wrong/f"), "content");
    let recorded = applied.records[&path("wrong")].as_ref().unwrap().permissions;
    assert_eq!(u32::from(recorded.bits()), scene.mode("wrong"));
}
