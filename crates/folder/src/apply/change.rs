//! The actions that write no content: directories, moves, removals, bits.

use std::ops::Bound;

use ark_core::{Name, RelPath};

use super::aside::take_aside;
use super::place::{discard, give_back, last_name, move_to_free, taken, unchanged};
use super::{Batch, Outcome, Stopped, same_content};
use crate::base::{BaseRead, Hold, Record, Retry};
use crate::fs::{Dir, FsErrorKind, Stat, StatKind};
use crate::plan::{Action, any_below, hides, working_bits};
use crate::scan::FoundNode;
use crate::wants::Want;

impl<B: BaseRead> Batch<'_, B> {
    pub(super) fn change(&mut self, action: &Action) -> Result<Outcome, Stopped> {
        match action {
            Action::Adopt { path, want } => self.adopt(path, want),
            Action::Forget { path } => Ok(Outcome::Done(vec![(path.clone(), None)])),
            Action::Open { path } => self.open(path),
            Action::MakeDirectory { path, want } => self.make_directory(path, want),
            Action::Move { from, to, want } => self.relocate(from, to, want),
            Action::Exchange { from, back, to, want } => self.exchange(from, back, to, want),
            Action::Remove { path } => self.remove(path),
            Action::RemoveDirectory { path } => self.remove_directory(path),
            Action::SetPermissions { path, want } => self.set_permissions(path, want),
            // Content is written for many at once, elsewhere.
            Action::Write { path, .. } => Ok(Outcome::Dirty(vec![path.clone()])),
        }
    }

    /// What is behind a path may only become more while it is there: what was deleted or moved
    /// away before would otherwise take along versions that its user never saw.
    fn adopt(&mut self, path: &RelPath, want: &Want) -> Result<Outcome, Stopped> {
        let (before, _, _) = self.as_base_says(path)?;
        let record = Record { behind: want.behind.clone(), ..before };
        Ok(Outcome::Done(vec![(path.clone(), Some(record))]))
    }

    fn open(&mut self, path: &RelPath) -> Result<Outcome, Stopped> {
        let (before, dir, _) = self.as_base_says(path)?;
        let (name, permissions) = (last_name(path), working_bits(before.permissions));
        match dir.set_permissions(name, permissions) {
            // Somebody else's. What is to be done in it may be allowed all the same.
            Err(error) if error.kind() == FsErrorKind::Denied => {
                return Ok(Outcome::Done(Vec::new()));
            }
            other => other?,
        }
        self.unsynced.directory(path.clone());
        let cache = Some(self.cache(dir.stat(name)?));
        Ok(Outcome::Done(vec![(path.clone(), Some(Record { permissions, cache, ..before }))]))
    }

    fn make_directory(&mut self, path: &RelPath, want: &Want) -> Result<Outcome, Stopped> {
        let (dir, name) = self.parent(path)?;
        let bits = working_bits(want.permissions);
        match dir.make_dir(name, bits) {
            Err(error) if error.kind() == FsErrorKind::Exists => return Err(taken(&dir, path)),
            other => other?,
        }
        // The umask does not decide what others' directories allow. Where nobody may change that
        // (set-group-id directories in some confinements) it is used as it is.
        match dir.set_permissions(name, bits) {
            Err(error) if error.kind() == FsErrorKind::Denied => {
                let retry = Retry { hold: Hold::Skipped, reason: error.in_words() };
                self.applied.retries.insert(path.clone(), retry);
            }
            other => other?,
        }
        self.touch(path, &dir);
        self.unsynced.directory(path.clone());
        let stat = dir.stat(name)?;
        let record = Record {
            behind: want.behind.clone(),
            node: FoundNode::Directory,
            permissions: stat.permissions(),
            mtime: want.mtime,
            cache: Some(self.cache(stat)),
        };
        Ok(Outcome::Done(vec![(path.clone(), Some(record))]))
    }

    fn relocate(&mut self, from: &RelPath, to: &RelPath, want: &Want) -> Result<Outcome, Stopped> {
        let Some(expected) = self.expected(from)? else {
            // An earlier action failed: the content is in the store, a later plan writes it.
            return Err(blocked());
        };
        let ((from_dir, from_name), (to_dir, to_name)) = (self.parent(from)?, self.parent(to)?);
        unchanged(&from_dir, from_name, &expected, from)?;
        let both = || vec![from.clone(), to.clone()];
        match self.expected(to)? {
            None => {
                move_to_free(&from_dir, from_name, &to_dir, to)?;
                let moved = to_dir.stat(to_name)?;
                if !same_content(&moved, &expected) {
                    // If this fails, an edited file stands under its new name: as good.
                    let _ = to_dir.rename_new(to_name, &from_dir, from_name);
                    return Err(Stopped::Dirty(both()));
                }
            }
            Some(there) => {
                unchanged(&to_dir, to_name, &there, to)?;
                match from_dir.exchange(from_name, &to_dir, to_name) {
                    Err(error) if error.kind() == FsErrorKind::Unsupported => {
                        from_dir.rename(from_name, &to_dir, to_name)?;
                    }
                    other => {
                        other?;
                        let is_as_planned =
                            to_dir.stat(to_name).is_ok_and(|s| same_content(&s, &expected))
                                && from_dir.stat(from_name).is_ok_and(|s| same_content(&s, &there));
                        if !is_as_planned {
                            from_dir.exchange(from_name, &to_dir, to_name)?;
                            return Err(Stopped::Dirty(both()));
                        }
                        discard(&from_dir, from_name, &there, from)?;
                    }
                }
            }
        }
        self.touch(from, &from_dir);
        self.touch(to, &to_dir);
        self.moved(&[from, to]);
        let stat = to_dir.stat(to_name)?;
        let mut records = vec![(from.clone(), None)];
        records.push(self.dress(to, want, &to_dir, &stat)?);
        Ok(Outcome::Done(records))
    }

    /// The names of these files are moved, whatever comes: until all is done base says nothing
    /// of them, and the next scan finds what the joined tree says.
    fn moved(&mut self, paths: &[&RelPath]) {
        for &path in paths {
            self.applied.records.insert(path.clone(), None);
            self.disk.now.insert(path.clone(), None);
        }
    }

    fn exchange(
        &mut self,
        from: &RelPath,
        back: &Want,
        to: &RelPath,
        want: &Want,
    ) -> Result<Outcome, Stopped> {
        let (Some(a), Some(b)) = (self.expected(from)?, self.expected(to)?) else {
            return Err(blocked());
        };
        let ((from_dir, from_name), (to_dir, to_name)) = (self.parent(from)?, self.parent(to)?);
        unchanged(&from_dir, from_name, &a, from)?;
        unchanged(&to_dir, to_name, &b, to)?;
        swap((&from_dir, from), (&to_dir, to), &a)?;
        let (at_to, at_from) = (to_dir.stat(to_name)?, from_dir.stat(from_name)?);
        if !same_content(&at_to, &a) || !same_content(&at_from, &b) {
            // If this fails, edited files stand under each other's names: as good.
            let _ = swap((&from_dir, from), (&to_dir, to), &b);
            return Err(Stopped::Dirty(vec![from.clone(), to.clone()]));
        }
        self.touch(from, &from_dir);
        self.touch(to, &to_dir);
        self.moved(&[from, to]);
        let records = vec![
            self.dress(from, back, &from_dir, &at_from)?,
            self.dress(to, want, &to_dir, &at_to)?,
        ];
        Ok(Outcome::Done(records))
    }

    fn remove(&mut self, path: &RelPath) -> Result<Outcome, Stopped> {
        let gone = || Ok(Outcome::Done(vec![(path.clone(), None)]));
        let Some(expected) = self.expected(path)? else { return gone() };
        let (dir, name) = match self.parent(path) {
            Err(error) if error.is_absent() => return gone(),
            other => other?,
        };
        match unchanged(&dir, name, &expected, path) {
            Err(Stopped::Fs(error)) if error.is_absent() => return gone(),
            other => other?,
        }
        self.stands_beside(path)?;
        discard(&dir, name, &expected, path)?;
        self.touch(path, &dir);
        gone()
    }

    /// What a copy shows is at the name of its entry, too, if base says so: a copy goes only while
    /// that is there. Whoever took that away just now sees the copy still, and if all that base
    /// knows of both were lost now its absence would be taken for a deletion.
    fn stands_beside(&mut self, path: &RelPath) -> Result<(), Stopped> {
        let Some(copy) = self.disk.get(path)? else { return Ok(()) };
        let Some((directory, name)) = path.split_last() else { return Ok(()) };
        let plain = directory.join(copy.behind.name.clone());
        let is_copied = |record: Record| record.node == copy.node;
        if copy.behind.name == *name || !self.disk.get(&plain)?.is_some_and(is_copied) {
            return Ok(());
        }
        // No scan reports what is left alone: its absence is never taken for a deletion, and base
        // would never be brought in line with what is there.
        if (self.is_left_alone)(&plain, false) {
            return Ok(());
        }
        match self.as_base_says(&plain) {
            Err(Stopped::Fs(error)) if error.is_absent() => Err(Stopped::Dirty(vec![plain])),
            other => other.map(drop),
        }
    }

    fn remove_directory(&mut self, path: &RelPath) -> Result<Outcome, Stopped> {
        let (dir, name) = match self.parent(path) {
            Err(error) if error.is_absent() => return self.went(path),
            other => other?,
        };
        match dir.remove_dir(name) {
            Err(error) if error.is_absent() => self.went(path),
            Err(error) if matches!(error.kind(), FsErrorKind::NotEmpty | FsErrorKind::Exists) => {
                Err(self.occupied(path)?)
            }
            other => {
                other?;
                self.touch(path, &dir);
                self.went(path)
            }
        }
    }

    /// The directory at `path` is gone. If base has something in it, that went by another's hand,
    /// and a scan is to see it: nothing may be put at `path` before, or nobody would look below it.
    fn went(&self, path: &RelPath) -> Result<Outcome, Stopped> {
        match self.disk.below(path)?.next().transpose()? {
            None => Ok(Outcome::Done(vec![(path.clone(), None)])),
            Some(_) => Err(Stopped::Dirty(vec![path.clone()])),
        }
    }

    /// Why the directory at `path` stays, and its base with it, so that it is not taken for a new
    /// one. If something was made in it just now, that is to be scanned; else it is as what base
    /// has in it, which failed. If there is only what is left alone, nothing comes of trying. If
    /// there is nothing any more, something was in it for a moment.
    fn occupied(&mut self, path: &RelPath) -> Result<Stopped, Stopped> {
        let dir = self.root.dir(path)?;
        let entries = dir.entries()?;
        let mut hold = if entries.is_empty() { Hold::Failed } else { Hold::Skipped };
        let mut unseen = Vec::new();
        for entry in entries {
            // Reserved names, and those that no file in the tree can have, are not synced.
            let Ok(name) = Name::new(&entry.name) else { continue };
            let inside = path.join(name);
            let kind = match entry.kind {
                Some(kind) => kind,
                None => dir.stat(&entry.name)?.kind,
            };
            let is_special = matches!(kind, StatKind::Other(_));
            if let Some(&failed) = self.failed.get(&inside) {
                hold = hold.min(failed);
            } else if !is_special && !(self.is_left_alone)(&inside, kind == StatKind::Directory) {
                match self.disk.get(&inside)? {
                    Some(_) => hold = Hold::Blocked,
                    None => unseen.push(inside),
                }
            }
        }
        Ok(if unseen.is_empty() {
            Stopped::Failed(Retry { hold, reason: String::new() })
        } else {
            Stopped::Dirty(unseen)
        })
    }

    /// The record of `path`, its directory and its stat, if it is there and as base says.
    fn as_base_says(&mut self, path: &RelPath) -> Result<(Record, Dir, Stat), Stopped> {
        let Some(record) = self.disk.get(path)? else { return Err(blocked()) };
        let (dir, name) = self.parent(path)?;
        let stat = dir.stat(name)?;
        let expected = self.expected(path)?.ok_or_else(blocked)?;
        let is_as_expected = match record.node {
            // A directory's own times move with what is in it.
            FoundNode::Directory => {
                stat.kind == StatKind::Directory && stat.permissions() == record.permissions
            }
            _ => stat.unchanged(&expected),
        };
        if is_as_expected {
            Ok((record, dir, stat))
        } else {
            Err(Stopped::Dirty(vec![path.clone()]))
        }
    }

    fn set_permissions(&mut self, path: &RelPath, want: &Want) -> Result<Outcome, Stopped> {
        let (before, dir, expected) = self.as_base_says(path)?;
        let is_directory = before.node == FoundNode::Directory;
        if is_directory && hides(before.permissions, want.permissions) {
            if self.is_awaited_below(path) {
                return Err(blocked());
            }
            self.look_for_touched(path);
        }
        let name = last_name(path);
        dir.set_permissions(name, want.permissions)?;
        let stat = dir.stat(name)?;
        if !is_directory && !same_content(&stat, &expected) {
            return Err(Stopped::Dirty(vec![path.clone()]));
        }
        if is_directory {
            self.unsynced.directory(path.clone());
        } else {
            self.set_bits(path, before.clone());
        }
        let record = Record {
            behind: want.behind.clone(),
            permissions: want.permissions,
            cache: Some(self.cache(stat)),
            ..before
        };
        Ok(Outcome::Done(vec![(path.clone(), Some(record))]))
    }

    /// Whether something below `path` is to be scanned or tried again: both must get there.
    fn is_awaited_below(&self, path: &RelPath) -> bool {
        let after = (Bound::Excluded(path), Bound::Unbounded);
        let failed = self.failed.range::<RelPath, _>(after);
        let mut failed = failed.take_while(|(failed, _)| failed.starts_with(path));
        any_below(self.awaited, path)
            || any_below(&self.applied.dirty, path)
            || failed.any(|(_, &hold)| hold != Hold::Skipped)
    }
}

/// Swaps two files. Without a way to do it in one step, a crash in between leaves one of them
/// under a temporary's name: if it is as `expected` its content is in the store, and its absence
/// is no deletion.
fn swap(
    (a_dir, a): (&Dir, &RelPath),
    (b_dir, b): (&Dir, &RelPath),
    expected: &Stat,
) -> Result<(), Stopped> {
    let (a_name, b_name) = (last_name(a), last_name(b));
    match a_dir.exchange(a_name, b_dir, b_name) {
        Err(error) if error.kind() == FsErrorKind::Unsupported => {}
        other => return Ok(other?),
    }
    let aside = take_aside(a_dir, a_name, a_name, expected, None)?;
    let moved =
        move_to_free(b_dir, b_name, a_dir, a).and_then(|()| move_to_free(a_dir, &aside, b_dir, b));
    if moved.is_err() {
        give_back(a_dir, &aside, a_name)?;
    }
    moved
}

/// It depends on an action that was not done.
fn blocked() -> Stopped {
    Stopped::Failed(Retry { hold: Hold::Blocked, reason: String::new() })
}
