//! When changed paths are taken up, and that the system's events lead to them.

mod scanning;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::Arc;
use std::time::Duration;

use ark_core::RelPath;
use ark_folder::marker::Marker;
use ark_folder::scan::{Entering as _, Extent, Found};
use ark_folder::watch::{
    COALESCE, COMPLETE_GAP, Debounce, FIRST_OPEN_GAP, MAX_HOLD, MAX_OPEN_GAP, MAX_PENDING, Signal,
    Touch, Watch,
};
use proptest::prelude::*;
use scanning::{Folder, path};

const QUIET: Duration = Duration::from_millis(50);
/// Far longer than any of this takes: only a hint that never comes waits so long.
const PATIENCE: Duration = Duration::from_mins(1);

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn one(text: &str, touch: Touch) -> Extent {
    Extent::Paths([(path(text), touch)].into())
}

#[test]
fn a_closed_file_is_due_at_once_and_an_open_one_when_quiet() {
    let mut debounce = Debounce::new(QUIET);
    debounce.event(path("open"), Signal::Modified, ms(0));
    debounce.event(path("closed"), Signal::Modified, ms(0));
    debounce.event(path("closed"), Signal::Closed, ms(10));
    assert_eq!(debounce.next_due(), Some(ms(10) + COALESCE));
    assert_eq!(debounce.due(ms(10)), None);
    assert_eq!(debounce.due(ms(10) + COALESCE), Some(one("closed", Touch::Written)));
    debounce.event(path("open"), Signal::Modified, ms(40));
    assert_eq!(debounce.due(ms(89)), None);
    assert_eq!(debounce.next_due(), Some(ms(90)));
    assert_eq!(debounce.due(ms(90)), Some(one("open", Touch::Changed)));
    assert_eq!((debounce.due(ms(1000)), debounce.next_due()), (None, None));
}

#[test]
fn renames_and_removals_and_new_directories_are_due_at_once() {
    let mut debounce = Debounce::new(QUIET);
    debounce.event(path("from"), Signal::Replaced, ms(0));
    debounce.event(path("to"), Signal::NewDirectory, ms(0));
    debounce.event(path("to"), Signal::Modified, ms(1));
    let both = [(path("from"), Touch::Changed), (path("to"), Touch::Subtree)];
    assert_eq!(debounce.due(COALESCE), Some(Extent::Paths(both.into())));
}

#[test]
fn a_complete_change_is_not_put_off_by_writes_after_it() {
    let mut debounce = Debounce::new(QUIET);
    debounce.event(path("f"), Signal::Closed, ms(0));
    debounce.event(path("f"), Signal::Modified, ms(1));
    assert_eq!(debounce.due(COALESCE), Some(one("f", Touch::Written)));
}

#[test]
fn a_file_that_is_never_quiet_is_taken_up_at_a_bounded_rate() {
    let mut debounce = Debounce::new(QUIET);
    let mut taken = Vec::new();
    let mut last_event = 0;
    // Appended to every 20 ms for ten minutes, and looked after every 10 ms.
    for now in (0..600_000).step_by(10) {
        if now % 20 == 0 {
            debounce.event(path("log"), Signal::Modified, ms(now));
            last_event = now;
        }
        if debounce.due(ms(now)).is_some() {
            taken.push(now);
        }
    }
    assert_eq!(taken[0], u64::try_from(MAX_HOLD.as_millis()).unwrap());
    assert!((30..=100).contains(&taken.len()), "{}", taken.len());
    let longest = taken.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(ms(longest) <= MAX_OPEN_GAP + MAX_HOLD, "{longest}");
    // The last write is taken up, too.
    let end = debounce.next_due().unwrap();
    assert!(end >= ms(last_event) || end <= ms(last_event) + MAX_OPEN_GAP);
    assert_eq!(debounce.due(end), Some(one("log", Touch::Changed)));
}

