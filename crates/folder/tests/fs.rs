//! Operations below a root: what they do, and that they never leave it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use ark_core::{Mtime, Name, Permissions, RelPath};
use ark_folder::fs::{FsErrorKind, Root, StatKind, clone_content, temporary_name};
use rustix::fs::{CWD, FileType, Mode};
use tempfile::TempDir;

fn folder() -> (TempDir, Root) {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::open(directory.path()).unwrap();
    (directory, root)
}

fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn fifo(at: &Path) {
    rustix::fs::mknodat(CWD, at, FileType::Fifo, Mode::from_bits_truncate(0o600), 0).unwrap();
}

#[test]
fn a_parent_that_is_a_symlink_never_leads_out() {
    let (directory, root) = folder();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "s").unwrap();
    fs::create_dir(directory.path().join("real")).unwrap();
    symlink(outside.path(), directory.path().join("out")).unwrap();
    symlink("real", directory.path().join("inside")).unwrap();

    for link in ["out", "inside"] {
        let through = path(link).join(name("secret"));
        assert_eq!(root.dir(&path(link)).unwrap_err().kind(), FsErrorKind::NotADirectory);
        assert_eq!(root.parent(&through).unwrap_err().kind(), FsErrorKind::NotADirectory);
        assert!(root.stat(&through).unwrap_err().is_absent());
        let opened = root.top().open_dir(&name(link));
        assert_eq!(opened.unwrap_err().kind(), FsErrorKind::NotADirectory);
    }
    assert_eq!(root.stat(&path("out")).unwrap().kind, StatKind::Symlink);
}

#[test]
fn a_directory_replaced_by_a_symlink_is_not_followed() {
    let (directory, root) = folder();
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("d")).unwrap();
    let held = root.dir(&path("d")).unwrap();
    fs::rename(directory.path().join("d"), directory.path().join("moved")).unwrap();
    symlink(outside.path(), directory.path().join("d")).unwrap();

    // The descriptor goes on naming the directory that was opened.
    held.make_dir(b"made", Permissions::from_mode(0o755)).unwrap();
    assert!(directory.path().join("moved/made").is_dir());
    assert!(root.parent(&path("d/x")).is_err());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn names_that_would_lead_out_are_refused() {
    let (_directory, root) = folder();
    let top = root.top();
    for bad in [&b""[..], b".", b"..", b"a/b", b"../x", b"/etc", b"a\0b"] {
        let kind = FsErrorKind::NotRepresentable;
        assert_eq!(top.stat(bad).unwrap_err().kind(), kind, "{bad:?}");
        assert_eq!(top.open_file(bad).unwrap_err().kind(), kind);
        assert_eq!(top.unlink(bad).unwrap_err().kind(), kind);
        assert_eq!(top.make_symlink(b"x", bad).unwrap_err().kind(), kind);
        assert_eq!(top.make_dir(bad, Permissions::from_mode(0o755)).unwrap_err().kind(), kind);
        assert_eq!(top.rename(b"a", top, bad).unwrap_err().kind(), kind);
        assert_eq!(top.rename(bad, top, b"a").unwrap_err().kind(), kind);
        assert_eq!(top.set_mtime(bad, Mtime::default()).unwrap_err().kind(), kind);
    }
}

