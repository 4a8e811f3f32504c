//! What to do on disk so that it shows what the joined tree says. Pure.
//!
//! A plan acts on what base says of its paths: each action is done only while the disk still
//! agrees with base, so what a plan saw at a path *is* its record (none: nothing is there).
//! Every prefix of a plan may be carried out and the rest planned anew.
//!
//! The order: directories that would keep ark out are opened; files that stand where directories
//! must be are removed; directories are made, outermost first; content that is here under another
//! name is moved, the last of a chain first and pairs by exchanges; what is gone is removed,
//! directories innermost first; content is written; what is there already is adopted; bits that
//! keep ark out of a directory come last, back or anew (and while something in it waits not at all:
//! whoever carries the plan out sees to that, as more may wait by then). Adopting follows removing:
//! versions of equal content become one, and while two paths are said to show it, moving one over
//! the other would read as its deletion. After each step every path is as base says, as wanted, or
//! not there, so that a scan after a crash takes nothing for an edit.

mod moves;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use ark_core::{Content, Name, Permissions, RelPath};

use crate::base::{BaseError, BaseRead, Record};
use crate::scan::FoundNode;
use crate::wants::{Want, Wants};
use moves::{break_rings, order_moves};

/// The bits without which ark cannot work in a directory.
const OWNER_BITS: u16 = 0o700;
/// Those of them without which nothing below a directory is seen or reached.
const SEARCH_BITS: u16 = 0o500;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The disk is as wanted; base learns which versions stand behind the path.
    Adopt {
        /// The path.
        path: RelPath,
        /// What it is to show, and shows.
        want: Want,
    },
    /// Base forgets the path; whatever is on disk is not ark's.
    Forget {
        /// The path.
        path: RelPath,
    },
    /// Gives a directory the owner's bits, for as long as the plan works in it.
    Open {
        /// The path.
        path: RelPath,
    },
    /// Makes a directory where nothing is, at least with the owner's bits.
    MakeDirectory {
        /// The path.
        path: RelPath,
        /// What it is to show.
        want: Want,
    },
    /// Moves a file or symlink to where nothing is, or over what is wanted no more.
    Move {
        /// Where it is.
        from: RelPath,
        /// Where it is wanted.
        to: RelPath,
        /// What `to` is to show: the content of `from`.
        want: Want,
    },
    /// Swaps two files, each of which has the content wanted for the other.
    Exchange {
        /// One.
        from: RelPath,
        /// What it is to show: the content of `to`.
        back: Want,
        /// The other.
        to: RelPath,
        /// What it is to show: the content of `from`.
        want: Want,
    },
    /// Writes content (a file or a symlink) where nothing is, or over what is there.
    Write {
        /// The path.
        path: RelPath,
        /// What it is to show.
        want: Want,
    },
    /// Removes a file or symlink.
    Remove {
        /// The path.
        path: RelPath,
    },
    /// Removes a directory; one that still holds what is not ark's stays.
    RemoveDirectory {
        /// The path.
        path: RelPath,
    },
    /// Sets the bits.
    SetPermissions {
        /// The path.
        path: RelPath,
        /// What it is to show.
        want: Want,
    },
}

/// Paths that were changed here, or may have been, and are not yet published. Nothing is done
/// about them, nor about what is below them, and no directory above them is closed to a scan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dirty {
    paths: BTreeSet<RelPath>,
}

/// What to do, in order, and what not to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The steps.
    pub actions: Vec<Action>,
    /// Paths that are not as wanted and wait for a scan.
    pub blocked: BTreeSet<RelPath>,
    /// Paths that are not as wanted and stay so for as long as they are [`Held`].
    pub skipped: BTreeSet<RelPath>,
}

/// Why a path, with all below it, is left alone whatever others do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It is ignored here.
    Ignored,
    /// What is there is not synced, or cannot be read.
    Kept,
}

impl Action {
    /// The path that it is about: where there are two, the one whose want it fulfils.
    pub fn path(&self) -> &RelPath {
        match self {
            Self::Adopt { path, .. }
            | Self::Forget { path }
            | Self::Open { path }
            | Self::MakeDirectory { path, .. }
            | Self::Write { path, .. }
            | Self::Remove { path }
            | Self::RemoveDirectory { path }
            | Self::SetPermissions { path, .. } => path,
            Self::Move { to, .. } | Self::Exchange { to, .. } => to,
        }
    }

