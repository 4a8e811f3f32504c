//! A node of a directory's tree, and its bytes.
//!
//! A leaf has entries; an inner node has children, each with the last name below it and the
//! totals of what is below it. In the archive, a leaf has a sorted table of the writers that its
//! dots name, and dots are (place in the table, sequence): a dot takes 10 bytes in place of 48.

use rkyv::with::Niche;
use rkyv::{Archive, Deserialize, Serialize};

use super::cut::{Fill, MAX_ENTRY_WEIGHT, MAX_ITEMS, child_weight, content_order, entry_weight};
use crate::codec::{self, Body};
use crate::entry::{
    Content, Entry, MAX_RAW_CONTENT, MAX_SYMLINK_TARGET, MAX_TREE_LEVEL, Mtime, Name, Node,
    Permissions, Totals, Version,
};
use crate::id::{Dot, ObjectId, Writer};
use crate::object::{DecodeError, Object, ObjectKind};

/// A node. Of level 0 it has entries and no children; above, children and no entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct DirNode {
    pub(crate) level: u8,
    pub(crate) entries: Vec<Entry>,
    pub(crate) children: Vec<Child>,
}

/// A node as its parent names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Child {
    /// The last name below it.
    pub(crate) last: Name,
    pub(crate) id: ObjectId,
    pub(crate) totals: Totals,
}

impl DirNode {
    pub(crate) fn leaf(entries: Vec<Entry>) -> Self {
        Self { level: 0, entries, children: Vec::new() }
    }

    /// 0 for a leaf, one more than its children's otherwise.
    pub(crate) fn level(&self) -> u8 {
        self.level
    }

    /// Of a leaf; none above.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Of an inner node; none of a leaf.
    pub(crate) fn children(&self) -> &[Child] {
        &self.children
    }

    /// How many entries or children.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() + self.children.len()
    }

    /// The first entry's name, or the last name below the first child.
    pub(crate) fn first(&self) -> Option<&Name> {
        self.entries.first().map(|entry| &entry.name).or(self.children.first().map(|c| &c.last))
    }

    /// The last name below it; `None` for the empty directory.
    pub(crate) fn last(&self) -> Option<&Name> {
        self.entries.last().map(|entry| &entry.name).or(self.children.last().map(|c| &c.last))
    }

    /// The totals of what is below it, as it says itself.
    pub(crate) fn totals(&self) -> Totals {
        let versions = self.entries.iter().flat_map(|entry| &entry.versions).map(Version::totals);
        let children = self.children.iter().map(|child| child.totals);
        versions.chain(children).fold(Totals::default(), Totals::plus)
    }

    /// Whether another node may follow it on its level: the cut falls at its end.
    pub(crate) fn closed(&self) -> bool {
        let fill = self.fills().last().map(|(_, fill)| fill);
        fill.zip(self.last()).is_some_and(|(fill, last)| fill.ends(self.level, last))
    }

    /// Per item the last name below it, and how much of the node there is with it.
    fn fills(&self) -> impl Iterator<Item = (&Name, Fill)> {
        let entries = self.entries.iter().map(|entry| (&entry.name, entry_weight(entry)));
        let children = self.children.iter().map(|child| (&child.last, child_weight(&child.last)));
        entries.chain(children).scan(Fill::default(), |fill, (name, weight)| {
            fill.add(weight);
            Some((name, *fill))
        })
    }

    pub(crate) fn encode(&self) -> Object {
        debug_assert_eq!(self.check(), Ok(()), "an invalid node was made");
        Object::new(ObjectKind::Directory, codec::encode(&Wire::new(self)))
    }

    /// Reads what [`DirNode::encode`] made, and nothing else.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let wire: Wire = codec::decode(bytes)?;
        let node = wire.into_node().and_then(|node| node.check().map(|()| node));
        node.map_err(|reason| DecodeError::Invalid { kind: ObjectKind::Directory, reason })
    }

    /// The rules that the bytes of one node can keep or break.
    fn check(&self) -> Result<(), String> {
        if self.level > MAX_TREE_LEVEL {
            return Err(format!("level {}, more than {MAX_TREE_LEVEL}", self.level));
        }
        if self.len() > MAX_ITEMS || (self.level > 0 && self.children.is_empty()) {
            return Err(format!("{} items at level {}", self.len(), self.level));
        }
        if !self.entries.is_sorted_by(|a, b| a.name < b.name)
            || !self.children.is_sorted_by(|a, b| a.last < b.last)
        {
            return Err("names are not sorted and distinct".into());
        }
        for entry in &self.entries {
            check_entry(entry).map_err(|reason| format!("{:?}: {reason}", entry.name))?;
        }
        let mut before_last = self.fills().take(self.len().saturating_sub(1));
        if before_last.any(|(name, fill)| fill.ends(self.level, name)) {
            return Err("it goes on where it should have ended".into());
        }
        Ok(())
    }
}

fn ensure(holds: bool, reason: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(reason.into()) }
}

