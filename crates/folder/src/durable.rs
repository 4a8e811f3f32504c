//! Makes durable in the folder what a scan saw there, before base says that it is so.
//!
//! Programs seldom sync what they write. If base were durable and the file not, a power cut would
//! make of it a deletion, or an edit back to nothing, that nobody made; of a deletion a new file.

use std::collections::{BTreeMap, BTreeSet};

use ark_core::RelPath;

use crate::fs::{FsError, FsErrorKind, Root};
use crate::scan::{FoundNode, Kept, ScanResult};

/// Up to this many files and directories are synced one by one; more by one sync of the whole
/// file system, which also waits for what others wrote there.
pub(crate) const MAX_SINGLE_SYNCS: usize = 32;
/// Files are synced on so many threads besides: what a journal needs to commit them together.
const SYNC_THREADS: usize = 7;

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

    /// Syncs all but the files that are returned, with why they could not be. What went meanwhile
    /// is no error: a scan finds it gone. Blocking.
    ///
    /// # Errors
    /// It failed for more than single files: base must not be told.
    pub(crate) fn sync(&self, root: &Root) -> Result<Vec<(RelPath, FsError)>, FsError> {
        if self.is_many() {
            return root.sync_file_system().map(|()| Vec::new());
        }
        let files: Vec<&RelPath> = self.files.iter().collect();
        let mut failed = Vec::new();
        for (path, error) in sync_files(root, &files) {
            if error.kind() == FsErrorKind::Exhausted {
                return Err(error);
            }
            failed.push((path, error));
        }
        self.directories.iter().try_for_each(|path| sync_nearest(root, path))?;
        Ok(failed)
    }
}

/// Files that cannot be made durable, and why: they alone are not taken up.
pub(crate) type Unsyncable = BTreeMap<RelPath, String>;

/// Syncs what `result` says of the folder at `root`, all but the files that are returned.
/// Blocking.
///
/// # Errors
/// It failed for more than single files: base must not be told anything.
pub(crate) fn sync(root: &Root, result: &ScanResult) -> Result<Unsyncable, FsError> {
    let failed = unsynced(result).sync(root)?;
    Ok(failed.into_iter().map(|(path, error)| (path, error.source.to_string())).collect())
}

/// Takes `unsyncable` out of what was found: for them base and the others keep what they have.
pub(crate) fn leave_out(unsyncable: &Unsyncable, result: &mut ScanResult) {
    for (path, why) in unsyncable {
        if result.found.remove(path).is_some() {
            // Nor is the directory removed that was there before.
            result.gone.retain(|gone| !gone.starts_with(path));
            result.kept.insert(path.clone(), Kept::Unsyncable(why.clone()));
        }
    }
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

/// Syncs files on a few threads; those that could not be, and why.
fn sync_files(root: &Root, files: &[&RelPath]) -> Vec<(RelPath, FsError)> {
    let sync = |files: &[&RelPath]| -> Vec<(RelPath, FsError)> {
        let failed = |path: &&RelPath| Some(((*path).clone(), sync_file(root, path).err()?));
        files.iter().filter_map(failed).collect()
    };
    let (first, rest) = files.split_at(files.len().div_ceil(SYNC_THREADS + 1));
    std::thread::scope(|scope| {
        let threads: Vec<_> = rest
            .chunks(rest.len().div_ceil(SYNC_THREADS).max(1))
            .map(|chunk| scope.spawn(move || sync(chunk)))
            .collect();
        let mut failed = sync(first);
        for thread in threads {
            failed.extend(thread.join().expect("a sync does not panic"));
        }
        failed
    })
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
    use std::sync::{Arc, Mutex};

    use ark_core::{Content, Mtime, ObjectId, Permissions};
    use rustix::io::Errno;

    use super::*;
    use crate::fixtures::path;
    use crate::fs::{Gate, Stat, StatKind};
    use crate::scan::Found;

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
        assert_eq!(sync(&root, &result).expect("synced"), Unsyncable::new());
    }

    /// A folder with the file `a/f`, its root behind a gate that answers a sync of it by `errno`,
    /// and the names of all that was synced.
    fn refusing(errno: Errno) -> (tempfile::TempDir, Root, Arc<Mutex<Vec<String>>>) {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join("a")).expect("made");
        std::fs::write(directory.path().join("a/f"), "x").expect("written");
        std::fs::write(directory.path().join("a/g"), "x").expect("written");
        let synced = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&synced);
        let gate = Gate::new(move |operation, directory, name| {
            let name = String::from_utf8_lossy(name);
            log.lock().expect("whole").push(format!("{operation} {directory}/{name}"));
            if operation == "sync" && name == "f" { Err(errno) } else { Ok(()) }
        });
        let root = Root::open_behind(directory.path(), gate).expect("a root");
        (directory, root, synced)
    }

    fn two_files() -> ScanResult {
        let found = [(path("a/f"), file()), (path("a/g"), file())].into();
        ScanResult { found, ..ScanResult::default() }
    }

    #[test]
    fn a_file_that_cannot_be_synced_is_left_out_alone() {
        let (_directory, root, synced) = refusing(Errno::IO);
        let mut result = two_files();
        result.gone = vec![path("a/f/was/a/directory"), path("a/other")];
        let unsyncable = sync(&root, &result).expect("all the rest is synced");
        assert_eq!(unsyncable.keys().collect::<Vec<_>>(), [&path("a/f")]);
        let synced: BTreeSet<String> = synced.lock().expect("whole").iter().cloned().collect();
        assert_eq!(synced, ["sync a/", "sync a/f", "sync a/g"].map(str::to_owned).into());
        leave_out(&unsyncable, &mut result);
        assert_eq!(result.found.keys().collect::<Vec<_>>(), [&path("a/g")]);
        assert_eq!(result.gone, [path("a/other")]);
        assert_eq!(result.kept.keys().collect::<Vec<_>>(), [&path("a/f")]);
    }

    #[test]
    fn each_of_several_files_is_synced() {
        for count in [1, 2, 8, 9, 30] {
            let (directory, root, synced) = refusing(Errno::IO);
            let files: BTreeSet<String> = (0..count).map(|number| format!("a/{number}")).collect();
            for name in &files {
                std::fs::write(directory.path().join(name), "x").expect("written");
            }
            let found = files.iter().map(|name| (path(name), file())).collect();
            let result = ScanResult { found, ..ScanResult::default() };
            assert_eq!(sync(&root, &result).expect("synced"), Unsyncable::new());
            let mut synced: Vec<String> = synced.lock().expect("whole").clone();
            synced.sort();
            let expected = files.iter().map(|name| format!("sync {name}"));
            let expected = std::iter::once("sync a/".to_owned()).chain(expected);
            assert_eq!(synced, expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn where_files_cannot_be_synced_the_file_system_is() {
        for errno in [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP] {
            let (_directory, root, synced) = refusing(errno);
            assert_eq!(sync(&root, &two_files()).expect("synced"), Unsyncable::new());
            let synced = synced.lock().expect("whole");
            assert!(synced.iter().any(|one| one.starts_with("sync file system")), "{synced:?}");
        }
    }
}
