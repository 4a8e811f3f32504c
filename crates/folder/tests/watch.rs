//! That the system's events lead to all that changes.

mod scanning;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ark_core::RelPath;
use ark_folder::marker::Marker;
use ark_folder::scan::{Entering as _, Extent, Found};
use ark_folder::watch::Watch;
use proptest::prelude::*;
use scanning::{Folder, path};

const QUIET: Duration = Duration::from_millis(50);
/// Far longer than any of this takes: only a hint that never comes waits so long.
const PATIENCE: Duration = Duration::from_mins(1);

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
    let mut seen = Vec::new();
    while !seen.contains(&path("ignored")) {
        // Of the renamed directory more may be told before.
        let Extent::Paths(paths) = watched.next().await else { panic!("single paths") };
        seen.extend(paths.into_keys());
    }
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
        // On a machine that is too busy everything takes the place of its event.
        let mut came_by = false;
        let began = Instant::now();
        while !came_by {
            assert!(began.elapsed() < PATIENCE, "no fence itself ever came by");
            let extent = watched.watch.fence().await;
            came_by = extent != Extent::Everything;
            watched.take(&extent);
            for name in &written {
                assert!(watched.folder.base.contains_key(&path(name)), "{name}");
            }
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

/// Run it so: `unshare -Ur sh -c 'echo 3 > /proc/sys/user/max_inotify_watches && cargo test
/// -p ark-folder --test watch limit -- --ignored'`.
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
