//! Makes of what a scan found what this device publishes: the joined tree with the local
//! changes put in.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use ark_core::{
    DeviceId, Dot, Link, Object, ObjectId, Overlay, Read, RelPath, SignedState, Snapshot, Tree,
    TreeError, Vector, Writer, empty_directory, heads, join, links, put_in,
};

use crate::base::{Applying, BaseRead, Disowned, Record};
use crate::disowned::add_disowned;
use crate::local::{Local, Trees, local};
use crate::scan::ScanResult;
use crate::wants::{Lookup, WantsError};

/// The merge of all heads.
#[derive(Debug)]
pub(crate) struct Joined {
    /// Its tree.
    pub tree: Tree,
    /// Objects of the tree that the merge made, children first.
    pub made: Vec<Object>,
    /// What the user should know: one dot with several contents.
    pub equivocations: Vec<String>,
}

/// Merges the heads of `states`. Blocking.
///
/// # Errors
/// An object could not be read.
pub(crate) fn joined<R: Read>(
    reader: R,
    states: &BTreeMap<Writer, SignedState>,
) -> Result<Joined, TreeError<R::Error>> {
    let mut overlay = Overlay::new(reader);
    let merged = join(&mut overlay, &heads(states.values().map(SignedState::state)))?;
    let made = needed(overlay.into_made(), &[Link::directory(merged.tree.root)]);
    let describe = |(path, dot): (RelPath, Dot)| {
        format!("{path:?} was written twice under one dot ({dot:?}): all its contents are kept")
    };
    let equivocations = merged.equivocations.into_iter().map(describe).collect();
    Ok(Joined { tree: merged.tree, made, equivocations })
}

/// What a scan leads to.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// What to publish; `None`: nothing.
    pub snapshot: Option<Prospect>,
    /// What base is to say afterwards.
    pub records: BTreeMap<RelPath, Option<Record>>,
    /// Paths that a plan has to look at.
    pub revisit: std::collections::BTreeSet<RelPath>,
}

/// A snapshot that is not yet published.
#[derive(Debug)]
pub(crate) struct Prospect {
    /// The snapshot's object and those of its tree that are new, children first.
    pub objects: Vec<Object>,
    /// The root of its tree.
    pub root: ObjectId,
    /// The snapshot.
    pub head: Link,
    /// Its vector.
    pub vector: Vector,
}

/// Whether a head among `states` is of a device that is not listed.
pub(crate) fn has_unlisted_head(
    states: &BTreeMap<Writer, SignedState>,
    is_listed: impl Fn(DeviceId) -> bool,
) -> bool {
    // Nearly always all are, and the heads need not be worked out.
    if states.keys().all(|writer| is_listed(writer.device)) {
        return false;
    }
    let heads = heads(states.values().map(SignedState::state));
    heads.iter().flat_map(|head| &head.dots).any(|dot| !is_listed(dot.writer.device))
}

/// What decides, beside what was found, what a scan leads to.
#[derive(Debug)]
pub(crate) struct Act<'a> {
    /// Under which changes are published.
    pub dot: Dot,
    /// See [`Trees`].
    pub interrupted: Option<&'a Applying>,
    /// Dots that drop nothing.
    pub disowned: &'a [Disowned],
    /// Whether the merge is to be published though nothing was changed here.
    pub takes_over: bool,
}

/// Compares what was found with base and the merge of `states`, and puts what was changed into
/// that merge. Blocking.
///
/// # Errors
/// Base or an object could not be read.
pub(crate) fn prepare<R: Read, B: BaseRead>(
    reader: R,
    states: &BTreeMap<Writer, SignedState>,
    base: &B,
    result: &ScanResult,
    act: &Act<'_>,
) -> Result<Prepared, WantsError<R::Error>> {
    let Act { dot, interrupted, disowned, takes_over } = *act;
    let mut overlay = Overlay::new(reader);
    let joined = join(&mut overlay, &heads(states.values().map(SignedState::state)))?.tree;
    // A tree may hold it, or come to hold it, made and stored by somebody or not.
    overlay.put(empty_directory());
    let mut changed = {
        let mut trees = Trees {
            joined: Lookup::new(&overlay, joined.root),
            interrupted: interrupted.map(|applying| Lookup::new(&overlay, applying.root)),
        };
        let mut changed = local(&result.found, &result.gone, base, &mut trees, dot, disowned)?;
        add_disowned(&mut changed, disowned, base, &mut trees.joined, dot)?;
        let is_held = |path: &RelPath| {
            let mut held = interrupted.iter().flat_map(|applying| &applying.held);
            held.any(|held| path.starts_with(held))
        };
        let unseen = result.in_flux.iter().chain(result.kept.keys()).chain(&result.closed);
        changed.forget_unseen(unseen, base, &mut trees, is_held)?;
        for path in &result.forgotten {
            // Not to be removed anywhere: the plan writes it again once no rule holds it back.
            changed.records.insert(path.clone(), None);
            changed.revisit.insert(path.clone());
        }
        changed
    };
    let (found, gone) = (&result.found, &result.gone);
    tracing::trace!(?found, ?gone, ?changed.changes, ?changed.records, "compared");
    let snapshot = if changed.changes.is_empty() && !takes_over {
        None
    } else {
        Some(put_changes_in(&mut overlay, &joined, &mut changed, dot)?)
    };
    let snapshot = snapshot.map(|(root, head, vector)| Prospect {
        root,
        objects: needed(overlay.into_made(), &[head]),
        head,
        vector,
    });
    Ok(Prepared { snapshot, records: changed.records, revisit: changed.revisit })
}

