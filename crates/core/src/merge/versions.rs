//! The merge of the versions of one name, and which of them is in place.

use std::collections::BTreeMap;

use crate::dir::content_order;
use crate::entry::{Entry, Mtime, Name, Node, NodeKind, Permissions, Version};
use crate::id::{Dot, Vector};

/// Permission bits with the act that set them.
pub(crate) type Bits = (Permissions, Dot);

/// What one side of a merge has under a name, and what it has taken in.
pub(super) struct Side<'a> {
    pub(super) versions: &'a [Version],
    vector: &'a Vector,
    /// Dots of all versions, and of those set aside. Sorted.
    dots: Vec<Dot>,
    aside: Vec<Dot>,
}

impl<'a> Side<'a> {
    pub(super) fn new(entry: Option<&'a Entry>, vector: &'a Vector) -> Self {
        let versions = entry.map_or(&[][..], |entry| &entry.versions);
        let dots = |only_aside: bool| {
            let versions = versions.iter().filter(|version| version.aside || !only_aside);
            let mut dots: Vec<_> = versions.flat_map(|version| &version.dots).copied().collect();
            dots.sort_unstable();
            dots
        };
        Self { versions, vector, dots: dots(false), aside: dots(true) }
    }

    pub(super) fn directory(&self) -> Option<&'a Version> {
        self.versions.iter().find(|version| version.node.kind() == NodeKind::Directory)
    }

    /// Those of the dots of a version of the other side that outlive the meeting with this one:
    /// that it has too, or has not taken in.
    pub(super) fn keeps(&self, version: &Version) -> Vec<Dot> {
        let stays = |dot: &&Dot| self.dots.binary_search(dot).is_ok() || !self.vector.has(**dot);
        version.dots.iter().filter(stays).copied().collect()
    }

    /// The bits of the version in place, if it is of this kind.
    fn bits(&self, kind: NodeKind) -> Option<Bits> {
        let version = self.versions.first().filter(|version| !version.aside)?;
        (version.node.kind() == kind).then(|| bits(version))
    }

    /// The bits of the version with this content.
    fn bits_of(&self, node: &Node) -> Option<Bits> {
        let order = content_order(node);
        self.versions.iter().find(|version| content_order(&version.node) == order).map(bits)
    }
}

/// The bits of a version.
pub(crate) fn bits(version: &Version) -> Bits {
    (version.permissions, version.permissions_dot)
}

/// The bits that names of `kind` in place have after the merge.
pub(super) fn merged_bits(a: &Side<'_>, b: &Side<'_>, kind: NodeKind) -> Option<Bits> {
    chosen_bits(a.bits(kind), b.bits(kind), a.vector, b.vector)
}

/// Of the bits that two sides have: those that the other side has not overwritten; of several
/// or none such the greatest, with the greatest dot.
fn chosen_bits(a: Option<Bits>, b: Option<Bits>, va: &Vector, vb: &Vector) -> Option<Bits> {
    let (Some(of_a), Some(of_b)) = (a, b) else { return a.or(b) };
    let (a_stays, b_stays) = (!vb.has(of_a.1), !va.has(of_b.1));
    Some(match (a_stays, b_stays) {
        (true, false) if of_a.1 != of_b.1 => of_a,
        (false, true) if of_a.1 != of_b.1 => of_b,
        _ => of_a.max(of_b),
    })
}

/// A version that outlives a merge or an edit; not yet decided whether it is in place.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) node: Node,
    /// In any order, perhaps twice.
    pub(crate) dots: Vec<Dot>,
    pub(crate) bits: Bits,
    pub(crate) mtime: Mtime,
    /// Whether it may stay in place: some side that has it does not have it aside.
    pub(crate) in_place: bool,
}

