//! What a scan finds, against base and against what happens to the folder meanwhile.

mod scanning;
mod stopped;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;

use ark_core::{Content, Name, Permissions, RelPath};
use ark_folder::base::{Cache, Record};
use ark_folder::fs::{FsErrorKind, Granularity, Root};
use ark_folder::ignore::Rules;
use ark_folder::scan::{Extent, FoundNode, Kept, ScanError};
use ark_folder::watch::Touch;
use rustix::fs::{CWD, FileType, Mode};
use scanning::{Folder, changed, found, gone, path, touched};

#[test]
fn a_first_scan_finds_everything_and_a_second_nothing() {
    let mut folder = Folder::new();
    folder.write("a.txt", b"one");
    folder.write("empty", b"");
    folder.write("d/e/deep", b"two");
    fs::create_dir(folder.at("d/none")).unwrap();
    symlink("../a.txt", folder.at("d/link")).unwrap();
    fs::set_permissions(folder.at("a.txt"), fs::Permissions::from_mode(0o750)).unwrap();

    let result = folder.scan(&Extent::Everything);
    assert_eq!(found(&result), ["a.txt", "d", "d/e", "d/e/deep", "d/link", "d/none", "empty"]);
    assert_eq!(result.found[&path("a.txt")].permissions.bits(), 0o750);
    assert_eq!(result.found[&path("d")].node, FoundNode::Directory);
    let link = &result.found[&path("d/link")];
    assert_eq!(link.permissions, Permissions::from_mode(0o777));
    assert!(matches!(link.node, FoundNode::Symlink { size: 8, .. }));
    assert_eq!(folder.content(&result, "a.txt"), b"one");
    assert_eq!(folder.content(&result, "d/e/deep"), b"two");
    assert_eq!(folder.content(&result, "d/link"), b"../a.txt");
    assert_eq!(folder.content(&result, "empty"), b"");

    folder.record(&result);
    folder.settle();
    let again = folder.scan(&Extent::Everything);
    assert_eq!((found(&again), gone(&again), again.unchanged), (vec![], vec![], 7));
    let counts = folder.progress.counts();
    assert_eq!((counts.files_seen, counts.files_hashed, counts.files_to_hash), (4, 0, 0));
}

#[test]
fn changes_additions_and_removals_are_told_apart() {
    let mut folder = Folder::new();
    for name in ["same", "edited", "removed", "d/x", "d/sub/y", "to-dir", "from-dir/in"] {
        folder.write(name, name.as_bytes());
    }
    folder.scan_and_record();

    folder.write("edited", b"other");
    folder.write("new", b"new");
    fs::remove_file(folder.at("removed")).unwrap();
    fs::remove_dir_all(folder.at("d")).unwrap();
    fs::remove_file(folder.at("to-dir")).unwrap();
    folder.write("to-dir/inner", b"i");
    fs::remove_dir_all(folder.at("from-dir")).unwrap();
    folder.write("from-dir", b"file now");

    let result = folder.scan(&Extent::Everything);
    assert_eq!(found(&result), ["edited", "from-dir", "new", "to-dir", "to-dir/inner"]);
    assert_eq!(gone(&result), ["d", "d/sub", "d/sub/y", "d/x", "from-dir/in", "removed"]);
    assert_eq!(folder.content(&result, "from-dir"), b"file now");
    let by_paths = folder.scan(&changed([
        "d/sub/y",
        "d/x",
        "d",
        "edited",
        "from-dir",
        "new",
        "removed",
        "to-dir/inner",
        "same",
    ]));
    assert_eq!(by_paths.found, result.found);
    assert_eq!(by_paths.gone, result.gone);
}

#[test]
fn a_touched_path_in_an_unknown_directory_takes_the_directory_whole() {
    let mut folder = Folder::new();
    folder.write("old/file", b"1");
    folder.scan_and_record();
    folder.write("new/a/b/one", b"1");
    folder.write("new/a/two", b"2");
    folder.write("old/unseen", b"3");

    let result = folder.scan(&changed(["new/a/b/one"]));
    assert_eq!(found(&result), ["new", "new/a", "new/a/b", "new/a/b/one", "new/a/two"]);
    let result = folder.scan(&changed(["old"]));
    assert_eq!(found(&result), Vec::<String>::new(), "a known directory is not walked");
    let result = folder.scan(&touched([("old", Touch::Subtree)]));
    assert_eq!(found(&result), ["old/unseen"]);
    let result = folder.scan(&touched([("", Touch::Subtree)]));
    assert!(result.found.contains_key(&path("old/unseen")));
    assert!(result.found.contains_key(&path("new/a/two")));
}

