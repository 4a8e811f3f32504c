//! Ends right before each single thing that applying does to the files, one after the other, with
//! what a user and others may do before the next start: nothing is lost, and nothing that was put
//! on disk is taken for an edit.
//!
//! All of them: `cargo nextest run -p ark-folder --test every_moment --run-ignored all`.

mod syncing;

use std::collections::BTreeSet;
use std::path::Path;

use syncing::moment::Moment;
use syncing::{Device, pull, pull_repo, settle};

/// What the user does with `d` between the end and the next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    Nothing,
    Replaced,
    Deleted,
    MovedAway,
}

/// The contents at and below a path.
fn contents(path: &Path) -> BTreeSet<String> {
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flat_map(|entry| contents(&entry.unwrap().path())).collect(),
        Err(_) => std::fs::read_to_string(path).into_iter().collect(),
    }
}

/// A file that meets a directory of its name: it goes aside, and what is in the directory comes;
/// beside it files are moved, removed and get other bits. Ends before the `count`th operation.
/// `false`: there are not so many.
async fn ended_before(count: usize, meanwhile: Meanwhile, others_go_on: bool) -> bool {
    let (a, mut b, moment) = (Device::started(1).await, Device::new(2), Moment::default());
    b.gate = Some(moment.gate());
    b.start().await;
    for path in ["moved", "removed", "bits"] {
        a.write(path, path);
    }
    settle(&[&a, &b]).await;
    b.write("d", "of b");
    b.rest().await;
    let published = b.published();
    a.write("d/d", "of a");
    a.write("d/sub/other", "more of a");
    a.write("bits", "rewritten");
    a.chmod("bits", 0o600);
    a.rename("moved", "d/moved");
    a.remove("removed");
    a.rest().await;
    moment.expect(count, |_, _, _| true);
    pull(&a, &b).await;
    let is_met = tokio::select! {
        () = moment.met() => true,
        () = b.rest() => false,
    };
    b.kill_in(&moment).await;
    let mut live = ["of b", "of a", "more of a", "rewritten", "moved"].map(str::to_owned).into();
    meddle(&b, meanwhile, &mut live);
    if others_go_on {
        for content in ["of a", "more of a", "moved"] {
            live.remove(content);
        }
        a.remove("d");
    }
    a.rest().await;
    let (store, repo) = b.open_store().await;
    pull_repo(a.repo(), &repo).await;
    drop(repo);
    store.close().await.unwrap();
    b.start().await;
    settle(&[&a, &b]).await;
    let there = contents(&a.root());
    let case = format!("before operation {count}, {meanwhile:?}, {others_go_on}: {:#?}", a.tree());
    assert!(live.is_subset(&there), "{live:?} must be there, ended {case}");
    if meanwhile == Meanwhile::Nothing {
        let others = ["removed", "bits"];
        assert!(!others.iter().any(|other| there.contains(*other)), "came back, ended {case}");
        assert_eq!(b.published(), published, "nothing was done there, ended {case}");
    }
    is_met
}

/// What is at `d` is gone from `live` if the user takes it away.
fn meddle(b: &Device, meanwhile: Meanwhile, live: &mut BTreeSet<String>) {
    let outside = b.home.path().join("outside");
    match meanwhile {
        Meanwhile::Nothing => {}
        Meanwhile::MovedAway => drop(std::fs::rename(b.path("d"), b.path("away"))),
        Meanwhile::Replaced | Meanwhile::Deleted => {
            // If nothing is there in this moment it is not there to be deleted.
            if std::fs::rename(b.path("d"), &outside).is_ok() {
                live.retain(|content| !contents(&outside).contains(content));
            }
            if meanwhile == Meanwhile::Replaced {
                b.write("d", "replaced");
                live.insert("replaced".to_owned());
            }
        }
    }
}

async fn ended_before_each(meanwhile: Meanwhile, others_go_on: bool, step: usize) {
    let mut count = 1;
    while ended_before(count, meanwhile, others_go_on).await {
        count += step;
    }
    assert!(count > 20, "only {count} operations");
}

macro_rules! every_moment {
    ($($(#[$attribute:meta])* $name:ident: $meanwhile:ident, $others_go_on:expr, $step:expr;)*) => {$(
        $(#[$attribute])*
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            ended_before_each(Meanwhile::$meanwhile, $others_go_on, $step).await;
        }
    )*};
}

// Where each of them would take too long for every day, every third.
every_moment! {
    nothing_happens: Nothing, false, 3;
    it_is_replaced: Replaced, false, 3;
    it_is_deleted_and_others_go_on: Deleted, true, 3;
    #[ignore = "takes half a minute"]
    others_go_on: Nothing, true, 1;
    #[ignore = "takes half a minute"]
    it_is_replaced_at_each_moment: Replaced, false, 1;
    #[ignore = "takes half a minute"]
    it_is_replaced_and_others_go_on: Replaced, true, 1;
    #[ignore = "takes half a minute"]
    it_is_deleted: Deleted, false, 1;
    #[ignore = "takes half a minute"]
    it_is_moved_away: MovedAway, false, 1;
    #[ignore = "takes half a minute"]
    it_is_moved_away_and_others_go_on: MovedAway, true, 1;
}
