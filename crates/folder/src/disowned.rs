//! What to do about dots that another machine issued, too: a machine image was rolled back, or a
//! key runs twice.
//!
//! The other machine's state replaces the one that this machine made, and its vector has the dots
//! under which something else was written here. So what base has under such dots is published anew
//! under the new incarnation, and drops nothing that the joined tree has under them; where an
//! interrupted batch had put something else in its place by then, it drops nothing at all. To claim no
//! act of the other's that is not here, nothing is published before its state is joined (unless
//! that takes too long). Deletions are not repeated: that would take knowing what was seen.
//!
//! Where a store was put back from a copy its old states still stand, and so does what base has of
//! them, unless it is dated anew: what was deleted after the copy, as others know, and then written
//! again, as nobody knows, would otherwise go with what was deleted. That is seen only of what this
//! device wrote between the copy and its last start before that: the rest is not looked at here.

use std::collections::BTreeSet;

use ark_core::{Dot, LocalChange, Read, RelPath, What};

use crate::base::{BaseRead, Disowned, Record};
use crate::local::{Local, own, put};
use crate::scan::FoundNode;
use crate::wants::{Lookup, Want, WantsError, found_node};

impl Disowned {
    fn has(&self, dot: &Dot) -> bool {
        dot.writer == self.writer && dot.sequence > self.after
    }
}

fn any_has(disowned: &[Disowned], dot: &Dot) -> bool {
    disowned.iter().any(|disowned| disowned.has(dot))
}

/// The record without the disowned dots: of what the joined tree has under them, nothing is
/// known here.
pub(crate) fn without(record: Option<Record>, disowned: &[Disowned]) -> Option<Record> {
    record.map(|mut record| {
        record.behind.dots.retain(|dot| !any_has(disowned, dot));
        record
    })
}

/// Adds to `local` all that base has under disowned dots, to be published under `dot`.
///
/// # Errors
/// Base or the tree could not be read.
pub fn add_disowned<R: Read, B: BaseRead>(
    local: &mut Local,
    disowned: &[Disowned],
    base: &B,
    joined: &mut Lookup<'_, R>,
    dot: Dot,
) -> Result<(), WantsError<R::Error>> {
    if disowned.is_empty() {
        return Ok(());
    }
    let changed: BTreeSet<RelPath> =
        local.changes.iter().map(|change| change.path.clone()).collect();
    for item in base.below(&RelPath::root())? {
        let (path, before) = item?;
        let is_gone = local.records.get(&path).is_some_and(Option::is_none);
        let content = before.behind.dots.iter().any(|dot| any_has(disowned, dot));
        let bits = any_has(disowned, &before.behind.permissions_dot);
        if is_gone || changed.contains(&path) || !content && !bits {
            continue;
        }
        let wanted = joined.want(&path)?;
        let says_so = |want: &Want| {
            let dots = want.behind.dots.iter().chain([&want.behind.permissions_dot]);
            want.node == before.node
                && want.permissions == before.permissions
                && !dots.into_iter().any(|dot| any_has(disowned, dot))
        };
        if wanted.as_ref().is_some_and(says_so) {
            continue;
        }
        let now = local.records.get(&path).and_then(Option::as_ref);
        let same = now.filter(|now| is_same(now, &before));
        let is_written_again = same.is_some_and(|now| is_dated_anew(now, &before));
        let is_lost = is_written_again || disowned.iter().any(|disowned| disowned.reissue);
        if !is_lost && stands(joined, &path, &before)? {
            if same.is_some() {
                // What is done to it later is done to what stands.
                let record = local.records.get_mut(&path).and_then(Option::as_mut);
                record.expect("it was just read").behind = before.behind;
            }
            continue;
        }
        if now.is_some_and(|now| now.node != before.node) {
            // Others' changes took its place, which were made perhaps of what the other machine
            // wrote: what they put there stays, and so do its dots.
            if content && before.node != FoundNode::Directory {
                let what = put(before.node, before.mtime, before.permissions, true);
                local.changes.push(LocalChange { path: path.clone(), behind: None, what });
                local.revisit.insert(path);
            }
            continue;
        }
        let mtime = same.map_or(before.mtime, |now| now.mtime);
        let what = if content {
            put(before.node, mtime, before.permissions, bits)
        } else {
            What::Permissions(before.permissions)
        };
        // A path that was looked at has a fresher stat than base.
        let before = local.records.remove(&path).flatten().unwrap_or(before);
        let behind = without(Some(before.clone()), disowned).map(|record| record.behind);
        local.changes.push(LocalChange { path: path.clone(), behind, what });
        local.revisit.insert(path.clone());
        let behind = if content { own(&path, dot) } else { before.behind.clone() };
        local.records.insert(path, Some(Record { behind, ..before }));
    }
    Ok(())
}

/// Whether what was found, as the record `now` says, is what base says.
fn is_same(now: &Record, before: &Record) -> bool {
    now.node == before.node && now.permissions == before.permissions
}

