//! What must come out when two or three people work apart: by name, on whole trees.

mod device;
mod memory;

use std::collections::HashMap;

use ark_core::{
    Checked, Dot, JoinedHead, LocalChange, MAX_PATH_DEPTH, Node, Object, ObjectId, Permissions,
    Put, RelPath, Snapshot, Summary, Tree, TreeError, Vector, What, check, entries, join, merge,
    put_in,
};
use device::{Device, Oracle, shown_name, synchronise};
use memory::{Memory, content, dot, entry, file, name, path};

/// Devices that all have applied the same tree, made by the first.
struct Scene {
    memory: Memory,
    oracle: Oracle,
    devices: Vec<Device>,
}

impl Scene {
    fn new(count: u8, make: impl FnOnce(&mut Device)) -> Self {
        let devices = (0..count).map(Device::new).collect();
        let mut scene = Self { memory: Memory::default(), oracle: Oracle::default(), devices };
        make(&mut scene.devices[0]);
        scene.synchronise();
        scene
    }

    fn on(&mut self, at: usize, work: impl FnOnce(&mut Device)) -> &mut Self {
        work(&mut self.devices[at]);
        self.devices[at].publish(&self.memory, &mut self.oracle);
        self
    }

    /// What all show when all have met.
    fn synchronise(&mut self) -> Vec<(String, String)> {
        synchronise(&self.memory, &mut self.oracle, &mut self.devices);
        self.devices[0].shows()
    }
}

fn shows(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut expected: Vec<_> =
        expected.iter().map(|(at, text)| ((*at).to_owned(), (*text).to_owned())).collect();
    expected.sort();
    expected
}

/// Of contents in conflict, the one in place first: the greatest hash.
fn ranked<'a>(texts: &[&'a str]) -> Vec<&'a str> {
    let mut texts = texts.to_vec();
    texts.sort_by_key(|text| std::cmp::Reverse(content(text).link().id));
    texts
}

#[test]
fn s01_both_edit_one_file_while_apart() {
    let mut scene = Scene::new(2, |d| d.write("a.txt", "old"));
    scene.on(0, |d| d.write("a.txt", "one")).on(1, |d| d.write("a.txt", "two"));
    let ranked = ranked(&["one", "two"]);
    let copy = shown_name("a.txt", ranked[1]);
    assert_eq!(scene.synchronise(), shows(&[("a.txt", ranked[0]), (&copy, ranked[1])]));
}

#[test]
fn s02_both_make_the_same_edit() {
    let mut scene = Scene::new(2, |d| d.write("a.txt", "old"));
    scene.on(0, |d| d.write("a.txt", "same")).on(1, |d| d.write("a.txt", "same"));
    assert_eq!(scene.synchronise(), shows(&[("a.txt", "same")]));
    // And a delete takes both acts with it.
    scene.on(1, |d| d.remove("a.txt"));
    assert_eq!(scene.synchronise(), []);
}

#[test]
fn s03_three_ways() {
    let mut scene = Scene::new(3, |d| d.write("a", "old"));
    for (at, text) in ["one", "two", "three"].into_iter().enumerate() {
        scene.on(at, |d| d.write("a", text));
    }
    let ranked = ranked(&["one", "two", "three"]);
    let copies = [shown_name("a", ranked[1]), shown_name("a", ranked[2])];
    let expected = [("a", ranked[0]), (&copies[0], ranked[1]), (&copies[1], ranked[2])];
    assert_eq!(scene.synchronise(), shows(&expected));
}

#[test]
fn s04_edit_against_delete() {
    let mut scene = Scene::new(2, |d| d.write("d/a", "old"));
    scene.on(0, |d| d.remove("d/a")).on(1, |d| d.write("d/a", "edited"));
    assert_eq!(scene.synchronise(), shows(&[("d", "/"), ("d/a", "edited")]));
}

#[test]
fn s05_both_delete() {
    let mut scene = Scene::new(2, |d| {
        d.write("a", "old");
        d.write("d/e/f", "deep");
    });
    for at in 0..2 {
        scene.on(at, |d| {
            d.remove("a");
            d.remove("d");
        });
    }
    assert_eq!(scene.synchronise(), []);
}

