//! The walk: what is there, by stat, against what base has, in one pass over both in order.

use std::collections::BTreeMap;
use std::iter::Peekable;

use ark_core::{MAX_PATH_DEPTH, Name, NameError, RelPath, in_words};

use super::compare::Candidate;
use super::{
    Entering, Extent, FoundNode, Kept, MAX_LEFTOVERS, MAX_NOTES, Scan, ScanError, ScanResult, Sink,
};
use crate::base::{BaseError, BaseRead, Cache, Record, Records};
use crate::fs::{self, Dir, FsErrorKind, Stat, StatKind};
use crate::ignore::{RULES_FILE, RulesError, Scope, Used};
use crate::plan::is_open;
use crate::watch::Touch;

/// A path of base that is no longer there.
pub(super) struct Gone {
    pub path: RelPath,
    pub node: FoundNode,
    pub cache: Option<Cache>,
}

/// What a walk saw.
pub(super) struct Walked {
    /// What was found without hashing is in it already; what is gone is not.
    pub result: ScanResult,
    pub candidates: Vec<Candidate>,
    pub gone: Vec<Gone>,
    /// The rules of directories that were walked whole.
    pub governing: Vec<Used>,
    /// Those of directories that were passed on the way.
    pub passed: Vec<Used>,
    /// Touched paths at which nothing is.
    pub absent: Vec<RelPath>,
    /// Whether the folder was walked whole.
    pub is_all: bool,
}

/// Walks `extent`.
pub(super) fn walk<B, S, E>(scan: &Scan<'_, B, S, E>, extent: &Extent) -> Result<Walked, ScanError>
where
    B: BaseRead + ?Sized,
    S: Sink + ?Sized,
    E: Entering + ?Sized,
{
    let mut walk = Walk {
        scan,
        result: ScanResult::default(),
        candidates: Vec::new(),
        gone: Vec::new(),
        governing: Vec::new(),
        passed: Vec::new(),
        absent: Vec::new(),
        is_all: false,
    };
    match extent {
        Extent::Everything => walk.everything()?,
        Extent::Paths(touched) => {
            let touched = with_governed(touched);
            if touched.contains_key(&RelPath::root()) {
                walk.everything()?;
            } else {
                walk.paths(&touched)?;
            }
        }
    }
    let Walk { result, candidates, gone, governing, passed, absent, is_all, .. } = walk;
    Ok(Walked { result, candidates, gone, governing, passed, absent, is_all })
}

/// `touched` and, where a file of ignore rules is among them, the directory that it governs.
fn with_governed(touched: &BTreeMap<RelPath, Touch>) -> BTreeMap<RelPath, Touch> {
    let mut all = touched.clone();
    for path in touched.keys() {
        if let Some((directory, name)) = path.split_last()
            && name.as_bytes() == RULES_FILE
        {
            all.insert(directory, Touch::Subtree);
        }
    }
    all
}

/// The records of base below a directory, taken in step with a walk.
pub(super) struct Cursor<'a>(Peekable<Records<'a>>);

impl<'a> Cursor<'a> {
    pub(super) fn new(records: Records<'a>) -> Self {
        Self(records.peekable())
    }

    /// The next record if its path is `accept`ed.
    pub(super) fn next_if(
        &mut self,
        accept: impl Fn(&RelPath) -> bool,
    ) -> Result<Option<(RelPath, Record)>, BaseError> {
        match self.0.peek() {
            Some(Ok((path, _))) if !accept(path) => Ok(None),
            _ => self.0.next().transpose(),
        }
    }

    /// Passes over the records of `path` and below it.
    fn skip(&mut self, path: &RelPath) -> Result<(), BaseError> {
        while self.next_if(|next| next.starts_with(path))?.is_some() {}
        Ok(())
    }
}

/// A directory that is being walked: what is left of its listing, in order.
pub(super) struct Frame<'a> {
    dir: Dir,
    scope: Scope<'a>,
    entries: std::vec::IntoIter<fs::DirEntry>,
}