/// As a scan of everything says it, whatever base says of the paths above.
#[test]
fn what_base_has_below_a_file_is_gone() {
    let mut folder = Folder::new();
    folder.write("d/sub/f", b"1");
    folder.scan_and_record();
    fs::remove_dir_all(folder.at("d")).unwrap();
    folder.write("d", b"2");
    let result = folder.scan(&changed(["d"]));
    let found = &result.found[&path("d")];
    let record = Record { node: found.node, ..folder.base[&path("d")].clone() };
    folder.base.insert(path("d"), record);
    for extent in [changed(["d"]), changed(["d/sub", "d/sub/f"]), Extent::Everything] {
        assert_eq!(gone(&folder.scan(&extent)), ["d/sub", "d/sub/f"], "{extent:?}");
    }
}

#[test]
fn nothing_below_a_parent_that_became_a_symlink_is_seen() {
    let mut folder = Folder::new();
    let outside = tempfile::tempdir().unwrap();
    folder.write("d/x", b"1");
    folder.scan_and_record();
    fs::rename(folder.at("d"), outside.path().join("d")).unwrap();
    symlink(outside.path().join("d"), folder.at("d")).unwrap();
    for extent in [changed(["d/x"]), Extent::Everything] {
        let result = folder.scan(&extent);
        assert_eq!((found(&result), gone(&result)), (vec!["d".into()], vec!["d/x".into()]));
        assert!(matches!(result.found[&path("d")].node, FoundNode::Symlink { .. }));
    }
}

