//! What is ignored, and deleted meanwhile, is not deleted elsewhere when the rule goes.

mod syncing;

use syncing::{Device, pull, settle, two, two_with};

const PHOTOS: [(&str, &str); 4] =
    [("photos/1", "one"), ("photos/in/2", "two"), ("one.log", "three"), ("f", "four")];

fn assert_all(device: &Device) {
    for (path, content) in PHOTOS {
        assert_eq!(device.read(path), content, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_deleted_while_it_was_ignored_comes_back_with_the_rule_gone() {
    let (a, b) = two_with(&PHOTOS).await;
    a.write(".arkignore", "*.log\n");
    a.rest().await;
    a.remove("one.log");
    a.rest().await;
    a.remove(".arkignore");
    settle(&[&a, &b]).await;
    assert_all(&a);
    assert_all(&b);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_deleted_while_it_was_ignored_comes_back_with_the_rule_gone() {
    let (a, b) = two_with(&PHOTOS).await;
    a.write(".arkignore", "photos/\n");
    a.rest().await;
    a.remove("photos");
    // Without a look in between: both may be found by one scan.
    a.write(".arkignore", "");
    settle(&[&a, &b]).await;
    assert_all(&a);
    assert_all(&b);
}

/// In each run before the last the config ignores, and in one of the gaps all goes.
async fn deleted_by_config(deleted_while_off: bool) {
    let (mut a, b) = two_with(&PHOTOS).await;
    a.ignore = vec!["photos/".to_owned(), "*.log".to_owned()];
    a.restart().await;
    a.rest().await;
    if deleted_while_off {
        a.stop().await;
    }
    a.remove("photos");
    a.remove("one.log");
    if !deleted_while_off {
        a.rest().await;
        a.stop().await;
    }
    a.ignore.clear();
    a.start().await;
    settle(&[&a, &b]).await;
    assert_all(&a);
    assert_all(&b);
}

#[tokio::test(flavor = "multi_thread")]
async fn by_config_over_a_restart() {
    deleted_by_config(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_config_and_deleted_while_it_was_off() {
    deleted_by_config(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_together_with_its_rule_while_it_was_off_comes_back() {
    let (mut a, b) = two_with(&PHOTOS).await;
    // The rules are not synced: the other device does not ignore.
    a.stop().await;
    a.ignore = vec![".arkignore".to_owned()];
    a.write(".arkignore", "photos/\n*.log\n");
    a.start().await;
    a.rest().await;
    a.stop().await;
    for path in ["photos", "one.log", ".arkignore"] {
        a.remove(path);
    }
    a.start().await;
    settle(&[&a, &b]).await;
    assert_all(&a);
    assert_all(&b);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_after_the_rule_went_is_deleted_everywhere() {
    let (mut a, b) = two_with(&PHOTOS).await;
    a.ignore = vec!["photos/".to_owned()];
    a.restart().await;
    a.rest().await;
    a.ignore.clear();
    a.restart().await;
    a.rest().await;
    a.stop().await;
    a.remove("photos");
    a.start().await;
    settle(&[&a, &b]).await;
    assert!(!b.path("photos").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_keep_changing_put_a_scan_off_and_are_no_failure() {
    let (a, b) = two_with(&PHOTOS).await;
    a.write(".arkignore", "*.log\n");
    a.rest().await;
    a.write("secret.log", "s");
    let fence = a.folder().fence();
    let changing = async {
        // Each time another length: replaced over and over for as long as a scan may look. Not
        // written in place: between its truncation and its bytes it would have no rules at all.
        for round in 0..100_usize {
            a.write("next", format!("*.log\n{}", "\n".repeat(round)));
            a.rename("next", ".arkignore");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let (fenced, ()) = tokio::join!(fence, changing);
    fenced.expect("changing rules are no failure");
    assert!(a.status().problems.is_empty(), "{:?}", a.status().problems);
    a.rest().await;
    pull(&a, &b).await;
    b.rest().await;
    assert!(!b.path("secret.log").exists(), "what is ignored was never published");
    assert_eq!(b.read(".arkignore"), a.read(".arkignore"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_went_with_their_directory_hold_nothing_back() {
    let (a, b) = two().await;
    a.write("d/.arkignore", "*.log\n");
    settle(&[&a, &b]).await;
    b.remove("d");
    settle(&[&a, &b]).await;
    b.write("d/x.log", "1");
    settle(&[&a, &b]).await;
    assert_eq!(a.read("d/x.log"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_renamed_away_under_whitelist_rules_goes_everywhere() {
    let (a, b) = two().await;
    a.write(".arkignore", "*\n!*/\n!*.c\n!.arkignore\n");
    a.write("old/x.c", "1");
    settle(&[&a, &b]).await;
    a.rename("old", "new");
    // By the events alone, without a fence; both halves may be published one after the other.
    let wait = async {
        while !b.path("new/x.c").exists() || b.path("old").exists() {
            pull(&a, &b).await;
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(syncing::PATIENCE, wait).await.expect("the old name goes, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_where_an_ignored_directory_is_is_said_and_not_tried_for_ever() {
    let (a, b) = two_with(&[(".arkignore", "build/\n")]).await;
    b.write("build/output", "of b alone");
    b.rest().await;
    a.write("build", "a file");
    a.rest().await;
    pull(&a, &b).await;
    // At rest: what is skipped counts as applied.
    b.rest().await;
    let problems = b.status().problems;
    assert!(problems.iter().any(|problem| problem.contains("not synced")), "{problems:?}");
    assert_eq!(b.read("build/output"), "of b alone");
    // And once the directory is gone, it comes.
    b.remove("build");
    settle(&[&a, &b]).await;
    assert_eq!(b.read("build"), "a file");
}