impl<'a> Frame<'a> {
    fn new(dir: Dir, scope: Scope<'a>, mut entries: Vec<fs::DirEntry>) -> Self {
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Self { dir, scope, entries: entries.into_iter() }
    }
}

pub(super) struct Walk<'w, 'a, B: ?Sized, S: ?Sized, E: ?Sized> {
    pub(super) scan: &'w Scan<'a, B, S, E>,
    pub(super) result: ScanResult,
    pub(super) candidates: Vec<Candidate>,
    gone: Vec<Gone>,
    governing: Vec<Used>,
    passed: Vec<Used>,
    pub(super) absent: Vec<RelPath>,
    is_all: bool,
}

impl<'a, B, S, E> Walk<'_, 'a, B, S, E>
where
    B: BaseRead + ?Sized,
    S: Sink + ?Sized,
    E: Entering + ?Sized,
{
    fn everything(&mut self) -> Result<(), ScanError> {
        self.is_all = true;
        let scope = self.top_scope()?;
        let mut cursor = Cursor::new(self.scan.base.below(&RelPath::root())?);
        let top = self.scan.root.top();
        self.scan.watch.entering(top.path());
        let entries = top.entries().map_err(ScanError::Root)?;
        self.descend(Frame::new(top.clone(), scope, entries), &mut cursor)
    }

    pub(super) fn top_scope(&mut self) -> Result<Scope<'a>, ScanError> {
        let scope = self.scan.rules.top(self.scan.root).map_err(ScanError::Rules)?;
        self.note_all(scope.faults());
        if self.is_all {
            self.governed_by(&scope);
        } else {
            self.passed_by(&scope);
        }
        Ok(scope)
    }

    /// The directory of `scope` is walked whole.
    fn governed_by(&mut self, scope: &Scope<'_>) {
        self.governing.extend(self.scan.rules.used(scope));
    }

    /// Some of what is in the directory of `scope` is looked at.
    pub(super) fn passed_by(&mut self, scope: &Scope<'_>) {
        self.passed.extend(self.scan.rules.used(scope));
    }

    /// Takes the entries of a directory and of all below it in order, and between them what
    /// base has besides. The stack is explicit: a path may have more names than a thread has room
    /// for calls.
    pub(super) fn descend(
        &mut self,
        top: Frame<'a>,
        cursor: &mut Cursor<'_>,
    ) -> Result<(), ScanError> {
        let mut frames = vec![top];
        while let Some(frame) = frames.last_mut() {
            if self.scan.progress.is_cancelled() {
                return Err(ScanError::Cancelled);
            }
            if let Some(entry) = frame.entries.next() {
                let below = self.listed(&frame.dir, &frame.scope, entry, cursor)?;
                frames.extend(below);
                continue;
            }
            let directory = frame.dir.path();
            while let Some((path, record)) = cursor.next_if(|next| next.starts_with(directory))? {
                self.is_gone(path, record, &frame.scope);
            }
            frames.pop();
        }
        Ok(())
    }

    /// One name of a listing: if it is a directory to walk, that one, opened.
    fn listed(
        &mut self,
        dir: &Dir,
        scope: &Scope<'a>,
        entry: fs::DirEntry,
        cursor: &mut Cursor<'_>,
    ) -> Result<Option<Frame<'a>>, ScanError> {
        let name = match Name::new(&entry.name) {
            Ok(name) => name,
            Err(NameError::Reserved(_)) => {
                self.reserved(dir, entry.name);
                return Ok(None);
            }
            Err(error) => {
                self.note(format!("in {:?}: {error}; not synced", dir.path()));
                return Ok(None);
            }
        };
        let path = dir.path().join(name);
        while let Some((gone, record)) = cursor.next_if(|next| *next < path)? {
            self.is_gone(gone, record, scope);
        }
        self.entry(dir, scope, path, entry.kind, cursor)
    }

    fn reserved(&mut self, dir: &Dir, name: Vec<u8>) {
        let leftovers = &mut self.result.leftovers;
        if name.starts_with(fs::TEMPORARY_PREFIX) && leftovers.len() < MAX_LEFTOVERS {
            leftovers.push((dir.path().clone(), name));
        }
    }

    /// `path`, of which base has `record` and which is not there: gone, or forgotten if it is
    /// ignored, or was when it may have gone. `scope` is that of the deepest directory on its way
    /// that is there.
    pub(super) fn is_gone(&mut self, path: RelPath, record: Record, scope: &Scope<'_>) {
        let is_dir = record.node == FoundNode::Directory;
        let was_ignored = || self.scan.rules.was_ignored(&path, is_dir);
        if scope.ignored_below(&path, is_dir) || was_ignored() {
            self.result.forgotten.push(path);
        } else {
            self.gone.push(Gone { path, node: record.node, cache: record.cache });
        }
    }

    /// `path`, a name in `dir`, is there and ignored: what base has at it and below it and is not
    /// there is forgotten, so that it is not taken for removed when the rule goes.
    pub(super) fn is_ignored(
        &mut self,
        dir: &Dir,
        path: &RelPath,
        cursor: &mut Cursor<'_>,
    ) -> Result<(), ScanError> {
        // The directories on the way to the record at hand, and of the first that is not there
        // the path: nothing below it is there either.
        let mut on_the_way = vec![dir.clone()];
        let mut absent: Option<RelPath> = None;
        while let Some((here, _)) = cursor.next_if(|next| next.starts_with(path))? {
            if self.scan.progress.is_cancelled() {
                return Err(ScanError::Cancelled);
            }
            if absent.as_ref().is_some_and(|absent| here.starts_with(absent)) {
                self.result.forgotten.push(here);
                continue;
            }
            while on_the_way.len() > 1
                && !on_the_way.last().is_some_and(|above| here.starts_with(above.path()))
            {
                on_the_way.pop();
            }
            let Some(above) = on_the_way.last() else { return Ok(()) };
            if here.names().len() != above.path().names().len() + 1 {
                // The directory in between cannot be looked into: nothing is said of it.
                continue;
            }
            match above.stat(last(&here).as_bytes()) {
                Err(error) if error.is_absent() => {
                    self.result.forgotten.push(here.clone());
                    absent = Some(here);
                }
                Ok(stat) if stat.kind == StatKind::Directory => {
                    on_the_way.extend(above.open_dir(last(&here)));
                }
                // Nothing can be below it.
                Ok(_) => absent = Some(here),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// What is at `path`, a name in `dir`: if it is a directory to walk, that one, opened. Takes
    /// the record of `path` from `cursor`, and those below it unless it is to be walked.
    pub(super) fn entry(
        &mut self,
        dir: &Dir,
        scope: &Scope<'a>,
        path: RelPath,
        kind: Option<StatKind>,
        cursor: &mut Cursor<'_>,
    ) -> Result<Option<Frame<'a>>, ScanError> {
        let name = last(&path).clone();
        let is_dir = match kind {
            Some(kind) => kind == StatKind::Directory,
            None => dir.stat(name.as_bytes()).is_ok_and(|s| s.kind == StatKind::Directory),
        };
        if scope.ignored(&path, is_dir) {
            self.is_ignored(dir, &path, cursor)?;
            return Ok(None);
        }
        if path.names().len() > MAX_PATH_DEPTH {
            self.keep(path, Kept::TooDeep, cursor)?;
            return Ok(None);
        }
        if !is_dir {
            match dir.stat(name.as_bytes()) {
                Err(error) => self.failed(path, &error, cursor)?,
                Ok(Stat { kind: StatKind::Other(what), .. }) => {
                    self.keep(path, Kept::Special(what), cursor)?;
                }
                Ok(Stat { kind: StatKind::Directory, .. }) => {
                    // It was something else a moment ago.
                    cursor.skip(&path)?;
                    self.result.in_flux.insert(path);
                }
                Ok(stat) => {
                    let record = cursor.next_if(|next| *next == path)?.map(|(_, record)| record);
                    self.leaf(dir, path, &stat, record.as_ref(), Touch::Changed)?;
                }
            }
            return Ok(None);
        }
        let opened = dir.open_dir(&name).and_then(|child| Ok((child.stat_self()?, child)));
        let (stat, child) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.failed(path, &error, cursor)?;
                return Ok(None);
            }
        };
        let record = cursor.next_if(|next| *next == path)?.map(|(_, record)| record);
        self.is_directory(&path, &stat, record.as_ref());
        let is_known = record.is_some_and(|record| record.node == FoundNode::Directory);
        self.inside(child, scope, is_known && !is_open(stat.permissions()), cursor)
    }

    /// Begins to walk `child`, a directory in that of `above`. If it `may_be_closed` it counts as
    /// that where it cannot be looked into.
    fn inside(
        &mut self,
        child: Dir,
        above: &Scope<'a>,
        may_be_closed: bool,
        cursor: &mut Cursor<'_>,
    ) -> Result<Option<Frame<'a>>, ScanError> {
        self.scan.watch.entering(child.path());
        let known_faults = above.faults().len();
        let is_closed = |error: &fs::FsError| may_be_closed && error.kind() == FsErrorKind::Denied;
        let scope = match self.scan.rules.below(above, &child) {
            Ok(scope) => scope,
            Err(RulesError::Read(error)) if is_closed(&error) => {
                self.closed(child.path(), cursor)?;
                return Ok(None);
            }
            Err(error) => {
                let why = Kept::Unreadable(in_words(&error));
                self.keep(child.path().clone(), why, cursor)?;
                return Ok(None);
            }
        };
        self.note_all(&scope.faults()[known_faults..]);
        self.governed_by(&scope);
        match child.entries() {
            Ok(entries) => Ok(Some(Frame::new(child, scope, entries))),
            Err(error) if is_closed(&error) => {
                self.closed(child.path(), cursor)?;
                Ok(None)
            }
            Err(error) => {
                self.failed(child.path().clone(), &error, cursor)?;
                Ok(None)
            }
        }
    }

    /// The directory at `path` keeps this user out by its own bits. They are seen; of what base has
    /// in it nothing is said. It is not kept: whoever opens it is to be followed, and ark opens it
    /// where there is something to be done in it.
    fn closed(&mut self, path: &RelPath, cursor: &mut Cursor<'_>) -> Result<(), ScanError> {
        cursor.skip(path)?;
        self.result.closed.insert(path.clone());
        Ok(())
    }

    /// A path that was there a moment ago and cannot be looked at now.
    pub(super) fn failed(
        &mut self,
        path: RelPath,
        error: &fs::FsError,
        cursor: &mut Cursor<'_>,
    ) -> Result<(), ScanError> {
        if error.is_absent() {
            cursor.skip(&path)?;
            self.result.found.remove(&path);
            self.result.in_flux.insert(path);
            return Ok(());
        }
        let why = match error.kind() {
            FsErrorKind::OtherDevice => Kept::MountPoint,
            _ => Kept::Unreadable(error.source.to_string()),
        };
        self.keep(path, why, cursor)
    }

    pub(super) fn keep(
        &mut self,
        path: RelPath,
        why: Kept,
        cursor: &mut Cursor<'_>,
    ) -> Result<(), ScanError> {
        cursor.skip(&path)?;
        // A directory counts as found before its listing fails.
        self.result.found.remove(&path);
        self.result.kept.insert(path, why);
        Ok(())
    }

    fn note_all(&mut self, notes: &[String]) {
        for note in notes {
            self.note(note.clone());
        }
    }

    fn note(&mut self, note: String) {
        if self.result.notes.len() < MAX_NOTES {
            self.result.notes.push(note);
        }
    }
}

/// The last name of `path`, which is not the root.
pub(super) fn last(path: &RelPath) -> &Name {
    path.names().last().expect("the path of an entry is not the root")
}
