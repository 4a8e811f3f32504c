//! Makes durable in the folder what a scan saw there, before base says that it is so.
//!
//! Programs seldom sync what they write. If base were durable and the file not, a power cut would
//! make of it a deletion, or an edit back to nothing, that nobody made; of a deletion a new file.

use std::collections::BTreeSet;

use ark_core::RelPath;

use crate::fs::{FsError, FsErrorKind, Root};
use crate::scan::{FoundNode, ScanResult};

/// Up to this many files and directories are synced one by one; more by one sync of the whole
/// file system, which also waits for what others wrote there.
const MAX_SINGLE_SYNCS: usize = 32;

/// Files and directories that were changed and are perhaps not durable. Remembers no more of them
/// than are synced one by one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Unsynced {
    files: BTreeSet<RelPath>,
    directories: BTreeSet<RelPath>,
}

impl Unsynced {
    /// The content, bits or times of a file were changed.
    pub(crate) fn file(&mut self, path: RelPath) {
        if !self.is_many() {
            self.files.insert(path);
        }
    }

    /// The names in a directory, or its bits, were changed.
    pub(crate) fn directory(&mut self, path: RelPath) {
        if !self.is_many() {
            self.directories.insert(path);
        }
    }

    fn is_many(&self) -> bool {
        self.files.len() + self.directories.len() > MAX_SINGLE_SYNCS
    }

    /// Syncs all of them. What went meanwhile is no error: a scan finds it gone. Blocking.
    ///
    /// # Errors
    /// The device failed: base must not be told.
    pub(crate) fn sync(&self, root: &Root) -> Result<(), FsError> {
        if self.is_many() {
            return root.sync_file_system();
        }
        self.files.iter().try_for_each(|path| sync_file(root, path))?;
        self.directories.iter().try_for_each(|path| sync_nearest(root, path))
    }
}

/// Syncs what `result` says of the folder at `root`. Blocking.
///
/// # Errors
/// As [`Unsynced::sync`].
pub(crate) fn sync(root: &Root, result: &ScanResult) -> Result<(), FsError> {
    unsynced(result).sync(root)
}

fn unsynced(result: &ScanResult) -> Unsynced {
    let mut unsynced = Unsynced::default();
    for (path, found) in &result.found {
        match found.node {
            FoundNode::File { .. } => unsynced.file(path.clone()),
            FoundNode::Directory => unsynced.directory(path.clone()),
            // Its content is in the directory, or is written with it.
            FoundNode::Symlink { .. } => {}
        }
        if let Some((directory, _)) = path.split_last() {
            unsynced.directory(directory);
        }
    }
    let mut within: Option<&RelPath> = None;
    for path in &result.gone {
        // What was in a directory that is gone went with it.
        if within.is_none_or(|gone| !path.starts_with(gone)) {
            if let Some((directory, _)) = path.split_last() {
                unsynced.directory(directory);
            }
            within = Some(path);
        }
    }
    unsynced
}

fn sync_file(root: &Root, path: &RelPath) -> Result<(), FsError> {
    let synced = root.parent(path).and_then(|(dir, name)| dir.sync_file(name.as_bytes()));
    match synced {
        Err(error) if error.is_absent() || error.kind() == FsErrorKind::NotAFile => Ok(()),
        // It cannot be opened: it is made durable all the same.
        Err(error) if error.kind() == FsErrorKind::Denied => root.sync_file_system(),
        other => other,
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
        let expected = Unsynced { files: [path("a/f")].into(), directories: directories.collect() };
        assert_eq!(unsynced(&result), expected);
    }

    #[test]
    fn many_are_synced_at_once() {
        let many = |count: usize| (0..count).map(|number| path(&format!("d{number}/f")));
        let found = |count| many(count).map(|path| (path, file())).collect();
        let of_found = |count| ScanResult { found: found(count), ..ScanResult::default() };
        assert!(!unsynced(&of_found(16)).is_many());
        assert!(unsynced(&of_found(17)).is_many());
        let of_gone = |count| ScanResult { gone: many(count).collect(), ..ScanResult::default() };
        assert!(!unsynced(&of_gone(32)).is_many());
        assert!(unsynced(&of_gone(33)).is_many());
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
