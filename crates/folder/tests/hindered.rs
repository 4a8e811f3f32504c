//! Plans carried out where not all of it can be done: what stands in the way, and file systems
//! that fail or can do less.

mod scene;

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ark_core::{Content, ObjectId, Permissions};
use ark_folder::base::Hold;
use ark_folder::plan::Action;
use ark_folder::scan::FoundNode;
use ark_folder::wants::Wants;
use rustix::io::Errno;
use scene::*;

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
    for at in ["ignored-in", "ignored-in/sub", "special-in", "reserved-in", "new-in"] {
        scene.known(at, None);
    }
    scene.known("ours-in", None);
    scene.known("ours-in/ours", Some("1"));
    for at in ["ignored-in/sub/ignored", "reserved-in/.ark-x", "new-in/ignored", "new-in/new"] {
        std::fs::write(scene.path(at), "").unwrap();
    }
    std::fs::create_dir(scene.path("new-in/directory")).unwrap();
    let _socket = UnixListener::bind(scene.path("special-in/socket")).unwrap();
    let all = ["ignored-in/sub", "ignored-in", "special-in", "reserved-in", "new-in", "ours-in"];
    let applied = scene.apply(&all.map(|at| Action::RemoveDirectory { path: path(at) }));
    assert!(applied.records.is_empty());
    for at in all {
        let waits = ["new-in", "ours-in"].contains(&at);
        let hold = if waits { Hold::Blocked } else { Hold::Skipped };
        assert_eq!(applied.retries[&path(at)].hold, hold, "{at}");
    }
    let dirty = ["new-in/directory", "new-in/new"].map(path);
    assert_eq!(applied.dirty, BTreeSet::from(dirty), "what was made just now is to be scanned");
}

