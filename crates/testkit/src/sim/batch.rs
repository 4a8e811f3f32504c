//! Carries a plan's actions out on a disk in memory: what `ark_folder::apply` does to a real one,
//! with each action one step. Only what is still as base says is changed; what fails, fails by
//! itself; base is told by the caller, after the sync.

use std::collections::BTreeMap;

use ark_core::{Link, Mtime, Permissions, Read as _, RelPath, chunk_list};
use ark_folder::apply::Applied;
use ark_folder::base::{Cache, Hold, Record, Retry};
use ark_folder::fs::{Stat, StatKind};
use ark_folder::plan::Action;
use ark_folder::scan::FoundNode;
use ark_folder::wants::Want;
use bytes::Bytes;

use super::disk::{Disk, SYMLINK_BITS, Thing};
use super::oracle::Oracle;
use super::store::Durable;

/// The bits without which ark cannot work in a directory.
const OWNER_BITS: u16 = 0o700;

/// What an action works on.
pub(super) struct Ground<'a> {
    pub(super) disk: &'a mut Disk,
    pub(super) durable: &'a Durable,
    pub(super) oracle: &'a Oracle,
    /// Seconds of the device's clock.
    pub(super) clock: i64,
}

/// One batch under way.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// What base will say of what was done.
    now: BTreeMap<RelPath, Option<Record>>,
    failed: BTreeMap<RelPath, Hold>,
    /// Directories in which names were changed, by their numbers; `None`: several.
    touched: BTreeMap<RelPath, Option<u64>>,
    applied: Applied,
}

/// Why an action was not done.
enum Stopped {
    /// A directory on the way is not there.
    Absent,
    /// The disk is not as base says.
    Dirty(Vec<RelPath>),
    Failed(Hold),
}

type Done = Result<Vec<(RelPath, Option<Record>)>, Stopped>;

impl Batch {
    /// Carries out one action.
    pub(super) fn act(&mut self, action: &Action, on: &mut Ground<'_>) {
        let failed_above = action.paths().find_map(|path| {
            (1..path.names().len()).find_map(|depth| self.failed.get(&prefix(path, depth)).copied())
        });
        if action.is_on_disk() {
            on.disk.begin_step();
        }
        let done = match failed_above {
            Some(hold) => Err(Stopped::Failed(hold)),
            None => self.change(action, on),
        };
        self.applied.attempted += 1;
        match done {
            Ok(records) => {
                for (path, record) in records {
                    self.applied.records.insert(path.clone(), record.clone());
                    self.now.insert(path, record);
                }
            }
            Err(Stopped::Absent) => {
                let above = |path: &RelPath| {
                    let path = path.clone();
                    (1..=path.names().len()).map(move |depth| prefix(&path, depth))
                };
                self.applied.dirty.extend(action.paths().flat_map(above));
                self.fail(action, Hold::Blocked);
            }
            Err(Stopped::Dirty(paths)) => {
                self.applied.dirty.extend(paths);
                self.fail(action, Hold::Blocked);
            }
            Err(Stopped::Failed(hold)) => self.fail(action, hold),
        }
    }

    /// What base is to be told once all is synced: not what was done in directories that are not
    /// where they were.
    pub(super) fn finish(mut self, disk: &Disk, base: &BTreeMap<RelPath, Record>) -> Applied {
        let is_directory = |record: &Record| record.node == FoundNode::Directory;
        let is_moved = |(path, ino): (&RelPath, &Option<u64>)| {
            let record = self.applied.records.get(path);
            let is_removed =
                record.is_some_and(|record| !record.as_ref().is_some_and(is_directory));
            !is_removed && (ino.is_none() || disk.directory_ino(path) != *ino)
        };
        let moved: Vec<RelPath> =
            self.touched.iter().filter(|it| is_moved(*it)).map(|(path, _)| path.clone()).collect();
        let is_in = |path: &RelPath| path.split_last().is_some_and(|(dir, _)| moved.contains(&dir));
        let paths: Vec<RelPath> =
            self.applied.records.keys().filter(|path| is_in(path)).cloned().collect();
        for path in paths {
            let before = base.get(&path).map(|record| record.node);
            let now = self.applied.records.remove(&path).flatten().map(|record| record.node);
            // What ark took away there is not the user's to have removed.
            if before != now {
                self.applied.records.insert(path.clone(), None);
            }
            self.applied.retries.entry(path.clone()).or_insert_with(blocked);
            self.applied.dirty.insert(path);
        }
        self.applied.dirty.extend(moved);
        self.applied
    }

