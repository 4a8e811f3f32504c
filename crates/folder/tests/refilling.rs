//! A folder whose marker is lost, damaged or another's: it halts, and doing what is said helps.

mod syncing;

use ark_folder::FolderState;
use syncing::{Device, settle, two_with};

const FILES: [(&str, &str); 3] = [("f", "1"), ("d/g", "2"), ("d/h", "3")];

/// Waits until the folder is halted and does what it says.
async fn do_as_it_says(device: &Device) {
    device.until("halted", |status| matches!(status.state, FolderState::Halted(_))).await;
    let advice = device.status().problems.join("\n");
    assert!(advice.contains("make .ark/marker in it an empty file"), "{advice}");
    device.write(".ark/marker", "");
    device.until("united", |status| status.state == FolderState::InStep).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_folder_is_filled_again() {
    let (mut a, b) = two_with(&FILES).await;
    a.stop().await;
    std::fs::remove_dir_all(a.root()).unwrap();
    std::fs::create_dir(a.root()).unwrap();
    a.start().await;
    let before = b.tree();
    do_as_it_says(&a).await;
    settle(&[&a, &b]).await;
    assert_eq!(b.tree(), before);
    // From here on it is as any other.
    a.remove("f");
    a.restart().await;
    settle(&[&a, &b]).await;
    assert!(!b.path("f").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_without_its_marker_is_united() {
    let (a, b) = two_with(&FILES).await;
    a.remove(".ark");
    a.remove("d/g");
    a.write("f", "edited meanwhile");
    a.write("new", "4");
    // Found by the first look at the folder, if by nothing else.
    let _ = a.folder().fence().await;
    do_as_it_says(&a).await;
    settle(&[&a, &b]).await;
    assert_eq!((b.read("d/g"), b.read("new")), ("2".to_owned(), "4".to_owned()));
    let all: Vec<String> = b.tree().into_values().collect();
    assert!(all.iter().any(|what| what.ends_with(" edited meanwhile")), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_marker_or_that_of_another_folder_is_replaced() {
    let (mut a, b) = two_with(&FILES).await;
    let mut other = Device::new(3);
    other.start().await;
    other.rest().await;
    let another = other.read(".ark/marker");
    for marker in ["damaged", &another] {
        a.stop().await;
        a.write(".ark/marker", marker);
        a.start().await;
        do_as_it_says(&a).await;
        settle(&[&a, &b]).await;
        assert_eq!(b.read("d/g"), "2");
        assert!(b.conflicts().is_empty());
        assert_ne!(a.read(".ark/marker"), marker);
    }
}