    /// All paths that it changes.
    pub fn paths(&self) -> impl Iterator<Item = &RelPath> {
        let other = match self {
            Self::Move { from, .. } | Self::Exchange { from, .. } => Some(from),
            _ => None,
        };
        std::iter::once(self.path()).chain(other)
    }

    /// Whether it does anything on disk.
    pub const fn is_on_disk(&self) -> bool {
        !matches!(self, Self::Adopt { .. } | Self::Forget { .. })
    }

    /// Bytes of content to be written.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Write { want: Want { node: FoundNode::File { size, .. }, .. }, .. } => *size,
            _ => 0,
        }
    }
}

impl Dirty {
    /// Whether `path` or a directory that it is in is dirty.
    pub fn covers(&self, path: &RelPath) -> bool {
        !self.paths.is_empty()
            && (0..=path.names().len())
                .any(|depth| self.paths.contains(&RelPath::from(path.names()[..depth].to_vec())))
    }

    /// Whether anything below `path` is dirty.
    pub fn any_below(&self, path: &RelPath) -> bool {
        any_below(&self.paths, path)
    }
}

impl FromIterator<RelPath> for Dirty {
    fn from_iter<I: IntoIterator<Item = RelPath>>(paths: I) -> Self {
        Self { paths: paths.into_iter().collect() }
    }
}

/// Plans how to bring the disk, which is as base says where it is not `dirty`, to `wants`.
/// `held` says of a path, and whether it is or will be a directory, if it is to be left alone.
///
/// # Errors
/// Base could not be read, or `held` failed.
pub fn plan<B, E>(
    wants: &Wants,
    base: &B,
    dirty: &Dirty,
    mut held: impl FnMut(&RelPath, bool) -> Result<Option<Held>, E>,
) -> Result<Plan, E>
where
    B: BaseRead,
    E: From<BaseError>,
{
    let mut sorted = Sorted::default();
    for (path, want) in wants {
        let record = base.get(path)?;
        if record.as_ref().map(shown) != *want {
            let nodes = [record.as_ref().map(|record| record.node), want.as_ref().map(|w| w.node)];
            let held = held(path, nodes.contains(&Some(FoundNode::Directory)))?;
            sorted.take(path, want.as_ref(), record, dirty, held);
        }
    }
    sorted.see_closed(base)?;
    Ok(sorted.into_plan())
}

/// The paths by what must happen to them.
#[derive(Debug, Default)]
struct Sorted {
    blocked: BTreeSet<RelPath>,
    skipped: BTreeSet<RelPath>,
    /// Adopted or forgotten: nothing on disk.
    quiet: Vec<Action>,
    /// Files and symlinks in base that do not stay as they are.
    leaving: BTreeMap<RelPath, Leaving>,
    /// Files and symlinks that are wanted.
    arriving: BTreeMap<RelPath, Want>,
    make: BTreeMap<RelPath, Want>,
    remove: BTreeSet<RelPath>,
    bits: BTreeMap<RelPath, Want>,
    /// Directories without the owner's bits in which, or below which, there is something to do, as
    /// they are shown and, but for these, wanted.
    closed: BTreeMap<RelPath, Want>,
}

#[derive(Debug)]
struct Leaving {
    node: FoundNode,
    then: Then,
}

/// What is wanted where something leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    Content,
    Directory,
}

impl Sorted {
    fn take(
        &mut self,
        path: &RelPath,
        want: Option<&Want>,
        record: Option<Record>,
        dirty: &Dirty,
        held: Option<Held>,
    ) {
        let was_directory = record.as_ref().is_some_and(|r| r.node == FoundNode::Directory);
        let is_directory = want.is_some_and(|want| want.node == FoundNode::Directory);
        let goes = was_directory && !is_directory;
        // A scan would not see what was changed there.
        let hides = was_directory
            && is_directory
            && record.as_ref().zip(want).is_some_and(|(r, w)| hides(r.permissions, w.permissions));
        match (record, want) {
            (None, None) => {}
            _ if dirty.covers(path) || (goes || hides) && dirty.any_below(path) => {
                self.blocked.insert(path.clone());
            }
            (Some(_), None) if held == Some(Held::Ignored) => {
                self.quiet.push(Action::Forget { path: path.clone() });
            }
            _ if held.is_some() => {
                self.skipped.insert(path.clone());
            }
            (None, Some(want)) => self.arrive(path, want),
            (Some(record), None) => self.leave(path, record.node, Then::Nothing),
            (Some(record), Some(want)) => self.change(path, &record, want),
        }
    }