fn put_changes_in<R: Read>(
    overlay: &mut Overlay<R>,
    joined: &Tree,
    changed: &mut Local,
    dot: Dot,
) -> Result<(ObjectId, Link, Vector), TreeError<R::Error>> {
    let root = put_in(overlay, joined, dot, &changed.changes)?;
    changed.settle(&mut Lookup::new(&*overlay, root))?;
    let mut vector = joined.vector.clone();
    vector.take_in(dot);
    let snapshot = Snapshot { root, vector: vector.clone(), wall_time_ms: wall_time_ms() };
    let object = snapshot.encode();
    let head = object.link();
    overlay.put(object);
    Ok((root, head, vector))
}

/// Of the objects made on the way, those that `roots` reach; in their order.
fn needed(made: Vec<Object>, roots: &[Link]) -> Vec<Object> {
    let by_link: HashMap<Link, &Object> =
        made.iter().map(|object| (object.link(), object)).collect();
    let mut reached: HashSet<Link> = HashSet::new();
    let mut open = roots.to_vec();
    while let Some(link) = open.pop() {
        if let Some(object) = by_link.get(&link)
            && reached.insert(link)
        {
            // What was made here decodes; if it did not, the store would say so.
            open.extend(links(link, object.bytes()).unwrap_or_default());
        }
    }
    made.into_iter().filter(|object| reached.contains(&object.link())).collect()
}

fn wall_time_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use ark_core::{Behind, Content, DeviceId, Incarnation, Mtime, Permissions};

    use super::*;
    use crate::fixtures::{Nothing, path};
    use crate::scan::{FoundNode, Kept};
    use crate::wants::empty_root;

    /// In the tree that was being applied is nothing of what base has: it may be gone from disk.
    #[test]
    fn after_an_interruption_base_forgets_what_could_not_be_looked_at() {
        let writer =
            Writer { device: DeviceId::from_bytes([1; 32]), incarnation: Incarnation::new(1) };
        let dot = Dot { writer, sequence: 2 };
        let record = |path: &RelPath| Record {
            behind: Behind {
                name: path.names().last().unwrap().clone(),
                dots: vec![Dot { writer, sequence: 1 }],
                permissions_dot: Dot { writer, sequence: 1 },
            },
            node: FoundNode::File { content: Content::Raw(ObjectId::of(b"x")), size: 1 },
            permissions: Permissions::from_mode(0o644),
            mtime: Mtime::default(),
            cache: None,
        };
        let paths = ["in-flux", "kept", "kept/in-it", "seen"].map(path);
        let base: BTreeMap<RelPath, Record> =
            paths.iter().map(|path| (path.clone(), record(path))).collect();
        let result = ScanResult {
            in_flux: [path("in-flux"), path("new")].into(),
            kept: [(path("kept"), Kept::TooDeep)].into(),
            ..ScanResult::default()
        };
        let forgotten = |interrupted: Option<&Applying>| {
            let act = Act { dot, interrupted, disowned: &[], takes_over: false };
            let prepared = prepare(Nothing, &BTreeMap::new(), &base, &result, &act).unwrap();
            assert!(prepared.snapshot.is_none());
            assert!(prepared.records.values().all(Option::is_none));
            prepared.records.into_keys().collect::<Vec<_>>()
        };
        let applying = |held: &[&str]| Applying {
            root: empty_root(),
            held: held.iter().copied().map(path).collect(),
        };
        assert_eq!(forgotten(Some(&applying(&[]))), ["in-flux", "kept", "kept/in-it"].map(path));
        // What the batch did not touch, as it could not be looked at then either, is as it was.
        assert_eq!(forgotten(Some(&applying(&["kept"]))), [path("in-flux")]);
        assert_eq!(forgotten(Some(&applying(&["kept/in-it"]))), ["in-flux", "kept"].map(path));
        assert_eq!(forgotten(None), []);
    }
}
