//! Plans carried out on a real disk that is not always what base says.

mod scene;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use ark_core::{Content, Dot, ObjectId, RelPath};
use ark_folder::apply::{Control, Heed, MAX_BATCH_WRITES, add_failing, apply, batch_length};
use ark_folder::base::{Hold, Retry};
use ark_folder::plan::Action;
use ark_folder::scan::FoundNode;
use rustix::io::Errno;
use scene::*;

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

/// What a copy shows came to be in place beside it, and was deleted there before base was told.
#[test]
fn a_copy_goes_only_while_what_is_in_place_of_it_is_there() {
    let mut scene = Scene::new();
    for of in ["kept", "edited", "ignored", "deleted", "other"] {
        scene.known(of, Some(if of == "other" { "another content" } else { of }));
        let copy = format!("{of}.conflict-0");
        scene.known(&copy, Some(of));
        scene.base.get_mut(&path(&copy)).unwrap().behind.name = path(of).names()[0].clone();
    }
    for of in ["edited", "ignored"] {
        std::fs::write(scene.path(of), "by the user").unwrap();
    }
    std::fs::remove_file(scene.path("deleted")).unwrap();
    let copies = ["kept", "edited", "ignored", "deleted", "other"];
    let copies = copies.map(|of| path(&format!("{of}.conflict-0")));
    let applied = scene.apply(&copies.clone().map(|path| Action::Remove { path }));
    assert_eq!(
        scene.names(),
        ["deleted.conflict-0", "edited", "edited.conflict-0", "ignored", "kept", "other"]
    );
    assert_eq!(applied.dirty, BTreeSet::from(["edited", "deleted"].map(path)));
    let [kept, edited, ignored, deleted, other] = copies;
    // No scan would ever say what became of the ignored one.
    assert_eq!(applied.records, [(kept, None), (ignored, None), (other, None)].into());
    let is_blocked = |at| applied.retries[at].hold == Hold::Blocked;
    assert!([&edited, &deleted].into_iter().all(is_blocked) && applied.retries.len() == 2);
}

#[test]
fn of_the_failures_of_a_path_the_one_tried_again_soonest_counts() {
    let retry = |hold, reason: &str| Retry { hold, reason: reason.to_owned() };
    let both = |before: &Retry, after: &Retry| {
        let mut failing = BTreeMap::from([(path("it"), before.clone())]);
        add_failing(&mut failing, BTreeMap::from([(path("it"), after.clone())]));
        failing.remove(&path("it")).unwrap()
    };
    let (blocked, silent) = (retry(Hold::Blocked, "a scan"), retry(Hold::Blocked, ""));
    let (failed, skipped) = (retry(Hold::Failed, "no space"), retry(Hold::Skipped, "its bits"));
    assert_eq!(both(&blocked, &failed), blocked);
    assert_eq!(both(&silent, &failed), retry(Hold::Blocked, "no space"));
    assert_eq!(both(&skipped, &failed), failed);
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
    let applied = apply(
        &scene.root,
        &scene.store,
        &scene.base,
        granularity,
        &actions,
        control,
        Heed { is_left_alone: &mut is_ignored, awaited: &BTreeSet::new() },
    )
    .unwrap();
    // None at all, if the thread of the first was the slowest.
    assert!(applied.attempted < 200, "{}", applied.attempted);
    assert_eq!(applied.records.len(), applied.attempted);
    assert_eq!(scene.names().len(), applied.attempted);
    // What was not attempted can be.
    let rest = scene.apply(&actions[applied.attempted..]);
    assert_eq!((rest.records.len(), scene.names().len()), (200 - applied.attempted, 200));
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
    // Contents are read beside each other: that of the other file says nothing.
    scene.store.on_read = Some(Box::new(move |content| {
        if content[..] == *b"wanted" && std::fs::rename(&from, &to).is_ok() {
            std::fs::create_dir(&from).unwrap();
        }
    }));
    let actions = [scene.write("d/new", "wanted"), scene.write("fine", "another")];
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

/// A file in its place would hide from every scan of single paths that something below it went.
#[test]
fn nothing_is_put_where_a_directory_was_emptied_by_another() {
    let mut scene = Scene::behind(|folder, operation, directory, name| {
        if operation == "remove" && directory.is_root() && name == b"d" {
            drop(std::fs::rename(folder.join("d/sub"), folder.join("elsewhere")));
        }
        Ok(())
    });
    scene.known("d", None);
    scene.known("d/sub", None);
    scene.known("d/sub/f", Some("before"));
    scene.base.get_mut(&path("d/sub/f")).unwrap().cache.as_mut().unwrap().settled = false;
    let mut actions: Vec<Action> =
        ["d/sub", "d"].map(|at| Action::RemoveDirectory { path: path(at) }).into();
    actions.push(scene.write("d", "wanted"));
    let applied = scene.apply(&actions);
    assert_eq!(scene.read("elsewhere/f"), "before");
    assert_eq!(scene.names(), ["elsewhere"]);
    assert!(applied.dirty.contains(&path("d")), "{applied:?}");
    assert!(applied.records.is_empty(), "{applied:?}");
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
