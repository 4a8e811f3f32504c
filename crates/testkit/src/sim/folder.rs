//! The actor of a folder in virtual time: takes local changes up before it applies others', one
//! bounded step at a time, as `ark_folder`'s own actor does. What decides is the real code: what
//! a difference means ([`ark_folder::local`]), what the joined tree wants ([`ark_folder::wants`]),
//! what to do about it ([`ark_folder::plan`]), and the merge.
//!
//! Between any two steps users may edit, states may be joined, and the device may end.

mod applying;
mod look;

use std::collections::{BTreeMap, BTreeSet};

use ark_core::{
    DeviceId, Dot, Link, Object, ObjectId, Overlay, RelPath, SignedState, Snapshot, Tree, Writer,
    empty_directory, heads, join, put_in,
};
use ark_folder::base::{Disowned, Hold, Record, Retry};
use ark_folder::disowned::add_disowned;
use ark_folder::local::{Local, Trees, local};
use ark_folder::plan::Action;
use ark_folder::scan::{Found, FoundNode};
use ark_folder::wants::{Lookup, WantsError};

use look::{scan, witness};

use super::batch::Batch;
use super::dice::Dice;
use super::disk::Disk;
use super::oracle::{Oracle, Tokens};
use super::store::{Absent, Base, Durable, Incarnations, Prospect, Store};
use super::weather::{Fault, Weather};

/// Rounds of applying in a row that may do nothing but find paths dirty, before a pause.
const MAX_FUTILE_ROUNDS: u32 = 3;
/// The first pause before paths that failed are tried again; it doubles each time.
const FIRST_PAUSE_MS: u64 = 1_000;
/// The longest such pause.
const MAX_PAUSE_MS: u64 = 60_000;
/// How long the state of another machine that runs under this device's key is waited for.
const OTHER_MACHINE_PATIENCE_MS: u64 = 60_000;

/// What is to be scanned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Extent {
    /// The whole folder.
    Everything,
    /// These paths, with all below them.
    Paths(BTreeSet<RelPath>),
}

/// What the actor works with, and whom it tells.
pub(super) struct Context<'a> {
    pub(super) store: &'a mut Store,
    pub(super) disk: &'a mut Disk,
    pub(super) oracle: &'a mut Oracle,
    pub(super) dice: &'a mut Dice,
    pub(super) weather: &'a Weather,
    pub(super) now_ms: u64,
    /// Seconds of the device's clock.
    pub(super) clock: i64,
    pub(super) said: Vec<Said>,
}