/// The files and symlinks that outlive the meeting of two sides.
pub(super) fn merged_files(a: &Side<'_>, b: &Side<'_>) -> Vec<Kept> {
    let mut kept = Vec::new();
    for (own, other) in [(a, b), (b, a)] {
        let files = own.versions.iter().filter(|v| v.node.kind() != NodeKind::Directory);
        for version in files {
            let dots = other.keeps(version);
            if dots.is_empty() {
                continue;
            }
            // Aside on either side is aside; a dot that is new to the other side is not there.
            let is_aside = |dot: &Dot| version.aside || other.aside.binary_search(dot).is_ok();
            let in_place = !dots.iter().all(is_aside);
            let (node, mtime) = (version.node, version.mtime);
            kept.push(Kept { node, dots, bits: bits(version), mtime, in_place });
        }
    }
    // One content is one file, in place if any of its dots is: only then it is known whose bits
    // it has.
    let mut kept = united(kept);
    for version in &mut kept {
        let merged = if version.in_place {
            merged_bits(a, b, version.node.kind())
        } else {
            let own = (a.bits_of(&version.node), b.bits_of(&version.node));
            chosen_bits(own.0, own.1, a.vector, b.vector)
        };
        version.bits = merged.unwrap_or(version.bits);
    }
    kept
}

/// Versions of equal content made one: dots united, later time, in place if any is.
fn united(versions: Vec<Kept>) -> Vec<Kept> {
    let mut by_content = BTreeMap::new();
    for version in versions {
        let order = content_order(&version.node);
        match by_content.entry(order) {
            std::collections::btree_map::Entry::Vacant(place) => drop(place.insert(version)),
            std::collections::btree_map::Entry::Occupied(mut place) => {
                let one: &mut Kept = place.get_mut();
                one.dots.extend(version.dots);
                one.mtime = one.mtime.max(version.mtime);
                // The bits of the one in place count, where only one is.
                one.bits = match (one.in_place, version.in_place) {
                    (true, false) => one.bits,
                    (false, true) => version.bits,
                    _ => one.bits.max(version.bits),
                };
                one.in_place |= version.in_place;
            }
        }
    }
    by_content.into_values().collect()
}

/// The entry of what was kept under a name: one content in place, the rest aside, in order.
/// `None` where nothing was kept.
pub(crate) fn settled(name: Name, files: Vec<Kept>, directory: Option<Version>) -> Option<Entry> {
    let files = united(files);
    let winner = match directory {
        Some(_) => None,
        None => files.iter().rposition(|version| version.in_place),
    };
    let mut aside = Vec::new();
    let mut in_place = directory;
    // From the greatest content to the least.
    for (at, file) in files.into_iter().enumerate().rev() {
        let Kept { node, mut dots, bits, mtime, .. } = file;
        dots.sort_unstable();
        dots.dedup();
        let is_winner = winner == Some(at);
        let (permissions, permissions_dot) = match node.kind() {
            NodeKind::Symlink => (Permissions::from_mode(0o777), *dots.first()?),
            NodeKind::File | NodeKind::Directory => bits,
        };
        let aside_now = !is_winner;
        let version = Version { node, dots, permissions, permissions_dot, mtime, aside: aside_now };
        if is_winner { in_place = Some(version) } else { aside.push(version) }
    }
    let versions: Vec<_> = in_place.into_iter().chain(aside).collect();
    (!versions.is_empty()).then_some(Entry { name, versions })
}

/// Dots under which the two sides together have several contents, directories counting as one.
pub(super) fn equivocal_dots(a: Option<&Entry>, b: Option<&Entry>) -> Vec<Dot> {
    let content = |version: &Version| match version.node.kind() {
        NodeKind::Directory => None,
        NodeKind::File | NodeKind::Symlink => Some(version.node.link()),
    };
    let versions = [a, b].into_iter().flatten().flat_map(|entry| &entry.versions);
    let mut contents: Vec<_> = versions
        .flat_map(|version| version.dots.iter().map(move |dot| (*dot, content(version))))
        .collect();
    contents.sort_unstable();
    contents.dedup();
    let mut dots: Vec<Dot> =
        contents.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| pair[0].0).collect();
    dots.dedup();
    dots
}
