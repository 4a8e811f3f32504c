//! Objects of honest makers pass from the bottom up; what says something untrue of its children
//! does not, however well its own bytes are formed.

use std::collections::HashMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::chunk::{FileChild, FileTree, MAX_CHUNK, MAX_FILE_CHILDREN};
use crate::object::Object;

/// An index as the store keeps one: summaries as bytes.
#[derive(Default)]
pub(super) struct Index(HashMap<Link, Vec<u8>>);

impl Index {
    pub(in crate::check) fn check(&self, object: &Object) -> Result<Checked, DecodeError> {
        check(object.link(), object.bytes(), |link| self.get(link))
    }

    pub(in crate::check) fn get(&self, link: Link) -> Option<Summary> {
        self.0.get(&link).map(|bytes| Summary::from_bytes(bytes).expect("what was written"))
    }

    /// Indexes an object that must be fit for it.
    pub(in crate::check) fn add(&mut self, object: &Object) -> Summary {
        match self.check(object) {
            Ok(Checked::Complete(summary)) => {
                self.insert(object.link(), summary.clone());
                summary
            }
            other => panic!("{other:?}"),
        }
    }

    pub(in crate::check) fn insert(&mut self, link: Link, summary: Summary) {
        let bytes = summary.to_bytes();
        assert_eq!(Summary::from_bytes(&bytes), Some(summary));
        self.0.insert(link, bytes);
    }

    /// Indexes chunks that exist only as ids and lengths.
    pub(in crate::check) fn imagine(&mut self, chunks: &[(ObjectId, u64)]) {
        for &(id, length) in chunks {
            self.insert(Link::raw(id), Summary(About::Raw { length }));
        }
    }

    pub(in crate::check) fn refuses(&self, object: &Object) -> String {
        match self.check(object) {
            Err(error) => error.to_string(),
            Ok(accepted) => panic!("{accepted:?}"),
        }
    }
}

pub(super) fn imagined(count: u64) -> Vec<(ObjectId, u64)> {
    (0..count).map(|i| (ObjectId::of(&i.to_le_bytes()), (MIN_CHUNK as u64) + i)).collect()
}

/// The content of `chunks`, with all of it indexed but what is in `nodes`.
fn content(chunks: &[(ObjectId, u64)]) -> (ObjectId, u64, Vec<Object>) {
    let mut tree = FileTree::new();
    for &(id, length) in chunks {
        tree.push(id, length);
    }
    let (content, size, nodes) = tree.finish();
    (content.link().id, size, nodes)
}

fn node(level: u8, children: &[(ObjectId, u64)]) -> Object {
    let children = children.iter().map(|&(id, length)| FileChild { id, length }).collect();
    FileNode { level, children }.encode()
}

fn decoded(object: &Object) -> FileNode {
    FileNode::decode(object.bytes()).unwrap()
}

#[test]
fn a_raw_object_is_any_bytes_up_to_the_bound() {
    let index = Index::default();
    let object = Object::new(ObjectKind::Raw, vec![1, 2, 3]);
    let Ok(Checked::Complete(summary)) = index.check(&object) else { panic!() };
    assert_eq!(summary.totals(), Totals { files: 1, bytes: 3, aside: 0 });
    assert_eq!(summary.to_bytes().len(), 9);
    assert_eq!(links(object.link(), object.bytes()), Ok(Vec::new()));
    let most = Object::new(ObjectKind::Raw, vec![0; MAX_OBJECT_BYTES]);
    assert!(index.check(&most).is_ok());
    index.refuses(&Object::new(ObjectKind::Raw, vec![0; MAX_OBJECT_BYTES + 1]));
}

