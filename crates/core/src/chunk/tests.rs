//! Cutting and the trees over chunks: equal to `FastCDC` over the whole, small differences for
//! small changes, and nothing lost on the way back.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read as _};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

/// `length` bytes that look random and are the same on every run.
fn seeded(seed: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A reader that gives its bytes in uneven portions and is interrupted now and then.
struct Uneven<'a> {
    rest: &'a [u8],
    portions: Vec<usize>,
    at: usize,
}

impl io::Read for Uneven<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.at += 1;
        match self.portions[self.at % self.portions.len()] {
            0 => Err(io::ErrorKind::Interrupted.into()),
            portion => {
                let portion = portion.min(into.len());
                self.rest.read(&mut into[..portion])
            }
        }
    }
}

struct Memory(HashMap<Link, Bytes>);

#[derive(Debug, thiserror::Error)]
#[error("absent")]
struct Absent;

impl Read for Memory {
    type Error = Absent;
    fn read(&self, link: Link) -> Result<Bytes, Absent> {
        self.0.get(&link).cloned().ok_or(Absent)
    }
}

fn lengths(bytes: &[u8]) -> Vec<usize> {
    Cutter::new(bytes).map(|piece| piece.unwrap().len()).collect()
}

fn ids(bytes: &[u8]) -> Vec<(ObjectId, u64)> {
    Cutter::new(bytes)
        .map(|piece| piece.unwrap())
        .map(|piece| (ObjectId::of(&piece), piece.len() as u64))
        .collect()
}

fn tree(chunks: &[(ObjectId, u64)]) -> (Content, u64, Memory) {
    let mut tree = FileTree::new();
    for &(id, length) in chunks {
        tree.push(id, length);
    }
    let (content, size, nodes) = tree.finish();
    let nodes = nodes.into_iter().map(|node| (node.link(), node.into_bytes())).collect();
    (content, size, Memory(nodes))
}

/// Chunks without bytes: what the tree is made of is ids and lengths alone.
fn imagined(count: u64) -> Vec<(ObjectId, u64)> {
    (0..count).map(|i| (ObjectId::of(&i.to_le_bytes()), (MIN_CHUNK as u64) + i)).collect()
}

#[test]
fn small_content_is_one_piece() {
    let raw = usize::try_from(MAX_RAW_CONTENT).unwrap();
    for length in [0, 1, MIN_CHUNK, raw - 1, raw] {
        let bytes = seeded("small", length);
        assert_eq!(Cutter::new(&bytes[..]).map(Result::unwrap).collect::<Vec<_>>(), [&bytes[..]]);
        let (content, size, nodes) = tree(&ids(&bytes));
        assert_eq!(content, Content::Raw(ObjectId::of(&bytes)));
        assert_eq!(size, length as u64);
        assert!(nodes.0.is_empty());
        let list: Vec<_> = chunk_list(&nodes, content, size).map(Result::unwrap).collect();
        assert_eq!(list, [(content.link(), size)]);
    }
    let over = seeded("small", raw + 1);
    assert!(matches!(tree(&ids(&over)).0, Content::Chunked(_)));
    assert_eq!(FileTree::new().finish().0, Content::Raw(ObjectId::of(b"")));
}

#[test]
fn cut_points_are_part_of_the_format() {
    let bytes = seeded("ark golden content", 16 << 20);
    assert_eq!(ObjectId::of(&bytes).short(), "99a5b3b542");
    assert_eq!(
        lengths(&bytes),
        [
            1_238_562, 1_286_340, 2_606_482, 1_134_075, 1_096_464, 1_501_244, 892_310, 1_494_237,
            1_029_436, 648_515, 1_121_343, 982_616, 974_276, 307_411, 463_905
        ]
    );
    assert_eq!(
        tree(&ids(&bytes)).0.link().id.to_string(),
        "ab84e5af3c82b41a4411b0fbc4696fbd6fdf0c0a0c3064b1cf5f8b56fe3a21c7"
    );
    // Where nothing cuts, the longest chunk does.
    assert_eq!(lengths(&vec![0; (10 << 20) + 3]), [MAX_CHUNK, MAX_CHUNK, (2 << 20) + 3]);
}

#[test]
fn an_error_of_the_reader_ends_the_cutting() {
    struct Failing;
    impl io::Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is gone"))
        }
    }
    let bytes = seeded("failing", 9 << 20);
    let mut cutter = Cutter::new(bytes.chain(Failing));
    let error = cutter.by_ref().find_map(Result::err).expect("the error is passed on");
    assert_eq!(error.to_string(), "the disk is gone");
    assert!(cutter.next().is_none());
}