#[test]
fn a_file_saved_over_and_over_is_taken_up_at_a_bounded_rate() {
    let mut debounce = Debounce::new(QUIET);
    let mut count: u32 = 0;
    for now in 0..10_000 {
        debounce.event(path("f"), Signal::Closed, ms(now));
        count += u32::from(debounce.due(ms(now)).is_some());
    }
    assert!(count <= 10_000 / 50 + 1, "{count}");
    assert!(debounce.take_all(ms(10_000)).is_some() || debounce.next_due().is_none());
    // A save now and then is never held back.
    for now in [20_000, 20_100, 20_200] {
        debounce.event(path("f"), Signal::Closed, ms(now));
        assert_eq!(debounce.due(ms(now) + COALESCE), Some(one("f", Touch::Written)));
    }
    debounce.event(path("f"), Signal::Closed, ms(20_210));
    assert_eq!(debounce.due(ms(20_220)), None);
    assert_eq!(debounce.due(ms(20_200) + COALESCE + COMPLETE_GAP), Some(one("f", Touch::Written)));
}

#[test]
fn the_gap_of_an_open_file_begins_anew_after_a_rest() {
    let mut debounce = Debounce::new(QUIET);
    let mut now = ms(0);
    for _ in 0..10 {
        debounce.event(path("f"), Signal::Modified, now);
        now = debounce.next_due().unwrap();
        assert!(debounce.due(now).is_some());
    }
    debounce.event(path("f"), Signal::Modified, now);
    assert_eq!(debounce.next_due(), Some(now + MAX_OPEN_GAP));
    now += MAX_OPEN_GAP;
    assert!(debounce.due(now).is_some());
    now += Duration::from_mins(1);
    debounce.event(path("other"), Signal::Closed, now);
    debounce.due(now + COALESCE);
    debounce.event(path("f"), Signal::Modified, now);
    assert_eq!(debounce.next_due(), Some(now + QUIET));
    assert!(QUIET < FIRST_OPEN_GAP);
}

#[test]
fn too_many_paths_and_overflows_become_everything() {
    let mut debounce = Debounce::new(QUIET);
    for number in 0..=MAX_PENDING {
        debounce.event(path(&format!("{number}")), Signal::Closed, ms(0));
    }
    debounce.event(path("later"), Signal::Closed, ms(0));
    assert_eq!(debounce.next_due(), Some(ms(0)));
    assert_eq!(debounce.due(ms(0)), Some(Extent::Everything));
    assert_eq!(debounce.take_all(ms(9)), None, "everything stood for the single paths");
    debounce.everything();
    assert_eq!(debounce.take_all(ms(9)), Some(Extent::Everything));
}

fn signal() -> impl Strategy<Value = Signal> {
    prop_oneof![
        Just(Signal::Modified),
        Just(Signal::Closed),
        Just(Signal::Replaced),
        Just(Signal::NewDirectory),
    ]
}

proptest! {
    /// Whatever comes in whatever order: each path is given out after its last event, within
    /// the longest gap, and with a touch that does for all its events.
    #[test]
    fn nothing_is_forgotten(
        events in prop::collection::vec((0_u8..4, signal(), 0_u64..3000), 1..60)
    ) {
        let mut debounce = Debounce::new(QUIET);
        let mut now = ms(0);
        let mut owed: BTreeMap<RelPath, (Touch, Duration)> = BTreeMap::new();
        let take = |debounce: &mut Debounce, now, owed: &mut BTreeMap<RelPath, _>| {
            if let Some(Extent::Paths(paths)) = debounce.due(now) {
                for (path, touch) in paths {
                    let (needed, _) = owed.remove(&path).expect("it was touched");
                    assert!(touch >= needed);
                }
            }
        };
        for (name, signal, pause) in events {
            let until = now + ms(pause);
            while let Some(due) = debounce.next_due().filter(|due| *due <= until) {
                now = now.max(due);
                take(&mut debounce, now, &mut owed);
            }
            now = until;
            let path = path(&name.to_string());
            let touch = match signal {
                Signal::Closed => Touch::Written,
                Signal::NewDirectory => Touch::Subtree,
                _ => Touch::Changed,
            };
            debounce.event(path.clone(), signal, now);
            let entry = owed.entry(path).or_insert((touch, now));
            entry.0 = entry.0.max(touch);
        }
        for (_, since) in owed.values() {
            prop_assert!(debounce.next_due().unwrap() <= *since + MAX_OPEN_GAP + MAX_HOLD);
        }
        while let Some(due) = debounce.next_due() {
            now = now.max(due);
            take(&mut debounce, now, &mut owed);
        }
        prop_assert!(owed.is_empty());
    }
}

/// A watched folder whose hints are collected.
struct Watched {
    folder: Folder,
    watch: Watch,
}