#[test]
fn a_content_is_checked_from_the_bottom_up() {
    let chunks = imagined(60_000);
    let (root, size, nodes) = content(&chunks);
    let mut index = Index::default();
    let first = &nodes[0];
    let Ok(Checked::Missing(missing)) = index.check(first) else { panic!() };
    assert_eq!(missing, links(first.link(), first.bytes()).unwrap());
    assert!(missing.iter().zip(&chunks).all(|(link, chunk)| *link == Link::raw(chunk.0)));
    index.imagine(&chunks);
    for node in &nodes {
        let summary = index.add(node);
        assert_eq!(summary.totals().bytes, decoded(node).length());
    }
    assert!(decoded(nodes.last().unwrap()).level > 1);
    let children = Children(HashMap::from([(
        Link::file(root),
        Summary::from_bytes(&index.0[&Link::file(root)]).unwrap().0,
    )]));
    assert_eq!(children.check_content(root, size), Ok(()));
    assert!(children.check_content(root, size + 1).is_err());
    assert!(children.check_content(ObjectId::of(b"another"), size).is_err());
}

#[test]
fn links_are_distinct_and_in_order() {
    let a = (ObjectId::of(b"a"), MAX_CHUNK as u64);
    let b = (ObjectId::of(b"b"), MIN_CHUNK as u64);
    let object = node(0, &[a, b, a, b, b]);
    let expected = vec![Link::raw(a.0), Link::raw(b.0)];
    assert_eq!(links(object.link(), object.bytes()), Ok(expected));
}

#[test]
fn a_leaf_that_says_what_is_not_so_is_refused() {
    let chunks = imagined(6_000);
    let mut index = Index::default();
    index.imagine(&chunks);
    let short = (ObjectId::of(b"short"), MIN_CHUNK as u64 - 1);
    let long = (ObjectId::of(b"long"), MAX_CHUNK as u64 + 1);
    index.imagine(&[short, long, (ObjectId::of(b"none"), 0)]);
    let wrong_length = [(chunks[0].0, chunks[0].1 + 1), chunks[1]];
    assert!(index.refuses(&node(0, &wrong_length)).contains("bytes"));
    assert!(index.refuses(&node(0, &[])).contains("0 children"));
    assert!(index.refuses(&node(0, &[short, chunks[0]])).contains("less than"));
    assert!(index.check(&node(0, &[chunks[0], short])).is_ok());
    assert!(index.refuses(&node(0, &[chunks[0], long])).contains("more than"));
    index.refuses(&node(0, &[chunks[0], (ObjectId::of(b"none"), 0)]));
    // Neither past a cut nor past the bound.
    let (_, _, nodes) = content(&chunks);
    let whole = decoded(&nodes[0]).children.len();
    assert!(index.refuses(&node(0, &chunks[..=whole])).contains("ended"));
    let same = vec![chunks[0]; MAX_FILE_CHILDREN + 1];
    assert!(index.refuses(&node(0, &same)).contains("children"));
    // Another kind of object under the same id is no chunk.
    let other = Link { kind: ObjectKind::File, id: ObjectId::of(b"node") };
    index.insert(other, Summary(About::Raw { length: MAX_CHUNK as u64 }));
    let missing = Checked::Missing(vec![Link::raw(other.id)]);
    assert_eq!(index.check(&node(0, &[(other.id, MAX_CHUNK as u64)])), Ok(missing));
    index.refuses(&node(1, &[(other.id, MAX_CHUNK as u64)]));
}

