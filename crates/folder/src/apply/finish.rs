//! Ends a batch: makes what it did durable, and takes back what cannot be kept.

use ark_core::{Permissions, RelPath};

use super::{Applied, ApplyError, Batch, Touched, same_content};
use crate::base::{BaseError, BaseRead, Hold, Record, Retry};
use crate::fs::Stat;
use crate::scan::FoundNode;

impl<B: BaseRead> Batch<'_, B> {
    /// Makes all durable, and takes back what could not be made so, and what was done in
    /// directories that are not where they were: an open directory goes on naming one that was
    /// moved away, perhaps out of the folder. What the user never saw must not read as deleted by
    /// him.
    pub(super) fn finish(mut self) -> Result<Applied, ApplyError> {
        self.look_for_touched(&RelPath::root());
        let moved = std::mem::take(&mut self.moved);
        if !moved.is_empty() {
            let is_in =
                |path: &RelPath| path.split_last().is_some_and(|(dir, _)| moved.contains(&dir));
            let paths: Vec<RelPath> =
                self.applied.records.keys().filter(|path| is_in(path)).cloned().collect();
            for path in paths {
                self.take_back(path, Retry { hold: Hold::Blocked, reason: String::new() })?;
            }
            self.applied.dirty.extend(moved);
        }
        for (path, error) in self.unsynced.sync(self.root).map_err(ApplyError::Sync)? {
            let reason = format!("cannot make {path:?} durable: {}", error.source);
            self.take_bits_back(path, Retry { hold: Hold::Failed, reason })?;
        }
        Ok(self.applied)
    }

    /// Finds out which of the directories at and below `path` in which names were changed are where
    /// they were; also before a directory hides what is in it.
    pub(super) fn look_for_touched(&mut self, path: &RelPath) {
        let within = self.touched.range::<RelPath, _>(path..);
        let within: Vec<RelPath> = within
            .map(|(touched, _)| touched)
            .take_while(|touched| touched.starts_with(path))
            .cloned()
            .collect();
        for path in within {
            if let Some(touched) = self.touched.remove(&path)
                && !self.is_in_place(&path, &touched)
            {
                self.moved.insert(path);
            }
        }
    }

    /// The file at `path` cannot be made durable. What it holds, and its name, are; its bits are
    /// set back, and base says so: whatever others do meanwhile, what is found there is no edit of
    /// its user's. A time that may be lost is no change.
    fn take_bits_back(&mut self, path: RelPath, retry: Retry) -> Result<(), BaseError> {
        let Some(Some(now)) = self.applied.records.get(&path) else {
            return self.take_back(path, retry);
        };
        let Some(before) = self.before_bits.remove(&path) else {
            tracing::warn!("{}", retry.reason);
            return Ok(());
        };
        match self.set_bits_back(&path, now, before.permissions) {
            Some(stat) => {
                let record = Record { cache: Some(self.cache(stat)), ..before };
                self.applied.records.insert(path.clone(), Some(record));
                self.applied.retries.entry(path).or_insert(retry);
                Ok(())
            }
            None => self.take_back(path, retry),
        }
    }

    /// Gives the file at `path` these bits, if it is as `now` says, and its stat then.
    fn set_bits_back(&self, path: &RelPath, now: &Record, bits: Permissions) -> Option<Stat> {
        let (dir, name) = self.parent(path).ok()?;
        let made = dir.stat(name).ok()?;
        if !now.cache.as_ref().is_some_and(|cache| made.unchanged(&cache.stat)) {
            return None;
        }
        dir.set_permissions(name, bits).ok()?;
        dir.stat(name).ok().filter(|stat| same_content(stat, &made))
    }

    fn is_in_place(&self, path: &RelPath, touched: &Touched) -> bool {
        let is_directory = |record: &Record| record.node == FoundNode::Directory;
        let record = self.applied.records.get(path);
        // By this batch itself, which may have put something else in its place.
        let is_removed = record.is_some_and(|record| !record.as_ref().is_some_and(is_directory));
        let now = || self.root.dir(path).and_then(|dir| dir.stat_self());
        is_removed
            || matches!(touched, Touched::One(then) if now().is_ok_and(|now| now.same_object(then)))
    }

    /// What base said of the path holds if nothing was replaced or removed there; else it is to
    /// say nothing, whatever the user does or did there. A scan finds what there is.
    fn take_back(&mut self, path: RelPath, retry: Retry) -> Result<(), BaseError> {
        let node = |record: &Record| record.node;
        if let Some(now) = self.applied.records.remove(&path) {
            let before = self.disk.base.get(&path)?;
            if before.as_ref().map(node) != now.as_ref().map(node) {
                self.applied.records.insert(path.clone(), None);
            }
        }
        self.applied.retries.entry(path.clone()).or_insert(retry);
        self.applied.dirty.insert(path);
        Ok(())
    }
}