#[test]
fn s06_two_resolve_independently() {
    let mut scene = Scene::new(2, |d| d.write("a", "old"));
    scene.on(0, |d| d.write("a", "one")).on(1, |d| d.write("a", "two"));
    let ranked = ranked(&["one", "two"]);
    let copy = shown_name("a", ranked[1]);
    scene.synchronise();
    // Both remove the copy.
    scene.on(0, |d| d.remove(&copy)).on(1, |d| d.remove(&copy));
    assert_eq!(scene.synchronise(), shows(&[("a", ranked[0])]));
}

#[test]
fn s06_two_resolve_differently() {
    let mut scene = Scene::new(2, |d| d.write("a", "old"));
    scene.on(0, |d| d.write("a", "one")).on(1, |d| d.write("a", "two"));
    let ranked = ranked(&["one", "two"]);
    let copy = shown_name("a", ranked[1]);
    scene.synchronise();
    // One keeps what is in place; the other moves the copy over it.
    scene.on(0, |d| d.remove(&copy));
    scene.on(1, |d| d.rename(&path(&copy), &path("a")));
    assert_eq!(scene.synchronise(), shows(&[("a", ranked[1])]));
}

#[test]
fn s07_a_copy_edited_on_both_sides() {
    let mut scene = Scene::new(2, |d| d.write("a.txt", "old"));
    scene.on(0, |d| d.write("a.txt", "one")).on(1, |d| d.write("a.txt", "two"));
    let first = ranked(&["one", "two"]);
    let copy = shown_name("a.txt", first[1]);
    scene.synchronise();
    scene.on(0, |d| d.write(&copy, "three")).on(1, |d| d.write(&copy, "four"));
    let second = ranked(&["three", "four"]);
    // The mark in the name is replaced, not repeated.
    let copy_of_copy = shown_name("a.txt", second[1]);
    let expected = [("a.txt", first[0]), (&copy, second[0]), (&copy_of_copy, second[1])];
    assert_eq!(scene.synchronise(), shows(&expected));
}

#[test]
fn s08_a_file_replaced_by_a_directory_and_edited_elsewhere() {
    let mut scene = Scene::new(2, |d| d.write("a", "old"));
    scene.on(0, |d| d.write("a/inside", "new")).on(1, |d| d.write("a", "edited"));
    let copy = shown_name("a", "edited");
    let expected = [("a", "/"), ("a/inside", "new"), (&copy, "edited")];
    assert_eq!(scene.synchronise(), shows(&expected));
}

#[test]
fn s08_a_directory_replaced_by_a_file_and_edited_inside() {
    let mut scene = Scene::new(2, |d| {
        d.write("a/x", "x");
        d.write("a/y", "y");
    });
    scene.on(0, |d| d.write("a", "a file")).on(1, |d| d.write("a/x", "edited"));
    let copy = shown_name("a", "a file");
    let expected = [("a", "/"), ("a/x", "edited"), (&copy, "a file")];
    assert_eq!(scene.synchronise(), shows(&expected));
}

#[test]
fn s09_a_directory_deleted_with_a_new_file_inside() {
    let mut scene = Scene::new(2, |d| {
        d.write("d/e/old", "old");
        d.make_dir("d/empty");
    });
    scene.on(0, |d| d.remove("d")).on(1, |d| d.write("d/e/new", "new"));
    let expected = [("d", "/"), ("d/e", "/"), ("d/e/new", "new")];
    assert_eq!(scene.synchronise(), shows(&expected));
    // Deleted once more, it stays deleted.
    scene.on(1, |d| d.remove("d"));
    assert_eq!(scene.synchronise(), []);
}

#[test]
fn s09_a_file_published_where_the_joined_tree_lost_its_directory() {
    let mut scene = Scene::new(2, |d| d.write("d/e/old", "old"));
    scene.on(0, |d| d.remove("d"));
    // The other device knows of the delete, but has not applied it, when its user writes.
    let states = scene.devices[0].states.clone();
    scene.devices[1].receive(&states);
    scene.on(1, |d| d.write("d/e/new", "new"));
    let expected = [("d", "/"), ("d/e", "/"), ("d/e/new", "new")];
    assert_eq!(scene.synchronise(), shows(&expected));
}