    fn fail(&mut self, action: &Action, hold: Hold) {
        for path in action.paths() {
            self.failed.insert(path.clone(), hold);
            let retry = Retry { hold, reason: String::new() };
            self.applied.retries.entry(path.clone()).or_insert(retry);
        }
    }

    fn change(&mut self, action: &Action, on: &mut Ground<'_>) -> Done {
        match action {
            Action::Adopt { path, want } => self.adopt(path, want, on),
            Action::Forget { path } => Ok(vec![(path.clone(), None)]),
            Action::MakeDirectory { path, want } => self.make_directory(path, want, on),
            Action::Open { path } => self.open(path, on),
            Action::Move { from, to, want } => self.relocate(from, to, want, on),
            Action::Exchange { from, back, to, want } => self.exchange(from, back, to, want, on),
            Action::Write { path, want } => self.write(path, want, on),
            Action::Remove { path } => self.remove(path, on),
            Action::RemoveDirectory { path } => self.remove_directory(path, on),
            Action::SetPermissions { path, want } => self.set_permissions(path, want, on),
        }
    }

    fn record(&self, path: &RelPath, on: &Ground<'_>) -> Option<Record> {
        match self.now.get(path) {
            Some(record) => record.clone(),
            None => on.durable.base.records.get(path).cloned(),
        }
    }

    /// The stat that base has for a path.
    fn expected(&self, path: &RelPath, on: &Ground<'_>) -> Result<Option<Stat>, Stopped> {
        match self.record(path, on) {
            None => Ok(None),
            Some(Record { cache: Some(cache), .. }) => Ok(Some(cache.stat)),
            Some(_) => Err(Stopped::Dirty(vec![path.clone()])),
        }
    }

    fn adopt(&mut self, path: &RelPath, want: &Want, on: &mut Ground<'_>) -> Done {
        let before = self.as_base_says(path, on)?;
        own(path, want, on);
        Ok(vec![(path.clone(), Some(Record { behind: want.behind.clone(), ..before }))])
    }

    fn make_directory(&mut self, path: &RelPath, want: &Want, on: &mut Ground<'_>) -> Done {
        Self::parent(path, on)?;
        if on.disk.at(path).is_some() {
            return Err(Stopped::Dirty(vec![path.clone()]));
        }
        let bits = want.permissions.bits() | OWNER_BITS;
        on.disk.put(path, Thing::Directory, bits.into(), on.clock, None);
        self.touch(path, on);
        Ok(vec![placed(path, want, Permissions::from_mode(bits.into()), on)])
    }

    fn open(&mut self, path: &RelPath, on: &mut Ground<'_>) -> Done {
        let before = self.as_base_says(path, on)?;
        let bits = before.permissions.bits() | OWNER_BITS;
        on.disk.set_bits(path, bits.into(), on.clock);
        let permissions = Permissions::from_mode(bits.into());
        let stat = on.disk.at(path).expect("it is as base says").stat();
        let cache = Some(Cache { stat, settled: true });
        Ok(vec![(path.clone(), Some(Record { permissions, cache, ..before }))])
    }

    fn write(&mut self, path: &RelPath, want: &Want, on: &mut Ground<'_>) -> Done {
        Self::parent(path, on)?;
        match self.expected(path, on)? {
            None if on.disk.at(path).is_some() => return Err(Stopped::Dirty(vec![path.clone()])),
            None => {}
            // Its removal was planned before and left it there.
            Some(there) if there.kind == StatKind::Directory => {
                return Err(Stopped::Failed(Hold::Skipped));
            }
            Some(there) => unchanged(path, &there, on)?,
        }
        let bits = match want.node {
            FoundNode::Symlink { .. } => SYMLINK_BITS,
            _ => want.permissions.bits().into(),
        };
        on.disk.put(path, content(on.durable, want), bits, on.clock, Some(want.mtime));
        self.touch(path, on);
        own(path, want, on);
        Ok(vec![placed(path, want, want.permissions, on)])
    }

