//! What must be so in the end: all the same, shown, known of the neighbours; nothing lost, nothing
//! back.

use std::collections::{BTreeMap, BTreeSet};

use ark_core::{
    Dot, Entry, Link, Node, NodeKind, ObjectId, Overlay, RelPath, SignedState, State, TreeError,
    Version, Writer, empty_directory, entries, heads, join, shown,
};
use ark_folder::scan::FoundNode;
use ark_sync::Role;

use super::disk::SYMLINK_BITS;
use super::folder::Folder;
use super::store::{Absent, Durable};
use super::world::World;

/// Whether a store has a content.
pub(super) fn holds(durable: &Durable, node: FoundNode) -> bool {
    let link = match node {
        FoundNode::File { content, .. } => content.link(),
        FoundNode::Symlink { target, .. } => Link::raw(target),
        FoundNode::Directory => return true,
    };
    durable.serve(link).is_some()
}

/// The root of the merge of all heads.
fn joined_root(durable: &Durable) -> Result<ObjectId, String> {
    let mut overlay = Overlay::new(durable);
    let states = durable.joined().values().map(SignedState::state);
    let merged = join(&mut overlay, &heads(states)).map_err(|error| error.to_string())?;
    if let Some((path, dot)) = merged.equivocations.first() {
        return Err(format!("{path} was written twice under {dot:?}"));
    }
    Ok(merged.tree.root)
}

/// Whether what a writer publishes counts for all.
fn counts(world: &World, writer: Writer) -> bool {
    let device = &world.devices[world.device_of(writer)];
    device.role == Role::Peer && !device.has_left
}

/// What a device has joined of the writers that count.
fn joined(world: &World, at: usize) -> BTreeMap<Writer, &SignedState> {
    let joined = world.devices[at].store.durable().joined().iter();
    let counted = joined.filter(|(writer, _)| counts(world, **writer));
    counted.map(|(writer, state)| (*writer, state)).collect()
}

/// Whether a device has a state staged that is not whole there, and of which nobody has joined as
/// much: the rest of it is lost with its maker's store.
fn is_orphan(world: &World, at: usize, state: &State) -> bool {
    let is_joined = world.devices.iter().any(|device| {
        let joined = device.store.durable().joined().get(&state.writer);
        joined.is_some_and(|joined| joined.state().revision >= state.revision)
    });
    let heads: Vec<Link> = state.heads.iter().map(|head| Link::snapshot(head.id)).collect();
    !is_joined && !world.devices[at].store.durable().missing(&heads).is_empty()
}

/// How many such states there are.
pub(super) fn orphans(world: &World) -> usize {
    world.members().map(|at| world.devices[at].store.durable().staged().len()).sum()
}

/// Whether all of a device's heads are of members.
fn is_taken_over(world: &World, at: usize) -> bool {
    let joined = world.devices[at].store.durable().joined();
    let heads = heads(joined.values().map(SignedState::state));
    let mut dots = heads.iter().flat_map(|head| &head.dots);
    dots.all(|dot| !world.devices[world.device_of(dot.writer)].has_left)
}

/// Whether a device has joined a state that has taken a dot in.
pub(super) fn knows(durable: &Durable, dot: Dot) -> bool {
    durable.joined().values().any(|state| state.state().vector.has(dot))
}

/// Whether all devices are connected as they can be, have the same, know so, and show it.
pub(super) fn is_settled(world: &World) -> Result<(), String> {
    for (a, b) in world.links() {
        if !world.is_connected(a, b) {
            return Err(format!("{a} and {b} are not connected"));
        }
    }
    // Who has left works on for itself for a while.
    for (at, device) in world.devices.iter().enumerate().filter(|(_, device)| device.has_left) {
        let folder = device.running.as_ref().and_then(|running| running.folder.as_ref());
        if let Some(why) = folder.and_then(Folder::unrest) {
            return Err(format!("{at}, which has left: {why}"));
        }
    }
    let Some(first) = world.heard().next() else { return Ok(()) };
    for at in world.members() {
        let device = &world.devices[at];
        let Some(running) = &device.running else { return Err(format!("{at} is off")) };
        if joined(world, at) != joined(world, first) {
            let (theirs, ours) = (joined(world, at), joined(world, first));
            let (theirs, ours) = (theirs.values(), ours.values());
            let view = running.engine.view();
            return Err(format!("{at} has joined {theirs:?}, {first} has {ours:?}; {view:?}"));
        }
        let mut staged = device.store.durable().staged().values();
        if let Some(staged) = staged.find(|state| !is_orphan(world, at, state.state())) {
            let view = running.engine.view();
            return Err(format!("{at} has staged {staged:?} still: {view:?}"));
        }
        if let Some(why) = running.folder.as_ref().and_then(Folder::unrest) {
            return Err(format!("{at}: {why}"));
        }
        if !is_taken_over(world, at) {
            return Err(format!("{at} has a head still of one that was dropped"));
        }
        all_is_known(world, at)?;
    }
    for at in world.members() {
        let (here, there) = (&world.devices[at], &world.devices[first]);
        let root = joined_root(here.store.durable())?;
        if here.role != Role::Reader && root != joined_root(there.store.durable())? {
            return Err(format!("{at} joins the same states to another tree than {first}"));
        }
        if here.has_folder {
            shows(world, at, root)?;
        }
    }
    Ok(())
}