#[test]
fn s10_a_symlink_against_a_file() {
    let mut scene = Scene::new(2, |d| d.write("other", "x"));
    scene.on(0, |d| d.link("a", "other")).on(1, |d| d.write("a", "a file"));
    let copy = shown_name("a", "other");
    let expected = [("a", "a file"), (&copy, "-> other"), ("other", "x")];
    assert_eq!(scene.synchronise(), shows(&expected));
}

fn bits(scene: &Scene, at: &str) -> u32 {
    scene.devices[0].disk[&path(at)].1
}

#[test]
fn s11_a_mode_here_and_content_there() {
    // More bits than before, and fewer: what was set here counts, not what is greater.
    for (late, mode) in [(false, 0o755), (true, 0o755), (false, 0o600), (true, 0o600)] {
        let mut scene = Scene::new(2, |d| d.write("a", "old"));
        scene.on(0, |d| d.chmod("a", mode));
        if late {
            // Known, but not applied, when the other edits.
            let states = scene.devices[0].states.clone();
            scene.devices[1].receive(&states);
        }
        scene.on(1, |d| d.write("a", "new"));
        assert_eq!(scene.synchronise(), shows(&[("a", "new")]));
        assert_eq!(bits(&scene, "a"), mode);
    }
}

#[test]
fn s11_content_there_and_a_mode_here_published_later() {
    for mode in [0o700, 0o600] {
        let mut scene = Scene::new(2, |d| d.write("a", "old"));
        scene.on(1, |d| d.write("a", "new"));
        let states = scene.devices[1].states.clone();
        scene.devices[0].receive(&states);
        scene.on(0, |d| d.chmod("a", mode));
        assert_eq!(scene.synchronise(), shows(&[("a", "new")]));
        assert_eq!(bits(&scene, "a"), mode);
    }
}

#[test]
fn s11_two_modes_and_a_mode_taken_back() {
    let mut scene = Scene::new(2, |d| d.write("d/a", "old"));
    scene.on(0, |d| d.chmod("d/a", 0o600)).on(1, |d| d.chmod("d/a", 0o700));
    scene.on(0, |d| d.chmod("d", 0o700)).on(1, |d| d.chmod("d", 0o750));
    scene.synchronise();
    assert_eq!((bits(&scene, "d/a"), bits(&scene, "d")), (0o700, 0o750));
    // Who has seen the outcome decides, also for fewer bits.
    scene.on(0, |d| d.chmod("d/a", 0o400));
    scene.synchronise();
    assert_eq!(bits(&scene, "d/a"), 0o400);
    // A rewrite leaves the bits alone.
    scene.on(1, |d| d.write("d/a", "new"));
    scene.synchronise();
    assert_eq!(bits(&scene, "d/a"), 0o400);
}

#[test]
fn s11_the_mode_of_a_copy_is_its_own() {
    let mut scene = Scene::new(2, |d| d.write("a", "old"));
    scene.on(0, |d| d.write("a", "one")).on(1, |d| d.write("a", "two"));
    let copy = shown_name("a", ranked(&["one", "two"])[1]);
    scene.synchronise();
    scene.on(0, |d| d.chmod(&copy, 0o600));
    scene.on(1, |d| d.chmod("a", 0o755));
    scene.synchronise();
    assert_eq!((bits(&scene, "a"), bits(&scene, &copy)), (0o755, 0o600));
}

#[test]
fn s12_equal_content_written_at_other_times_is_no_conflict() {
    for clocks in [[10, 20], [20, 10]] {
        let mut scene = Scene::new(2, |d| d.write("a", "old"));
        for (device, clock) in scene.devices.iter_mut().zip(clocks) {
            device.clock = clock;
        }
        scene.on(1, |d| d.write("b", "same")).on(0, |d| d.write("b", "same"));
        assert_eq!(scene.synchronise(), shows(&[("a", "old"), ("b", "same")]));
        // The later modification time stands, whoever wrote it.
        let joined = scene.devices[0].joined(&scene.memory);
        let shown = ark_core::shown(&scene.memory, joined.root).unwrap();
        assert_eq!(shown[1].version.mtime.seconds, 21);
    }
}