    fn relocate(&mut self, from: &RelPath, to: &RelPath, want: &Want, on: &mut Ground<'_>) -> Done {
        let Some(expected) = self.expected(from, on)? else {
            return Err(Stopped::Failed(Hold::Blocked));
        };
        Self::parent(from, on)?;
        Self::parent(to, on)?;
        unchanged(from, &expected, on)?;
        match self.expected(to, on)? {
            None if on.disk.at(to).is_some() => return Err(Stopped::Dirty(vec![to.clone()])),
            None => {}
            Some(there) => {
                unchanged(to, &there, on)?;
                on.disk.remove(to);
            }
        }
        on.disk.rename(from, to, on.clock);
        self.touch(from, on);
        self.touch(to, on);
        Ok(vec![(from.clone(), None), dress(to, want, on)])
    }

    fn exchange(
        &mut self,
        from: &RelPath,
        back: &Want,
        to: &RelPath,
        want: &Want,
        on: &mut Ground<'_>,
    ) -> Done {
        let (Some(a), Some(b)) = (self.expected(from, on)?, self.expected(to, on)?) else {
            return Err(Stopped::Failed(Hold::Blocked));
        };
        Self::parent(from, on)?;
        Self::parent(to, on)?;
        unchanged(from, &a, on)?;
        unchanged(to, &b, on)?;
        on.disk.exchange(from, to, on.clock);
        self.touch(from, on);
        self.touch(to, on);
        Ok(vec![dress(from, back, on), dress(to, want, on)])
    }

    fn remove(&mut self, path: &RelPath, on: &mut Ground<'_>) -> Done {
        let gone = || Ok(vec![(path.clone(), None)]);
        let Some(expected) = self.expected(path, on)? else { return gone() };
        if Self::parent(path, on).is_err() || on.disk.at(path).is_none() {
            return gone();
        }
        unchanged(path, &expected, on)?;
        self.stands_beside(path, on)?;
        on.disk.remove(path);
        self.touch(path, on);
        gone()
    }

    /// A copy goes only while what base says to have its content in place is there.
    fn stands_beside(&self, path: &RelPath, on: &Ground<'_>) -> Result<(), Stopped> {
        let Some(copy) = self.record(path, on) else { return Ok(()) };
        let (directory, name) = path.split_last().expect("no action is about the root");
        let plain = directory.join(copy.behind.name.clone());
        let is_copied = self.record(&plain, on).is_some_and(|record| record.node == copy.node);
        if copy.behind.name == *name || !is_copied {
            return Ok(());
        }
        match self.as_base_says(&plain, on) {
            Err(Stopped::Absent) => Err(Stopped::Dirty(vec![plain])),
            other => other.map(drop),
        }
    }

    fn remove_directory(&mut self, path: &RelPath, on: &mut Ground<'_>) -> Done {
        if !on.disk.is_directory(path) {
            return Ok(vec![(path.clone(), None)]);
        }
        if on.disk.any_below(path) {
            return Err(self.occupied(path, on));
        }
        on.disk.remove(path);
        self.touch(path, on);
        Ok(vec![(path.clone(), None)])
    }

    /// Why a directory stays. If something was made in it just now, that is to be scanned; else it
    /// is as what base has in it, which failed.
    fn occupied(&self, path: &RelPath, on: &Ground<'_>) -> Stopped {
        let is_child = |at: &&RelPath| at.split_last().is_some_and(|(dir, _)| dir == *path);
        let is_skipped = |at: &RelPath| {
            let retry = on.durable.base.retries.get(at);
            retry.is_some_and(|retry| retry.hold == Hold::Skipped)
        };
        let (mut hold, mut unseen) = (Hold::Skipped, Vec::new());
        for inside in on.disk.places().keys().filter(is_child) {
            if let Some(&failed) = self.failed.get(inside) {
                hold = hold.min(failed);
            } else if !is_skipped(inside) {
                match self.record(inside, on) {
                    Some(_) => hold = Hold::Blocked,
                    None => unseen.push(inside.clone()),
                }
            }
        }
        if unseen.is_empty() { Stopped::Failed(hold) } else { Stopped::Dirty(unseen) }
    }

    fn set_permissions(&mut self, path: &RelPath, want: &Want, on: &mut Ground<'_>) -> Done {
        let before = self.as_base_says(path, on)?;
        if has_permissions(before.node) {
            on.disk.set_bits(path, want.permissions.bits().into(), on.clock);
        }
        self.touch(path, on);
        own(path, want, on);
        let (_, record) = placed(path, want, want.permissions, on);
        let mtime = before.mtime;
        Ok(vec![(path.clone(), record.map(|record| Record { mtime, ..record }))])
    }