/// The rules of one entry.
pub(super) fn check_entry(entry: &Entry) -> Result<(), String> {
    ensure(!entry.versions.is_empty(), "no versions")?;
    ensure(entry_weight(entry) <= MAX_ENTRY_WEIGHT, "more versions than an entry may have")?;
    let aside = entry.aside();
    ensure(
        aside.iter().all(|version| version.aside)
            && aside.is_sorted_by(|a, b| content_order(&a.node) > content_order(&b.node)),
        "versions are not in order",
    )?;
    if let Some(version) = entry.in_place() {
        let order = content_order(&version.node);
        let is_distinct = aside.iter().all(|other| content_order(&other.node) != order);
        ensure(is_distinct, "two versions of one content")?;
    }
    entry.versions.iter().try_for_each(check_version)
}

fn check_version(version: &Version) -> Result<(), String> {
    ensure(!version.dots.is_empty(), "a version without dots")?;
    ensure(version.dots.is_sorted_by(|a, b| a < b), "dots are not sorted and distinct")?;
    let mut dots = version.dots.iter().chain([&version.permissions_dot]);
    ensure(dots.all(|dot| dot.sequence > 0), "a dot with the sequence 0")?;
    ensure(version.mtime.nanos < 1_000_000_000, "nanoseconds of a second or more")?;
    match version.node {
        Node::File { content, size } => {
            let is_raw = matches!(content, Content::Raw(_));
            ensure(is_raw == (size <= MAX_RAW_CONTENT), "content of another size is cut so")
        }
        Node::Symlink { size, .. } => {
            ensure((1..=MAX_SYMLINK_TARGET).contains(&size), "a target of impossible length")?;
            let bits = version.permissions == Permissions::from_mode(0o777);
            ensure(bits && version.permissions_dot == version.dots[0], "a symlink with a mode")
        }
        Node::Directory { .. } => {
            ensure(!version.aside, "a directory that is aside")?;
            ensure(version.mtime == Mtime::default(), "a directory with a modification time")
        }
    }
}

/// The archive of a node.
#[derive(Archive, Serialize, Deserialize)]
struct Wire {
    level: u8,
    /// Those that the entries' dots name: sorted, distinct, all used.
    writers: Vec<Writer>,
    entries: Vec<WireEntry>,
    children: Vec<WireChild>,
}

#[derive(Archive, Serialize, Deserialize)]
struct WireEntry {
    name: Vec<u8>,
    versions: Vec<WireVersion>,
}

#[derive(Archive, Serialize, Deserialize)]
struct WireVersion {
    /// What of [`what`] it is, with [`what::ASIDE`] or not.
    what: u8,
    permissions: u16,
    id: ObjectId,
    /// Bytes of the content, of the target, or of all that is in the directory.
    size: u64,
    mtime_seconds: i64,
    mtime_nanos: u32,
    dots: Vec<WireDot>,
    /// Where it is not the first of `dots`.
    #[rkyv(with = Niche)]
    permissions_dot: Option<Box<WireDot>>,
    /// Of directories: files, and those set aside.
    #[rkyv(with = Niche)]
    counts: Option<Box<(u64, u64)>>,
}

#[derive(Archive, Serialize, Deserialize)]
struct WireDot {
    /// Place in the table of writers. A node's weight keeps the table below 2^16 lines.
    writer: u16,
    sequence: u64,
}

#[derive(Archive, Serialize, Deserialize)]
struct WireChild {
    last: Vec<u8>,
    id: ObjectId,
    files: u64,
    bytes: u64,
    aside: u64,
}

/// The numbers of [`WireVersion::what`].
mod what {
    pub(super) const SYMLINK: u8 = 0;
    pub(super) const RAW: u8 = 1;
    pub(super) const CHUNKED: u8 = 2;
    pub(super) const DIRECTORY: u8 = 3;
    /// Added for a version set aside.
    pub(super) const ASIDE: u8 = 0x80;
}

impl Body for Wire {
    const KIND: ObjectKind = ObjectKind::Directory;

    fn validate(&self) -> Result<(), String> {
        let is_leaf = self.level == 0;
        ensure(if is_leaf { self.children.is_empty() } else { self.entries.is_empty() }, "mixed")?;
        ensure(self.writers.is_sorted_by(|a, b| a < b), "writers are not sorted and distinct")?;
        let mut is_used = vec![false; self.writers.len()];
        for version in self.entries.iter().flat_map(|entry| &entry.versions) {
            for dot in version.dots.iter().chain(version.permissions_dot.as_deref()) {
                match is_used.get_mut(usize::from(dot.writer)) {
                    Some(used) => *used = true,
                    None => return Err("a dot of no writer".into()),
                }
            }
        }
        ensure(is_used.into_iter().all(|used| used), "a writer of no dot")
    }
}

/// The dot of the permission bits, where the archive names it.
fn own_permissions_dot(version: &Version) -> Option<Dot> {
    (version.dots.first() != Some(&version.permissions_dot)).then_some(version.permissions_dot)
}