#[test]
fn only_regular_files_are_opened_and_nothing_hangs() {
    let (directory, root) = folder();
    fifo(&directory.path().join("fifo"));
    fs::create_dir(directory.path().join("dir")).unwrap();
    fs::write(directory.path().join("file"), "content").unwrap();
    symlink("file", directory.path().join("link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(directory.path().join("socket")).unwrap();

    let kind = |name: &[u8]| root.top().open_file(name).unwrap_err().kind();
    assert_eq!(kind(b"fifo"), FsErrorKind::NotAFile);
    assert_eq!(kind(b"dir"), FsErrorKind::NotAFile);
    assert_eq!(kind(b"socket"), FsErrorKind::NotAFile);
    assert_eq!(kind(b"link"), FsErrorKind::NotADirectory);
    assert_eq!(kind(b"none"), FsErrorKind::NotFound);
    let (mut file, stat) = root.top().open_file(b"file").unwrap();
    let mut content = String::new();
    file.read_to_string(&mut content).unwrap();
    assert_eq!((content.as_str(), stat.size, stat.kind), ("content", 7, StatKind::File));
    assert_eq!(root.stat(&path("fifo")).unwrap().kind, StatKind::Other("FIFO"));
    assert_eq!(root.top().read_link(b"link").unwrap(), b"file");
    assert_eq!(root.top().read_link(b"file").unwrap_err().kind(), FsErrorKind::NotRepresentable);
}

#[test]
fn absent_is_told_from_unreachable() {
    let (directory, root) = folder();
    fs::write(directory.path().join("file"), "").unwrap();
    assert_eq!(root.stat(&path("none")).unwrap_err().kind(), FsErrorKind::NotFound);
    assert_eq!(root.stat(&path("none/x")).unwrap_err().kind(), FsErrorKind::NotFound);
    assert_eq!(root.stat(&path("file/x")).unwrap_err().kind(), FsErrorKind::NotADirectory);
    let long = vec![b'n'; 300];
    let error = root.top().stat(&long).unwrap_err();
    assert_eq!(error.kind(), FsErrorKind::NameTooLong);
    assert!(!error.is_absent());
    assert!(error.in_words().contains("stat"), "{}", error.in_words());
}

#[test]
fn temporaries_are_reserved_private_and_renamed_into_place() {
    let (directory, root) = folder();
    fs::create_dir(directory.path().join("d")).unwrap();
    fs::write(directory.path().join("d/f"), "old").unwrap();
    let dir = root.dir(&path("d")).unwrap();
    let mut temporary = dir.create_temp().unwrap();
    assert!(matches!(Name::new(&temporary.name), Err(ark_core::NameError::Reserved(_))));
    let stat = dir.stat(&temporary.name).unwrap();
    assert_eq!(stat.permissions().bits(), 0o600);
    temporary.file.write_all(b"new").unwrap();

    let taken = dir.rename_new(&temporary.name, &dir, b"f").unwrap_err();
    assert_eq!(taken.kind(), FsErrorKind::Exists);
    dir.exchange(&temporary.name, &dir, b"f").unwrap();
    assert_eq!(fs::read_to_string(directory.path().join("d/f")).unwrap(), "new");
    dir.rename_new(&temporary.name, root.top(), b"displaced").unwrap();
    assert_eq!(fs::read_to_string(directory.path().join("displaced")).unwrap(), "old");
    root.top().rename(b"displaced", &dir, b"f").unwrap();
    assert_eq!(fs::read_to_string(directory.path().join("d/f")).unwrap(), "old");
    assert_eq!(dir.exchange(b"f", &dir, b"none").unwrap_err().kind(), FsErrorKind::NotFound);
    dir.sync().unwrap();
    root.sync_file_system().unwrap();
}

#[test]
fn removing_tells_files_from_directories() {
    let (directory, root) = folder();
    fs::create_dir_all(directory.path().join("full/inner")).unwrap();
    fs::write(directory.path().join("file"), "").unwrap();
    let top = root.top();
    assert_eq!(top.remove_dir(b"full").unwrap_err().kind(), FsErrorKind::NotEmpty);
    assert_eq!(top.remove_dir(b"file").unwrap_err().kind(), FsErrorKind::NotADirectory);
    assert_eq!(top.unlink(b"full").unwrap_err().kind(), FsErrorKind::NotAFile);
    root.dir(&path("full")).unwrap().remove_dir(b"inner").unwrap();
    top.remove_dir(b"full").unwrap();
    top.unlink(b"file").unwrap();
    assert_eq!(top.unlink(b"file").unwrap_err().kind(), FsErrorKind::NotFound);
    assert_eq!(top.entries().unwrap(), []);
}

#[test]
fn modes_change_without_following_and_special_bits_stay() {
    let (directory, root) = folder();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("file"), "").unwrap();
    fs::create_dir(at("dir")).unwrap();
    fs::set_permissions(at("dir"), fs::Permissions::from_mode(0o2755)).unwrap();
    symlink("file", at("link")).unwrap();
    fifo(&at("fifo"));

    let top = root.top();
    top.set_permissions(b"file", Permissions::from_mode(0o000)).unwrap();
    assert_eq!(top.stat(b"file").unwrap().permissions().bits(), 0);
    top.set_permissions(b"file", Permissions::from_mode(0o640)).unwrap();
    top.set_permissions(b"dir", Permissions::from_mode(0o700)).unwrap();
    assert_eq!(fs::metadata(at("dir")).unwrap().mode() & 0o7777, 0o2700);
    let through = top.set_permissions(b"link", Permissions::from_mode(0o777)).unwrap_err();
    assert_eq!(through.kind(), FsErrorKind::NotADirectory);
    assert_eq!(fs::metadata(at("file")).unwrap().mode() & 0o7777, 0o640);
    let special = top.set_permissions(b"fifo", Permissions::from_mode(0o777)).unwrap_err();
    assert_eq!(special.kind(), FsErrorKind::NotAFile);
}

#[test]
fn times_are_set_on_the_link_itself() {
    let (directory, root) = folder();
    fs::write(directory.path().join("file"), "").unwrap();
    root.top().make_symlink(b"file", b"link").unwrap();
    let before = root.top().stat(b"file").unwrap();
    let time = Mtime { seconds: 981_173_106, nanos: 123_456_789 };
    root.top().set_mtime(b"link", time).unwrap();
    assert_eq!(root.top().stat(b"link").unwrap().mtime, time);
    assert!(root.top().stat(b"file").unwrap().unchanged(&before));
    let early = Mtime { seconds: -5, nanos: 1 };
    root.top().set_mtime(b"file", early).unwrap();
    let after = root.top().stat(b"file").unwrap();
    assert_eq!(after.mtime, early);
    assert!(!after.unchanged(&before) && after.same_object(&before));
}

#[test]
fn any_change_shows_in_the_stat_where_the_clock_tells() {
    let (directory, root) = folder();
    let at = directory.path().join("f");
    fs::write(&at, "one").unwrap();
    let before = root.stat(&path("f")).unwrap();
    assert!(root.stat(&path("f")).unwrap().unchanged(&before));
    // Another file of the same size and mtime, renamed over it.
    fs::write(directory.path().join("g"), "two").unwrap();
    root.top().set_mtime(b"g", before.mtime).unwrap();
    fs::rename(directory.path().join("g"), &at).unwrap();
    let after = root.stat(&path("f")).unwrap();
    assert_eq!((after.size, after.mtime), (before.size, before.mtime));
    assert!(!after.unchanged(&before));
}

#[test]
fn a_replaced_root_is_noticed() {
    let parent = tempfile::tempdir().unwrap();
    let at = parent.path().join("folder");
    fs::create_dir(&at).unwrap();
    let root = Root::open(&at).unwrap();
    assert!(root.in_place().unwrap());
    fs::rename(&at, parent.path().join("elsewhere")).unwrap();
    assert!(!root.in_place().unwrap());
    fs::create_dir(&at).unwrap();
    assert!(!root.in_place().unwrap());
    assert_eq!(Root::open(&at.join("none")).unwrap_err().kind(), FsErrorKind::NotFound);
}

#[test]
fn paths_longer_than_the_kernel_takes_at_once_are_reached() {
    let (_directory, root) = folder();
    let mut dir = root.top().clone();
    let step = name(&"n".repeat(100));
    for _ in 0..60 {
        dir.make_dir(step.as_bytes(), Permissions::from_mode(0o755)).unwrap();
        dir = dir.open_dir(&step).unwrap();
    }
    let far = RelPath::from(vec![step; 60]);
    assert_eq!(root.dir(&far).unwrap().path(), &far);
    assert_eq!(root.stat(&far).unwrap().kind, StatKind::Directory);
    let (parent, _) = root.parent(&far).unwrap();
    assert_eq!(parent.entries().unwrap().len(), 1);
}

#[test]
fn listings_have_names_as_bytes_with_their_kinds() {
    use std::os::unix::ffi::OsStrExt as _;
    let (directory, root) = folder();
    fs::create_dir(directory.path().join("dir")).unwrap();
    let raw = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    fs::write(directory.path().join(raw), "").unwrap();
    symlink("x", directory.path().join("link")).unwrap();
    let mut entries = root.top().entries().unwrap();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let names: Vec<_> = entries.iter().map(|entry| entry.name.as_slice()).collect();
    assert_eq!(names, [&b"dir"[..], b"link", b"\xff\xfe"]);
    for entry in entries {
        let kind = root.top().stat(&entry.name).unwrap().kind;
        assert!(entry.kind.is_none_or(|told| told == kind));
    }
}

#[test]
fn a_clone_has_the_content_or_is_unsupported() {
    let (directory, root) = folder();
    fs::write(directory.path().join("f"), vec![7; 10_000]).unwrap();
    let (from, _) = root.top().open_file(b"f").unwrap();
    let mut to = root.top().create_temp().unwrap();
    match clone_content(&from, &to.file) {
        Ok(()) => {
            let mut content = Vec::new();
            to.file.read_to_end(&mut content).unwrap();
            assert_eq!(content, vec![7; 10_000]);
        }
        Err(error) => assert_eq!(error.kind(), FsErrorKind::Unsupported),
    }
}

#[test]
fn room_is_measured_and_temporary_names_differ() {
    let (_directory, root) = folder();
    let space = root.space().unwrap();
    assert!(space.free > 0 && space.free <= space.total);
    assert_ne!(temporary_name(), temporary_name());
    root.granularity();
    assert_eq!(root.top().entries().unwrap(), [], "the probe left nothing behind");
}
