//! What the system says only when it is overloaded, said here by hand.

use notify::event::{CreateKind, DataChange, Flag, MetadataKind, ModifyKind};
use notify::{Error, ErrorKind, Event, EventKind};

use super::*;

struct Made {
    _directory: tempfile::TempDir,
    watch: Watch,
}

/// Longer than anything waits.
const LATER: Duration = Duration::from_hours(24);

fn made() -> Made {
    made_with(|_| {})
}

/// A watch of what `prepare` makes: of what is made afterwards the system tells, too.
fn made_with(prepare: impl FnOnce(&std::path::Path)) -> Made {
    let directory = tempfile::tempdir().unwrap();
    prepare(directory.path());
    let root = Root::open(directory.path()).unwrap();
    let rules = Arc::new(Rules::new::<&str>(&[]).unwrap());
    let watch = Watch::start(&root, rules, Duration::from_millis(50));
    Made { _directory: directory, watch }
}

impl Made {
    fn event(&self, kind: EventKind, path: &str) {
        let event = Event::new(kind).add_path(self.watch.shared.path.join(path));
        self.watch.shared.event(Ok(event));
    }

    fn due(&self, now: Duration) -> Option<Extent> {
        self.watch.shared.state().due(now)
    }
}

#[test]
fn an_overflow_is_everything() {
    let made = made();
    made.event(EventKind::Create(CreateKind::Folder), "d");
    made.watch.shared.event(Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)));
    assert_eq!(made.due(LATER), Some(Extent::Everything));
    assert_eq!(made.watch.problem(), None);
    assert_eq!(made.due(Duration::from_hours(1)), None);
}

#[test]
fn an_error_of_the_watcher_is_everything() {
    let made = made();
    made.watch.shared.event(Err(Error::generic("cannot read events")));
    assert_eq!(made.due(Duration::ZERO), Some(Extent::Everything));
}

#[test]
fn while_the_limit_of_watches_is_reached_everything_is_looked_at_now_and_then() {
    let made = made();
    made.watch.shared.event(Err(Error::new(ErrorKind::MaxFilesWatch)));
    let problem = made.watch.problem().unwrap();
    assert!(problem.contains("max_user_watches"), "{problem}");
    let start = Duration::from_secs(100);
    assert_eq!(made.due(start), Some(Extent::Everything));
    assert_eq!(made.due(start), None);
    assert!(made.watch.problem().is_some(), "not all is known to be watched yet");

    // Refused again by the scan that followed.
    made.watch.shared.state().health.refused = Some("again".to_owned());
    assert_eq!(made.watch.shared.state().next_due(), Some(start + UNWATCHED_RESCAN));
    assert_eq!(made.due(start + UNWATCHED_RESCAN), Some(Extent::Everything));
    // And not refused any more by the next.
    assert_eq!(made.due(start + 2 * UNWATCHED_RESCAN), Some(Extent::Everything));
    assert_eq!(made.watch.problem(), None);
    assert_eq!(made.due(start + 10 * UNWATCHED_RESCAN), None);
}

#[test]
fn a_directory_whose_mode_changed_is_walked() {
    let made = made_with(|root| {
        std::fs::create_dir(root.join("d")).unwrap();
        std::fs::write(root.join("f"), "").unwrap();
    });
    made.watch.shared.state().debounce.take_all(Duration::ZERO);
    let metadata = EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any));
    made.event(metadata, "d");
    made.event(metadata, "f");
    let path = |text: &str| RelPath::parse(text.as_bytes()).unwrap();
    let Some(Extent::Paths(paths)) = made.due(LATER) else { panic!("single paths") };
    assert_eq!(paths[&path("d")], Touch::Subtree);
    assert_eq!(paths[&path("f")], Touch::Changed);
}

#[test]
fn paths_elsewhere_are_nothing() {
    let made = made();
    let data = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    made.watch.shared.event(Ok(Event::new(data).add_path("/etc/passwd".into())));
    made.event(data, "d/../../x");
    made.event(data, ".ark/marker");
    made.event(data, "d/.ark-tmp-0123456789abcdef/x");
    assert_eq!(made.due(LATER), None);
}

#[test]
fn a_directory_that_left_is_forgotten_with_all_below() {
    let made = made();
    let path = |text: &str| RelPath::parse(text.as_bytes()).unwrap();
    let mut state = made.watch.shared.state();
    state.watched.extend(["a", "a/b", "a/b/c", "ab"].map(path));
    state.forget(&path("a/none"));
    assert_eq!(state.watched.len(), 5, "the root is watched, too");
    state.forget(&path("a"));
    assert!(state.watched.contains(&path("ab")) && state.watched.len() == 2);
}
