//! Which rule decides about a path, and the sign that a folder is the right one.

use std::fs;
use std::path::Path;

use ark_core::{RelPath, TopicId};
use ark_folder::fs::Root;
use ark_folder::ignore::{FormerRules, Rules, RulesError};
use ark_folder::marker::{Halt, Marker, Sign};
use tempfile::TempDir;

fn folder(files: &[(&str, &str)]) -> (TempDir, Root) {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let at = directory.path().join(name);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, content).unwrap();
    }
    let root = Root::open(directory.path()).unwrap();
    (directory, root)
}

fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

/// Asserts what is ignored; a path with a slash at its end is a directory.
fn assert_ignored(rules: &Rules, root: &Root, ignored: &[&str], not_ignored: &[&str]) {
    let mut lookup = rules.lookup(root);
    for (texts, expected) in [(ignored, true), (not_ignored, false)] {
        for text in texts {
            let is_dir = text.ends_with('/');
            let path = path(text.trim_end_matches('/'));
            assert_eq!(lookup.ignored(&path, is_dir).unwrap(), expected, "{text}");
        }
    }
}

#[test]
fn the_deepest_file_that_says_anything_decides() {
    let (_directory, root) = folder(&[
        (".arkignore", "*.log\n/top\nsub/inner\nbuild/\n# comment\n\n\\#hash\n"),
        ("keep/.arkignore", "!*.log\n"),
        ("keep/not/.arkignore", "special.log\n"),
        ("build/.arkignore", "!*\n"),
    ]);
    let rules = Rules::new::<&str>(&[]).unwrap();
    assert_ignored(
        &rules,
        &root,
        &[
            "a.log",
            "d/a.log",
            "top",
            "top/x",
            "sub/inner",
            "build/",
            "build/x",
            "d/build/",
            "keep/not/special.log",
            "#hash",
            "keep/build/a.log",
        ],
        &[
            "a.txt",
            "d/top",
            "d/sub/inner",
            "build",
            "keep/a.log",
            "keep/not/a.log",
            "comment",
            "keep/",
            ".arkignore",
        ],
    );
}

#[test]
fn the_config_decides_before_any_file() {
    let (_directory, root) =
        folder(&[(".arkignore", "!private\n*.log\n"), ("d/.arkignore", "!*\n")]);
    let rules = Rules::new(&["private", "*.tmp", "!wanted.log"]).unwrap();
    assert_ignored(
        &rules,
        &root,
        &["private", "d/private", "d/x.tmp", "x.log", "private/inside"],
        &["wanted.log", "d/x.log"],
    );
}

#[test]
fn paths_that_are_not_there_follow_the_rules_above_them() {
    let (directory, root) = folder(&[(".arkignore", "*.o\n"), ("file", "")]);
    fs::create_dir(directory.path().join("d")).unwrap();
    let rules = Rules::new::<&str>(&[]).unwrap();
    assert_ignored(&rules, &root, &["new/deep/x.o", "file/x.o"], &["new/deep/x", "file/x"]);
}

#[test]
fn changed_rules_are_read_again_and_removed_ones_forgotten() {
    let (directory, root) = folder(&[(".arkignore", "a\n")]);
    let rules = Rules::new::<&str>(&[]).unwrap();
    assert_ignored(&rules, &root, &["a"], &["b"]);
    fs::write(directory.path().join(".arkignore"), "b\n").unwrap();
    assert_ignored(&rules, &root, &["b"], &["a"]);
    fs::remove_file(directory.path().join(".arkignore")).unwrap();
    assert_ignored(&rules, &root, &[], &["a", "b"]);
    fs::create_dir(directory.path().join(".arkignore")).unwrap();
    assert_ignored(&rules, &root, &[], &["a", "b"]);
}

#[test]
fn only_arkignore_counts() {
    let (_directory, root) = folder(&[(".gitignore", "a\n"), (".ignore", "b\n")]);
    let rules = Rules::new::<&str>(&[]).unwrap();
    assert_ignored(&rules, &root, &[], &["a", "b", ".git/", ".hidden"]);
}

#[test]
fn rules_that_cannot_be_known_are_an_error() {
    let (directory, root) = folder(&[]);
    let at = directory.path().join(".arkignore");
    fs::write(&at, vec![b'x'; (1 << 20) + 1]).unwrap();
    let rules = Rules::new::<&str>(&[]).unwrap();
    assert!(matches!(rules.top(&root), Err(RulesError::Unusable { .. })));
    assert!(rules.lookup(&root).ignored(&path("a"), false).is_err());
    let error = Rules::new(&["ok", "{bad"]).unwrap_err();
    assert_eq!(error.pattern, "{bad");
}

