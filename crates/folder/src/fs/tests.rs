//! What cannot be seen from outside: the way through a tree on a kernel without `openat2`, and
//! when a time stamp proves something.

use std::os::unix::fs::symlink;
use std::path::Path;

use ark_core::{Mtime, Name, RelPath};
use rustix::fs::{CWD, Mode};

use super::dir::{DIRECTORY, Shared};
use super::{Dir, FsErrorKind, Granularity, Stat, StatKind};

fn stepwise(path: &Path) -> Dir {
    let fd = rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty()).unwrap();
    let dev = Stat::from_system(&rustix::fs::fstat(&fd).unwrap()).dev;
    Dir::new(fd, RelPath::root(), Shared { dev, beneath: false, gate: None })
}

#[test]
fn name_by_name_no_symlink_is_followed_either() {
    let directory = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(directory.path().join("a/b")).unwrap();
    std::fs::write(directory.path().join("file"), "").unwrap();
    symlink(outside.path(), directory.path().join("a/out")).unwrap();
    symlink(directory.path().join("a"), directory.path().join("link")).unwrap();
    let dir = stepwise(directory.path());
    let path = |text: &str| RelPath::parse(text.as_bytes()).unwrap();

    assert_eq!(dir.descend(&path("a/b")).unwrap().path(), &path("a/b"));
    for text in ["a/out", "link", "link/b", "file"] {
        let error = dir.descend(&path(text)).unwrap_err();
        assert_eq!(error.kind(), FsErrorKind::NotADirectory, "{text}");
    }
    assert_eq!(dir.descend(&path("a/none")).unwrap_err().kind(), FsErrorKind::NotFound);
}

#[test]
fn directories_of_another_device_are_not_entered() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("d")).unwrap();
    let mut dir = stepwise(directory.path());
    let name = Name::new(b"d").unwrap();
    assert!(dir.open_dir(&name).is_ok());
    dir.pretend_device(u64::MAX);
    assert_eq!(dir.open_dir(&name).unwrap_err().kind(), FsErrorKind::OtherDevice);
}

#[test]
fn a_hash_soon_after_a_change_is_not_settled() {
    let at = |seconds, nanos| Mtime { seconds, nanos };
    let stat = |ctime| Stat {
        kind: StatKind::File,
        dev: 1,
        ino: 1,
        size: 1,
        mode: 0o100_644,
        mtime: at(0, 0),
        ctime,
    };
    let tick = Granularity::tick();
    let fine = stat(at(100, 500_000_000));
    assert!(!tick.settled(&fine, at(100, 500_000_000)));
    assert!(!tick.settled(&fine, at(100, 515_000_000)));
    assert!(!tick.settled(&fine, at(100, 495_000_000)), "a clock that was put back a little");
    assert!(tick.settled(&fine, at(100, 530_000_000)));
    assert!(tick.settled(&fine, at(50, 0)), "a change of the future is not met again");
    let coarse = stat(at(100, 0));
    assert!(!tick.settled(&coarse, at(101, 900_000_000)));
    assert!(tick.settled(&coarse, at(102, 100_000_000)));
    assert!(Granularity::exact().settled(&fine, at(100, 500_000_000)));
}
