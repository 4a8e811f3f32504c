//! Puts a temporary, or a file from elsewhere in the folder, where it is wanted.

use ark_core::RelPath;

use super::aside::{name_beside, take_aside};
use super::content::{self, Made};
use super::{Batch, Outcome, Stopped, Touched, has_permissions, same_content};
use crate::base::{BaseRead, Hold, Record, Retry};
use crate::fs::{Dir, FsError, FsErrorKind, Stat, StatKind};
use crate::plan::Action;
use crate::scan::FoundNode;
use crate::wants::Want;

impl<B: BaseRead> Batch<'_, B> {
    /// Gives what a [`Action::Write`] wrote its name.
    pub(super) fn place(&mut self, action: &Action, made: &Made) -> Result<Outcome, Stopped> {
        let placed = match action {
            Action::Write { path, want } => self.try_place(path, want, made),
            _ => Err(Stopped::Dirty(action.paths().cloned().collect())),
        };
        // Only if it is still what was written: see `replace`.
        let is_ours = || made.dir.stat(&made.name).is_ok_and(|now| now.same_object(&made.stat));
        if placed.is_err() && is_ours() {
            content::remove(&made.dir, &made.name);
        }
        placed
    }

    fn try_place(&mut self, path: &RelPath, want: &Want, made: &Made) -> Result<Outcome, Stopped> {
        let (dir, name) = self.parent(path)?;
        if !dir.stat_self()?.same_object(&made.dir.stat_self()?) {
            // It was moved away while the content was written, perhaps out of the folder.
            let directory = dir.path().clone();
            return Err(Stopped::Dirty(vec![directory, path.clone()]));
        }
        match self.expected(path)? {
            None => move_to_free(&made.dir, &made.name, &made.dir, path)?,
            // Its removal was planned before and left it there: what it holds is not ark's.
            Some(expected) if expected.kind == StatKind::Directory => {
                return Err(covered_by_directory(path));
            }
            Some(expected) => {
                unchanged(&made.dir, name, &expected, path)?;
                replace(&made.dir, &made.name, &made.stat, name, &expected, path)?;
            }
        }
        self.touch(path, &made.dir);
        Ok(Outcome::Done(vec![self.placed(path, want, &made.dir, &made.stat)?]))
    }

    /// The stat that base has for a path. One that another change may have left alike proves
    /// nothing: a scan has to look at the content first.
    pub(super) fn expected(&self, path: &RelPath) -> Result<Option<Stat>, Stopped> {
        match self.disk.get(path)? {
            None => Ok(None),
            Some(Record { cache: Some(cache), .. }) if cache.settled => Ok(Some(cache.stat)),
            Some(_) => Err(Stopped::Dirty(vec![path.clone()])),
        }
    }

    /// The record of what was just put at `path`, if it is still there as it was made.
    pub(super) fn placed(
        &self,
        path: &RelPath,
        want: &Want,
        dir: &Dir,
        made: &Stat,
    ) -> Result<(RelPath, Option<Record>), Stopped> {
        let stat = dir.stat(last_name(path))?;
        if !same_content(&stat, made) {
            return Err(Stopped::Dirty(vec![path.clone()]));
        }
        let record = Record {
            behind: want.behind.clone(),
            node: want.node,
            permissions: want.permissions,
            mtime: if want.node == FoundNode::Directory { want.mtime } else { stat.mtime },
            cache: Some(self.cache(stat)),
        };
        Ok((path.clone(), Some(record)))
    }

    /// Sets bits and mtime of a file that was moved to `path`, and gives its record.
    pub(super) fn dress(
        &mut self,
        path: &RelPath,
        want: &Want,
        dir: &Dir,
        moved: &Stat,
    ) -> Result<(RelPath, Option<Record>), Stopped> {
        let name = last_name(path);
        let new_bits = has_permissions(want.node) && moved.permissions() != want.permissions;
        if new_bits {
            dir.set_permissions(name, want.permissions)?;
        }
        let mut made = *moved;
        if moved.mtime != want.mtime {
            self.unsynced.file(path.clone());
            dir.set_mtime(name, want.mtime)?;
            made.mtime = want.mtime;
            // A file system that keeps coarser times says so now.
            let stat = dir.stat(name)?;
            if stat.mtime.seconds.abs_diff(want.mtime.seconds) <= COARSEST_MTIME_SECONDS {
                made.mtime = stat.mtime;
            }
        }
        let (path, record) = self.placed(path, want, dir, &made)?;
        if new_bits && let Some(record) = record.clone() {
            self.set_bits(&path, Record { permissions: moved.permissions(), ..record });
        }
        Ok((path, record))
    }

    /// Notes that the bits of the file at `path` were set: if that cannot be made durable it is to
    /// be as `before` again.
    pub(super) fn set_bits(&mut self, path: &RelPath, before: Record) {
        self.unsynced.file(path.clone());
        self.before_bits.insert(path.clone(), before);
    }

    /// Notes that names in `dir`, the directory of `path`, were changed.
    pub(super) fn touch(&mut self, path: &RelPath, dir: &Dir) {
        let Some((parent, _)) = path.split_last() else { return };
        self.unsynced.directory(parent.clone());
        let now = dir.stat_self();
        let touched = match (now, self.touched.get(&parent)) {
            (Ok(now), None) => Touched::One(now),
            (Ok(now), Some(Touched::One(then))) if now.same_object(then) => return,
            _ => Touched::Several,
        };
        self.touched.insert(parent, touched);
    }
}