fn open(at: &Path) -> Root {
    Root::open(at).unwrap()
}

#[test]
fn a_marker_tells_the_folder_from_any_other() {
    let parent = tempfile::tempdir().unwrap();
    let at = parent.path().join("folder");
    fs::create_dir(&at).unwrap();
    let root = open(&at);
    let topic = TopicId::derive("repo", None);
    let marker = Marker::new(topic);
    assert_eq!(Marker::read(&root).unwrap(), Sign::None);
    assert!(matches!(marker.check(&root), Err(Halt::Lost { .. })));
    fs::create_dir(at.join(".ark")).unwrap();
    for blank in ["", "\n"] {
        fs::write(at.join(".ark/marker"), blank).unwrap();
        assert_eq!(Marker::read(&root).unwrap(), Sign::Blank);
        assert!(matches!(marker.check(&root), Err(Halt::Lost { .. })));
    }
    fs::remove_dir_all(at.join(".ark")).unwrap();
    marker.write(&root).unwrap();
    assert_eq!(Marker::read(&root).unwrap(), Sign::Marker(marker));
    marker.check(&root).unwrap();
    assert_eq!(fs::read_dir(at.join(".ark")).unwrap().count(), 1);

    let other = Marker::new(topic);
    assert!(matches!(other.check(&root), Err(Halt::OtherFolder { .. })));
    let foreign = Marker::new(TopicId::derive("other", None));
    let halt = foreign.check(&root).unwrap_err();
    assert!(matches!(halt, Halt::OtherRepo { found, .. } if found == topic));

    for damaged in ["x", "ark folder 2\n", "ark folder 1\ntopic x\nfolder y\n"] {
        fs::write(at.join(".ark/marker"), damaged).unwrap();
        assert!(matches!(marker.check(&root), Err(Halt::Unreadable { .. })), "{damaged:?}");
    }
    fs::write(at.join(".ark/marker"), b"\xff\xfe").unwrap();
    assert!(matches!(marker.check(&root), Err(Halt::Unreadable { .. })));
    marker.write(&root).unwrap();
    marker.check(&root).unwrap();
}

#[test]
fn an_unmounted_folder_halts() {
    let parent = tempfile::tempdir().unwrap();
    let at = parent.path().join("folder");
    fs::create_dir(&at).unwrap();
    let root = open(&at);
    let marker = Marker::new(TopicId::derive("repo", None));
    marker.write(&root).unwrap();
    // The directory under the mount comes to light: it is there, and empty.
    fs::rename(&at, parent.path().join("volume")).unwrap();
    assert!(matches!(marker.check(&root), Err(Halt::Moved { .. })));
    fs::create_dir(&at).unwrap();
    assert!(matches!(marker.check(&root), Err(Halt::Moved { .. })));
    assert!(matches!(marker.check(&open(&at)), Err(Halt::Lost { .. })));
}

#[test]
fn a_marker_behind_a_symlink_is_none() {
    let parent = tempfile::tempdir().unwrap();
    let (at, elsewhere) = (parent.path().join("folder"), parent.path().join("elsewhere"));
    fs::create_dir(&at).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    let marker = Marker::new(TopicId::derive("repo", None));
    marker.write(&open(&elsewhere)).unwrap();
    std::os::unix::fs::symlink(elsewhere.join(".ark"), at.join(".ark")).unwrap();
    assert!(matches!(marker.check(&open(&at)), Err(Halt::Failed { .. })));
    assert!(matches!(marker.write(&open(&at)), Err(Halt::Failed { .. })));
}

#[test]
fn a_plan_goes_by_rules_that_are_away_for_a_moment() {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::open(directory.path()).unwrap();
    let files = [(RelPath::root(), b"photos/\n".to_vec())].into();
    let former = FormerRules { config: Vec::new(), files };
    let rules = Rules::with_former::<&str>(&[], former).unwrap();
    let path = |text: &str| RelPath::parse(text.as_bytes()).unwrap();
    let ignored = |at| rules.lookup(&root).ignored(&path(at), false).unwrap();
    assert!(ignored("photos/1"), "the file of rules is not there, and was");
    assert!(!ignored("other"));
    std::fs::write(directory.path().join(".arkignore"), "other\n").unwrap();
    assert!(ignored("photos/1") && ignored("other"), "until a scan has learned the new ones");
}