    fn arrive(&mut self, path: &RelPath, want: &Want) {
        let arrivals = match want.node {
            FoundNode::Directory => &mut self.make,
            FoundNode::File { .. } | FoundNode::Symlink { .. } => &mut self.arriving,
        };
        arrivals.insert(path.clone(), want.clone());
    }

    fn leave(&mut self, path: &RelPath, node: FoundNode, then: Then) {
        if node == FoundNode::Directory {
            self.remove.insert(path.clone());
        } else {
            self.leaving.insert(path.clone(), Leaving { node, then });
        }
    }

    fn change(&mut self, path: &RelPath, record: &Record, want: &Want) {
        if record.node != want.node {
            let is_directory = want.node == FoundNode::Directory;
            self.leave(
                path,
                record.node,
                if is_directory { Then::Directory } else { Then::Content },
            );
            self.arrive(path, want);
        } else if record.permissions != want.permissions {
            self.bits.insert(path.clone(), want.clone());
        } else if record.behind != want.behind {
            self.quiet.push(Action::Adopt { path: path.clone(), want: want.clone() });
        }
    }

    /// Finds the directories that have to be opened for what is to be done in them.
    fn see_closed<B: BaseRead>(&mut self, base: &B) -> Result<(), BaseError> {
        let acted = self.leaving.keys().chain(self.arriving.keys()).chain(self.make.keys());
        let mut needed: BTreeMap<RelPath, u16> = BTreeMap::new();
        for path in acted.chain(&self.remove).chain(self.bits.keys()) {
            let mut bits = OWNER_BITS;
            let mut next = parent(path);
            while let Some(at) = next {
                let known = needed.entry(at.clone()).or_default();
                // What is above one that was met before was met, too.
                next = parent(&at).filter(|_| *known == 0);
                *known |= bits;
                bits = SEARCH_BITS;
            }
        }
        for (path, bits) in needed {
            let record = base.get(&path)?.filter(|r| r.node == FoundNode::Directory);
            let is_closed = |want: &Want| want.permissions.bits() & bits != bits;
            if let Some(want) = record.as_ref().map(shown).filter(is_closed) {
                self.closed.insert(path, want);
            }
        }
        // Closing them adopts what else is wanted of them.
        self.quiet.retain(|action| match action {
            Action::Adopt { path, want } => {
                let closed = self.closed.get_mut(path);
                closed.is_none_or(|closed| {
                    closed.clone_from(want);
                    false
                })
            }
            _ => true,
        });
        Ok(())
    }

    /// Which wanted files have their content leaving another path: by target. Of several the
    /// one of the same name is taken, else the first left.
    fn match_moves(&self) -> BTreeMap<RelPath, RelPath> {
        let mut sources: HashMap<Content, BTreeSet<&RelPath>> = HashMap::new();
        let mut by_name: HashMap<(Content, &Name), Vec<&RelPath>> = HashMap::new();
        for (path, leaving) in self.leaving.iter().rev() {
            if let (FoundNode::File { content, .. }, true) =
                (leaving.node, leaving.then != Then::Directory)
            {
                sources.entry(content).or_default().insert(path);
                by_name.entry((content, last_name(path))).or_default().push(path);
            }
        }
        let mut moves = BTreeMap::new();
        let mut unnamed = Vec::new();
        for (to, want) in &self.arriving {
            let FoundNode::File { content, .. } = want.node else { continue };
            let Some(left) = sources.get_mut(&content) else { continue };
            if self.remove.contains(to) {
                continue;
            }
            match by_name.get_mut(&(content, last_name(to))).and_then(Vec::pop) {
                Some(from) => {
                    left.remove(from);
                    moves.insert(to.clone(), from.clone());
                }
                None => unnamed.push((to, content)),
            }
        }
        for (to, content) in unnamed {
            if let Some(from) = sources.get_mut(&content).and_then(BTreeSet::pop_first) {
                moves.insert(to.clone(), from.clone());
            }
        }
        moves
    }