#[test]
fn chmod_and_touch_are_found_with_the_same_content() {
    let mut folder = Folder::new();
    folder.write("f", b"content");
    folder.write("d/x", b"1");
    let first = folder.scan_and_record();
    fs::set_permissions(folder.at("f"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(folder.at("d"), fs::Permissions::from_mode(0o700)).unwrap();
    let result = folder.scan(&changed(["f", "d"]));
    assert_eq!(found(&result), ["d", "f"]);
    assert_eq!(result.found[&path("f")].node, first.found[&path("f")].node);
    assert_eq!(result.found[&path("f")].permissions.bits(), 0o600);
    assert_eq!(result.found[&path("d")].permissions.bits(), 0o700);
}

#[test]
fn same_size_and_mtime_with_other_content_is_found() {
    let mut folder = Folder::new();
    folder.write("f", b"one");
    folder.scan_and_record();
    let before = folder.root.stat(&path("f")).unwrap();
    // In place, and the mtime put back: ctime tells.
    folder.write("f", b"two");
    folder.root.top().set_mtime(b"f", before.mtime).unwrap();
    let after = folder.root.stat(&path("f")).unwrap();
    assert_eq!((after.size, after.mtime, after.ino), (before.size, before.mtime, before.ino));
    let result = folder.scan(&Extent::Everything);
    assert_eq!(folder.content(&result, "f"), b"two");
}

#[test]
fn a_racy_hash_is_not_believed_the_next_time() {
    let mut folder = Folder::new();
    folder.granularity = Granularity::tick();
    folder.write("f", b"one");
    folder.scan_and_record();
    let record = folder.base.get_mut(&path("f")).unwrap();
    let cache = record.cache.as_mut().unwrap();
    // As if it had been hashed in the very tick of its change, and then changed within it.
    cache.settled = false;
    record.node = FoundNode::Directory;
    let result = folder.scan(&Extent::Everything);
    assert_eq!(folder.content(&result, "f"), b"one");
    folder.record(&result);
    folder.settle();
    assert_eq!(folder.scan(&Extent::Everything).unchanged, 1);
}

#[test]
fn a_file_closed_after_writing_is_hashed_though_its_stat_is_the_same() {
    let mut folder = Folder::new();
    folder.write("f", b"mapped");
    folder.scan_and_record();
    // What a store into a mapped page leaves: other content under the recorded stat.
    let other = folder.scan(&Extent::Everything);
    assert_eq!(other.unchanged, 1);
    let record = folder.base.get_mut(&path("f")).unwrap();
    let FoundNode::File { content, .. } = record.node else { panic!("a file") };
    record.node = FoundNode::File { content: Content::Chunked(content.link().id), size: 6 };
    assert_eq!(found(&folder.scan(&changed(["f"]))), Vec::<String>::new());
    let result = folder.scan(&touched([("f", Touch::Written)]));
    assert_eq!(folder.content(&result, "f"), b"mapped");
}

#[test]
fn large_files_are_cut_and_read_back_whole() {
    let mut folder = Folder::new();
    let mut content = vec![0_u8; 9_000_000];
    let mut state = 1_u32;
    for byte in &mut content {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    folder.write("large", &content);
    folder.write("exactly", &content[..1 << 20]);
    folder.write("over", &content[..=1 << 20]);
    let result = folder.scan_and_record();
    let node = |name: &str| result.found[&path(name)].node;
    assert!(matches!(node("large"), FoundNode::File { content: Content::Chunked(_), .. }));
    assert!(matches!(node("exactly"), FoundNode::File { content: Content::Raw(_), .. }));
    assert!(matches!(node("over"), FoundNode::File { content: Content::Chunked(_), .. }));
    assert!(folder.content(&result, "large") == content);
    assert!(folder.content(&result, "over") == content[..=1 << 20]);
    let chunks = folder.sink.put_count();

    // One byte in front: nearly all chunks are known already.
    content.insert(0, 7);
    folder.write("large", &content);
    let result = folder.scan(&Extent::Everything);
    assert!(folder.content(&result, "large") == content);
    let new = folder.sink.put_count() - chunks;
    assert!(new <= 4, "{new} new objects for one byte");
}

#[test]
fn sparse_files_are_read_as_zeros() {
    let mut folder = Folder::new();
    fs::File::create(folder.at("sparse")).unwrap().set_len(64 << 20).unwrap();
    let result = folder.scan_and_record();
    let FoundNode::File { size, .. } = result.found[&path("sparse")].node else { panic!("a file") };
    assert_eq!(size, 64 << 20);
    assert!(folder.sink.put_count() <= 4, "zeros are stored once");
}

#[test]
fn special_files_and_reserved_names_are_passed_over() {
    let folder = Folder::new();
    folder.write(".ark/marker", b"m");
    folder.write(".ark-tmp-0011223344556677", b"left by a crash");
    folder.write("d/.ark-anything", b"x");
    folder.write("d/.ark-tmp-8899aabbccddeeff", b"x");
    folder.write(".arkhive", b"an ordinary name");
    rustix::fs::mknodat(CWD, folder.at("fifo"), FileType::Fifo, Mode::from_bits_truncate(0o600), 0)
        .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(folder.at("socket")).unwrap();

    let result = folder.scan(&Extent::Everything);
    assert_eq!(found(&result), [".arkhive", "d"]);
    assert_eq!(result.kept[&path("fifo")], Kept::Special("FIFO"));
    assert_eq!(result.kept[&path("socket")], Kept::Special("socket"));
    assert_eq!(result.kept.len(), 2);
    assert_eq!(
        result.leftovers,
        [
            (RelPath::root(), b".ark-tmp-0011223344556677".to_vec()),
            (path("d"), b".ark-tmp-8899aabbccddeeff".to_vec()),
        ]
    );
}

#[test]
fn a_file_replaced_by_a_fifo_keeps_its_entry() {
    let mut folder = Folder::new();
    folder.write("f", b"1");
    folder.write("d/x", b"1");
    folder.scan_and_record();
    fs::remove_file(folder.at("f")).unwrap();
    fs::remove_dir_all(folder.at("d")).unwrap();
    for name in ["f", "d"] {
        let mode = Mode::from_bits_truncate(0o600);
        rustix::fs::mknodat(CWD, folder.at(name), FileType::Fifo, mode, 0).unwrap();
    }
    for extent in [Extent::Everything, changed(["d", "d/x", "f"])] {
        let result = folder.scan(&extent);
        assert_eq!((found(&result), gone(&result)), (vec![], vec![]));
        assert_eq!(result.kept.len(), 2);
    }
}

/// Every Linux has `/proc` mounted below its root, and no right is needed to see that.
#[cfg(target_os = "linux")]
#[test]
fn what_is_mounted_in_the_folder_is_kept() {
    let mut folder = Folder::new();
    folder.root = Root::open(Path::new("/")).unwrap();
    for extent in [changed(["proc"]), touched([("proc/self/stat", Touch::Written)])] {
        let result = folder.scan(&extent);
        assert_eq!((found(&result), gone(&result)), (vec![], vec![]));
        assert_eq!(result.kept, [(path("proc"), Kept::MountPoint)].into());
    }
    let error = folder.root.dir(&path("proc")).unwrap_err();
    assert_eq!(error.kind(), FsErrorKind::OtherDevice);
}

#[test]
fn what_cannot_be_read_is_kept_until_it_can() {
    if !stopped::by_bits("what_cannot_be_read_is_kept_until_it_can") {
        return;
    }
    let mut folder = Folder::new();
    for name in ["file", "dir/x", "other"] {
        folder.write(name, b"1");
    }
    folder.scan_and_record();
    let mode = |name: &str, mode| {
        fs::set_permissions(folder.at(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("file", 0o000);
    mode("dir", 0o000);
    fs::create_dir(folder.at("new")).unwrap();
    mode("new", 0o000);
    // Of a directory that base has the bits are seen though nothing else is.
    let result = folder.scan(&Extent::Everything);
    assert_eq!((found(&result), gone(&result)), (vec!["dir".into()], vec![]));
    assert_eq!(result.closed, [path("dir")].into());
    assert_eq!(result.kept.keys().collect::<Vec<_>>(), [&path("file"), &path("new")]);
    assert!(result.kept.values().all(|kept| matches!(kept, Kept::Unreadable(_))));
    let by_path = folder.scan(&changed(["dir/x", "file"]));
    assert_eq!((found(&by_path), gone(&by_path)), (vec!["dir".into()], vec![]));
    assert_eq!((by_path.kept.len(), by_path.closed), (1, [path("dir")].into()));
    // Nor may it be listed.
    mode("dir", 0o300);
    assert_eq!(folder.scan(&Extent::Everything).closed, [path("dir")].into());

    mode("file", 0o644);
    mode("dir", 0o755);
    mode("new", 0o755);
    let result = folder.scan(&Extent::Everything);
    assert_eq!((found(&result), gone(&result)), (vec!["file".into(), "new".into()], vec![]));
    assert!(result.kept.is_empty() && result.closed.is_empty());
}

/// Ark set its bits in the same tick in which it wrote it.
#[test]
fn a_known_file_that_may_not_be_read_is_as_it_was() {
    if !stopped::by_bits("a_known_file_that_may_not_be_read_is_as_it_was") {
        return;
    }
    let mut folder = Folder::new();
    folder.write("f", b"1");
    folder.scan_and_record();
    fs::set_permissions(folder.at("f"), fs::Permissions::from_mode(0o000)).unwrap();
    let stat = folder.root.stat(&path("f")).unwrap();
    let before = folder.base[&path("f")].clone();
    let cache = Some(Cache { stat, settled: false });
    let record = Record { permissions: stat.permissions(), cache, ..before };
    folder.base.insert(path("f"), record.clone());
    let result = folder.scan(&Extent::Everything);
    assert_eq!((found(&result), result.kept.len()), (vec!["f".into()], 0));
    assert_eq!(result.found[&path("f")].node, record.node);
    folder.settle();
    assert_eq!(folder.scan(&Extent::Everything).unchanged, 1);
    // Of what others made of it nothing is known.
    fs::set_permissions(folder.at("f"), fs::Permissions::from_mode(0o200)).unwrap();
    let result = folder.scan(&Extent::Everything);
    assert_eq!((found(&result), result.kept.len()), (vec![], 1));
}

#[test]
fn names_that_are_no_text_are_found() {
    use std::os::unix::ffi::OsStrExt as _;
    let folder = Folder::new();
    let name = b"caf\xe9\n";
    fs::write(folder.root.path().join(std::ffi::OsStr::from_bytes(name)), "x").unwrap();
    let result = folder.scan(&Extent::Everything);
    assert!(result.found.contains_key(&RelPath::from(vec![Name::new(name).unwrap()])));
}

#[test]
fn trees_deeper_than_any_path_are_kept() {
    let folder = Folder::new();
    let name = Name::new(b"d").unwrap();
    let mut dir = folder.root.top().clone();
    for _ in 0..600 {
        dir.make_dir(b"d", Permissions::from_mode(0o755)).unwrap();
        dir = dir.open_dir(&name).unwrap();
    }
    let result = folder.scan(&Extent::Everything);
    assert_eq!(result.found.len(), 512);
    let (path, why) = result.kept.first_key_value().unwrap();
    assert_eq!((path.names().len(), why), (513, &Kept::TooDeep));
}

#[test]
fn content_of_files_in_a_moved_directory_is_not_read_again() {
    let mut folder = Folder::new();
    for number in 0..20 {
        folder.write(&format!("old/{number}"), format!("content {number}").as_bytes());
    }
    folder.scan_and_record();
    fs::rename(folder.at("old"), folder.at("new")).unwrap();
    let extent =
        touched([("old", Touch::Changed), ("new", Touch::Subtree), ("new/3", Touch::Changed)]);
    let result = folder.scan(&extent);
    assert_eq!((result.found.len(), result.gone.len()), (21, 21));
    assert_eq!(folder.progress.counts().files_to_hash, 0);
    assert_eq!(folder.content(&result, "new/3"), b"content 3");
}

#[test]
fn a_file_written_while_it_is_hashed_is_in_flux() {
    let folder = Folder::new();
    folder.write("steady", b"1");
    folder.write("large", &vec![1; 5 << 20]);
    // The sink hears of the first chunk before the file is read to its end.
    let at = folder.at("large");
    folder.sink.at_first_put_of(2 << 20, move || {
        let file = fs::OpenOptions::new().write(true).open(&at).unwrap();
        file.set_len(3 << 20).unwrap();
    });
    let result = folder.scan(&Extent::Everything);
    assert_eq!(found(&result), ["steady"]);
    assert_eq!(result.in_flux, [path("large")].into());
    let result = folder.scan(&Extent::Everything);
    assert_eq!(result.found[&path("large")].stat.size, 3 << 20);
    assert!(result.in_flux.is_empty());
}

#[test]
fn a_file_replaced_while_it_is_hashed_is_in_flux() {
    let folder = Folder::new();
    folder.write("f", &vec![1; 3 << 20]);
    folder.write("other", &[2; 3]);
    let (from, to) = (folder.at("other"), folder.at("f"));
    folder.sink.at_first_put_of(1 << 20, move || fs::rename(&from, &to).unwrap());
    let result = folder.scan(&changed(["f"]));
    assert_eq!((found(&result), result.in_flux), (vec![], [path("f")].into()));
}

#[test]
fn a_closed_sink_and_a_cancelled_scan_are_errors() {
    let folder = Folder::new();
    folder.write("f", b"1");
    folder.sink.close();
    assert!(matches!(folder.try_scan(&Extent::Everything), Err(ScanError::Sink(_))));
    folder.progress.cancel();
    assert!(matches!(folder.try_scan(&Extent::Everything), Err(ScanError::Cancelled)));
}

#[test]
fn known_content_is_not_put_again() {
    let mut folder = Folder::new();
    folder.write("f", b"content");
    folder.scan_and_record();
    folder.write("copy", b"content");
    let before = folder.sink.put_count();
    let result = folder.scan(&Extent::Everything);
    assert_eq!(folder.content(&result, "copy"), b"content");
    assert_eq!(folder.sink.put_count(), before);
}

#[test]
fn each_directory_is_announced_before_it_is_listed() {
    let mut folder = Folder::new();
    folder.write("a/b/c", b"1");
    folder.write("skip/x", b"1");
    folder.rules = Arc::new(Rules::new(&["skip/"]).unwrap());
    let result = folder.scan(&Extent::Everything);
    assert_eq!(folder.entered(), ["", "a", "a/b"]);
    folder.record(&result);
    folder.write("n/m/f", b"1");
    folder.scan(&changed(["n/m/f", "a/b/c"]));
    assert_eq!(folder.entered(), ["n", "n/m"]);
}

#[test]
fn a_scan_ends_where_the_root_cannot_be_read() {
    let folder = Folder::new();
    folder.write("f", b"1");
    fs::remove_dir_all(folder.root.path()).unwrap();
    // Held open it reads as empty; whoever scans checks the marker first, which is gone too.
    let result = folder.scan(&Extent::Everything);
    assert!(result.found.is_empty());
    assert!(!folder.root.in_place().unwrap());
}