#[test]
fn a_byte_in_front_makes_about_one_new_chunk_and_a_node_per_level() {
    let bytes = seeded("large", 48 << 20);
    let longer = [b"x", &bytes[..]].concat();
    let (before, after) = (ids(&bytes), ids(&longer));
    let known: HashSet<_> = before.iter().collect();
    let new = after.iter().filter(|chunk| !known.contains(chunk)).count();
    assert!(before.len() > 30, "{} chunks", before.len());
    assert!(new <= 2, "{new} new chunks of {}", after.len());

    // The same in a tree of many levels' worth of chunks: 300,000 stand for 300 GB.
    let many = imagined(300_000);
    let mut changed = imagined(300_000);
    changed[0].0 = ObjectId::of(b"changed");
    changed.insert(1, (ObjectId::of(b"new"), 300_000));
    let (_, _, old) = tree(&many);
    let (_, size, new) = tree(&changed);
    assert_eq!(size, changed.iter().map(|chunk| chunk.1).sum::<u64>());
    let made: Vec<_> = new.0.iter().filter(|node| !old.0.contains_key(node.0)).collect();
    let bytes: usize = made.iter().map(|node| node.1.len()).sum();
    assert!(made.len() <= 6, "{} new nodes of {}", made.len(), new.0.len());
    assert!(bytes < 60_000, "{bytes} bytes of new nodes");
}

#[test]
fn finished_nodes_may_be_taken_early() {
    let chunks = imagined(5_000);
    let (content, size, all) = tree(&chunks);
    let mut early = FileTree::new();
    let mut nodes = Vec::new();
    for &(id, length) in &chunks {
        early.push(id, length);
        nodes.extend(early.take_finished());
    }
    let taken = nodes.len();
    let (same, same_size, rest) = early.finish();
    nodes.extend(rest);
    assert!(taken > 10);
    assert_eq!((same, same_size, nodes.len()), (content, size, all.0.len()));
    assert!(nodes.iter().all(|node| all.0.contains_key(&node.link())));
}

#[test]
fn equal_chunks_make_no_endless_levels() {
    // An id that ends a node on every level: grinding one is out of reach, yet harmless.
    for id in [[0; 32], [255; 32]] {
        let chunks = vec![(ObjectId::from_bytes(id), MAX_CHUNK as u64); 3_000];
        let (content, size, nodes) = tree(&chunks);
        assert_eq!(size, 3_000 * MAX_CHUNK as u64);
        let list: Vec<_> = chunk_list(&nodes, content, size).map(Result::unwrap).collect();
        assert_eq!(list.len(), 3_000);
    }
}

#[test]
fn a_list_of_chunks_refuses_what_is_not_as_the_link_says() {
    let (content, size, mut nodes) = tree(&imagined(2_000));
    let mut list = chunk_list(&nodes, content, size + 1);
    assert!(matches!(list.next(), Some(Err(TreeError::Decode { .. }))));
    assert!(list.next().is_none());
    let leaf = *nodes.0.keys().find(|&&link| link != content.link()).unwrap();
    nodes.0.remove(&leaf);
    let mut list = chunk_list(&nodes, content, size).skip_while(Result::is_ok);
    assert!(matches!(list.next(), Some(Err(TreeError::Read { link, .. })) if link == leaf));
    assert!(list.next().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn streaming_cuts_as_fastcdc_does_over_the_whole(
        seed in "[a-z]{4}",
        length in (1usize << 20) + 1..20 << 20,
        flat in 0usize..8 << 20,
        portions in proptest::collection::vec(prop_oneof![Just(0usize), 1..300_000usize], 1..20),
    ) {
        prop_assume!(portions.iter().any(|&portion| portion > 4096));
        let mut bytes = seeded(&seed, length);
        let flat = flat.min(length);
        bytes[length - flat..].fill(7);
        let whole: Vec<usize> = FastCDC::with_level_and_seed(
            &bytes, MIN_CHUNK, AVERAGE_CHUNK, MAX_CHUNK, NORMALIZATION, GEAR_SEED,
        ).map(|chunk| chunk.length).collect();
        let pieces: Vec<Vec<u8>> = Cutter::new(Uneven { rest: &bytes, portions, at: 0 })
            .collect::<Result<_, _>>()
            .unwrap();
        prop_assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), whole);
        prop_assert!(pieces.concat() == bytes);
    }
}

proptest! {
    #[test]
    fn a_tree_lists_what_was_pushed(count in 2u64..3_000, seed: u64) {
        let chunks: Vec<_> = (0..count)
            .map(|i| (ObjectId::of(&(i ^ seed).to_le_bytes()), MIN_CHUNK as u64 + i))
            .collect();
        prop_assume!(count > 4);
        let (content, size, nodes) = tree(&chunks);
        prop_assert_eq!(size, chunks.iter().map(|chunk| chunk.1).sum::<u64>());
        let list: Vec<_> = chunk_list(&nodes, content, size)
            .map(Result::unwrap)
            .map(|(link, length)| (link.id, length))
            .collect();
        prop_assert_eq!(list, chunks);
        for (link, bytes) in &nodes.0 {
            let node = FileNode::decode(bytes).unwrap();
            prop_assert_eq!(node.encode().link(), *link);
        }
    }
}