impl Watched {
    fn new(mut folder: Folder, patterns: &[&str]) -> Self {
        folder.rules = scanning::rules(patterns);
        let watch = Watch::start(&folder.root, Arc::clone(&folder.rules), QUIET);
        let result = folder.scan_watched(&Extent::Everything, &watch);
        folder.record(&result);
        assert_eq!(watch.problem(), None);
        Self { folder, watch }
    }

    async fn next(&self) -> Extent {
        tokio::time::timeout(PATIENCE, self.watch.next()).await.expect("a hint comes")
    }

    /// Scans hint after hint until base says that `text` is there, or is not.
    async fn until(&mut self, text: &str, there: bool) {
        while self.folder.base.contains_key(&path(text)) != there {
            let extent = self.next().await;
            self.take(&extent);
        }
    }

    fn take(&mut self, extent: &Extent) {
        let result = self.folder.scan_watched(extent, &self.watch);
        for path in &result.in_flux {
            self.watch.again(path.clone());
        }
        self.folder.record(&result);
    }
}

#[tokio::test]
async fn changes_of_all_kinds_are_heard_of() {
    let folder = Folder::new();
    folder.write("d/old", b"1");
    folder.write("d/gone", b"1");
    let mut watched = Watched::new(folder, &[]);
    watched.folder.write("new", b"1");
    watched.until("new", true).await;
    fs::remove_file(watched.folder.at("d/gone")).unwrap();
    watched.until("d/gone", false).await;
    fs::rename(watched.folder.at("d/old"), watched.folder.at("moved")).unwrap();
    watched.until("moved", true).await;
    watched.until("d/old", false).await;
    symlink("new", watched.folder.at("link")).unwrap();
    watched.until("link", true).await;
    fs::set_permissions(watched.folder.at("new"), fs::Permissions::from_mode(0o600)).unwrap();
    while watched.folder.base[&path("new")].permissions.bits() != 0o600 {
        let extent = watched.next().await;
        watched.take(&extent);
    }
}

#[tokio::test]
async fn a_deep_tree_made_quickly_is_complete() {
    let mut watched = Watched::new(Folder::new(), &[]);
    let mut expected = 0;
    for branch in 0..10 {
        let mut at = format!("tree{branch}");
        for level in 0..20 {
            at = format!("{at}/level{level}");
            watched.folder.write(&format!("{at}/file"), at.as_bytes());
            expected += 1;
        }
    }
    let last = format!(
        "tree9/{}/file",
        (0..20).map(|l| format!("level{l}")).collect::<Vec<_>>().join("/")
    );
    watched.until(&last, true).await;
    let files = |watched: &Watched| {
        watched.folder.base.keys().filter(|path| path.to_string().ends_with("/file")).count()
    };
    while files(&watched) < expected {
        let extent = watched.next().await;
        assert_ne!(extent, Extent::Everything);
        watched.take(&extent);
    }
    // All of it is watched.
    watched.folder.write(&last.replace("/file", "/later"), b"1");
    watched.until(&last.replace("/file", "/later"), true).await;
}

#[tokio::test]
async fn a_moved_directory_is_watched_at_its_new_place() {
    let folder = Folder::new();
    folder.write("a/b/f", b"1");
    let mut watched = Watched::new(folder, &[]);
    fs::rename(watched.folder.at("a"), watched.folder.at("c")).unwrap();
    watched.until("c/b/f", true).await;
    watched.until("a", false).await;
    watched.folder.write("c/b/g", b"2");
    watched.until("c/b/g", true).await;
    // Another one at the old place.
    watched.folder.write("a/b/h", b"3");
    watched.until("a/b/h", true).await;
    watched.folder.write("a/b/i", b"4");
    watched.until("a/b/i", true).await;
}

#[tokio::test]
async fn what_is_ignored_or_reserved_makes_no_hints() {
    let folder = Folder::new();
    folder.write(".arkignore", b"*.log\n/build/\n");
    folder.write("build/x", b"1");
    let watched = Watched::new(folder, &["*.tmp"]);
    for name in ["a.tmp", "b.log", "build/y", ".ark-tmp-0123456789abcdef", "seen"] {
        watched.folder.write(name, b"1");
    }
    let Extent::Paths(paths) = watched.next().await else { panic!("single paths") };
    assert_eq!(paths.keys().collect::<Vec<_>>(), [&path("seen")]);
}

