//! What was changed here: found against base, told against the joined tree. Pure but for reading
//! base and trees.
//!
//! A difference between found and base is no change of this device's if the joined tree already
//! says the same: the same edit was made elsewhere. Such a path is adopted. What is published is
//! recorded in the same transaction. What others wrote is not: which tree is being applied is
//! noted before the disk is touched, and until base is told ([`Trees::interrupted`]) what equals
//! that tree is adopted with its versions, also if the joined tree has long gone on. So whatever
//! point a crash falls on, the next scan neither loses nor repeats a change.
//!
//! Where that tree shows something else than base, and neither is found, nobody can tell which of
//! them was edited or deleted: a change then drops no version. A copy too many is better than one
//! too few.

mod copies;

use std::collections::{BTreeMap, BTreeSet};

use ark_core::{
    Behind, Dot, LocalChange, Mtime, NodeKind, Permissions, Put, Read, RelPath, TreeError, What,
};

use self::copies::{Versions, keep_out};
use crate::base::{BaseRead, Cache, Disowned, Record};
use crate::disowned::without;
use crate::plan::working_bits;
use crate::scan::{Found, FoundNode};
use crate::wants::{Lookup, Want, WantsError};

/// What follows from a scan.
#[derive(Debug, Default)]
pub struct Local {
    /// To be put into the joined tree and published.
    pub changes: Vec<LocalChange>,
    /// What base is to say afterwards, for every path looked at. Where a path is among the
    /// changes the versions behind it are provisional, see [`Local::settle`].
    pub records: BTreeMap<RelPath, Option<Record>>,
    /// Paths that may now differ from the joined tree for other reasons than a new state.
    pub revisit: BTreeSet<RelPath>,
    /// Per path that was found, versions that stand at another one still.
    elsewhere: BTreeMap<RelPath, BTreeSet<Dot>>,
}

impl Local {
    /// Has base say nothing of paths at and below those that were `unseen` by the scan, where the
    /// tree that was being applied shows something else than base. Once they are seen nobody will
    /// know any more that what stands there need not be made of what base says. What was held back
    /// (`is_held`) from that batch, too, is as it was.
    ///
    /// # Errors
    /// Base or the tree could not be read.
    pub fn forget_unseen<'p, R: Read, B: BaseRead>(
        &mut self,
        unseen: impl Iterator<Item = &'p RelPath>,
        base: &B,
        trees: &mut Trees<'_, R>,
        is_held: impl Fn(&RelPath) -> bool,
    ) -> Result<(), WantsError<R::Error>> {
        let Some(interrupted) = &mut trees.interrupted else { return Ok(()) };
        for path in unseen {
            let own = base.get(path)?.map(|record| Ok((path.clone(), record)));
            for item in own.into_iter().chain(base.below(path)?) {
                let (path, before) = item?;
                if is_held(&path) {
                    continue;
                }
                if interrupted.want(&path)?.is_none_or(|want| want.node != before.node) {
                    self.records.insert(path.clone(), None);
                    self.revisit.insert(path);
                }
            }
        }
        Ok(())
    }

    /// Puts true versions behind the changed paths, by the tree that the changes were put in:
    /// equal content written elsewhere shares the path with what was written here.
    ///
    /// # Errors
    /// The tree could not be read.
    pub fn settle<R: Read>(
        &mut self,
        published: &mut Lookup<'_, R>,
    ) -> Result<(), TreeError<R::Error>> {
        for change in &self.changes {
            let Some(Some(record)) = self.records.get_mut(&change.path) else { continue };
            if let Some(want) = published.want(&change.path)?
                && want.node == record.node
            {
                record.behind = want.behind;
                if let Some(dots) = self.elsewhere.get(&change.path) {
                    keep_out(dots, &mut record.behind);
                }
            }
        }
        Ok(())
    }
}

/// The trees that a scan is compared with.
#[derive(Debug)]
pub struct Trees<'a, R> {
    /// The merge of all heads.
    pub joined: Lookup<'a, R>,
    /// The tree that was being applied when base was told last, if what was done then may not
    /// have been recorded.
    pub interrupted: Option<Lookup<'a, R>>,
}

