//! Renames on both sides, made while the machines are apart.

use std::fs;

use ark_testkit::daemon::Machine;
use ark_testkit::noise::noise;

use super::{assert_same, two};

/// Files of the directory that is renamed.
const FILES: u64 = 1_000;
/// Bytes of each.
const FILE_BYTES: usize = 8 << 10;

/// Brings both in step with what is there and ends them; then `apart` happens.
fn made_apart(a: &Machine, b: &Machine, apart: impl FnOnce()) {
    {
        let (on_a, on_b) = (a.start(), b.start());
        assert_same(a, b);
        assert!(on_a.stop().success() && on_b.stop().success());
    }
    apart();
}

/// Every file's content below the folder, sorted.
fn contents(machine: &Machine) -> Vec<String> {
    let text = |path: &String| Some(String::from_utf8(machine.read(path)?).expect("text"));
    let mut contents: Vec<String> = machine.tree().paths().iter().filter_map(text).collect();
    contents.sort();
    contents
}

/// Scenario 13: the edit survives, under the name it was made under, and what is sent for a renamed
/// directory is no content.
#[test]
fn a_directory_is_renamed_here_and_a_file_inside_edited_there() {
    let (a, b) = two();
    let content = |n: u64| noise(n + 1).flatten().take(FILE_BYTES).collect::<Vec<u8>>();
    for n in 0..FILES {
        a.write(&format!("dir/{n}"), content(n));
    }
    made_apart(&a, &b, || {
        fs::rename(a.folder().join("dir"), a.folder().join("renamed")).unwrap();
        b.write("dir/500", "edited");
    });
    let (_on_a, _on_b) = (a.start(), b.start());
    assert_same(&a, &b);
    let lands = ["renamed/500", "dir/500"].map(|path| a.read(path));
    assert!(lands.contains(&Some(b"edited".to_vec())), "{:?}", a.tree().paths());
    for n in (0..FILES).filter(|&n| n != 500) {
        assert!(a.read(&format!("renamed/{n}")) == Some(content(n)), "{n}");
    }
    let (received, sent) = b.traffic();
    let all = FILES * FILE_BYTES as u64;
    assert!(received + sent < all / 8, "{received} + {sent} bytes for renames of {all}");
}

/// Scenario 14: the content is there under both names, or one.
#[test]
fn one_file_is_renamed_here_and_otherwise_there() {
    let (a, b) = two();
    a.write("old", "content");
    made_apart(&a, &b, || {
        fs::rename(a.folder().join("old"), a.folder().join("a's name")).unwrap();
        fs::rename(b.folder().join("old"), b.folder().join("b's name")).unwrap();
    });
    let (_on_a, _on_b) = (a.start(), b.start());
    assert_same(&a, &b);
    let paths = a.tree().paths();
    assert!(!paths.is_empty() && !paths.contains(&"old".to_owned()), "{paths:?}");
    assert!(paths.iter().all(|path| a.read(path).as_deref() == Some(&b"content"[..])));
}

/// Scenario 15: two directories are each moved into the other. No loop, and every file is kept.
#[test]
fn two_directories_are_moved_into_each_other() {
    let (a, b) = two();
    for (path, content) in [("x/1", "one"), ("x/deep/2", "two"), ("y/3", "three"), ("4", "four")] {
        a.write(path, content);
    }
    made_apart(&a, &b, || {
        fs::rename(a.folder().join("x"), a.folder().join("y/x")).unwrap();
        fs::rename(b.folder().join("y"), b.folder().join("x/y")).unwrap();
    });
    let (_on_a, _on_b) = (a.start(), b.start());
    assert_same(&a, &b);
    let mut contents = contents(&a);
    contents.dedup();
    assert_eq!(contents, ["four", "one", "three", "two"], "{:?}", a.tree().paths());
}