#[test]
fn an_inner_node_that_says_what_is_not_so_is_refused() {
    let chunks = imagined(120_000);
    let (_, _, nodes) = content(&chunks);
    let mut index = Index::default();
    index.imagine(&chunks);
    for node in &nodes {
        index.add(node);
    }
    let of_level = |level| {
        let found = nodes.iter().filter(move |object| decoded(object).level == level);
        found.map(|object| (object.id(), decoded(object).length())).collect::<Vec<_>>()
    };
    let (leaves, inner) = (of_level(0), of_level(1));
    assert!(leaves.len() > 300 && inner.len() > 2);

    let honest = decoded(nodes.iter().find(|object| decoded(object).level == 1).unwrap());
    let honest: Vec<_> = honest.children.iter().map(|child| (child.id, child.length)).collect();
    assert!(index.check(&node(1, &honest)).is_ok());
    let mut longer = honest.clone();
    longer[1].1 += 1;
    assert!(index.refuses(&node(1, &longer)).contains("bytes"));
    assert!(index.refuses(&node(2, &honest)).contains("level"));
    assert!(index.refuses(&node(2, &[inner[0], leaves[0]])).contains("level"));
    assert!(index.refuses(&node(1, &leaves[..=honest.len()])).contains("ended"));
    // Only what its own cut ends may be followed.
    let open = *leaves.last().unwrap();
    let last_of_all = node(1, &[leaves[0], open]);
    assert!(index.check(&last_of_all).is_ok());
    assert!(index.refuses(&node(1, &[open, leaves[0]])).contains("not closed"));
    index.add(&last_of_all);
    let followed = [(last_of_all.id(), leaves[0].1 + open.1), inner[0]];
    assert!(index.refuses(&node(2, &followed)).contains("not closed"));
    // A chunk shorter than the least ends the file, whatever its id.
    let ends = chunks.iter().find(|chunk| ends_node(0, 2, &chunk.0)).unwrap().0;
    let mut short = Index::default();
    short.imagine(&[chunks[0], (ends, 5)]);
    let leaf = node(0, &[chunks[0], (ends, 5)]);
    short.add(&leaf);
    let length = decoded(&leaf).length();
    assert!(short.refuses(&node(1, &[(leaf.id(), length); 2])).contains("not closed"));
}

#[test]
fn a_root_has_more_than_one_child() {
    let chunks = imagined(2);
    let mut index = Index::default();
    index.imagine(&chunks);
    let leaf = node(0, &chunks);
    index.add(&leaf);
    let size = chunks[0].1 + chunks[1].1;
    let above = node(1, &[(leaf.id(), size)]);
    let Ok(Checked::Complete(summary)) = index.check(&above) else { panic!() };
    let children = Children(HashMap::from([(above.link(), summary.0)]));
    assert!(children.check_content(above.id(), size).is_err());
}

#[test]
fn a_summary_is_read_only_as_it_was_written() {
    for bytes in [&[][..], &[0], &[0; 8], &[0; 10], &[9; 9], &[1; 30]] {
        assert_eq!(Summary::from_bytes(bytes), None, "{bytes:?}");
    }
}

proptest! {
    #[test]
    fn mutated_file_nodes_are_refused_or_canonical(
        count in 1u64..40,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = node(0, &imagined(count)).bytes().to_vec();
        for (at, with) in edits {
            let at = at.index(bytes.len());
            bytes[at] = with;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(node) = FileNode::decode(&bytes) {
            let again = node.encode();
            prop_assert_eq!(again.bytes(), &Bytes::from(bytes.clone()));
        }
        let object = Object::new(ObjectKind::File, bytes);
        let _ = index_of_everything(&object);
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 1u8..4) {
        let kind = ObjectKind::from_u8(kind).unwrap();
        let mut headed = vec![kind as u8, 1];
        headed.extend(&bytes);
        for bytes in [bytes, headed] {
            let _ = index_of_everything(&Object::new(kind, bytes));
        }
    }

    #[test]
    fn summaries_from_a_damaged_index_do_no_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..120),
        tag in 0u8..5,
    ) {
        let bytes = [vec![tag], bytes].concat();
        if let Some(summary) = Summary::from_bytes(&bytes) {
            summary.totals();
            let leaf = node(0, &imagined(2));
            let above = node(1, &[(leaf.id(), decoded(&leaf).length())]);
            for object in [leaf, above] {
                let _ = check(object.link(), object.bytes(), |_| Some(summary.clone()));
            }
        }
    }
}

/// Checks against an index where everything is there, and is what one raw object would be.
fn index_of_everything(object: &Object) -> Result<Checked, DecodeError> {
    check(object.link(), object.bytes(), |_| Some(Summary(About::Raw { length: 1 << 20 })))
}