#[test]
fn s14_both_rename_one_file_differently() {
    let mut scene = Scene::new(2, |d| d.write("a", "text"));
    scene.on(0, |d| d.rename(&path("a"), &path("b")));
    scene.on(1, |d| d.rename(&path("a"), &path("c")));
    assert_eq!(scene.synchronise(), shows(&[("b", "text"), ("c", "text")]));
}

#[test]
fn s15_directories_moved_into_each_other() {
    let mut scene = Scene::new(2, |d| {
        d.write("x/of x", "x");
        d.write("y/of y", "y");
    });
    scene.on(0, |d| d.rename(&path("x"), &path("y/x")));
    scene.on(1, |d| d.rename(&path("y"), &path("x/y")));
    let shown = scene.synchronise();
    for text in ["x", "y"] {
        assert!(shown.iter().any(|(_, there)| there == text), "{text} is lost: {shown:?}");
    }
}

#[test]
fn s16_a_swap() {
    let mut scene = Scene::new(2, |d| {
        d.write("a", "of a");
        d.write("b", "of b");
    });
    scene.on(0, |d| {
        d.rename(&path("a"), &path("t"));
        d.rename(&path("b"), &path("a"));
        d.rename(&path("t"), &path("b"));
    });
    assert_eq!(scene.synchronise(), shows(&[("a", "of b"), ("b", "of a")]));
}

/// A tree of one entry that one act made.
fn tree_of(memory: &Memory, text: &str, by: Dot) -> Tree {
    let edits = [(name("a"), Some(entry("a", file(text, by))))].into_iter().collect();
    let empty = Tree::empty().root;
    let ((root, _), _) = memory.with(|overlay| ark_core::edit(overlay, empty, edits).unwrap());
    let mut vector = Vector::empty();
    vector.take_in(by);
    Tree { root, vector }
}

#[test]
fn s48_one_dot_with_two_contents_keeps_both_and_is_reported() {
    let memory = Memory::default();
    let (a, b) = (tree_of(&memory, "one", dot(1, 1)), tree_of(&memory, "two", dot(1, 1)));
    for (a, b) in [(&a, &b), (&b, &a)] {
        let (merged, _) = memory.with(|overlay| merge(overlay, a, b).unwrap());
        assert_eq!(merged.equivocations, [(path("a"), dot(1, 1))]);
        let shown = ark_core::shown(&memory, merged.tree.root).unwrap();
        let ranked = ranked(&["one", "two"]);
        let names: Vec<_> = shown.iter().map(|shown| shown.name.to_string()).collect();
        assert_eq!(names, ["a".to_owned(), shown_name("a", ranked[1])]);
    }
}

#[test]
fn s50_clocks_decide_nothing() {
    const DAY: i64 = 24 * 60 * 60;
    let outcome = |clocks: [i64; 2], later: [i64; 2]| {
        let mut scene = Scene::new(2, |d| {
            d.write("both", "old");
            d.write("edited or deleted", "old");
            d.write("in turn", "old");
        });
        let set = |scene: &mut Scene, clocks: [i64; 2]| {
            for (device, clock) in scene.devices.iter_mut().zip(clocks) {
                device.clock = clock;
            }
        };
        set(&mut scene, clocks);
        scene.on(0, |d| {
            d.write("both", "one");
            d.remove("edited or deleted");
            d.write("in turn", "first");
        });
        scene.on(1, |d| {
            d.write("both", "two");
            d.write("edited or deleted", "edited");
        });
        scene.synchronise();
        set(&mut scene, later);
        scene.on(1, |d| d.write("in turn", "second"));
        scene.synchronise()
    };
    let ranked = ranked(&["one", "two"]);
    let copy = shown_name("both", ranked[1]);
    let expected = shows(&[
        ("both", ranked[0]),
        (&copy, ranked[1]),
        ("edited or deleted", "edited"),
        ("in turn", "second"),
    ]);
    for (clocks, later) in [
        ([0, 0], [0, 0]),
        ([DAY, 0], [DAY, 0]),
        ([0, DAY], [0, DAY]),
        // Before 1970, and running backwards.
        ([-DAY, DAY], [DAY, -DAY]),
        ([DAY, -DAY], [-DAY, DAY]),
    ] {
        assert_eq!(outcome(clocks, later), expected, "{clocks:?}, then {later:?}");
    }
}