    fn into_plan(mut self) -> Plan {
        let mut matched = self.match_moves();
        let pairs = break_rings(&mut matched);
        let sources: BTreeSet<&RelPath> = matched.values().collect();
        let (mut actions, adopted): (Vec<_>, Vec<_>) = std::mem::take(&mut self.quiet)
            .into_iter()
            .partition(|action| matches!(action, Action::Forget { .. }));
        let (open, close): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.bits).into_iter().partition(|(_, want)| opens(want));
        let closed = std::mem::take(&mut self.closed);
        let mut opening: BTreeMap<&RelPath, Action> =
            closed.keys().map(|path| (path, Action::Open { path: path.clone() })).collect();
        opening.extend(open.iter().map(|(path, want)| (path, set_permissions(path, want))));
        actions.extend(opening.into_values());
        let leaving = |then| {
            let all = self.leaving.iter().filter(move |(_, leaving)| leaving.then == then);
            all.map(|(path, _)| path)
        };
        actions.extend(leaving(Then::Directory).map(|path| Action::Remove { path: path.clone() }));
        actions.extend(
            self.make.iter().map(|(path, want)| Action::MakeDirectory {
                path: path.clone(),
                want: want.clone(),
            }),
        );
        actions.extend(pairs.iter().map(|(a, b)| Action::Exchange {
            from: a.clone(),
            back: self.arriving[a].clone(),
            to: b.clone(),
            want: self.arriving[b].clone(),
        }));
        actions.extend(order_moves(&matched, &self.arriving));
        let removals = leaving(Then::Nothing).filter(|path| !sources.contains(path));
        actions.extend(removals.map(|path| Action::Remove { path: path.clone() }));
        let innermost_first = self.remove.iter().rev();
        actions.extend(innermost_first.map(|path| Action::RemoveDirectory { path: path.clone() }));
        let paired: BTreeSet<&RelPath> = pairs.iter().flat_map(|(a, b)| [a, b]).collect();
        let is_moved = |path: &RelPath| matched.contains_key(path) || paired.contains(path);
        let written = self.arriving.iter().filter(|(path, _)| !is_moved(path));
        actions.extend(
            written.map(|(path, want)| Action::Write { path: path.clone(), want: want.clone() }),
        );
        actions.extend(adopted);
        let stay = closed
            .iter()
            .filter(|(path, _)| !self.remove.contains(path) && !open.contains_key(path));
        let narrow = self.make.iter().filter(|(_, want)| !opens(want));
        let last: BTreeMap<_, _> = stay.chain(&close).chain(narrow).collect();
        actions.extend(last.into_iter().rev().map(|(path, want)| set_permissions(path, want)));
        Plan { actions, blocked: self.blocked, skipped: self.skipped }
    }
}

/// What a path shows by its record. The mtime alone is no difference.
fn shown(record: &Record) -> Want {
    let Record { behind, node, permissions, mtime, .. } = record.clone();
    Want { node, permissions, mtime, behind }
}

/// Whether any of `paths` is below `path`.
pub(crate) fn any_below(paths: &BTreeSet<RelPath>, path: &RelPath) -> bool {
    let after = (Bound::Excluded(path), Bound::Unbounded);
    paths.range::<RelPath, _>(after).next().is_some_and(|next| next.starts_with(path))
}

/// The directory that `path` is in, unless that is the root.
fn parent(path: &RelPath) -> Option<RelPath> {
    path.split_last().map(|(parent, _)| parent).filter(|parent| !parent.is_root())
}

fn last_name(path: &RelPath) -> &Name {
    path.names().last().expect("the root is never wanted as a path of its own")
}

/// Whether the wanted bits are those of a directory in which ark can work.
fn opens(want: &Want) -> bool {
    want.node == FoundNode::Directory && want.permissions.bits() & OWNER_BITS == OWNER_BITS
}

fn set_permissions(path: &RelPath, want: &Want) -> Action {
    Action::SetPermissions { path: path.clone(), want: want.clone() }
}

/// Whether a directory that is given the bits `after` in place of `before` hides what is in it.
pub(crate) fn hides(before: Permissions, after: Permissions) -> bool {
    before != after && !is_open(after)
}

/// Whether the owner of a directory of these bits sees and reaches what is in it.
pub(crate) fn is_open(permissions: Permissions) -> bool {
    permissions.bits() & SEARCH_BITS == SEARCH_BITS
}

/// The bits that a directory has while ark works in it: its own, and what that takes.
pub(crate) fn working_bits(permissions: Permissions) -> Permissions {
    Permissions::from_mode(u32::from(permissions.bits() | OWNER_BITS))
}
