//! A scan of single paths: the way to each is walked from the root, and whatever on it base does
//! not have as a directory is taken whole.

use std::collections::BTreeMap;

use ark_core::RelPath;

use super::walk::{Cursor, Walk, last};
use super::{Entering, FoundNode, ScanError, Sink};
use crate::base::{BaseRead, Record};
use crate::fs::{Dir, StatKind};
use crate::ignore::Scope;
use crate::watch::Touch;

/// A directory that is open on the way to a touched path.
struct Level<'a> {
    dir: Dir,
    scope: Scope<'a>,
}

impl<'a, B, S, E> Walk<'_, 'a, B, S, E>
where
    B: BaseRead + ?Sized,
    S: Sink + ?Sized,
    E: Entering + ?Sized,
{
    /// Looks at the touched paths, in order; none of them is the root.
    pub(super) fn paths(&mut self, touched: &BTreeMap<RelPath, Touch>) -> Result<(), ScanError> {
        let top = self.scan.root.top().clone();
        top.stat_self().map_err(ScanError::Root)?;
        let mut levels = vec![Level { dir: top, scope: self.top_scope()? }];
        let mut done: Option<RelPath> = None;
        for (path, &touch) in touched {
            if self.scan.progress.is_cancelled() {
                return Err(ScanError::Cancelled);
            }
            if done.as_ref().is_none_or(|done| !path.starts_with(done)) {
                done = self.touched(path, touch, &mut levels)?;
            }
        }
        Ok(())
    }

    /// Looks at one touched path. Returns the path that was dealt with together with all below
    /// it, if one was: `path` or a directory on the way to it.
    fn touched(
        &mut self,
        path: &RelPath,
        touch: Touch,
        levels: &mut Vec<Level<'a>>,
    ) -> Result<Option<RelPath>, ScanError> {
        let names = path.names();
        let leads_there = |level: &Level<'_>| {
            let directory = level.dir.path();
            path.starts_with(directory) && directory.names().len() < names.len()
        };
        while levels.len() > 1 && !levels.last().is_some_and(leads_there) {
            levels.pop();
        }
        loop {
            let Some(level) = levels.last() else { return Ok(None) };
            let here = RelPath::from(names[..levels.len()].to_vec());
            if here.names().len() == names.len() {
                return self.one(level, here, touch);
            }
            if level.scope.ignored(&here, true) {
                return self.in_ignored(&level.scope.clone(), path);
            }
            let is_known = self.scan.base.get(&here)?;
            if is_known.is_none_or(|record| record.node != FoundNode::Directory) {
                return self.one(level, here, Touch::Subtree);
            }
            let Ok(dir) = level.dir.open_dir(last(&here)) else {
                return self.one(level, here, Touch::Subtree);
            };
            let Ok(scope) = self.scan.rules.below(&level.scope, &dir) else {
                return self.one(level, here, Touch::Subtree);
            };
            self.passed_by(&scope);
            levels.push(Level { dir, scope });
        }
    }

    /// Looks at `path`, a name in the directory of `level`.
    fn one(
        &mut self,
        level: &Level<'a>,
        path: RelPath,
        touch: Touch,
    ) -> Result<Option<RelPath>, ScanError> {
        let Level { dir, scope } = level;
        let record = self.scan.base.get(&path)?;
        let was_directory = record.as_ref().is_some_and(|r| r.node == FoundNode::Directory);
        let stat = match dir.stat(last(&path).as_bytes()) {
            Ok(stat) => stat,
            Err(error) => {
                let mut records = self.records(&path, record)?;
                if error.is_absent() {
                    self.all_gone(records, scope)?;
                    self.absent.push(path.clone());
                } else {
                    self.failed(path.clone(), &error, &mut records)?;
                }
                return Ok(Some(path));
            }
        };
        if stat.kind == StatKind::Directory && was_directory && touch != Touch::Subtree {
            if !scope.ignored(&path, true) {
                self.is_directory(&path, &stat, record.as_ref());
            }
            return Ok(None);
        }
        let is_leaf = matches!(stat.kind, StatKind::File | StatKind::Symlink);
        if is_leaf && !scope.ignored(&path, false) {
            self.leaf(dir, path.clone(), &stat, record.as_ref(), touch)?;
            self.all_gone(self.records(&path, None)?, scope)?;
        } else {
            let mut records = self.records(&path, record)?;
            let frame = self.entry(dir, scope, path.clone(), Some(stat.kind), &mut records)?;
            if let Some(frame) = frame {
                self.descend(frame, &mut records)?;
            }
        }
        Ok(Some(path))
    }

    /// Looks at `path`, which is in an ignored directory by the rules of `scope`.
    fn in_ignored(
        &mut self,
        scope: &Scope<'a>,
        path: &RelPath,
    ) -> Result<Option<RelPath>, ScanError> {
        let mut records = self.records(path, self.scan.base.get(path)?)?;
        match self.scan.root.parent(path) {
            Ok((dir, _)) => self.is_ignored(&dir, path, &mut records)?,
            Err(error) if error.is_absent() => self.all_gone(records, scope)?,
            Err(_) => {}
        }
        Ok(Some(path.clone()))
    }

    /// `own`, which is the record of `path`, then what base has below it.
    fn records(&self, path: &RelPath, own: Option<Record>) -> Result<Cursor<'a>, ScanError> {
        let base: &'a B = self.scan.base;
        let own = own.map(|record| Ok((path.clone(), record)));
        Ok(Cursor::new(Box::new(own.into_iter().chain(base.below(path)?))))
    }

    /// Nothing of `records` is there any more.
    fn all_gone(&mut self, mut records: Cursor<'_>, scope: &Scope<'_>) -> Result<(), ScanError> {
        while let Some((path, record)) = records.next_if(|_| true)? {
            self.is_gone(path, record, scope);
        }
        Ok(())
    }
}
