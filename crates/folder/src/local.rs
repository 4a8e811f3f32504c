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

use std::collections::{BTreeMap, BTreeSet};

use ark_core::{
    Behind, Dot, LocalChange, Mtime, Name, NodeKind, ObjectId, Permissions, Put, Read, RelPath,
    TreeError, What, copy_names,
};

use crate::base::{BaseError, BaseRead, Cache, Disowned, Record};
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

/// Names of copies that are made of one content's hash alone: of its 64 digits each shows 8 more.
/// That others have entries of all of them, which this device has not, is nobody's accident.
const NAMES_BY_HASH: usize = 8;

/// Whether base has anything in the directory of a path: where much is new it mostly has not.
/// Remembers the last answer; best asked in order of paths.
#[derive(Debug, Default)]
struct Inhabited(Option<(RelPath, bool)>);

impl Inhabited {
    fn holds<B: BaseRead>(&mut self, base: &B, path: &RelPath) -> Result<bool, BaseError> {
        let directory = directory_of(path);
        match &self.0 {
            Some((of, answer)) if *of == directory => Ok(*answer),
            _ => {
                let answer = base.below(&directory)?.next().transpose()?.is_some();
                self.0 = Some((directory, answer));
                Ok(answer)
            }
        }
    }
}

/// Versions: the directory of their entry, its name, and a dot.
type Versions = BTreeSet<(RelPath, Name, Dot)>;

impl Local {
    /// Looks for versions that base has behind another path, too, where that stands as it was: the
    /// joined tree came to have in place what was a copy, or such content was written beside it,
    /// and nobody has taken the copy away yet. Whoever changes one of both sees the other, so no
    /// change drops them, nor what is `known`; and base does not put them behind what was found
    /// before the plan has taken the other away, and seen that this is there still.
    ///
    /// What was found to be the `same` as the joined tree has is an act of its own, under `dot`,
    /// where all that is there stands elsewhere.
    fn part<B: BaseRead>(
        &mut self,
        base: &B,
        mut known: Versions,
        same: &BTreeSet<RelPath>,
        dot: Dot,
    ) -> Result<(), BaseError> {
        let mut inhabited = Inhabited::default();
        for LocalChange { path, behind, .. } in &self.changes {
            if let (Some(behind), Some(before)) = (behind, base.get(path)?) {
                let dots = self.elsewhere(base, path, &behind.name, before.node)?;
                let version = |dot| (directory_of(path), behind.name.clone(), dot);
                known.extend(dots.into_iter().map(version));
            }
        }
        for path in &self.revisit {
            if let Some(Some(record)) = self.records.get(path)
                && inhabited.holds(base, path)?
            {
                let dots = self.elsewhere(base, path, &record.behind.name, record.node)?;
                self.elsewhere.extend((!dots.is_empty()).then(|| (path.clone(), dots)));
            }
        }
        for (path, dots) in &self.elsewhere {
            let Some(Some(record)) = self.records.get_mut(path) else { continue };
            if same.contains(path) && record.behind.dots.iter().all(|dot| dots.contains(dot)) {
                // All that the joined tree has there is what stands elsewhere: this is one more.
                let what = put(record.node, record.mtime, record.permissions, true);
                self.changes.push(LocalChange { path: path.clone(), behind: None, what });
                record.behind = own(path, dot);
            }
            keep_out(dots, &mut record.behind);
        }
        self.spare(&known);
        Ok(())
    }

