//! Versions that stand at two paths: a copy that is there still, and what has its content in place
//! by now. No change drops what whoever made it could see elsewhere.

use std::collections::BTreeSet;

use ark_core::{Behind, Dot, LocalChange, Name, ObjectId, RelPath, What, copy_names};

use super::{Local, directory_of, own, put};
use crate::base::{BaseError, BaseRead};
use crate::scan::FoundNode;

/// Versions: the directory of their entry, its name, and a dot.
pub(super) type Versions = BTreeSet<(RelPath, Name, Dot)>;

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

impl Local {
    /// Looks for versions that base has behind another path, too, where that stands as it was: the
    /// joined tree came to have in place what was a copy, or such content was written beside it,
    /// and nobody has taken the copy away yet. Whoever changes one of both sees the other, so no
    /// change drops them, nor what is `known`; and base does not put them behind what was found
    /// before the plan has taken the other away, and seen that this is there still.
    ///
    /// What was found to be the `same` as the joined tree has is an act of its own, under `dot`,
    /// where all that is there stands elsewhere.
    pub(super) fn part<B: BaseRead>(
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
}

/// Has no version stand behind a path that is one of these, if any others do.
pub(super) fn keep_out(dots: &BTreeSet<Dot>, behind: &mut Behind) {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ark_core::{Overlay, Tree, Vector, put_in};

    use super::super::{Trees, local, record};
    use super::*;
    use crate::base::Record;
    use crate::fixtures::{Nothing, dot, found, path};
    use crate::scan::Found;
    use crate::wants::Lookup;

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
