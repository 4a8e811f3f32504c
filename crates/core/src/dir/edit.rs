//! Making directories: a builder that cuts nodes, and edits that reuse what they do not touch.

use std::collections::{BTreeMap, HashSet};

use super::cut::{Fill, MAX_ENTRY_WEIGHT, child_weight, entry_weight};
use super::node::{Child, DirNode};
use super::read::{below, load};
use crate::entry::{Entry, Name, Totals};
use crate::id::ObjectId;
use crate::object::{Object, Overlay, Read, TreeError};

/// Replaces (`Some`) and removes (`None`) entries of the directory `root`; gives the root and the
/// totals of the result. The same as making the directory anew of all its entries, at the cost
/// of the nodes around the edits. New nodes go into `overlay`, children before parents; an edit
/// that changes nothing makes none. The entry under a name must have that name.
///
/// # Errors
/// A node that cannot be read or is damaged; an entry with more versions than one may have.
pub fn edit<R: Read>(
    overlay: &mut Overlay<R>,
    root: ObjectId,
    edits: BTreeMap<Name, Option<Entry>>,
) -> Result<(ObjectId, Totals), TreeError<R::Error>> {
    let mut made = Vec::new();
    let root = edit_into(&*overlay, root, edits, &mut made)?;
    for object in made {
        overlay.put(object);
    }
    Ok(root)
}

/// [`edit`], with new nodes appended to `made`, children before parents.
pub(crate) fn edit_into<R: Read>(
    read: &R,
    root: ObjectId,
    edits: BTreeMap<Name, Option<Entry>>,
    made: &mut Vec<Object>,
) -> Result<(ObjectId, Totals), TreeError<R::Error>> {
    let node = load(read, root, None)?;
    if edits.is_empty() {
        return Ok((root, node.totals()));
    }
    let edits = edits.into_iter().collect::<Vec<_>>().into_iter().peekable();
    let mut editor = Editor { read, edits, builder: Builder::default() };
    editor.push_edited(root, node, true)?;
    editor.push_edits_up_to(None)?;
    let (root, nodes) = editor.builder.finish();
    made.extend(nodes);
    Ok(root)
}

/// A walk over the old tree that builds the new one.
struct Editor<'a, R> {
    read: &'a R,
    /// Those not done yet, in order of names.
    edits: std::iter::Peekable<std::vec::IntoIter<(Name, Option<Entry>)>>,
    builder: Builder,
}

impl<R: Read> Editor<'_, R> {
    /// Pushes what is below a node of the old tree, with the edits up to its last name. `is_last`
    /// says whether it is the last one on its level.
    fn push_edited(
        &mut self,
        id: ObjectId,
        node: DirNode,
        is_last: bool,
    ) -> Result<(), TreeError<R::Error>> {
        self.builder.opened.insert(id);
        let level = below(&node);
        for entry in node.entries {
            self.push_edits_up_to(Some(&entry.name))?;
            match self.edits.next_if(|(name, _)| *name == entry.name) {
                Some((_, replaced)) => replaced.map_or(Ok(()), |entry| self.push_entry(entry))?,
                None => self.push_entry(entry)?,
            }
        }
        let mut children = node.children.into_iter().peekable();
        while let Some(child) = children.next() {
            // What stands before another node on its level is closed. The last one may have ended
            // with the entries, also where the cut above it falls at the same name by chance.
            let is_last = is_last && children.peek().is_none();
            let is_touched = self.edits.peek().is_some_and(|(name, _)| *name <= child.last);
            if !is_last && !is_touched && self.builder.is_fresh(level) {
                self.builder.push_child(level, child);
            } else {
                let node = load(self.read, child.id, Some(level))?;
                self.push_edited(child.id, node, is_last)?;
            }
        }
        Ok(())
    }

    /// Pushes the edits before `name`; all that are left, if none is given.
    fn push_edits_up_to(&mut self, name: Option<&Name>) -> Result<(), TreeError<R::Error>> {
        while let Some((_, entry)) = self.edits.next_if(|(at, _)| name.is_none_or(|name| at < name))
        {
            entry.map_or(Ok(()), |entry| self.push_entry(entry))?;
        }
        Ok(())
    }

    fn push_entry(&mut self, entry: Entry) -> Result<(), TreeError<R::Error>> {
        let weight = entry_weight(&entry);
        if weight > MAX_ENTRY_WEIGHT {
            return Err(TreeError::EntryTooLarge { name: entry.name, weight });
        }
        self.builder.push_entry(entry, weight);
        Ok(())
    }
}

/// Cuts entries, and nodes that others cut, into the nodes of a tree.
#[derive(Default)]
struct Builder {
    /// The node being filled on each level.
    levels: Vec<Filling>,
    made: Vec<Object>,
    /// Nodes of the old tree that were read: these need not be made again.
    opened: HashSet<ObjectId>,
}

#[derive(Default)]
struct Filling {
    fill: Fill,
    entries: Vec<Entry>,
    children: Vec<Child>,
}

impl Builder {
    fn level(&mut self, level: u8) -> &mut Filling {
        let at = usize::from(level);
        if self.levels.len() <= at {
            self.levels.resize_with(at + 1, Filling::default);
        }
        &mut self.levels[at]
    }

    fn push_entry(&mut self, entry: Entry, weight: usize) {
        let leaf = self.level(0);
        leaf.fill.add(weight);
        let ends = leaf.fill.ends(0, &entry.name);
        leaf.entries.push(entry);
        if ends {
            self.cut(0);
        }
    }

    /// Pushes a node of `level`. No node of that level or below may be half filled.
    fn push_child(&mut self, level: u8, child: Child) {
        let above = self.level(level + 1);
        above.fill.add(child_weight(&child.last));
        let ends = above.fill.ends(level + 1, &child.last);
        above.children.push(child);
        if ends {
            self.cut(level + 1);
        }
    }

    /// Whether no node is half filled, up to this level.
    fn is_fresh(&self, level: u8) -> bool {
        self.levels.iter().take(usize::from(level) + 1).all(|filling| filling.fill.is_empty())
    }

    /// Ends the node being filled at `level`.
    fn cut(&mut self, level: u8) {
        if let (Some(last), id, totals) = self.end(level) {
            self.push_child(level, Child { last, id, totals });
        }
    }

    fn end(&mut self, level: u8) -> (Option<Name>, ObjectId, Totals) {
        let Filling { entries, children, .. } = std::mem::take(self.level(level));
        let node = DirNode { level, entries, children };
        let object = node.encode();
        let id = object.id();
        if !self.opened.contains(&id) {
            self.made.push(object);
        }
        (node.last().cloned(), id, node.totals())
    }

    /// Ends all nodes. The root is the lowest node that has everything below it.
    fn finish(mut self) -> ((ObjectId, Totals), Vec<Object>) {
        let mut level = 0;
        while usize::from(level) + 1 < self.levels.len() {
            if !self.levels[usize::from(level)].fill.is_empty() {
                self.cut(level);
            }
            level += 1;
        }
        if let [only] = self.level(level).children.as_slice() {
            return ((only.id, only.totals), self.made);
        }
        let (_, id, totals) = self.end(level);
        ((id, totals), self.made)
    }
}