    /// The dots of the entry `name` that base has behind other paths than this one, which show this
    /// content and stand.
    fn elsewhere<B: BaseRead>(
        &self,
        base: &B,
        path: &RelPath,
        name: &Name,
        node: FoundNode,
    ) -> Result<BTreeSet<Dot>, BaseError> {
        let mut dots = BTreeSet::new();
        let Some(content) = content(node) else { return Ok(dots) };
        let directory = directory_of(path);
        let names = std::iter::once(name.clone()).chain(copy_names(name, content));
        for (tried, shown) in names.enumerate() {
            let other = directory.join(shown);
            match base.get(&other)? {
                Some(there) if there.behind.name == *name && there.node == node => {
                    let stands = other != *path && self.stands(&other, node);
                    dots.extend(there.behind.dots.into_iter().filter(|_| stands));
                }
                // Longer names are shown only where this one is taken in the tree, be it by what
                // this device does not have.
                None if tried >= NAMES_BY_HASH => break,
                _ => {}
            }
        }
        Ok(dots)
    }

    /// Whether what base has at a path is there, as far as it was looked at.
    fn stands(&self, path: &RelPath, node: FoundNode) -> bool {
        self.records.get(path).is_none_or(|now| now.as_ref().is_some_and(|now| now.node == node))
    }