/// Whether a device knows of its neighbours that they have and show all.
fn all_is_known(world: &World, at: usize) -> Result<(), String> {
    let Some(running) = &world.devices[at].running else { return Ok(()) };
    let view = running.engine.view();
    let staged = world.devices[at].store.durable().staged().len();
    if view.staged > staged || view.missing.objects > 0 || view.requests > 0 {
        return Err(format!("{at} waits for something: {view:?}"));
    }
    if running.folder.is_some() && view.applied != view.durable {
        return Err(format!("{at} does not say that all is applied: {view:?}"));
    }
    let counted = |revisions: &BTreeMap<Writer, u64>| -> BTreeMap<Writer, u64> {
        let counted = revisions.iter().filter(|(writer, _)| counts(world, **writer));
        counted.map(|(writer, revision)| (*writer, *revision)).collect()
    };
    let durable = counted(&view.durable);
    for (a, b) in world.links().filter(|(a, b)| *a == at || *b == at) {
        let other = if a == at { b } else { a };
        let Some(peer) = view.peers.get(&world.devices[other].store.writer().device) else {
            return Err(format!("{at} does not know {other}"));
        };
        let shows = !peer.folder || counted(&peer.applied) == durable;
        if !peer.in_touch || !peer.scanned || counted(&peer.durable) != durable || !shows {
            let what = format!("does not know that {other} has all");
            return Err(format!("{at} {what}: here {durable:?}, there {peer:?}"));
        }
    }
    Ok(())
}

/// Whether what users wrote and nobody dropped is shown, and nothing that was knowingly dropped,
/// or that somebody wrote who may not.
pub(super) fn is_whole(world: &World) -> Result<(), String> {
    let Some(device) = world.heard().next().map(|at| &world.devices[at]) else { return Ok(()) };
    let there: BTreeSet<String> =
        device.disk.places().values().map(|place| format!("{:?}", place.node)).collect();
    let lost: Vec<&str> = world
        .oracle
        .live()
        .filter(|written| !there.contains(&format!("{:?}", written.node)))
        .map(|written| written.words.as_str())
        .collect();
    if !lost.is_empty() {
        return Err(format!("lost: {lost:?}"));
    }
    let durable = device.store.durable();
    let root = joined_root(durable)?;
    let mut overlay = Overlay::new(durable);
    overlay.put(empty_directory());
    let back = walk(&overlay, root, |path, version| {
        for dot in &version.dots {
            if world.devices[world.device_of(dot.writer)].role != Role::Peer {
                return Err(format!("{dot:?} of {path} is of one that may not write"));
            }
            if world.oracle.is_dropped(*dot, path) {
                return Err(format!("{dot:?} of {path} is back"));
            }
        }
        Ok(())
    });
    back.map_err(|error| error.to_string())?.map(drop)
}

/// Whether the folder of a device shows the tree of this root.
fn shows(world: &World, at: usize, root: ObjectId) -> Result<(), String> {
    let device = &world.devices[at];
    let mut overlay = Overlay::new(device.store.durable());
    overlay.put(empty_directory());
    let walked = walk(&overlay, root, |_, _| Ok(()));
    let expected = walked.map_err(|error| error.to_string())??;
    let found = device.disk.places().iter();
    let found: Nodes = found.map(|(path, it)| (path.clone(), (it.node, it.bits))).collect();
    let mut paths = expected.keys().chain(found.keys());
    match paths.find(|path| expected.get(*path) != found.get(*path)) {
        Some(path) => {
            let (wanted, is) = (expected.get(path), found.get(path));
            Err(format!("{at}: {path} shows {is:?}, but is to show {wanted:?}"))
        }
        None => Ok(()),
    }
}

/// What paths show, with their bits.
type Nodes = BTreeMap<RelPath, (FoundNode, u32)>;

/// What a tree is to show; or what is wrong with one of its files.
fn walk(
    read: &Overlay<&Durable>,
    root: ObjectId,
    check: impl Fn(&RelPath, &Version) -> Result<(), String>,
) -> Result<Result<Nodes, String>, TreeError<Absent>> {
    let mut nodes = Nodes::new();
    let mut open = vec![(RelPath::root(), root)];
    while let Some((parent, root)) = open.pop() {
        for entry in entries(read, root) {
            let Entry { name, versions } = entry?;
            let path = parent.join(name);
            let mut files = versions.iter().filter(|it| it.node.kind() != NodeKind::Directory);
            if let Err(why) = files.try_for_each(|version| check(&path, version)) {
                return Ok(Err(why));
            }
        }
        for copy in shown(read, root)? {
            let path = parent.join(copy.name);
            if let Node::Directory { root, .. } = copy.version.node {
                open.push((path.clone(), root));
            }
            nodes.insert(path, node(&copy.version));
        }
    }
    Ok(Ok(nodes))
}

fn node(version: &Version) -> (FoundNode, u32) {
    let bits = u32::from(version.permissions.bits());
    match version.node {
        Node::File { content, size } => (FoundNode::File { content, size }, bits),
        Node::Symlink { target, size } => (FoundNode::Symlink { target, size }, SYMLINK_BITS),
        Node::Directory { .. } => (FoundNode::Directory, bits),
    }
}
