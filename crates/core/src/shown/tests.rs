//! Names of copies: as short as can be, never two alike, always names.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::dir::{edit, empty_directory};
use crate::entry::{Content, Mtime, Permissions};
use crate::id::{DeviceId, Dot, Incarnation, Writer};
use crate::object::Overlay;

fn node(text: &str) -> Node {
    let id = ObjectId::of(text.as_bytes());
    Node::File { content: Content::Raw(id), size: 1 }
}

fn digits(text: &str, count: usize) -> String {
    ObjectId::of(text.as_bytes()).to_string()[..count].to_owned()
}

fn copy_name(name: &[u8], attempt: usize) -> Vec<u8> {
    let name = Name::new(name).unwrap();
    Parts::of(&name).copy_name(ObjectId::of(b"x"), &name, attempt).as_bytes().to_vec()
}

#[test]
fn a_copy_is_named_after_its_entry_and_content() {
    let short = digits("x", 8);
    let long = digits("x", 24);
    for (name, copy) in [
        ("a", format!("a.conflict-{short}")),
        ("a.txt", format!("a.conflict-{short}.txt")),
        ("a.tar.gz", format!("a.tar.conflict-{short}.gz")),
        (".hidden", format!(".hidden.conflict-{short}")),
        (".hidden.txt", format!(".hidden.conflict-{short}.txt")),
        ("a.", format!("a.conflict-{short}.")),
        // A mark that is there is replaced, also two of them.
        ("a.conflict-01234567", format!("a.conflict-{short}")),
        ("a.conflict-01234567.txt", format!("a.conflict-{short}.txt")),
        ("a.conflict-0123456789abcdef.txt", format!("a.conflict-{short}.txt")),
        ("a.conflict-01234567.conflict-89abcdef.b.c", format!("a.b.conflict-{short}.c")),
        (".ark.conflict-01234567", format!(".ark.conflict-{short}")),
        // These are no marks.
        (".conflict-01234567", format!(".conflict-01234567.conflict-{short}")),
        ("a.conflict-0123456", format!("a.conflict-{short}.conflict-0123456")),
        ("a.conflict-0123456g", format!("a.conflict-{short}.conflict-0123456g")),
        ("a.conflict-01234567b", format!("a.conflict-{short}.conflict-01234567b")),
    ] {
        assert_eq!(String::from_utf8(copy_name(name.as_bytes(), 1)).unwrap(), copy, "{name}");
    }
    assert_eq!(copy_name(b"a.txt", 3), format!("a.conflict-{long}.txt").into_bytes());
}

#[test]
fn long_names_are_shortened_between_characters() {
    for name in ["ä".repeat(127), "€".repeat(85), "x".repeat(255), "ä".repeat(500)] {
        for extension in ["", ".txt"] {
            let copy = copy_name(format!("{name}{extension}").as_bytes(), 1);
            let copy = String::from_utf8(copy).unwrap();
            assert!(copy.ends_with(&format!(".conflict-{}{extension}", digits("x", 8))));
            assert!((252..=255).contains(&copy.len()), "{} bytes", copy.len());
        }
    }
    // Not UTF-8: cut anywhere.
    assert_eq!(copy_name(&[0xff; 255], 1).len(), 255);
    // An extension that would leave no room is none.
    let copy = copy_name(format!("a.{}", "x".repeat(200)).as_bytes(), 8);
    assert_eq!(copy.len(), 255);
}

/// A reader of nothing: all is in the overlay.
struct Nothing;

#[derive(Debug, thiserror::Error)]
#[error("nothing here")]
struct Absent;

impl Read for Nothing {
    type Error = Absent;
    fn read(&self, _: Link) -> Result<Bytes, Absent> {
        Err(Absent)
    }
}

fn version(text: &str, aside: bool) -> Version {
    let device = DeviceId::from_bytes([1; 32]);
    let writer = Writer { device, incarnation: Incarnation::new(1) };
    let dot = Dot { writer, sequence: 1 };
    Version {
        node: node(text),
        dots: vec![dot],
        permissions: Permissions::from_mode(0o644),
        permissions_dot: dot,
        mtime: Mtime::default(),
        aside,
    }
}