/// FAT keeps modification times to two seconds.
const COARSEST_MTIME_SECONDS: u64 = 2;

pub(super) fn last_name(path: &RelPath) -> &[u8] {
    path.names().last().map_or(&[], |name| name.as_bytes())
}

/// Moves `name` in `from` to `path` in `to`, where base has nothing.
pub(super) fn move_to_free(
    from: &Dir,
    name: &[u8],
    to: &Dir,
    path: &RelPath,
) -> Result<(), Stopped> {
    let to_name = last_name(path);
    match from.rename_new(name, to, to_name) {
        Err(error) if error.kind() == FsErrorKind::Unsupported => {
            match to.stat(to_name) {
                Err(error) if error.kind() == FsErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
                Ok(_) => return Err(taken(to, path)),
            }
            Ok(from.rename(name, to, to_name)?)
        }
        // Names that differ only in case or normalisation may be one name here.
        Err(error) if error.kind() == FsErrorKind::Exists => {
            match (from.stat(name), to.stat(to_name)) {
                (Ok(a), Ok(b)) if a.same_object(&b) && a.kind != StatKind::Directory => {
                    Ok(from.rename(name, to, to_name)?)
                }
                _ => Err(taken(to, path)),
            }
        }
        other => Ok(other?),
    }
}

/// What is at a path is not what base says.
pub(super) fn unchanged(
    dir: &Dir,
    name: &[u8],
    expected: &Stat,
    path: &RelPath,
) -> Result<(), Stopped> {
    match dir.stat(name) {
        Ok(stat) if stat.unchanged(expected) => Ok(()),
        Ok(_) => Err(Stopped::Dirty(vec![path.clone()])),
        Err(error) => Err(error.into()),
    }
}

/// Something is where nothing should be: a local file not yet seen, or a name that this file
/// system does not tell from another one, or something that ark does not sync.
pub(super) fn taken(dir: &Dir, path: &RelPath) -> Stopped {
    let name = last_name(path);
    let skipped = |reason| Stopped::Failed(Retry { hold: Hold::Skipped, reason });
    match dir.stat(name) {
        Ok(Stat { kind: StatKind::Other(what), .. }) => {
            skipped(format!("{path:?} cannot be written: a {what} is in its place"))
        }
        Ok(Stat { kind: StatKind::Directory, .. }) => covered_by_directory(path),
        Ok(_) => match dir.entries() {
            Ok(entries) if entries.iter().any(|entry| entry.name == name) => {
                Stopped::Dirty(vec![path.clone()])
            }
            Ok(_) => skipped(format!(
                "{path:?} cannot be written: this file system takes its name for that of another \
                 file, which differs only in case or in how characters are composed"
            )),
            Err(error) => error.into(),
        },
        Err(error) => error.into(),
    }
}

/// A directory is where a file is wanted. If it is new, a scan finds it and all is planned anew;
/// if it is ignored nothing ever comes of trying.
fn covered_by_directory(path: &RelPath) -> Stopped {
    let reason = format!(
        "{path:?} is wanted as a file, but a directory that holds files that are not synced is \
         in its place"
    );
    Stopped::Covered { path: path.clone(), reason }
}