    /// The record of what is there, if it is as base says.
    fn as_base_says(&self, path: &RelPath, on: &Ground<'_>) -> Result<Record, Stopped> {
        let Some(record) = self.record(path, on) else {
            return Err(Stopped::Failed(Hold::Blocked));
        };
        Self::parent(path, on)?;
        let place = on.disk.at(path).ok_or(Stopped::Absent)?;
        let expected = self.expected(path, on)?.ok_or(Stopped::Failed(Hold::Blocked))?;
        let is_as_expected = match record.node {
            FoundNode::Directory => {
                place.is_directory() && place.permissions() == record.permissions
            }
            _ => place.stat().unchanged(&expected),
        };
        if is_as_expected { Ok(record) } else { Err(Stopped::Dirty(vec![path.clone()])) }
    }

    /// The directory of a path is there.
    fn parent(path: &RelPath, on: &Ground<'_>) -> Result<(), Stopped> {
        let (parent, _) = path.split_last().expect("no action is about the root");
        if on.disk.is_directory(&parent) { Ok(()) } else { Err(Stopped::Absent) }
    }

    fn touch(&mut self, path: &RelPath, on: &Ground<'_>) {
        let (parent, _) = path.split_last().expect("no action is about the root");
        let now = on.disk.directory_ino(&parent);
        let known = self.touched.entry(parent).or_insert(now);
        if *known != now {
            *known = None;
        }
    }
}

/// A symlink's bits are the file system's.
const fn has_permissions(node: FoundNode) -> bool {
    !matches!(node, FoundNode::Symlink { .. })
}

fn prefix(path: &RelPath, depth: usize) -> RelPath {
    RelPath::from(path.names()[..depth].to_vec())
}

fn blocked() -> Retry {
    Retry { hold: Hold::Blocked, reason: String::new() }
}

fn unchanged(path: &RelPath, expected: &Stat, on: &Ground<'_>) -> Result<(), Stopped> {
    let place = on.disk.at(path).ok_or(Stopped::Absent)?;
    if place.stat().unchanged(expected) { Ok(()) } else { Err(Stopped::Dirty(vec![path.clone()])) }
}

/// What is wanted, from the store. The plan speaks of joined trees: their closure is here.
fn content(durable: &Durable, want: &Want) -> Thing {
    let read = |link| durable.read(link).expect("the closure of a joined tree is here");
    match want.node {
        FoundNode::Directory => Thing::Directory,
        FoundNode::Symlink { target, .. } => Thing::Symlink(read(Link::raw(target))),
        FoundNode::File { content, size } => {
            let mut bytes = Vec::new();
            for piece in chunk_list(durable, content, size) {
                let (link, _) = piece.expect("the closure of a joined tree is here");
                bytes.extend_from_slice(&read(link));
            }
            assert_eq!(bytes.len() as u64, size, "a file of another length than its entry says");
            Thing::File(Bytes::from(bytes))
        }
    }
}

/// What is at a path stands for the acts behind it from now on.
fn own(path: &RelPath, want: &Want, on: &mut Ground<'_>) {
    let tokens = on.oracle.behind(path, &want.behind, want.node);
    if let Some(place) = on.disk.at_mut(path) {
        place.tokens = tokens;
    }
}

/// Sets bits and mtime of a file that was moved to `path`, and gives its record.
fn dress(path: &RelPath, want: &Want, on: &mut Ground<'_>) -> (RelPath, Option<Record>) {
    let place = on.disk.at(path).expect("it was just moved there");
    if has_permissions(want.node) && place.permissions() != want.permissions {
        on.disk.set_bits(path, want.permissions.bits().into(), on.clock);
    }
    on.disk.set_mtime(path, Some(want.mtime), on.clock);
    own(path, want, on);
    placed(path, want, want.permissions, on)
}

/// The record of what was just put at `path`.
fn placed(
    path: &RelPath,
    want: &Want,
    permissions: Permissions,
    on: &Ground<'_>,
) -> (RelPath, Option<Record>) {
    let stat = on.disk.at(path).expect("it was just put there").stat();
    let mtime: Mtime = if want.node == FoundNode::Directory { want.mtime } else { stat.mtime };
    let cache = Some(Cache { stat, settled: true });
    let behind = want.behind.clone();
    (path.clone(), Some(Record { behind, node: want.node, permissions, mtime, cache }))
}
