//! Puts a temporary, or a file from elsewhere in the folder, where it is wanted.

use ark_core::RelPath;

use super::content::{self, Made};
use super::{Batch, Outcome, Stopped, has_permissions, same_content};
use crate::base::{BaseRead, Hold, Record, Retry};
use crate::fs::{Dir, FsError, FsErrorKind, Stat, StatKind};
use crate::plan::Action;
use crate::scan::FoundNode;
use crate::wants::Want;

impl<B: BaseRead> Batch<'_, B> {
    /// Gives what a [`Action::Write`] wrote its name.
    pub(super) fn place(&mut self, action: &Action, made: &Made) -> Result<Outcome, Stopped> {
        let Action::Write { path, want } = action else {
            content::remove(&made.dir, &made.name);
            return Ok(Outcome::Dirty(action.paths().cloned().collect()));
        };
        let placed = self.try_place(path, want, made);
        if placed.is_err() {
            content::remove(&made.dir, &made.name);
        }
        placed
    }

    fn try_place(&mut self, path: &RelPath, want: &Want, made: &Made) -> Result<Outcome, Stopped> {
        let name = last_name(path);
        match self.expected(path)? {
            None => move_to_free(&made.dir, &made.name, &made.dir, path)?,
            Some(expected) if expected.kind == StatKind::Directory => {
                // Its removal was planned before and left it there: what it holds is not ark's.
                let reason = format!(
                    "{path:?} is wanted as a file, but a directory that holds \
                    files that are not synced is in its place"
                );
                return Err(Stopped::Failed(Retry { hold: Hold::Skipped, reason }));
            }
            Some(expected) => {
                unchanged(&made.dir, name, &expected, path)?;
                replace(&made.dir, &made.name, &made.stat, name, &expected, path)?;
            }
        }
        self.touch(path);
        Ok(Outcome::Done(vec![self.placed(path, want, &made.dir, &made.stat)?]))
    }

    /// The stat that base has for a path.
    pub(super) fn expected(&self, path: &RelPath) -> Result<Option<Stat>, Stopped> {
        match self.disk.get(path)? {
            None => Ok(None),
            Some(Record { cache: Some(cache), .. }) => Ok(Some(cache.stat)),
            Some(Record { cache: None, .. }) => Err(Stopped::Dirty(vec![path.clone()])),
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
        &self,
        path: &RelPath,
        want: &Want,
        dir: &Dir,
        moved: &Stat,
    ) -> Result<(RelPath, Option<Record>), Stopped> {
        let name = last_name(path);
        if has_permissions(want.node) && moved.permissions() != want.permissions {
            dir.set_permissions(name, want.permissions)?;
        }
        let mut made = *moved;
        if moved.mtime != want.mtime {
            dir.set_mtime(name, want.mtime)?;
            made.mtime = want.mtime;
            // A file system that keeps coarser times says so now.
            let stat = dir.stat(name)?;
            if stat.mtime.seconds.abs_diff(want.mtime.seconds) <= COARSEST_MTIME_SECONDS {
                made.mtime = stat.mtime;
            }
        }
        self.placed(path, want, dir, &made)
    }

    /// Notes that names in the directory of `path` were changed.
    pub(super) fn touch(&mut self, path: &RelPath) {
        if let Some((parent, _)) = path.split_last() {
            self.touched.insert(parent);
        }
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

/// Puts the temporary in the place of what base says is there, which stays if it is not.
fn replace(
    dir: &Dir,
    temporary: &[u8],
    made: &Stat,
    name: &[u8],
    expected: &Stat,
    path: &RelPath,
) -> Result<(), Stopped> {
    match dir.exchange(temporary, dir, name) {
        Ok(()) => {}
        // Between the look and this rename an edit may be lost: these file systems give no means.
        Err(error) if error.kind() == FsErrorKind::Unsupported => {
            return Ok(dir.rename(temporary, dir, name)?);
        }
        Err(error) => return Err(error.into()),
    }
    if dir.stat(temporary).is_ok_and(|displaced| same_content(&displaced, expected)) {
        content::remove(dir, temporary);
        return Ok(());
    }
    put_back(dir, temporary, made, name)?;
    Err(Stopped::Dirty(vec![path.clone()]))
}

/// Undoes an exchange that displaced an edit made in the last moment. If in this moment another
/// file was renamed over ours, that one replaced the edit for good, as it would have without us.
/// Afterwards `temporary` is what nobody needs.
fn put_back(dir: &Dir, temporary: &[u8], made: &Stat, name: &[u8]) -> Result<(), FsError> {
    dir.exchange(temporary, dir, name)?;
    if dir.stat(temporary).is_ok_and(|stat| !stat.same_object(made)) {
        dir.exchange(temporary, dir, name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Root;

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

    /// Another file was renamed over ours in the moment of putting back: it replaced the edit.
    #[test]
    fn a_file_renamed_over_ours_meanwhile_wins() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path()).unwrap();
        std::fs::write(folder.path().join("displaced"), "edit").unwrap();
        std::fs::write(folder.path().join("f"), "renamed over ours").unwrap();
        let ours = root.top().create_temp().unwrap();
        let made = root.top().stat(&ours.name).unwrap();
        put_back(root.top(), b"displaced", &made, b"f").unwrap();
        assert_eq!(std::fs::read(folder.path().join("f")).unwrap(), b"renamed over ours");
    }
}