/// Whether somebody wrote the same again.
fn is_dated_anew(now: &Record, before: &Record) -> bool {
    before.node != FoundNode::Directory && now.mtime != before.mtime
}

/// Whether the joined tree has what the record says under its dots, in place or aside.
fn stands<R: Read>(
    joined: &mut Lookup<'_, R>,
    path: &RelPath,
    before: &Record,
) -> Result<bool, WantsError<R::Error>> {
    let entry = joined.entry(path, &before.behind.name)?;
    let mut versions = entry.iter().flat_map(|entry| &entry.versions);
    Ok(versions.any(|version| {
        version.permissions == before.permissions
            && version.dots.iter().any(|dot| before.behind.dots.contains(dot))
            && found_node(&version.node) == before.node
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ark_core::{DeviceId, Overlay, Tree, Vector, put_in};

    use super::*;
    use crate::fixtures::{Nothing, dot, found, path};
    use crate::local::{Trees, local, record};
    use crate::scan::Found;

    /// A batch had put what another device wrote in the place of what base still has under a
    /// disowned dot, and was interrupted.
    #[test]
    fn what_was_put_in_the_place_of_something_disowned_is_not_dropped() {
        let (mine, theirs, path) = (found("mine"), found("theirs"), path("file"));
        let mut of_theirs = dot(1);
        of_theirs.writer.device = DeviceId::from_bytes([2; 32]);
        let written = LocalChange {
            path: path.clone(),
            behind: None,
            what: put(theirs.node, theirs.mtime, theirs.permissions, true),
        };
        let mut overlay = Overlay::new(Nothing);
        let empty = Tree::empty();
        let root = put_in(&mut overlay, &empty, of_theirs, &[written]).unwrap();
        let base = BTreeMap::from([(path.clone(), record(&mine, own(&path, dot(1))))]);
        let disowned = [Disowned { writer: dot(1).writer, after: 0, reissue: true }];
        let mut trees = Trees {
            joined: Lookup::new(&overlay, root),
            interrupted: Some(Lookup::new(&overlay, root)),
        };
        let here = BTreeMap::from([(path.clone(), theirs.clone())]);
        let anew = dot(2);
        let mut local = local(&here, &[], &base, &mut trees, anew, &disowned).unwrap();
        assert!(local.changes.is_empty(), "it was not written here");
        add_disowned(&mut local, &disowned, &base, &mut trees.joined, anew).unwrap();
        drop(trees);
        let what = put(mine.node, mine.mtime, mine.permissions, true);
        assert_eq!(local.changes, [LocalChange { path: path.clone(), behind: None, what }]);
        assert_eq!(local.records[&path], Some(record(&theirs, own(&path, of_theirs))));
        // One is in place, the other beside it.
        let joined = Tree { root, vector: Vector::empty() };
        let root = put_in(&mut overlay, &joined, anew, &local.changes).unwrap();
        let entry = Lookup::new(&overlay, root).entry(&path, path.names().last().unwrap());
        assert_eq!(entry.unwrap().map(|entry| entry.versions.len()), Some(2));
    }

    /// A store was put back from a copy, whose states stand: what it has of a file that somebody
    /// touched stands behind that as before. What was written again, perhaps after a deletion that
    /// others know of, is an act of its own.
    #[test]
    fn what_stands_is_not_published_anew_unless_it_was_written_again() {
        let (mine, path, anew) = (found("mine"), path("file"), dot(2));
        let what = put(mine.node, mine.mtime, mine.permissions, true);
        let written = LocalChange { path: path.clone(), behind: None, what };
        let mut overlay = Overlay::new(Nothing);
        let root = put_in(&mut overlay, &Tree::empty(), dot(1), &[written]).unwrap();
        let before = record(&mine, own(&path, dot(1)));
        let base = BTreeMap::from([(path.clone(), before.clone())]);
        let disowned = [Disowned { writer: dot(1).writer, after: 0, reissue: false }];
        let taken_up = |here: &Found| {
            let mut trees = Trees { joined: Lookup::new(&overlay, root), interrupted: None };
            let here = BTreeMap::from([(path.clone(), here.clone())]);
            let mut local = local(&here, &[], &base, &mut trees, anew, &disowned).unwrap();
            add_disowned(&mut local, &disowned, &base, &mut trees.joined, anew).unwrap();
            local
        };
        let mut touched = mine.clone();
        touched.stat.ctime.seconds += 1;
        let local = taken_up(&touched);
        assert!(local.changes.is_empty());
        assert_eq!(local.records[&path], Some(record(&touched, before.behind.clone())));
        let mut again = mine.clone();
        again.mtime.seconds += 1;
        let local = taken_up(&again);
        let what = put(mine.node, again.mtime, mine.permissions, true);
        let [change] = &local.changes[..] else { panic!("{local:?}") };
        assert_eq!((&change.path, &change.what), (&path, &what));
        assert!(change.behind.iter().all(|behind| behind.dots.is_empty()), "it drops nothing");
        assert_eq!(local.records[&path], Some(record(&again, own(&path, anew))));
    }
}