/// Compares what a scan found with base and with `trees`. `dot` is the act under which the
/// changes will be published; dots that are `disowned` drop nothing.
///
/// # Errors
/// Base or a tree could not be read.
pub fn local<R: Read, B: BaseRead>(
    found: &BTreeMap<RelPath, Found>,
    gone: &[RelPath],
    base: &B,
    trees: &mut Trees<'_, R>,
    dot: Dot,
    disowned: &[Disowned],
) -> Result<Local, WantsError<R::Error>> {
    let mut local = Local::default();
    let (mut known, mut same) = (Versions::new(), BTreeSet::new());
    for (path, found) in found {
        let before = without(base.get(path)?, disowned);
        if before.as_ref().is_some_and(|before| is_same(before, found)) {
            let behind = before.map(|before| before.behind);
            local.records.insert(path.clone(), behind.map(|behind| record(found, behind)));
            continue;
        }
        local.revisit.insert(path.clone());
        if let Some(behind) = trees.placed(path, before.as_ref(), found)? {
            local.records.insert(path.clone(), Some(record(found, behind)));
            continue;
        }
        let wanted = trees.joined.want(path)?;
        let standing = trees.standing(path, before.as_ref())?;
        let after = match decide(before.as_ref(), found, wanted.as_ref(), standing) {
            Verdict::Change { behind, what } => {
                let provisional = match &what {
                    What::Permissions(_) => before.map(|before| before.behind),
                    _ => Some(own(path, dot)),
                };
                local.changes.push(LocalChange { path: path.clone(), behind, what });
                provisional.map(|behind| record(found, behind))
            }
            Verdict::Known => {
                same.extend(before.is_none_or(|it| it.node != found.node).then(|| path.clone()));
                for Behind { name, dots, .. } in wanted.iter().map(|want| &want.behind) {
                    let version = |&dot| (directory_of(path), name.clone(), dot);
                    known.extend(dots.iter().map(version));
                }
                wanted.map(|want| record(found, want.behind))
            }
            Verdict::Overtaken => before.map(|before| record(found, before.behind)),
        };
        local.records.insert(path.clone(), after);
    }
    for path in gone {
        let Some(before) = without(base.get(path)?, disowned) else { continue };
        local.records.insert(path.clone(), None);
        local.revisit.insert(path.clone());
        if trees.standing(path, Some(&before))? == Standing::Held {
            let behind = Some(before.behind);
            local.changes.push(LocalChange { path: path.clone(), behind, what: What::Remove });
        }
    }
    local.part(base, known, &same, dot)?;
    Ok(local)
}

fn directory_of(path: &RelPath) -> RelPath {
    path.split_last().map_or_else(RelPath::root, |(directory, _)| directory)
}

impl<R: Read> Trees<'_, R> {
    /// The versions behind what was found, if it was put there by a batch that was interrupted.
    fn placed(
        &mut self,
        path: &RelPath,
        before: Option<&Record>,
        found: &Found,
    ) -> Result<Option<Behind>, TreeError<R::Error>> {
        let Some(interrupted) = &mut self.interrupted else { return Ok(None) };
        if let Some(before) = before.filter(|before| before.node == FoundNode::Directory)
            && found.node == FoundNode::Directory
            && found.permissions == working_bits(before.permissions)
        {
            // It was opened to be worked in.
            return Ok(Some(before.behind.clone()));
        }
        let Some(want) = interrupted.want(path)? else { return Ok(None) };
        // Its bits may not be set yet; but where nothing else was to be changed, other bits than
        // those wanted are somebody's.
        let is_whole = want.permissions == found.permissions
            || before.is_none_or(|before| before.node != found.node);
        Ok((want.node == found.node && is_whole).then_some(want.behind))
    }

    fn standing(
        &mut self,
        path: &RelPath,
        before: Option<&Record>,
    ) -> Result<Standing, TreeError<R::Error>> {
        let Some(before) = before else { return Ok(Standing::Gone) };
        let entry = self.joined.entry(path, &before.behind.name)?;
        let mut dots =
            entry.iter().flat_map(|entry| &entry.versions).flat_map(|version| &version.dots);
        if !dots.any(|dot| before.behind.dots.contains(dot)) {
            return Ok(Standing::Gone);
        }
        let Some(interrupted) = &mut self.interrupted else { return Ok(Standing::Held) };
        let is_untouched = interrupted.want(path)?.is_some_and(|want| want.node == before.node);
        Ok(if is_untouched { Standing::Held } else { Standing::Unsure })
    }
}