    /// Has no change drop what is `known` to stand somewhere: where it was found, because a copy
    /// was renamed to the name that it has in the joined tree by now, or where it was all the while.
    fn spare(&mut self, known: &Versions) {
        self.changes.retain_mut(|change| {
            if matches!(change.what, What::Permissions(_)) {
                return true;
            }
            let Some(behind) = &mut change.behind else { return true };
            let (directory, name) = (directory_of(&change.path), &behind.name);
            let is_known = |dot: &Dot| known.contains(&(directory.clone(), name.clone(), *dot));
            behind.dots.retain(|dot| !is_known(dot));
            change.what != What::Remove || !behind.dots.is_empty()
        });
    }

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

/// Has no version stand behind a path that is one of these, if any others do.
fn keep_out(dots: &BTreeSet<Dot>, behind: &mut Behind) {
    if behind.dots.iter().any(|dot| !dots.contains(dot)) {
        behind.dots.retain(|dot| !dots.contains(dot));
    }
}

/// What links the content of a file or symlink.
const fn content(node: FoundNode) -> Option<ObjectId> {
    match node {
        FoundNode::File { content, .. } => Some(content.link().id),
        FoundNode::Symlink { target, .. } => Some(target),
        FoundNode::Directory => None,
    }
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

#[cfg(test)]
mod tests {
    use ark_core::{Content, DeviceId, Incarnation, Overlay, Tree, Vector, Writer, put_in};

    use super::*;
    use crate::fixtures::{Nothing, path};
    use crate::fs::{Stat, StatKind};

    fn dot(sequence: u64) -> Dot {
        let device = DeviceId::from_bytes([1; 32]);
        Dot { writer: Writer { device, incarnation: Incarnation::new(1) }, sequence }
    }

    fn found(content: &str) -> Found {
        let (mtime, size) = (Mtime::default(), content.len() as u64);
        let (dev, ino, mode) = (1, 2, 0o100_644);
        let stat = Stat { kind: StatKind::File, dev, ino, size, mode, mtime, ctime: mtime };
        let content = Content::Raw(ObjectId::of(content.as_bytes()));
        let node = FoundNode::File { content, size };
        Found { node, permissions: Permissions::from_mode(0o644), mtime, stat, settled: true }
    }

    fn behind(name: &str, sequence: u64) -> Behind {
        let name = Name::new(name.as_bytes()).unwrap();
        Behind { name, dots: vec![dot(sequence)], permissions_dot: dot(sequence) }
    }

    /// The joined tree came to have in place what is a copy on disk still. The user removes and
    /// renames copies just then.
    #[test]
    fn a_copy_renamed_to_the_name_that_it_has_by_now_is_not_dropped() {
        let mut overlay = Overlay::new(Nothing);
        let written = ["mine", "gone", "copied"].map(|name| {
            let Found { node, mtime, permissions, .. } = found(name);
            LocalChange {
                path: path(name),
                behind: None,
                what: put(node, mtime, permissions, true),
            }
        });
        let root = put_in(&mut overlay, &Tree::empty(), dot(2), &written).unwrap();
        let base: BTreeMap<RelPath, Record> = [
            ("mine", "other", behind("mine", 1)),
            ("mine.conflict-0", "mine", behind("mine", 2)),
            ("gone.conflict-0", "gone", behind("gone", 2)),
            ("copied.conflict-0", "copied", behind("copied", 2)),
        ]
        .map(|(name, content, behind)| (path(name), record(&found(content), behind)))
        .into();
        let gone = ["copied.conflict-0", "gone.conflict-0", "mine.conflict-0"].map(path);
        let seen = [("copied", "edited"), ("mine", "mine")];
        let seen = seen.map(|(name, content)| (path(name), found(content))).into();
        let local = {
            let joined = Lookup::new(&overlay, root);
            let mut trees = Trees { joined, interrupted: None };
            local(&seen, &gone, &base, &mut trees, dot(3), &[]).unwrap()
        };
        // All were written under one dot: what is removed of other names is.
        let changed: Vec<String> =
            local.changes.iter().map(|change| change.path.to_string()).collect();
        assert_eq!(changed, ["copied", "copied.conflict-0", "gone.conflict-0"]);
        let mut vector = Vector::empty();
        vector.take_in(dot(2));
        let joined = Tree { root, vector };
        let root = put_in(&mut overlay, &joined, dot(3), &local.changes).unwrap();
        let mut published = Lookup::new(&overlay, root);
        let shown = ["copied", "gone", "mine"]
            .map(|name| published.want(&path(name)).unwrap().map(|want| want.node));
        assert_eq!(shown, [Some(found("edited").node), None, Some(found("mine").node)]);
        assert_eq!(local.records[&path("mine")].as_ref().unwrap().behind, behind("mine", 2));
        assert!(gone.iter().all(|path| local.records[path].is_none()));
    }

    /// A file of the content of a copy is written beside it and changed again, or the copy is,
    /// before the copy is taken away: whoever did that sees the other still.
    #[test]
    fn what_stands_at_another_path_is_not_dropped() {
        let content = |name: &str| path(&format!("x/{name}.conflict-{}.txt", short("same")));
        let mut overlay = Overlay::new(Nothing);
        let united = |name: &str| LocalChange {
            path: path(&format!("x/{name}.txt")),
            behind: None,
            what: {
                let Found { node, mtime, permissions, .. } = found("same");
                put(node, mtime, permissions, true)
            },
        };
        let names = ["removed", "copied", "edited", "both"];
        let written = names.map(united);
        let first = put_in(&mut overlay, &Tree::empty(), dot(1), &written).unwrap();
        let mut vector = Vector::empty();
        vector.take_in(dot(1));
        let first = Tree { root: first, vector };
        let root = put_in(&mut overlay, &first, dot(2), &written).unwrap();
        let base: BTreeMap<RelPath, Record> = names
            .into_iter()
            .flat_map(|name| {
                let name_of = format!("{name}.txt");
                let plain = Behind { dots: vec![dot(1), dot(2)], ..behind(&name_of, 2) };
                let (plain, copy) = (record(&found("same"), plain), behind(&name_of, 1));
                let copy = record(&found("same"), copy);
                [(path(&format!("x/{name_of}")), plain), (content(name), copy)]
            })
            .collect();
        let gone = [path("x/removed.txt"), content("copied"), path("x/both.txt"), content("both")];
        let seen = [(path("x/edited.txt"), found("edited"))].into();
        let local = {
            let mut trees = Trees { joined: Lookup::new(&overlay, root), interrupted: None };
            local(&seen, &gone, &base, &mut trees, dot(3), &[]).unwrap()
        };
        let mut dropped: Vec<(String, Vec<Dot>)> = local
            .changes
            .iter()
            .map(|it| (it.path.to_string(), it.behind.clone().unwrap().dots))
            .collect();
        dropped.sort();
        let of = |path: RelPath, dots: &[u64]| {
            (path.to_string(), dots.iter().map(|at| dot(*at)).collect::<Vec<_>>())
        };
        let mut expected = [
            of(path("x/removed.txt"), &[2]),
            of(path("x/edited.txt"), &[2]),
            // Both were taken away by whoever saw both.
            of(path("x/both.txt"), &[1, 2]),
            of(content("both"), &[1]),
        ];
        expected.sort();
        assert_eq!(dropped, expected);
    }

    /// The shorter names are taken by what this device has not, as it is ignored here.
    #[test]
    fn a_copy_of_a_longer_name_is_not_dropped() {
        let hash = ObjectId::of(b"same").to_string();
        for digits in [8, 16, 64] {
            let copy = path(&format!("f.conflict-{}.txt", &hash[..digits]));
            let write = |content: &str| {
                let Found { node, mtime, permissions, .. } = found(content);
                let what = put(node, mtime, permissions, true);
                LocalChange { path: path("f.txt"), behind: None, what }
            };
            let mut overlay = Overlay::new(Nothing);
            let root = put_in(&mut overlay, &Tree::empty(), dot(1), &[write("same")]).unwrap();
            let mut vector = Vector::empty();
            vector.take_in(dot(1));
            let first = Tree { root, vector };
            let root = put_in(&mut overlay, &first, dot(2), &[write("same")]).unwrap();
            let united = Behind { dots: vec![dot(1), dot(2)], ..behind("f.txt", 2) };
            let base: BTreeMap<RelPath, Record> = [
                (path("f.txt"), record(&found("same"), united)),
                (copy, record(&found("same"), behind("f.txt", 1))),
            ]
            .into();
            let seen = [(path("f.txt"), found("edited"))].into();
            let mut trees = Trees { joined: Lookup::new(&overlay, root), interrupted: None };
            let local = local(&seen, &[], &base, &mut trees, dot(3), &[]).unwrap();
            let dropped = local.changes[0].behind.as_ref().map(|behind| behind.dots.clone());
            assert_eq!(dropped, Some(vec![dot(2)]), "{digits} digits");
        }
    }

    /// What was written beside a copy may be gone again before the copy is taken away: until the
    /// plan has seen that it is there, nothing but the act itself stands behind it.
    #[test]
    fn base_does_not_say_of_what_was_found_what_stands_at_another_path() {
        let Found { node, mtime, permissions, .. } = found("same");
        let write = |name: &str| LocalChange {
            path: path(name),
            behind: None,
            what: put(node, mtime, permissions, true),
        };
        let copy = |name: &str| path(&format!("{name}.conflict-{}", short("same")));
        let mut overlay = Overlay::new(Nothing);
        let both = ["known", "written"].map(write);
        let root = put_in(&mut overlay, &Tree::empty(), dot(1), &both).unwrap();
        let mut vector = Vector::empty();
        vector.take_in(dot(1));
        let joined = Tree { root, vector };
        let root = put_in(&mut overlay, &joined, dot(2), &both[..1]).unwrap();
        let base: BTreeMap<RelPath, Record> = ["known", "written"]
            .map(|name| (copy(name), record(&found("same"), behind(name, 1))))
            .into();
        let seen = [(path("known"), found("same")), (path("written"), found("same"))].into();
        let mut trees = Trees { joined: Lookup::new(&overlay, root), interrupted: None };
        let mut local = local(&seen, &[], &base, &mut trees, dot(3), &[]).unwrap();
        assert_eq!(local.records[&path("known")].as_ref().unwrap().behind.dots, [dot(2)]);
        // The joined tree has nothing there but what stands elsewhere.
        assert_eq!(local.changes, [write("written")]);
        let united = put_in(&mut overlay, &joined, dot(3), &local.changes).unwrap();
        local.settle(&mut Lookup::new(&overlay, united)).unwrap();
        assert_eq!(local.records[&path("written")].as_ref().unwrap().behind.dots, [dot(3)]);
    }

    fn short(content: &str) -> String {
        ObjectId::of(content.as_bytes()).to_string()[..8].to_owned()
    }
}