/// Puts the temporary in the place of what base says is there, which stays if it is not.
fn replace(
    dir: &Dir,
    temporary: &[u8],
    made: &Stat,
    name: &[u8],
    expected: &Stat,
    path: &RelPath,
) -> Result<(), Stopped> {
    let aside = take_aside(dir, temporary, name, expected, Some(made))?;
    match dir.exchange(&aside, dir, name) {
        Ok(()) => {}
        // Between the look and this rename an edit may be lost: these file systems give no means.
        Err(error) if error.kind() == FsErrorKind::Unsupported => {
            return Ok(dir.rename(&aside, dir, name)?);
        }
        Err(error) => {
            dir.rename(&aside, dir, temporary)?;
            return Err(error.into());
        }
    }
    if dir.stat(&aside).is_ok_and(|displaced| same_content(&displaced, expected)) {
        content::remove(dir, &aside);
        return Ok(());
    }
    put_back(dir, &aside, made, name)?;
    if dir.stat(&aside).is_ok_and(|stat| stat.same_object(made)) {
        dir.rename(&aside, dir, temporary)?;
    }
    Err(Stopped::Dirty(vec![path.clone()]))
}

/// Undoes an exchange that displaced an edit made in the last moment. If it cannot be undone,
/// because in this moment something else happened to our file, the edit gets a name of its own.
fn put_back(dir: &Dir, temporary: &[u8], made: &Stat, name: &[u8]) -> Result<(), FsError> {
    match dir.exchange(temporary, dir, name) {
        Ok(()) if dir.stat(temporary).is_ok_and(|stat| stat.same_object(made)) => return Ok(()),
        // It replaced ours, not the edit: both stay.
        Ok(()) => dir.exchange(temporary, dir, name)?,
        Err(_) => {}
    }
    give_back(dir, temporary, name)
}

/// Gives a user's file that was taken aside its name back, or, if that is taken by now, one
/// beside it: under a reserved name it would never be seen again.
pub(super) fn give_back(dir: &Dir, aside: &[u8], name: &[u8]) -> Result<(), FsError> {
    let mut to_name = name.to_vec();
    for _ in 0..GIVE_BACK_TRIES {
        match dir.rename_new(aside, dir, &to_name) {
            Err(error) if error.kind() == FsErrorKind::Exists => {}
            // Without a way to tell in one step, the last look must do.
            Err(error) if error.kind() == FsErrorKind::Unsupported => match dir.stat(&to_name) {
                Err(error) if error.kind() == FsErrorKind::NotFound => {
                    return dir.rename(aside, dir, &to_name);
                }
                _ => {}
            },
            other => return other,
        }
        to_name = name_beside(name);
    }
    dir.rename(aside, dir, &to_name)
}

/// Tries to find a name that is free; a second one is never needed but by ill luck.
const GIVE_BACK_TRIES: usize = 8;