/// Whether found is what base says: mtime alone is no change.
fn is_same(before: &Record, found: &Found) -> bool {
    before.node == found.node && before.permissions == found.permissions
}

/// What stands behind a path that was written here under `dot`.
pub(crate) fn own(path: &RelPath, dot: Dot) -> Behind {
    let name = path.names().last().expect("the root is never found as a path of its own");
    Behind { name: name.clone(), dots: vec![dot], permissions_dot: dot }
}

/// The record of what was found, with these versions behind it.
pub(crate) fn record(found: &Found, behind: Behind) -> Record {
    Record {
        behind,
        node: found.node,
        permissions: found.permissions,
        mtime: found.mtime,
        cache: Some(Cache { stat: found.stat, settled: found.settled }),
    }
}

/// What became of the versions that base has behind a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The joined tree has none of them any more, or there never were any.
    Gone,
    /// One of them is in the joined tree.
    Held,
    /// One of them is, but it may have been moved away from the path by a batch that was
    /// interrupted: what was found was not made of it for sure.
    Unsure,
}

/// What a difference between found and base means.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// A change of this device's.
    Change { behind: Option<Behind>, what: What },
    /// The joined tree says it already.
    Known,
    /// Only bits were changed here, of what was replaced or deleted elsewhere in a way that
    /// leaves them no meaning. Base goes on standing for what was replaced.
    Overtaken,
}

fn decide(
    before: Option<&Record>,
    found: &Found,
    wanted: Option<&Want>,
    standing: Standing,
) -> Verdict {
    let new_bits = before.is_none_or(|before| before.permissions != found.permissions);
    let same_kind = before.is_some_and(|before| kind(before.node) == kind(found.node));
    let same_content = before.is_some_and(|before| before.node == found.node);
    let mut behind = before.map(|before| before.behind.clone());
    let bits = |behind| Verdict::Change { behind, what: What::Permissions(found.permissions) };
    match wanted {
        // The joined tree has this content. Its bits are its own to say, unless they alone were
        // changed here: of content put here by us right before a crash they may not be set yet.
        Some(want) if want.node == found.node => {
            if same_content && new_bits && want.permissions != found.permissions {
                bits(behind)
            } else {
                Verdict::Known
            }
        }
        _ if same_content && standing != Standing::Gone => bits(behind),
        // The bits were changed here and the content elsewhere: both hold.
        Some(want) if same_content && kind(want.node) == kind(found.node) => {
            if want.permissions == found.permissions { Verdict::Overtaken } else { bits(behind) }
        }
        _ if same_content => Verdict::Overtaken,
        _ => {
            let what = put(found.node, found.mtime, found.permissions, new_bits || !same_kind);
            if let Some(behind) = behind.as_mut().filter(|_| standing == Standing::Unsure) {
                behind.dots.clear();
            }
            Verdict::Change { behind, what }
        }
    }
}

pub(crate) fn put(
    node: FoundNode,
    mtime: Mtime,
    permissions: Permissions,
    permissions_changed: bool,
) -> What {
    let put = match node {
        FoundNode::File { content, size } => Put::File { content, size, mtime },
        FoundNode::Symlink { target, size } => Put::Symlink { target, size, mtime },
        FoundNode::Directory => Put::Directory,
    };
    What::Put { put, permissions, permissions_changed }
}

const fn kind(node: FoundNode) -> NodeKind {
    match node {
        FoundNode::File { .. } => NodeKind::File,
        FoundNode::Symlink { .. } => NodeKind::Symlink,
        FoundNode::Directory => NodeKind::Directory,
    }
}
