//! Makes durable in the folder what a scan saw there, before base says that it is so.
//!
//! Programs seldom sync what they write. If base were durable and the file not, a power cut would
//! make of it a deletion, or an edit back to nothing, that nobody made; of a deletion a new file.

use std::collections::BTreeSet;
use std::io;

use ark_core::RelPath;

use crate::fs::{FsError, FsErrorKind, Root};
use crate::scan::{FoundNode, ScanResult};

/// Up to this many files and directories are synced one by one; more by one sync of the whole
/// file system, which also waits for what others wrote there.
const MAX_SINGLE_SYNCS: usize = 32;

/// What is to be synced.
#[derive(Debug, PartialEq, Eq)]
enum Extent {
    Each { files: Vec<RelPath>, directories: BTreeSet<RelPath> },
    FileSystem,
}

/// Syncs what `result` says of the folder at `root`. What went meanwhile is no error: another
/// scan finds it gone. Blocking.
///
/// # Errors
/// The device failed: base must not be told.
pub(crate) fn sync(root: &Root, result: &ScanResult) -> Result<(), FsError> {
    match extent(result) {
        Extent::FileSystem => root.sync_file_system(),
        Extent::Each { files, directories } => {
            for path in &files {
                sync_file(root, path)?;
            }
            directories.iter().try_for_each(|path| sync_nearest(root, path))
        }
    }
}

fn extent(result: &ScanResult) -> Extent {
    let mut files = Vec::new();
    let mut directories = BTreeSet::new();
    for (path, found) in &result.found {
        match found.node {
            FoundNode::File { .. } => files.push(path.clone()),
            FoundNode::Directory => {
                directories.insert(path.clone());
            }
            // Its content is in the directory, or is written with it.
            FoundNode::Symlink { .. } => {}
        }
        directories.extend(path.split_last().map(|(directory, _)| directory));
        if files.len() + directories.len() > MAX_SINGLE_SYNCS {
            return Extent::FileSystem;
        }
    }
    let mut within: Option<&RelPath> = None;
    for path in &result.gone {
        // What was in a directory that is gone went with it.
        if within.is_none_or(|gone| !path.starts_with(gone)) {
            directories.extend(path.split_last().map(|(directory, _)| directory));
            within = Some(path);
        }
        if files.len() + directories.len() > MAX_SINGLE_SYNCS {
            return Extent::FileSystem;
        }
    }
    Extent::Each { files, directories }
}

fn sync_file(root: &Root, path: &RelPath) -> Result<(), FsError> {
    let opened = root.parent(path).and_then(|(dir, name)| dir.open_file(name.as_bytes()));
    match opened {
        Ok((file, _)) => match file.sync_all() {
            // A file system that cannot.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            synced => synced.map_err(|source| FsError {
                operation: "sync",
                path: path.to_string(),
                source,
            }),
        },
        Err(error) if error.is_absent() || error.kind() == FsErrorKind::NotAFile => Ok(()),
        // It cannot be opened any more: what was read of it is made durable all the same.
        Err(_) => root.sync_file_system(),
    }
}

/// Syncs the directory at `path`, or where it is gone, too, the nearest one above that is there.
fn sync_nearest(root: &Root, path: &RelPath) -> Result<(), FsError> {
    let mut path = path.clone();
    loop {
        match root.dir(&path).and_then(|dir| dir.sync()) {
            Err(error) if error.is_absent() => match path.split_last() {
                Some((above, _)) => path = above,
                None => return Err(error),
            },
            Err(error) if error.kind() == FsErrorKind::Denied => return root.sync_file_system(),
            synced => return synced,
        }
    }
}

#[cfg(test)]
mod tests {
    use ark_core::{Content, Mtime, ObjectId, Permissions};

    use super::*;
    use crate::fs::{Stat, StatKind};
    use crate::scan::Found;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).expect("a path")
    }

    fn found(node: FoundNode) -> Found {
        let time = Mtime::default();
        let stat = Stat {
            kind: StatKind::File,
            dev: 1,
            ino: 2,
            size: 3,
            mode: 0o100_644,
            mtime: time,
            ctime: time,
        };
        let permissions = Permissions::from_mode(0o644);
        Found { node, permissions, mtime: time, stat, settled: true }
    }

    fn file() -> Found {
        found(FoundNode::File { content: Content::Raw(ObjectId::of(b"x")), size: 1 })
    }

    #[test]
    fn files_and_the_directories_that_name_them_are_synced() {
        let link = FoundNode::Symlink { target: ObjectId::of(b"x"), size: 1 };
        let result = ScanResult {
            found: [
                (path("a/f"), file()),
                (path("b"), found(FoundNode::Directory)),
                (path("c/link"), found(link)),
            ]
            .into(),
            gone: ["d/gone", "d/gone/x/y", "e/f"].map(path).to_vec(),
            ..ScanResult::default()
        };
        let directories = ["a", "b", "c", "d", "e"].map(path).into_iter().chain([RelPath::root()]);
        let expected =
            Extent::Each { files: vec![path("a/f")], directories: directories.collect() };
        assert_eq!(extent(&result), expected);
    }

    #[test]
    fn many_are_synced_at_once() {
        let many = |count: usize| (0..count).map(|number| path(&format!("d{number}/f")));
        let found = |count| many(count).map(|path| (path, file())).collect();
        let of_found = |count| ScanResult { found: found(count), ..ScanResult::default() };
        assert_ne!(extent(&of_found(16)), Extent::FileSystem);
        assert_eq!(extent(&of_found(17)), Extent::FileSystem);
        let of_gone = |count| ScanResult { gone: many(count).collect(), ..ScanResult::default() };
        assert_ne!(extent(&of_gone(32)), Extent::FileSystem);
        assert_eq!(extent(&of_gone(33)), Extent::FileSystem);
    }

    #[test]
    fn what_went_meanwhile_is_no_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = Root::open(directory.path()).expect("a root");
        std::fs::create_dir(directory.path().join("now")).expect("made");
        let result = ScanResult {
            found: [(path("a/f"), file()), (path("now"), file())].into(),
            gone: vec![path("b/c/d")],
            ..ScanResult::default()
        };
        sync(&root, &result).expect("synced");
    }
}
