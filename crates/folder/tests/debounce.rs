//! When changed paths are taken up.

use std::collections::BTreeMap;
use std::time::Duration;

use ark_core::RelPath;
use ark_folder::scan::Extent;
use ark_folder::watch::{
    COALESCE, COMPLETE_GAP, Debounce, FIRST_OPEN_GAP, MAX_HOLD, MAX_OPEN_GAP, MAX_PENDING, Signal,
    Touch,
};
use proptest::prelude::*;

const QUIET: Duration = Duration::from_millis(50);

fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

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
    assert!((ms(last_event)..=ms(last_event) + MAX_OPEN_GAP).contains(&end), "{end:?}");
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