#[tokio::test]
async fn what_goes_is_told_whatever_kind_it_was() {
    let folder = Folder::new();
    folder.write(".arkignore", b"*\n!*/\n!*.c\n");
    folder.write("d/x.c", b"1");
    folder.write("ignored", b"1");
    let mut watched = Watched::new(folder, &[]);
    fs::rename(watched.folder.at("d"), watched.folder.at("e")).unwrap();
    watched.until("e/x.c", true).await;
    watched.until("d/x.c", false).await;
    // That it is gone must be known before it is not ignored any more.
    fs::remove_file(watched.folder.at("ignored")).unwrap();
    let Extent::Paths(paths) = watched.next().await else { panic!("single paths") };
    assert_eq!(paths.keys().collect::<Vec<_>>(), [&path("ignored")]);
}

#[tokio::test]
async fn reading_makes_no_hints() {
    let folder = Folder::new();
    folder.write("f", b"1");
    let watched = Watched::new(folder, &[]);
    for _ in 0..3 {
        fs::read(watched.folder.at("f")).unwrap();
        fs::read_dir(watched.folder.root.path()).unwrap().count();
    }
    watched.folder.write("end", b"1");
    let mut seen = Vec::new();
    while !seen.contains(&path("end")) {
        let Extent::Paths(paths) = watched.next().await else { panic!("single paths") };
        seen.extend(paths.into_keys());
    }
    assert!(!seen.contains(&path("f")), "{seen:?}");
}

#[tokio::test]
async fn a_fence_covers_everything_written_before_it() {
    let mut watched = Watched::new(Folder::new(), &[]);
    Marker::new(ark_core::TopicId::derive("r", None)).write(&watched.folder.root).unwrap();
    for round in 0..10 {
        let written: Vec<_> = (0..5).map(|n| format!("round{round}/d{n}/file")).collect();
        for name in &written {
            watched.folder.write(name, b"1");
        }
        let extent = watched.watch.fence().await;
        assert_ne!(extent, Extent::Everything, "the fence itself came by");
        watched.take(&extent);
        for name in &written {
            assert!(watched.folder.base.contains_key(&path(name)), "{name}");
        }
    }
    assert_eq!(fs::read_dir(watched.folder.at(".ark")).unwrap().count(), 1, "only the marker");
}

#[tokio::test]
async fn without_a_marker_directory_a_fence_is_everything() {
    let watched = Watched::new(Folder::new(), &[]);
    assert_eq!(watched.watch.fence().await, Extent::Everything);
}

#[tokio::test]
async fn a_root_that_goes_away_is_everything() {
    let watched = Watched::new(Folder::new(), &[]);
    let away = watched.folder.root.path().with_extension("away");
    fs::rename(watched.folder.root.path(), away).unwrap();
    while watched.next().await != Extent::Everything {}
}

#[tokio::test]
async fn directories_that_vanish_before_they_are_watched_are_no_problem() {
    let watched = Watched::new(Folder::new(), &[]);
    watched.watch.entering(&path("never/there"));
    assert_eq!(watched.watch.problem(), None);
    watched.watch.look_at_everything();
    assert_eq!(watched.next().await, Extent::Everything);
}

/// One act of a user.
#[derive(Debug, Clone)]
enum Act {
    Write(u8, u8),
    Append(u8),
    Remove(u8),
    Rename(u8, u8),
    Directory(u8),
    Link(u8),
    Mode(u8, bool),
    Rules(u8, u8),
}

fn act() -> impl Strategy<Value = Act> {
    let name = 0..NAMES;
    prop_oneof![
        4 => (name.clone(), any::<u8>()).prop_map(|(name, content)| Act::Write(name, content)),
        1 => name.clone().prop_map(Act::Append),
        2 => name.clone().prop_map(Act::Remove),
        3 => (name.clone(), name.clone()).prop_map(|(from, to)| Act::Rename(from, to)),
        2 => name.clone().prop_map(Act::Directory),
        1 => name.clone().prop_map(Act::Link),
        1 => (name.clone(), any::<bool>()).prop_map(|(name, private)| Act::Mode(name, private)),
        1 => (name, 0_u8..3).prop_map(|(name, rule)| Act::Rules(name, rule)),
    ]
}