#[test]
fn a_directory_waits_as_what_is_in_it_does() {
    for (errno, hold) in [(Errno::ACCESS, Hold::Skipped), (Errno::IO, Hold::Failed)] {
        let mut scene = Scene::behind(move |_, operation, _, name| {
            if operation == "rename" && name == b"stuck" { Err(errno) } else { Ok(()) }
        });
        for (at, content) in [("d", None), ("d/sub", None), ("d/sub/stuck", Some("1"))] {
            scene.known(at, content);
        }
        let applied = scene.apply(&[
            Action::Remove { path: path("d/sub/stuck") },
            Action::RemoveDirectory { path: path("d/sub") },
            Action::RemoveDirectory { path: path("d") },
        ]);
        assert!(applied.records.is_empty() && applied.dirty.is_empty(), "{applied:?}");
        assert_eq!(applied.retries.len(), 3);
        assert!(applied.retries.values().all(|retry| retry.hold == hold), "{applied:?}");
    }
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

/// A file that cannot be made durable after its bits, its time or its name were changed: only the
/// bits may be lost in a way that would be taken for an edit.
#[test]
fn bits_that_cannot_be_synced_are_taken_back_and_hold_nothing_back() {
    let mut scene = Scene::behind(|_, operation, _, name| {
        if operation == "sync" && name.starts_with(b"bad") { Err(Errno::IO) } else { Ok(()) }
    });
    for at in ["bad-bits", "good-bits", "from", "timed"] {
        scene.known(at, Some(at));
    }
    let before = scene.mode("from");
    let want = |at: &str, from: &str, mode| Scene::want(at, scene.base[&path(from)].node, mode);
    let to = |from: &str, to: &str, mode| Action::Move {
        from: path(from),
        to: path(to),
        want: want(to, from, mode),
    };
    let set = |at| Action::SetPermissions { path: path(at), want: want(at, at, 0o600) };
    let actions = [
        to("from", "bad-to", 0o600),
        to("timed", "bad-time", before),
        set("bad-bits"),
        set("good-bits"),
    ];
    let applied = scene.apply(&actions);
    let said = |at: &str| applied.records[&path(at)].as_ref().map(|record| record.permissions);
    let bits = |mode| Some(Permissions::from_mode(mode));
    // Nobody is to think that what was moved was removed, or made, by its user.
    let all = ["bad-bits", "bad-time", "bad-to", "from", "good-bits", "timed"];
    assert_eq!(applied.records.keys().map(ToString::to_string).collect::<Vec<_>>(), all);
    let expected = [bits(before), bits(before), bits(before), None, bits(0o600), None];
    assert_eq!(all.map(said), expected);
    for at in ["bad-bits", "bad-time", "bad-to"] {
        let record = applied.records[&path(at)].as_ref().unwrap();
        assert_eq!(scene.mode(at), before, "{at}");
        let stat = scene.root.stat(&path(at)).unwrap();
        assert_eq!((record.cache.as_ref().unwrap().stat, record.mtime), (stat, stat.mtime), "{at}");
    }
    assert!(applied.dirty.is_empty(), "{applied:?}");
    let bad = ["bad-bits", "bad-to"].map(path);
    assert_eq!(applied.retries.keys().collect::<Vec<_>>(), bad.iter().collect::<Vec<_>>());
    for (at, retry) in &applied.retries {
        assert_eq!(retry.hold, Hold::Failed);
        assert!(retry.reason.contains(&at.to_string()), "{retry:?}");
    }
}

/// What is below was changed just now, or could not be done: a scan and the next plan must get
/// there.
#[test]
fn a_directory_is_not_closed_over_what_waits_in_it() {
    for is_edited in [false, true] {
        let full = Arc::new(AtomicBool::new(true));
        let is_full = Arc::clone(&full);
        let mut scene = Scene::behind(move |_, operation, _, _| match operation {
            "create" if is_full.load(Ordering::Relaxed) => Err(Errno::NOSPC),
            _ => Ok(()),
        });
        for (at, content) in
            [("d", None), ("d/e", None), ("d/e/f", Some("1")), ("d/e/g", Some("2"))]
        {
            scene.known(at, content);
        }
        let mut wants: Wants = ["d", "d/e"]
            .map(|at| (path(at), Some(Scene::want(at, FoundNode::Directory, 0o644))))
            .into();
        if is_edited {
            std::fs::write(scene.path("d/e/f"), "edited").unwrap();
            wants.insert(path("d/e/f"), None);
        } else {
            let node = scene.content("wanted");
            wants.insert(path("d/e/f"), Some(Scene::want("d/e/f", node, 0o640)));
        }
        let before = scene.mode("d");
        let applied = scene.reach(&wants);
        assert_eq!(["d", "d/e"].map(|at| scene.mode(at)), [before; 2], "{applied:?}");
        let holds = ["d", "d/e"].map(|at| applied.retries[&path(at)].hold);
        assert_eq!(holds, [Hold::Blocked; 2]);
        // All is well again.
        full.store(false, Ordering::Relaxed);
        if is_edited {
            std::fs::remove_file(scene.path("d/e/f")).unwrap();
        }
        let applied = scene.reach(&wants);
        assert!(applied.retries.is_empty() && applied.dirty.is_empty(), "{applied:?}");
        let closed = Permissions::from_mode(0o644);
        assert_eq!(["d", "d/e"].map(|at| scene.base[&path(at)].permissions), [closed; 2]);
        // Who is not root cannot look below, nor remove it all.
        for at in ["d", "d/e"] {
            assert_eq!(scene.mode(at), 0o644);
            let open = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(scene.path(at), open).unwrap();
        }
    }
}

/// Nor over what an earlier batch, or plan, or a scan since, found to wait.
#[test]
fn a_directory_is_not_closed_over_what_waits_since_before() {
    let mut scene = Scene::new();
    for (at, content) in [("d", None), ("d/e", None), ("d/e/f", Some("1")), ("d.f", Some("1"))] {
        scene.known(at, content);
    }
    let close = ["d/e", "d"].map(|at| Action::SetPermissions {
        path: path(at),
        want: Scene::want(at, FoundNode::Directory, 0o644),
    });
    for (awaited, closed) in [("d/e/f", 0), ("d/e", 1), ("d.f", 2), ("d", 2)] {
        let applied = scene.apply_awaiting(&[path(awaited)].into(), &close);
        assert_eq!((applied.records.len(), applied.retries.len()), (closed, 2 - closed));
        assert!(applied.retries.values().all(|retry| retry.hold == Hold::Blocked));
        for at in ["d", "d/e"] {
            let open =
                std::fs::Permissions::from_mode(scene.base[&path(at)].permissions.bits().into());
            std::fs::set_permissions(scene.path(at), open).unwrap();
        }
    }
}

/// Many contents are synced at once. If that fails it shows one by one which of them it is.
#[test]
fn a_content_that_cannot_be_synced_fails_alone_among_many() {
    let mut scene = Scene::behind(|_, operation, directory, name| {
        let is_file = operation == "sync" && !name.is_empty();
        let fails = operation == "sync file system of" || is_file && directory.to_string() == "bad";
        if fails { Err(Errno::IO) } else { Ok(()) }
    });
    scene.known("bad", None);
    scene.known("good", None);
    let mut actions: Vec<Action> =
        (0..40).map(|file| scene.write(&format!("good/{file}"), &format!("{file}"))).collect();
    actions.insert(7, scene.write("bad/f", "x"));
    let applied = scene.apply(&actions);
    assert_eq!(applied.attempted, 41);
    assert_eq!(applied.records.len(), 40);
    assert!(applied.records.keys().all(|at| at.to_string().starts_with("good/")));
    assert_eq!(applied.retries.keys().collect::<Vec<_>>(), [&path("bad/f")]);
    assert_eq!(applied.retries[&path("bad/f")].hold, Hold::Failed);
    assert_eq!(std::fs::read_dir(scene.path("bad")).unwrap().count(), 0);
}

/// By the bits that they are wanted with their owner cannot open them.
#[test]
fn contents_that_cannot_be_opened_are_synced_all_at_once() {
    for lasts in [false, true] {
        let fails = AtomicBool::new(true);
        let mut scene = Scene::behind(move |_, operation, directory, name| {
            let is_file = operation == "sync" && !name.is_empty();
            if is_file && directory.to_string() == "closed" {
                Err(Errno::ACCESS)
            } else if operation == "sync file system of" && fails.swap(lasts, Ordering::Relaxed) {
                Err(Errno::IO)
            } else {
                Ok(())
            }
        });
        scene.known("closed", None);
        scene.known("open", None);
        let mut actions: Vec<Action> =
            (0..40).map(|file| scene.write(&format!("open/{file}"), &format!("{file}"))).collect();
        actions.insert(7, scene.write("closed/f", "x"));
        let mut applied = scene.apply(&actions);
        assert_eq!(applied.attempted, 41);
        let retry = applied.retries.remove(&path("closed/f"));
        assert_eq!(retry.map(|retry| retry.hold), lasts.then_some(Hold::Failed));
        assert_eq!(scene.path("closed/f").exists(), !lasts);
    }
}

/// What stood in its way was gone before it could be looked at.
#[test]
fn a_directory_that_is_empty_after_all_is_tried_again() {
    let mut scene = Scene::behind(|_, operation, _, name| {
        if operation == "remove" && name == b"d" { Err(Errno::NOTEMPTY) } else { Ok(()) }
    });
    scene.known("d", None);
    let applied = scene.apply(&[Action::RemoveDirectory { path: path("d") }]);
    assert!(applied.records.is_empty() && applied.dirty.is_empty(), "{applied:?}");
    assert_eq!(applied.retries[&path("d")].hold, Hold::Failed);
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
