//! Plans carried out on a folder in memory: they lead to exactly what is wanted, also when they
//! are interrupted and made anew, and never touch what is dirty.

mod disk;

use std::collections::BTreeSet;

use ark_core::{Dot, Name, Permissions, RelPath};
use ark_folder::base::BaseError;
use ark_folder::plan::{Action, Dirty, Held, Plan, plan};
use ark_folder::scan::FoundNode;
use ark_folder::wants::Wants;
use disk::{Base, Disk, SEARCH, Tree, above, base_of, file, path, possible, symlink, wants_of};
use proptest::prelude::*;

fn make(wants: &Wants, base: &Base, dirty: &Dirty) -> Plan {
    plan::<_, BaseError>(wants, base, dirty, |_, _| Ok(None)).unwrap()
}

fn check_done(disk: &Disk, wanted: &Tree, wants: &Wants) {
    assert_eq!(&disk.tree, wanted);
    for (path, want) in wants {
        let behind = disk.base.get(path).map(|record| &record.behind);
        assert_eq!(behind, want.as_ref().map(|want| &want.behind), "{path:?}");
    }
    assert_eq!(disk.base.len(), wanted.len());
    assert_eq!(make(wants, &disk.base, &Dirty::default()), Plan::default(), "a second plan");
}

/// Random trees of few names and few contents, so that all that can meet does.
fn trees() -> impl Strategy<Value = Tree> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    let node = prop_oneof![
        4 => prop::sample::select(vec!["1", "2", "3", "4"]).prop_map(file),
        1 => prop::sample::select(vec!["a", "b"]).prop_map(symlink),
        1 => Just(FoundNode::Directory),
    ];
    let bits = prop::sample::select(vec![0o644, 0o600, 0o755, 0o555]);
    let bits_above = prop_oneof![3 => Just(0o755), 1 => Just(0o644), 1 => Just(0o555)];
    let entry = (prop::collection::vec(name, 1..4), node, bits, bits_above);
    prop::collection::vec(entry, 0..12).prop_map(|entries| {
        let mut tree = Tree::new();
        for (names, node, bits, bits_above) in entries {
            let mut at = RelPath::root();
            let mut fits = true;
            for (depth, name) in names.iter().enumerate() {
                at = at.join(Name::new(name.as_bytes()).unwrap());
                if depth + 1 < names.len() {
                    let directory = (FoundNode::Directory, Permissions::from_mode(bits_above));
                    let there = tree.entry(at.clone()).or_insert(directory);
                    fits &= there.0 == FoundNode::Directory;
                    if !fits {
                        break;
                    }
                }
            }
            if fits && !tree.contains_key(&at) {
                tree.insert(at, (node, Permissions::from_mode(bits)));
            }
        }
        tree
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_plan_leads_to_what_is_wanted((before, wanted) in (trees(), trees())) {
        let wants = wants_of(&before, &wanted);
        let mut disk = Disk { tree: before.clone(), base: base_of(&before) };
        for action in &make(&wants, &disk.base, &Dirty::default()).actions {
            disk.act(action);
        }
        check_done(&disk, &wanted, &wants);
    }

    #[test]
    fn an_interrupted_plan_is_made_anew(
        (before, wanted, told) in (trees(), trees(), any::<bool>()),
        cut in any::<prop::sample::Index>(),
    ) {
        let wants = wants_of(&before, &wanted);
        let mut disk = Disk { tree: before.clone(), base: base_of(&before) };
        let first = make(&wants, &disk.base, &Dirty::default());
        let done = if first.actions.is_empty() { 0 } else { cut.index(first.actions.len()) };
        for action in &first.actions[..done] {
            disk.act(action);
        }
        if !told {
            disk.recover(&base_of(&before), &wants);
        }
        for action in &make(&wants, &disk.base, &Dirty::default()).actions {
            disk.act(action);
        }
        check_done(&disk, &wanted, &wants);
    }

    #[test]
    fn what_is_dirty_is_left_alone_until_it_is_not(
        (before, wanted) in (trees(), trees()),
        dirty in prop::collection::vec(any::<prop::sample::Index>(), 1..3),
    ) {
        let wants = wants_of(&before, &wanted);
        let paths: Vec<&RelPath> = wants.keys().collect();
        prop_assume!(!paths.is_empty());
        let dirty: BTreeSet<RelPath> = dirty.iter().map(|at| *at.get(&paths)).cloned().collect();
        let held: Dirty = dirty.iter().cloned().collect();
        let mut disk = Disk { tree: before.clone(), base: base_of(&before) };
        let first = make(&wants, &disk.base, &held);
        for action in &first.actions {
            for path in action.paths() {
                prop_assert!(!dirty.iter().any(|dirty| path.starts_with(dirty)), "{action:?}");
            }
            // What depends on something dirty fails on a real disk; here it is not tried.
            let is_possible = match action {
                Action::MakeDirectory { path, .. } | Action::Write { path, .. } => {
                    possible(&disk, path)
                }
                Action::Move { to, .. } => possible(&disk, to),
                Action::RemoveDirectory { path } => {
                    !disk.tree.keys().any(|other| other > path && other.starts_with(path))
                }
                _ => true,
            };
            if is_possible {
                disk.act(action);
            }
        }
        for path in &dirty {
            prop_assert_eq!(disk.tree.get(path), before.get(path));
            for above in above(path) {
                let hides = |tree: &Tree| match tree.get(&above) {
                    Some((FoundNode::Directory, bits)) => bits.bits() & SEARCH != SEARCH,
                    _ => false,
                };
                let was_directory = before.get(&above).is_some_and(|at| at.0 == FoundNode::Directory);
                let was_closed = !was_directory || hides(&before);
                prop_assert!(was_closed || !hides(&disk.tree), "{above:?} was closed");
            }
        }
        for action in &make(&wants, &disk.base, &Dirty::default()).actions {
            disk.act(action);
        }
        check_done(&disk, &wanted, &wants);
    }
}

/// A scan is to see what was changed below, and a plan to do there what is to be done.
#[test]
fn a_directory_is_not_closed_while_something_in_it_is_dirty() {
    let tree = |bits, with_file: bool| -> Tree {
        let directory = (FoundNode::Directory, Permissions::from_mode(bits));
        let mut tree = Tree::from([(path("c"), directory), (path("c/c"), directory)]);
        if with_file {
            tree.insert(path("c/c/a"), (file("1"), Permissions::from_mode(0o644)));
        }
        tree
    };
    for closed in [0o644, 0o300, 0o000] {
        let (before, wanted) = (tree(0o755, true), tree(closed, false));
        let wants = wants_of(&before, &wanted);
        let mut disk = Disk { tree: before.clone(), base: base_of(&before) };
        let first = make(&wants, &disk.base, &[path("c/c/a")].into_iter().collect());
        assert_eq!((first.actions.as_slice(), first.skipped.len()), (&[][..], 0));
        assert_eq!(first.blocked, ["c", "c/c", "c/c/a"].map(path).into());
        for action in &make(&wants, &disk.base, &Dirty::default()).actions {
            disk.act(action);
        }
        check_done(&disk, &wanted, &wants);
    }
    // What can be looked through holds nothing up.
    let (before, wanted) = (tree(0o755, true), tree(0o555, false));
    let wants = wants_of(&before, &wanted);
    let first = make(&wants, &base_of(&before), &[path("c/c/a")].into_iter().collect());
    assert_eq!((first.actions.len(), first.blocked), (2, [path("c/c/a")].into()));
}

/// Something is to be done, or comes to be, below directories that are closed on disk.
#[test]
fn directories_are_opened_all_the_way_and_closed_again() {
    let tree = |bits, content| -> Tree {
        let directory = |at| (path(at), (FoundNode::Directory, Permissions::from_mode(bits)));
        let below = (path("c/c/a"), (file(content), Permissions::from_mode(0o644)));
        Tree::from([directory("c"), directory("c/c"), below])
    };
    for (before, wanted) in [
        (tree(0o644, "1"), tree(0o644, "2")),
        (tree(0o600, "1"), tree(0o755, "2")),
        (tree(0o755, "1"), tree(0o600, "2")),
    ] {
        let wants = wants_of(&before, &wanted);
        let mut disk = Disk { tree: before.clone(), base: base_of(&before) };
        for action in &make(&wants, &disk.base, &Dirty::default()).actions {
            disk.act(action);
        }
        check_done(&disk, &wanted, &wants);
    }
}

#[test]
fn a_renamed_directory_of_many_files_writes_nothing() {
    let (mut before, mut wanted) = (Tree::new(), Tree::new());
    let bits = Permissions::from_mode(0o644);
    let directory = (FoundNode::Directory, Permissions::from_mode(0o755));
    before.insert(path("old"), directory);
    wanted.insert(path("new"), directory);
    for number in 0..10_000 {
        // A tenth of them have the same content.
        let content = if number % 10 == 0 { "same".to_owned() } else { number.to_string() };
        before.insert(path(&format!("old/{number}")), (file(&content), bits));
        wanted.insert(path(&format!("new/{number}")), (file(&content), bits));
    }
    let wants = wants_of(&before, &wanted);
    let base = base_of(&before);
    let actions = make(&wants, &base, &Dirty::default()).actions;
    let moves = actions.iter().filter(|action| match action {
        Action::Move { from, to, .. } => from.names().last() == to.names().last(),
        _ => false,
    });
    assert_eq!(moves.count(), 10_000);
    assert_eq!(actions.len(), 10_002);
    assert_eq!(actions.iter().map(Action::bytes).sum::<u64>(), 0);
}

#[test]
fn a_swap_is_an_exchange_and_a_ring_writes_one() {
    let bits = Permissions::from_mode(0o644);
    let tree = |contents: &[(&str, &str)]| -> Tree {
        contents.iter().map(|(at, content)| (path(at), (file(content), bits))).collect()
    };
    let actions = |before: &Tree, wanted: &Tree| {
        make(&wants_of(before, wanted), &base_of(before), &Dirty::default()).actions
    };
    let swap = actions(&tree(&[("a", "1"), ("b", "2")]), &tree(&[("a", "2"), ("b", "1")]));
    assert!(matches!(swap[..], [Action::Exchange { .. }]), "{swap:?}");
    let ring = actions(
        &tree(&[("a", "1"), ("b", "2"), ("c", "3")]),
        &tree(&[("a", "3"), ("b", "1"), ("c", "2")]),
    );
    let is_as_planned =
        matches!(ring[..], [Action::Move { .. }, Action::Move { .. }, Action::Write { .. }]);
    assert!(is_as_planned, "{ring:?}");
}

#[test]
fn what_is_held_is_not_touched() {
    let bits = Permissions::from_mode(0o644);
    let before: Tree = [("gone.o", "1"), ("kept.o", "2")]
        .map(|(at, content)| (path(at), (file(content), bits)))
        .into();
    let wanted: Tree =
        [("kept.o", "3"), ("new.o", "4")].map(|(at, c)| (path(at), (file(c), bits))).into();
    let wants = wants_of(&before, &wanted);
    let base = base_of(&before);
    let ignored =
        plan::<_, BaseError>(&wants, &base, &Dirty::default(), |_, _| Ok(Some(Held::Ignored)));
    let ignored = ignored.unwrap();
    assert_eq!(ignored.actions, [Action::Forget { path: path("gone.o") }]);
    assert_eq!(ignored.skipped, BTreeSet::from([path("kept.o"), path("new.o")]));
    let kept = plan::<_, BaseError>(&wants, &base, &Dirty::default(), |_, _| Ok(Some(Held::Kept)));
    let kept = kept.unwrap();
    assert!(kept.actions.is_empty());
    assert_eq!(kept.skipped.len(), 3);
}

#[test]
fn a_closed_directory_is_opened_and_closed_again() {
    let (file_bits, closed) = (Permissions::from_mode(0o644), Permissions::from_mode(0o555));
    let tree = |contents: &[(&str, Option<&str>)]| -> Tree {
        let node = |content: Option<&str>| match content {
            Some(content) => (file(content), file_bits),
            None => (FoundNode::Directory, closed),
        };
        contents.iter().map(|(at, content)| (path(at), node(*content))).collect()
    };
    let before = tree(&[("d", None), ("d/e", None), ("d/e/f", Some("1")), ("g", None)]);
    let actions = |wanted: &Tree| {
        make(&wants_of(&before, wanted), &base_of(&before), &Dirty::default()).actions
    };
    let mut wanted = before.clone();
    wanted.insert(path("d/e/f"), (file("2"), file_bits));
    let steps = actions(&wanted);
    let opened = Action::Open { path: path("d/e") };
    assert_eq!(steps.first(), Some(&opened), "{steps:?}");
    let is_closing = |action: &Action| {
        matches!(action, Action::SetPermissions { path: at, want }
            if *at == path("d/e") && want.permissions == closed)
    };
    assert!(is_closing(steps.last().unwrap()), "{steps:?}");
    // What is removed whole is not closed.
    let steps = actions(&tree(&[("g", None)]));
    let opens: Vec<&Action> =
        steps.iter().filter(|action| matches!(action, Action::Open { .. })).collect();
    assert_eq!(opens, [&Action::Open { path: path("d") }, &opened]);
    assert!(!steps.iter().any(|step| matches!(step, Action::SetPermissions { .. })), "{steps:?}");
}

/// While both are said to show a version, moving one over the other would read as its deletion.
#[test]
fn a_version_is_adopted_once_it_is_shown_nowhere_else() {
    let bits = Permissions::from_mode(0o644);
    let before: Tree = [("f", "1"), ("f.copy", "2"), ("g", "2")]
        .map(|(at, content)| (path(at), (file(content), bits)))
        .into();
    let mut wanted = before.clone();
    wanted.remove(&path("g"));
    let base = base_of(&before);
    let mut wants = wants_of(&before, &wanted);
    let copy = wants.get_mut(&path("f.copy")).unwrap().as_mut().unwrap();
    copy.behind.dots.extend(base[&path("g")].behind.dots.clone());
    copy.behind.dots.push(Dot { sequence: 99, ..copy.behind.dots[0] });
    let actions = make(&wants, &base, &Dirty::default()).actions;
    let at = |wanted: &str, adopts| {
        let is_it = |action: &Action| {
            action.path() == &path(wanted) && matches!(action, Action::Adopt { .. }) == adopts
        };
        actions.iter().position(is_it).unwrap()
    };
    assert!(at("g", false) < at("f.copy", true), "{actions:?}");
}