/// Removes the file `name` by way of a temporary name, so that it is looked at once it cannot be
/// replaced any more. What is not as expected gets its name back.
pub(super) fn discard(
    dir: &Dir,
    name: &[u8],
    expected: &Stat,
    path: &RelPath,
) -> Result<(), Stopped> {
    let aside = take_aside(dir, name, name, expected, None)?;
    if dir.stat(&aside).is_ok_and(|stat| same_content(&stat, expected)) {
        return Ok(dir.unlink(&aside)?);
    }
    give_back(dir, &aside, name)?;
    Err(Stopped::Dirty(vec![path.clone()]))
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;
    use crate::fs::{Gate, Root};

    /// What an edit between the last look and the exchange comes to.
    #[test]
    fn an_edit_that_was_displaced_is_put_back() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path()).unwrap();
        let path = RelPath::parse(b"f").unwrap();
        let target = folder.path().join("f");
        std::fs::write(&target, "before").unwrap();
        let seen = root.stat(&path).unwrap();
        std::fs::write(&target, "by the user").unwrap();
        let edited = root.stat(&path).unwrap();
        let temporary = root.top().create_temp().unwrap();
        let made = root.top().stat(&temporary.name).unwrap();
        let replaced = replace(root.top(), &temporary.name, &made, b"f", &seen, &path);
        assert!(matches!(replaced, Err(Stopped::Dirty(_))), "{replaced:?}");
        assert_eq!(std::fs::read(&target).unwrap(), b"by the user");
        assert!(root.stat(&path).unwrap().same_object(&edited));
        assert!(root.top().stat(&temporary.name).unwrap().same_object(&made));
        // And if it is as it was seen, it is replaced and nothing is left beside it.
        replace(root.top(), &temporary.name, &made, b"f", &edited, &path).unwrap();
        assert!(root.stat(&path).unwrap().same_object(&made));
        assert!(root.top().stat(&temporary.name).unwrap_err().is_absent());
    }

    /// Something else happened to our file in the moment of putting back.
    #[test]
    fn an_edit_that_cannot_be_put_back_gets_a_name_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path()).unwrap();
        let ours = root.top().create_temp().unwrap();
        let made = root.top().stat(&ours.name).unwrap();
        let contents = || {
            let entries = std::fs::read_dir(folder.path()).unwrap();
            let paths = entries.map(|entry| entry.unwrap().path());
            let seen = paths.filter(|path| !path.to_string_lossy().contains(".ark-"));
            let mut contents: Vec<_> =
                seen.map(|path| std::fs::read_to_string(path).unwrap()).collect();
            contents.sort();
            contents
        };
        // Renamed over.
        std::fs::write(folder.path().join(".ark-tmp-0"), "edit").unwrap();
        std::fs::write(folder.path().join("f"), "renamed over ours").unwrap();
        put_back(root.top(), b".ark-tmp-0", &made, b"f").unwrap();
        assert_eq!(std::fs::read(folder.path().join("f")).unwrap(), b"renamed over ours");
        assert_eq!(contents(), ["edit", "renamed over ours"]);
        // Removed.
        std::fs::write(folder.path().join(".ark-tmp-0"), "another edit").unwrap();
        std::fs::remove_file(folder.path().join("f")).unwrap();
        put_back(root.top(), b".ark-tmp-0", &made, b"f").unwrap();
        assert_eq!(std::fs::read(folder.path().join("f")).unwrap(), b"another edit");
        assert_eq!(contents(), ["another edit", "edit"]);
    }

    /// A root whose file system takes names of text only, and no longer ones than eCryptfs does.
    fn strict_root(folder: &std::path::Path) -> Root {
        let gate = Gate::new(|_, _, name| match std::str::from_utf8(name) {
            Err(_) => Err(Errno::ILSEQ),
            Ok(_) if name.len() > 143 => Err(Errno::NAMETOOLONG),
            Ok(_) => Ok(()),
        });
        Root::open_behind(folder, gate).unwrap()
    }

    #[test]
    fn files_of_long_names_are_replaced_and_given_back_wherever_they_can_be() {
        for length in 70..=143 {
            for character in ["x", "é", "€", "𝄞"] {
                let count = length / character.len();
                let name = "x".repeat(length % character.len()) + &character.repeat(count);
                let folder = tempfile::tempdir().unwrap();
                let root = strict_root(folder.path());
                let path = RelPath::parse(name.as_bytes()).unwrap();
                let target = folder.path().join(&name);
                let write = |content: &str| {
                    std::fs::write(&target, content).unwrap();
                    root.stat(&path).unwrap()
                };
                let seen = write("before");
                let temporary = root.top().create_temp().unwrap();
                let made = root.top().stat(&temporary.name).unwrap();
                replace(root.top(), &temporary.name, &made, name.as_bytes(), &seen, &path).unwrap();
                let seen = root.stat(&path).unwrap();
                write("by the user");
                let discarded = discard(root.top(), name.as_bytes(), &seen, &path);
                assert!(matches!(discarded, Err(Stopped::Dirty(_))), "{name}: {discarded:?}");
                assert_eq!(std::fs::read(&target).unwrap(), b"by the user");
                std::fs::write(folder.path().join(".ark-tmp-0"), "edit").unwrap();
                give_back(root.top(), b".ark-tmp-0", name.as_bytes()).unwrap();
                assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "{name}");
                let seen = root.stat(&path).unwrap();
                discard(root.top(), name.as_bytes(), &seen, &path).unwrap();
                assert!(!target.exists());
            }
        }
    }

    #[test]
    fn what_is_discarded_is_looked_at_first() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path()).unwrap();
        let path = RelPath::parse(b"f").unwrap();
        std::fs::write(folder.path().join("f"), "before").unwrap();
        let seen = root.stat(&path).unwrap();
        std::fs::write(folder.path().join("f"), "by the user").unwrap();
        assert!(discard(root.top(), b"f", &seen, &path).is_err());
        assert_eq!(std::fs::read(folder.path().join("f")).unwrap(), b"by the user");
        let seen = root.stat(&path).unwrap();
        discard(root.top(), b"f", &seen, &path).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