#[test]
fn no_heads_make_the_empty_tree() {
    let memory = Memory::default();
    let (joined, made) = memory.with(|overlay| join(overlay, &[]).unwrap());
    assert_eq!(joined.tree, Tree::empty());
    assert_eq!(made.len(), 1);
}

/// A head of a tree that took in these dots.
fn head_of(memory: &Memory, root: ObjectId, own: Dot, others: &[Dot]) -> JoinedHead {
    let mut vector = Vector::empty();
    for dot in others.iter().chain([&own]) {
        vector.take_in(*dot);
    }
    let snapshot = Snapshot { root, vector, wall_time_ms: 0 }.encode();
    memory.put(&snapshot);
    JoinedHead { id: snapshot.id(), dots: vec![own] }
}

#[test]
fn a_head_that_another_took_in_is_left_out() {
    let memory = Memory::default();
    let (first, second, third) = (dot(1, 1), dot(2, 1), dot(3, 1));
    let root = |text, by| tree_of(&memory, text, by).root;
    let old = head_of(&memory, root("old", first), first, &[]);
    let new = head_of(&memory, root("new", second), second, &[first]);
    let apart = head_of(&memory, Tree::empty().root, third, &[]);
    let joined = |heads: &[JoinedHead]| memory.with(|overlay| join(overlay, heads).unwrap()).0.tree;
    let alone = joined(std::slice::from_ref(&new));
    assert_eq!(joined(&[old.clone(), new.clone()]), alone);
    assert_eq!(joined(&[new.clone(), apart.clone(), old.clone()]).root, alone.root);
    assert_eq!(joined(&[apart, old, new]).root, alone.root);
    // Of two that claim to have taken each other in, one stays, the same in any order.
    let a = head_of(&memory, root("a", first), first, &[second]);
    let b = head_of(&memory, root("b", second), second, &[first]);
    let one = joined(&[a.clone(), b.clone()]);
    assert_ne!(one, Tree::empty());
    assert_eq!(joined(&[b, a]), one);
}

/// That what was made, children first, would be taken into an index.
fn index(made: &[Object]) {
    let mut index: HashMap<_, Summary> = HashMap::new();
    for object in made {
        match check(object.link(), object.bytes(), |link| index.get(&link).cloned()) {
            Ok(Checked::Complete(summary)) => drop(index.insert(object.link(), summary)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_path_may_be_deep_and_no_deeper() {
    let memory = Memory::default();
    let deep = |depth: usize, last: &str| {
        let names = std::iter::repeat_n(name("d"), depth - 1).chain([name(last)]);
        let what = What::Put {
            put: Put::Directory,
            permissions: Permissions::from_mode(0o755),
            permissions_changed: true,
        };
        LocalChange { path: RelPath::from(names.collect::<Vec<_>>()), behind: None, what }
    };
    let put = |last: &str, depth: usize, by: Dot| {
        let changes = [deep(depth, last)];
        let (outcome, made) = memory.with(|overlay| put_in(overlay, &Tree::empty(), by, &changes));
        index(&made);
        outcome
    };
    let refused = put("x", MAX_PATH_DEPTH + 1, dot(1, 1));
    assert!(matches!(refused, Err(TreeError::TooDeep { .. })));
    let [a, b] = [("x", dot(1, 1)), ("y", dot(2, 1))].map(|(last, by)| {
        let root = put(last, MAX_PATH_DEPTH, by).unwrap();
        Tree { root, vector: [(by.writer, by.sequence)].into_iter().collect() }
    });
    let (merged, _) = memory.with(|overlay| merge(overlay, &a, &b).unwrap());
    let mut root = merged.tree.root;
    let mut names = Vec::new();
    while let Some(entry) = entries(&memory, root).last() {
        let entry = entry.unwrap();
        let Node::Directory { root: below, .. } = entry.versions[0].node else { panic!() };
        (root, names) = (below, [names, vec![entry.name]].concat());
    }
    assert_eq!((names.len(), names.last()), (MAX_PATH_DEPTH, Some(&name("y"))));
    // One side without any of it.
    let gone = Tree { root: Tree::empty().root, vector: merged.tree.vector.clone() };
    let (merged, _) = memory.with(|overlay| merge(overlay, &merged.tree, &gone).unwrap());
    assert_eq!(merged.tree, gone);
}