/// Paths that acts are about: three names on three levels.
const NAMES: u8 = 3 + 9 + 27;

fn place(index: u8) -> String {
    let name = |part: u8| ["a", "b", "c"][usize::from(part)];
    match index {
        0..3 => name(index).to_owned(),
        3..12 => format!("{}/{}", name((index - 3) / 3), name((index - 3) % 3)),
        _ => format!("{}/{}", place((index - 12) / 3 + 3), name((index - 12) % 3)),
    }
}

impl Act {
    /// Does it as far as it can be done.
    fn perform(&self, folder: &Folder) {
        let at = |index: &u8| folder.at(&place(*index));
        let _ = match self {
            Self::Write(name, content) => fs::write(at(name), vec![*content; 3]),
            Self::Append(name) => fs::OpenOptions::new()
                .append(true)
                .open(at(name))
                .and_then(|mut file| std::io::Write::write_all(&mut file, b"more")),
            Self::Remove(name) => {
                fs::remove_file(at(name)).or_else(|_| fs::remove_dir_all(at(name)))
            }
            Self::Rename(from, to) => fs::rename(at(from), at(to)),
            Self::Directory(name) => fs::create_dir_all(at(name)),
            Self::Link(name) => symlink("target", at(name)),
            Self::Mode(name, private) => {
                let mode = if *private { 0o700 } else { 0o755 };
                fs::set_permissions(at(name), fs::Permissions::from_mode(mode))
            }
            Self::Rules(name, rule) => {
                let rules = at(name).join(".arkignore");
                match rule {
                    0 => fs::remove_file(rules),
                    1 => fs::write(rules, "b\n"),
                    _ => fs::write(rules, "c/\n!a\n"),
                }
            }
        };
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Whatever is done, between scans and during them: after a fence the hints have led to all
    /// that a scan of everything sees.
    #[test]
    fn hints_lead_to_all_that_is_there(
        rounds in prop::collection::vec(prop::collection::vec(act(), 1..15), 1..8)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _guard = runtime.enter();
        let folder = Folder::new();
        Marker::new(ark_core::TopicId::derive("r", None)).write(&folder.root).unwrap();
        let mut watched = Watched::new(folder, &["a/b/a"]);
        for acts in rounds {
            let (before, during) = acts.split_at(acts.len() / 2);
            for act in before {
                act.perform(&watched.folder);
            }
            let extent = runtime.block_on(watched.watch.fence());
            let result = std::thread::scope(|scope| {
                let folder = &watched.folder;
                scope.spawn(|| {
                    for act in during {
                        act.perform(folder);
                    }
                });
                folder.scan_watched(&extent, &watched.watch)
            });
            for path in &result.in_flux {
                watched.watch.again(path.clone());
            }
            watched.folder.record(&result);
        }
        let extent = runtime.block_on(watched.watch.fence());
        watched.take(&extent);
        let result = watched.folder.scan(&Extent::Everything);
        let base = &watched.folder.base;
        let differs = |(path, found): &(&RelPath, &Found)| {
            base.get(path).is_none_or(|record| {
                (record.node, record.permissions) != (found.node, found.permissions)
            })
        };
        let missed: Vec<_> = result.found.iter().filter(differs).collect();
        prop_assert!(missed.is_empty(), "not found by hints: {missed:?} {extent:?}");
        prop_assert!(result.gone.is_empty(), "not found to be gone: {:?} {extent:?}", result.gone);
        prop_assert!(result.in_flux.is_empty());
    }
}

/// Run it so: `unshare -Ur sh -c 'echo 3 > /proc/sys/user/max_inotify_watches && cargo nextest
/// run -p ark-folder --run-ignored only'`.
#[tokio::test]
#[ignore = "needs a user namespace in which only three watches are allowed"]
async fn the_limit_of_watches_is_told() {
    let folder = Folder::new();
    for directory in 0..10 {
        folder.write(&format!("d{directory}/f"), b"1");
    }
    let watch = Watch::start(&folder.root, Arc::clone(&folder.rules), QUIET);
    let result = folder.scan_watched(&Extent::Everything, &watch);
    assert_eq!(result.found.len(), 20);
    let problem = watch.problem().expect("not all is watched");
    assert!(problem.contains("max_user_watches"), "{problem}");
    assert_eq!(watch.fence().await, Extent::Everything);
}