impl Wire {
    fn new(node: &DirNode) -> Self {
        let versions = node.entries.iter().flat_map(|entry| &entry.versions);
        let mut writers: Vec<Writer> = versions
            .flat_map(|version| version.dots.iter().copied().chain(own_permissions_dot(version)))
            .map(|dot| dot.writer)
            .collect();
        writers.sort_unstable();
        writers.dedup();
        let entry = |entry: &Entry| WireEntry {
            name: entry.name.as_bytes().to_vec(),
            versions: entry.versions.iter().map(|v| WireVersion::new(v, &writers)).collect(),
        };
        let entries = node.entries.iter().map(entry).collect();
        let children = node.children.iter().map(WireChild::new).collect();
        Self { level: node.level, writers, entries, children }
    }

    /// The node, not checked but for its names and numbers.
    fn into_node(self) -> Result<DirNode, String> {
        let entry = |entry: WireEntry| {
            let version = |version: WireVersion| version.into_version(&self.writers);
            let versions = entry.versions.into_iter().map(version).collect::<Result<_, _>>()?;
            Ok(Entry { name: name(&entry.name)?, versions })
        };
        let entries = self.entries.into_iter().map(entry).collect::<Result<_, String>>()?;
        let children = self.children.into_iter().map(WireChild::into_child);
        Ok(DirNode { level: self.level, entries, children: children.collect::<Result<_, _>>()? })
    }
}

fn name(bytes: &[u8]) -> Result<Name, String> {
    Name::new(bytes).map_err(|error| error.to_string())
}

impl WireDot {
    fn new(dot: Dot, writers: &[Writer]) -> Self {
        let place = writers.binary_search(&dot.writer).expect("the table has the writers of all");
        let writer = u16::try_from(place).expect("the weight of a node bounds its dots");
        Self { writer, sequence: dot.sequence }
    }

    fn dot(&self, writers: &[Writer]) -> Result<Dot, String> {
        let writer = writers.get(usize::from(self.writer)).ok_or("a dot of no writer")?;
        Ok(Dot { writer: *writer, sequence: self.sequence })
    }
}

impl WireVersion {
    fn new(version: &Version, writers: &[Writer]) -> Self {
        let (what, size, counts) = match version.node {
            Node::Symlink { size, .. } => (what::SYMLINK, size, None),
            Node::File { content: Content::Raw(_), size } => (what::RAW, size, None),
            Node::File { content: Content::Chunked(_), size } => (what::CHUNKED, size, None),
            Node::Directory { totals: Totals { files, bytes, aside }, .. } => {
                (what::DIRECTORY, bytes, Some(Box::new((files, aside))))
            }
        };
        let permissions_dot = own_permissions_dot(version);
        Self {
            what: if version.aside { what | what::ASIDE } else { what },
            permissions: version.permissions.bits(),
            id: version.node.link().id,
            size,
            mtime_seconds: version.mtime.seconds,
            mtime_nanos: version.mtime.nanos,
            dots: version.dots.iter().map(|dot| WireDot::new(*dot, writers)).collect(),
            permissions_dot: permissions_dot.map(|dot| Box::new(WireDot::new(dot, writers))),
            counts,
        }
    }

    fn into_version(self, writers: &[Writer]) -> Result<Version, String> {
        let Self { id, size, .. } = self;
        let node = match (self.what & !what::ASIDE, self.counts) {
            (what::SYMLINK, None) => Node::Symlink { target: id, size },
            (what::RAW, None) => Node::File { content: Content::Raw(id), size },
            (what::CHUNKED, None) => Node::File { content: Content::Chunked(id), size },
            (what::DIRECTORY, Some(counts)) => {
                let totals = Totals { files: counts.0, bytes: size, aside: counts.1 };
                Node::Directory { root: id, totals }
            }
            _ => return Err(format!("a version of kind {}", self.what)),
        };
        let dots = self.dots.iter().map(|dot| dot.dot(writers)).collect::<Result<Vec<_>, _>>()?;
        let first = *dots.first().ok_or("a version without dots")?;
        let permissions_dot = match &self.permissions_dot {
            Some(dot) => dot.dot(writers)?,
            None => first,
        };
        let is_named = self.permissions_dot.is_some();
        ensure(is_named == (permissions_dot != first), "a dot of permission bits named in vain")?;
        let permissions = Permissions::from_mode(self.permissions.into());
        if permissions.bits() != self.permissions {
            return Err(format!("permission bits {:o}", self.permissions));
        }
        let mtime = Mtime { seconds: self.mtime_seconds, nanos: self.mtime_nanos };
        let aside = self.what & what::ASIDE != 0;
        Ok(Version { node, dots, permissions, permissions_dot, mtime, aside })
    }
}

impl WireChild {
    fn new(child: &Child) -> Self {
        let Totals { files, bytes, aside } = child.totals;
        Self { last: child.last.as_bytes().to_vec(), id: child.id, files, bytes, aside }
    }

    fn into_child(self) -> Result<Child, String> {
        let totals = Totals { files: self.files, bytes: self.bytes, aside: self.aside };
        Ok(Child { last: name(&self.last)?, id: self.id, totals })
    }
}

#[cfg(test)]
mod tests;