/// A directory of these names, each with its versions; of all versions, the first may be in place.
fn directory(entries: &[(&str, &[(&str, bool)])]) -> (Overlay<Nothing>, ObjectId) {
    let edits: BTreeMap<_, _> = entries
        .iter()
        .map(|(name, versions)| {
            let name = Name::new(name.as_bytes()).unwrap();
            let versions = versions.iter().map(|(text, aside)| version(text, *aside)).collect();
            (name.clone(), Some(Entry { name, versions }))
        })
        .collect();
    let mut overlay = Overlay::new(Nothing);
    let (root, _) = edit(&mut overlay, empty_directory().id(), edits).unwrap();
    (overlay, root)
}

#[test]
fn a_taken_name_is_lengthened() {
    let (short, longer) = (digits("x", 8), digits("x", 16));
    let taken = format!("a.conflict-{short}");
    // Taken by an entry in place, by one that shows only a copy, by an earlier copy.
    for others in [
        vec![(taken.as_str(), &[("other", false)][..])],
        vec![(taken.as_str(), &[("other", true)][..])],
    ] {
        let entries = [vec![("a", &[("y", false), ("x", true)][..])], others].concat();
        let (overlay, root) = directory(&entries);
        let shown: HashMap<_, _> = shown(&overlay, root)
            .unwrap()
            .into_iter()
            .map(|shown| (shown.name.to_string(), (shown.of.to_string(), shown.version.node)))
            .collect();
        assert_eq!(shown[&format!("a.conflict-{longer}")], ("a".into(), node("x")));
        assert_eq!(shown["a"], ("a".into(), node("y")));
        assert_eq!(shown.len(), 3);
    }
    let second = "a.conflict-01234567";
    let (overlay, root) = directory(&[("a", &[("x", true)]), (second, &[("x", true)])]);
    let copies = shown_aside(&overlay, root).unwrap();
    let names: Vec<_> = copies.iter().map(|c| (c.name.to_string(), c.of.to_string())).collect();
    let expected = [(format!("a.conflict-{short}"), "a"), (format!("a.conflict-{longer}"), second)];
    assert_eq!(names, expected.map(|(name, of)| (name, of.to_owned())));
}

#[test]
fn there_is_a_name_however_many_are_taken() {
    let names: Vec<_> = (0..12).map(|i| format!("a.conflict-{i:08}")).collect();
    let entries: Vec<_> = names.iter().map(|name| (name.as_str(), &[("x", true)][..])).collect();
    let (overlay, root) = directory(&entries);
    let shown = shown(&overlay, root).unwrap();
    let names: HashSet<_> = shown.iter().map(|shown| shown.name.clone()).collect();
    assert_eq!((shown.len(), names.len()), (12, 12));
    assert!(shown.iter().all(|shown| get(&overlay, root, &shown.name).unwrap().is_none()));
}

#[test]
fn conflicts_are_listed_up_to_a_limit() {
    let names: Vec<_> = (0..30).map(|i| format!("n{i:02}")).collect();
    let entries: Vec<_> =
        names.iter().map(|name| (name.as_str(), &[("y", false), ("x", true)][..])).collect();
    let (overlay, root) = directory(&entries);
    for (limit, count) in [(0, 0), (7, 7), (30, 30), (100, 30)] {
        let found = conflicts(&overlay, root, limit).unwrap();
        assert_eq!(found.len(), count);
        assert!(found.is_sorted());
    }
}

proptest! {
    #[test]
    fn a_copy_of_any_name_has_a_name(bytes in prop::collection::vec(any::<u8>(), 1..300), attempt in 1usize..12) {
        if let Ok(name) = Name::new(&bytes) {
            let copy = Parts::of(&name).copy_name(ObjectId::of(b"x"), &name, attempt);
            prop_assert!(copy.as_bytes().len() <= MAX_COPY_NAME);
            // Copies of copies gain nothing.
            let again = Parts::of(&copy).copy_name(ObjectId::of(b"x"), &copy, 1);
            prop_assert!(again.as_bytes().len() <= copy.as_bytes().len().max(MAX_COPY_NAME));
        }
    }
}