/// What the rest of the device hears of.
#[derive(Debug)]
pub(super) enum Said {
    Published(SignedState, Vec<Link>),
    Applied(BTreeMap<Writer, u64>),
    Scanned,
    /// Names or content were changed by ark: the watch sees it.
    Touched(BTreeSet<RelPath>),
    /// For the trace.
    Note(String),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Folder {
    due: Extent,
    stale: bool,
    revisit: BTreeSet<RelPath>,
    tries: Tries,
    retries: BTreeMap<RelPath, Retry>,
    under_way: Option<UnderWay>,
    interrupted: Option<ObjectId>,
    /// The devices that may write, without this one.
    writers: BTreeSet<DeviceId>,
    incarnations: Incarnations,
    own_state: Option<ObjectId>,
    awaited: Option<Awaited>,
    retry_at: Option<u64>,
    pause_ms: u64,
    futile_rounds: u32,
    doing: Doing,
    has_scanned: bool,
    /// What it last said to have applied.
    applied: BTreeMap<Writer, u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tries {
    None,
    Failed,
    All,
}

/// A state of another machine that runs under this device's key.
#[derive(Debug)]
struct Awaited {
    writer: Writer,
    ours: Option<ObjectId>,
    until_ms: u64,
}

/// What is between its beginning and its end.
#[derive(Debug)]
enum Doing {
    Nothing,
    Comparing(Scanned),
    Publishing(Scanned, Prepared),
    Acting { batch: Batch, left: usize },
    Recording(ark_folder::apply::Applied),
}

#[derive(Debug)]
struct Scanned {
    extent: Extent,
    found: BTreeMap<RelPath, Found>,
    gone: Vec<RelPath>,
    objects: Vec<Object>,
    tokens: BTreeMap<RelPath, Tokens>,
}

#[derive(Debug)]
struct Prepared {
    dot: Dot,
    local: Local,
    prospect: Option<Prospect>,
}

/// A plan that is being carried out.
#[derive(Debug)]
struct UnderWay {
    actions: Vec<Action>,
    next: usize,
    visited: BTreeSet<RelPath>,
    failing: BTreeMap<RelPath, Retry>,
    root: ObjectId,
    revisions: BTreeMap<Writer, u64>,
}

impl Extent {
    /// Nothing.
    pub(super) const fn nothing() -> Self {
        Self::Paths(BTreeSet::new())
    }

    fn is_nothing(&self) -> bool {
        *self == Self::nothing()
    }

    /// Both.
    pub(super) fn add(&mut self, more: Self) {
        match (&mut *self, more) {
            (Self::Paths(paths), Self::Paths(more)) => paths.extend(more),
            _ => *self = Self::Everything,
        }
    }

    /// Whether `path` is looked at. A directory on the way that base does not have as one is
    /// taken whole.
    fn covers(&self, path: &RelPath, records: &BTreeMap<RelPath, Record>) -> bool {
        let Self::Paths(paths) = self else { return true };
        let is_unknown =
            |at: &RelPath| records.get(at).is_none_or(|record| record.node != FoundNode::Directory);
        paths.iter().any(|touched| {
            path.starts_with(touched)
                || (1..touched.names().len())
                    .map(|depth| RelPath::from(touched.names()[..depth].to_vec()))
                    .find(is_unknown)
                    .is_some_and(|top| path.starts_with(&top))
        })
    }
}

impl Folder {
    /// A folder whose device was just started.
    pub(super) fn new(store: &mut Store, writers: BTreeSet<DeviceId>) -> Self {
        let writer = store.writer();
        let started_at = store
            .durable()
            .joined()
            .get(&writer)
            .map_or(0, |state| state.state().vector.get(writer));
        let own_state = store.hash_of(writer);
        let base = store.base();
        let incarnations = match base.incarnations.take() {
            Some(recorded) if recorded.writer == writer => Incarnations { started_at, ..recorded },
            Some(recorded) => renewed(&recorded, writer, false),
            None => Incarnations { writer, started_at, disowned: Vec::new() },
        };
        base.incarnations = Some(incarnations.clone());
        let applied = base.applied.clone().map(|(_, revisions)| revisions).unwrap_or_default();
        Self {
            due: Extent::Everything,
            stale: true,
            revisit: BTreeSet::new(),
            tries: Tries::All,
            retries: BTreeMap::new(),
            under_way: None,
            interrupted: base.applying,
            writers,
            incarnations,
            own_state,
            awaited: None,
            retry_at: None,
            pause_ms: 0,
            futile_rounds: 0,
            doing: Doing::Nothing,
            has_scanned: false,
            applied,
        }
    }

    /// What it shows by what it recorded, to be said at the start.
    pub(super) const fn applied(&self) -> &BTreeMap<Writer, u64> {
        &self.applied
    }

    /// Whether nothing is between its beginning and its end.
    pub(super) const fn is_idle(&self) -> bool {
        matches!(self.doing, Doing::Nothing)
    }

    /// Something may have changed on disk.
    pub(super) fn hint(&mut self, extent: Extent) {
        self.due.add(extent);
    }

    /// A state was joined.
    pub(super) const fn joined(&mut self) {
        self.stale = true;
    }

    /// What would have to be said of it if it were taken to be at rest.
    pub(super) fn unrest(&self) -> Option<String> {
        let blocked = self.retries.iter().find(|(_, retry)| retry.hold != Hold::Skipped);
        if !self.is_idle() || !self.due.is_nothing() || self.stale || self.under_way.is_some() {
            return Some("its folder works".to_owned());
        }
        blocked.map(|(path, retry)| format!("{path} is not as wanted: {retry:?}"))
    }

    /// Does the next step. When to do the one after it: `None`, when something happens.
    ///
    /// # Errors
    /// What ark could not do though nothing was wrong.
    pub(super) fn step(&mut self, cx: &mut Context<'_>) -> Result<Option<u64>, String> {
        match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Nothing => self.begin(cx),
            Doing::Comparing(scanned) => self.compare(scanned, cx),
            Doing::Publishing(scanned, prepared) => self.publish(scanned, prepared, cx),
            Doing::Acting { batch, left } => Ok(Some(self.act(batch, left, cx))),
            Doing::Recording(batch) => Ok(Some(self.record(batch, cx))),
        }
    }

    fn begin(&mut self, cx: &mut Context<'_>) -> Result<Option<u64>, String> {
        self.notice_incarnation(cx);
        if let Some(Awaited { writer, ours, until_ms }) = &self.awaited {
            if cx.store.hash_of(*writer) == *ours && *until_ms > cx.now_ms {
                return Ok(Some(*until_ms));
            }
            self.awaited = None;
        }
        if !self.due.is_nothing() || self.has_to_take_over(cx.store.durable(), cx.weather) {
            let extent = std::mem::replace(&mut self.due, Extent::nothing());
            self.doing = Doing::Comparing(scan(extent, cx));
            return Ok(Some(cx.now_ms + cx.dice.between(cx.weather.scan_ms)));
        }
        if self.retry_at.is_some_and(|at_ms| at_ms <= cx.now_ms) {
            self.retry_at = None;
            self.futile_rounds = 0;
            self.tries = self.tries.max(Tries::Failed);
            self.stale = true;
        }
        if self.stale || self.under_way.is_some() || !self.revisit.is_empty() {
            return self.begin_batch(cx).map(Some);
        }
        Ok(self.retry_at)
    }

    fn notice_incarnation(&mut self, cx: &mut Context<'_>) {
        let writer = cx.store.writer();
        let old = self.incarnations.writer;
        if writer == old {
            return;
        }
        self.incarnations = renewed(&self.incarnations, writer, true);
        cx.store.base().incarnations = Some(self.incarnations.clone());
        self.under_way = None;
        self.due = Extent::Everything;
        let until_ms = cx.now_ms + OTHER_MACHINE_PATIENCE_MS;
        self.awaited = Some(Awaited { writer: old, ours: self.own_state.take(), until_ms });
    }

    /// Whether there are heads of devices that may not write any more: they become this one's.
    fn has_to_take_over(&self, durable: &Durable, weather: &Weather) -> bool {
        if weather.fault == Some(Fault::NeverTakenOver) {
            return false;
        }
        let own = self.incarnations.writer.device;
        let is_known = |device: DeviceId| device == own || self.writers.contains(&device);
        durable.joined().keys().any(|writer| !is_known(writer.device))
            && heads(durable.joined().values().map(SignedState::state))
                .iter()
                .flat_map(|head| &head.dots)
                .any(|dot| !is_known(dot.writer.device))
    }

    /// Compares what was found with base and the merge of all heads.
    fn compare(
        &mut self,
        mut scanned: Scanned,
        cx: &mut Context<'_>,
    ) -> Result<Option<u64>, String> {
        let dot = Dot { writer: cx.store.writer(), sequence: cx.store.next_sequence() };
        if dot.writer != self.incarnations.writer {
            self.due.add(scanned.extent);
            return Ok(Some(cx.now_ms));
        }
        let prepared = self.prepare(&mut scanned, dot, cx);
        let prepared =
            prepared.map_err(|error| format!("cannot compare the folder with base: {error}"))?;
        let is_change = prepared.prospect.is_some();
        self.doing = Doing::Publishing(scanned, prepared);
        let pause_ms = if is_change { cx.dice.between(cx.weather.store_ms) } else { 0 };
        Ok(Some(cx.now_ms + pause_ms))
    }

    fn prepare(
        &self,
        scanned: &mut Scanned,
        dot: Dot,
        cx: &Context<'_>,
    ) -> Result<Prepared, WantsError<Absent>> {
        let durable = cx.store.durable();
        let records = &durable.base.records;
        let mut overlay = Overlay::new(durable);
        let joined = merged(&mut overlay, durable)?;
        overlay.put(empty_directory());
        let disowned = &self.incarnations.disowned;
        let mut changed = {
            let mut trees = Trees {
                joined: Lookup::new(&overlay, joined.root),
                interrupted: self.interrupted.map(|root| Lookup::new(&overlay, root)),
            };
            let (found, gone) = (&scanned.found, &scanned.gone);
            let mut changed = local(found, gone, records, &mut trees, dot, disowned)?;
            add_disowned(&mut changed, disowned, records, &mut trees.joined, dot)?;
            changed
        };
        if changed.changes.is_empty() && !self.has_to_take_over(durable, cx.weather) {
            return Ok(Prepared { dot, local: changed, prospect: None });
        }
        let root = put_in(&mut overlay, &joined, dot, &changed.changes)?;
        changed.settle(&mut Lookup::new(&overlay, root))?;
        let mut vector = joined.vector;
        if cx.weather.fault == Some(Fault::StagedClaimed) {
            durable.staged().values().for_each(|it| vector.take_in_all(&it.state().vector));
        }
        vector.take_in(dot);
        let wall_time_ms = cx.clock.saturating_mul(1_000);
        let snapshot = Snapshot { root, vector: vector.clone(), wall_time_ms }.encode();
        let head = snapshot.link();
        let mut objects = std::mem::take(&mut scanned.objects);
        objects.push(snapshot);
        objects.extend(overlay.into_made());
        Ok(Prepared { dot, local: changed, prospect: Some(Prospect { head, vector, objects }) })
    }

    /// Publishes what was changed, and tells base in the same transaction.
    fn publish(
        &mut self,
        scanned: Scanned,
        prepared: Prepared,
        cx: &mut Context<'_>,
    ) -> Result<Option<u64>, String> {
        let Prepared { dot, local, prospect } = prepared;
        if cx.store.writer() != dot.writer {
            self.due.add(scanned.extent);
            return Ok(Some(cx.now_ms));
        }
        // A plan under way does not know of them.
        self.stale |= !local.revisit.is_empty() && self.under_way.is_some();
        self.revisit.extend(local.revisit.iter().cloned());
        witness(&scanned, &local, dot, cx);
        self.incarnations.disowned.clear();
        let interrupted = self.interrupted.take();
        let (incarnations, records) = (self.incarnations.clone(), local.records);
        let record = |base: &mut Base| {
            tell(base, records);
            base.incarnations = Some(incarnations);
            base.applying = None;
            base.unfinished |= interrupted.is_some();
        };
        match prospect {
            None => record(cx.store.base()),
            Some(prospect) => {
                let (state, new) = cx.store.publish(prospect, record)?;
                self.own_state = Some(state.hash());
                let changes = local.changes.iter().map(|change| format!("{}", change.path));
                let changes: Vec<_> = changes.collect();
                cx.said.push(Said::Note(format!("publishes {state:?}: {}", changes.join(" "))));
                cx.said.push(Said::Published(state, new));
                self.stale = true;
            }
        }
        if scanned.extent == Extent::Everything {
            self.tries = Tries::All;
            self.stale |= self.under_way.is_some();
            if !self.has_scanned {
                self.has_scanned = true;
                cx.said.push(Said::Scanned);
            }
        }
        self.stale |= !self.retries.is_empty();
        Ok(Some(cx.now_ms))
    }
}

fn renewed(old: &Incarnations, writer: Writer, reissue: bool) -> Incarnations {
    let mut disowned = old.disowned.clone();
    disowned.push(Disowned { writer: old.writer, after: old.started_at, reissue });
    Incarnations { writer, started_at: 0, disowned }
}

/// The merge of all heads.
fn merged<'a>(
    overlay: &mut Overlay<&'a Durable>,
    durable: &'a Durable,
) -> Result<Tree, ark_core::TreeError<Absent>> {
    let merged = join(overlay, &heads(durable.joined().values().map(SignedState::state)))?;
    Ok(merged.tree)
}

fn tell(base: &mut Base, records: BTreeMap<RelPath, Option<Record>>) {
    for (path, record) in records {
        match record {
            Some(record) => drop(base.records.insert(path, record)),
            None => drop(base.records.remove(&path)),
        }
    }
}
