//! What a scan sees, and what the oracle is told of what follows from it.

use std::collections::BTreeMap;

use ark_core::{Dot, Put, RelPath, What};
use ark_folder::base::Record;
use ark_folder::local::Local;
use ark_folder::scan::{Found, FoundNode};

use super::{Context, Extent, Scanned};
use crate::sim::disk::{Place, SYMLINK_BITS};

/// Looks at the disk, all at one moment.
pub(super) fn scan(extent: Extent, cx: &Context<'_>) -> Scanned {
    let records = &cx.store.durable().base.records;
    let mut scanned = Scanned {
        extent,
        found: BTreeMap::new(),
        gone: Vec::new(),
        objects: Vec::new(),
        tokens: BTreeMap::new(),
    };
    for (path, place) in cx.disk.places() {
        if !scanned.extent.covers(path, records) || is_as_recorded(place, records.get(path)) {
            continue;
        }
        let (node, objects) = place.thing.hash();
        scanned.objects.extend(objects);
        let permissions = match node {
            FoundNode::Symlink { .. } => ark_core::Permissions::from_mode(SYMLINK_BITS),
            _ => place.permissions(),
        };
        let (mtime, stat) = (place.mtime, place.stat());
        let found = Found { node, permissions, mtime, stat, settled: true };
        scanned.found.insert(path.clone(), found);
        scanned.tokens.insert(path.clone(), place.tokens.clone());
    }
    let is_gone =
        |path: &&RelPath| cx.disk.at(path).is_none() && scanned.extent.covers(path, records);
    scanned.gone = records.keys().filter(is_gone).cloned().collect();
    scanned
}

fn is_as_recorded(place: &Place, record: Option<&Record>) -> bool {
    let Some(record) = record else { return false };
    let Some(cache) = &record.cache else { return false };
    if record.node == FoundNode::Directory {
        return place.is_directory() && place.permissions() == record.permissions;
    }
    place.stat().unchanged(&cache.stat)
}

/// Tells the oracle what is published or adopted.
pub(super) fn witness(scanned: &Scanned, local: &Local, dot: Dot, cx: &mut Context<'_>) {
    let records = &cx.store.durable().base.records;
    let is_file = |node: FoundNode| node != FoundNode::Directory;
    for change in &local.changes {
        let before = records.get(&change.path).map(|record| record.node);
        if !matches!(change.what, What::Permissions(_))
            && let Some(behind) = &change.behind
            && before.is_some_and(is_file)
        {
            cx.oracle.dropped(dot, &change.path, behind);
        }
        if let What::Put { put, .. } = &change.what {
            let node = node_of(put);
            let is_found = scanned.found.get(&change.path).is_none_or(|found| found.node == node);
            // What is published anew, though it was not found to be changed, is what stands there,
            // if anything.
            let place = cx.disk.at(&change.path).filter(|place| place.node == node);
            let of_place = || place.map(|place| place.tokens.clone());
            let tokens = scanned.tokens.get(&change.path).filter(|_| is_found).cloned();
            let tokens = tokens.or_else(of_place).unwrap_or_default();
            cx.oracle.published(dot, &change.path, node, &tokens);
        }
    }
    for (path, record) in &local.records {
        let Some(record) = record.as_ref().filter(|record| is_file(record.node)) else { continue };
        let Some(tokens) = scanned.tokens.get(path) else { continue };
        let known = cx.oracle.behind(path, &record.behind, record.node);
        let stat = record.cache.as_ref().map(|cache| cache.stat);
        let unmoved = cx.disk.at_mut(path).filter(|place| Some(place.stat()) == stat);
        if let Some(place) = unmoved {
            place.tokens.extend(&known);
        } else if !cx.disk.extend(tokens, &known) && !cx.oracle.is_any_live(tokens) {
            // Not touched or renamed since it was looked at, but replaced, and with it all that it
            // is one with.
            cx.oracle.kill(&known);
        }
        cx.oracle.same(tokens, &known);
    }
}

fn node_of(put: &Put) -> FoundNode {
    match *put {
        Put::File { content, size, .. } => FoundNode::File { content, size },
        Put::Symlink { target, size, .. } => FoundNode::Symlink { target, size },
        Put::Directory => FoundNode::Directory,
    }
}
