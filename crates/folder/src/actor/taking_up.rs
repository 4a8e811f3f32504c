//! Takes local changes up: scans what is due, and publishes what was changed.

use std::sync::Arc;

use ark_core::{Dot, Head, Link, Object, ObjectId, RelPath, in_words};
use ark_store::{AddError, Batch, PublishError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{Actor, Home, Setback, Tries, blocking};
use crate::apply::aside::sweep;
use crate::base::{
    APPLYING_META, BaseView, Changes, Hold, INCARNATION_META, Incarnations, MetaChange, Retry,
    UNFINISHED_META, encode_incarnations, encode_unfinished, with_one_more,
};
use crate::durable::{self, Unsyncable};
use crate::ignore::{Learned, RULES_FILE, RULES_META};
use crate::publish::{Act, Prepared, Prospect, has_unlisted_head, prepare};
use crate::scan::{Extent, Scan, ScanError, ScanProgress, ScanResult, Sink, SinkClosed};
use crate::status::Work;

/// Bytes of objects between the threads that hash and the store.
const OBJECTS_IN_FLIGHT_BYTES: usize = 32 << 20;
/// Objects between them: small ones cost more than their bytes.
const OBJECTS_IN_FLIGHT: usize = 1024;
/// What is said when a scan failed.
const NO_SCAN: &str = "cannot look through the folder";

impl Actor {
    /// Scans `extent` and publishes what was changed there.
    pub(super) async fn take_up(&mut self, extent: Extent) -> Result<(), Setback> {
        let home = self.home()?;
        self.check_marker(&home).await?;
        let (mut result, batch) = self.scan(&home, extent.clone()).await?;
        durable::leave_out(&self.unsyncable, &mut result);
        // A folder that went away while it was looked at looks empty.
        self.check_marker(&home).await?;
        tracing::debug!(
            everything = extent == Extent::Everything,
            found = result.found.len(),
            gone = result.gone.len(),
            in_flux = ?result.in_flux,
            kept = result.kept.len(),
            "scanned"
        );
        let result = Arc::new(result);
        self.sweep(&home, &result).await?;
        self.publish(&home, &result, batch).await?;
        self.note(&home, &extent, &result);
        if extent == Extent::Everything {
            self.try_again(Tries::All);
            self.shared.say(|said| said.scanned = true);
        }
        if !self.retries.is_empty() {
            self.stale = true;
        }
        self.pass_fences();
        Ok(())
    }

    /// Nothing is being applied while a scan runs: temporaries that it sees are of a crash.
    async fn sweep(&self, home: &Home, result: &Arc<ScanResult>) -> Result<(), Setback> {
        if result.leftovers.is_empty() {
            return Ok(());
        }
        let (root, result) = (home.opened.root.clone(), Arc::clone(result));
        blocking(move || sweep(&root, &result.leftovers)).await
    }

    pub(super) async fn check_marker(&self, home: &Home) -> Result<(), Setback> {
        let opened = home.opened.clone();
        let checked = blocking(move || opened.marker.check(&opened.root)).await?;
        checked.map_err(|halt| Setback::Halt(in_words(&halt)))
    }

    /// Remembers what a scan said besides what was found.
    fn note(&mut self, home: &Home, extent: &Extent, result: &ScanResult) {
        match extent {
            Extent::Everything => {
                self.in_flux.clear();
                self.kept.clear();
                self.closed.clear();
                self.notes.clone_from(&result.notes);
            }
            Extent::Paths(paths) => {
                let is_seen = |path: &RelPath| {
                    let names = path.names();
                    (0..=names.len())
                        .any(|depth| paths.contains_key(&RelPath::from(names[..depth].to_vec())))
                };
                self.in_flux.retain(|path| !is_seen(path));
                self.kept.retain(|path, _| !is_seen(path));
                self.closed.retain(|path| !is_seen(path));
            }
        }
        self.kept.extend(result.kept.iter().map(|(path, kept)| (path.clone(), kept.clone())));
        self.closed.extend(result.closed.iter().cloned());
        for path in &result.in_flux {
            home.watch.again(path.clone());
            self.in_flux.insert(path.clone());
        }
        if result.learned.is_changed() {
            // What others wrote where it was ignored may be wanted now.
            self.try_again(Tries::All);
        }
    }

    /// Whether a head is joined of a device that the config lists no more as a writer. What it
    /// wrote is published as what this device has: others may never get to see its own state.
    pub(super) fn is_to_take_over(&self) -> bool {
        let own = self.repo.writer().device;
        let is_listed = |device| device == own || self.options.writers.contains(&device);
        has_unlisted_head(&self.repo.states().joined, is_listed)
    }

    /// Runs a scan; its objects are in the batch.
    async fn scan(&self, home: &Home, extent: Extent) -> Result<(ScanResult, Batch), Setback> {
        let progress = Arc::new(ScanProgress::new());
        self.shared.begin(Some(Work::Scanning(Arc::clone(&progress))));
        let (sender, queue) = mpsc::channel(OBJECTS_IN_FLIGHT);
        let room = Arc::new(Semaphore::new(OBJECTS_IN_FLIGHT_BYTES));
        let sink = Objects { queue: sender, room, runtime: tokio::runtime::Handle::current() };
        let (base, home) = (self.repo.base(), home.clone());
        let (rules, hashers) = (Arc::clone(&self.rules), Arc::clone(&self.hashers));
        let scanning = blocking(move || {
            let snapshot = base.snapshot().map_err(|error| Setback::failed(NO_SCAN, &error))?;
            let scan = Scan {
                root: &home.opened.root,
                base: &BaseView::new(snapshot),
                rules: &rules,
                sink: &sink,
                watch: &*home.watch,
                hashers: &hashers,
                granularity: home.opened.granularity,
                progress: &progress,
            };
            Ok(scan.run(&extent))
        });
        let (scanned, stored) = tokio::join!(scanning, store(self.repo.batch(), queue));
        // Where both failed the scan did so because the store did.
        let batch =
            stored.map_err(|error| Setback::failed("cannot store what was found", &error))?;
        match scanned?? {
            Ok(result) => Ok((result, batch)),
            Err(ScanError::Cancelled) => Err(Setback::Again),
            Err(ScanError::RulesInFlux { .. }) => Err(Setback::Later(self.rules.quiet())),
            Err(error) => Err(Setback::failed(NO_SCAN, &error)),
        }
    }

    /// Publishes what a scan found to be changed here, and tells base.
    async fn publish(
        &mut self,
        home: &Home,
        result: &Arc<ScanResult>,
        batch: Batch,
    ) -> Result<(), Setback> {
        let rules = self.rules_after(&result.learned);
        let nothing =
            result.found.is_empty() && result.gone.is_empty() && result.forgotten.is_empty();
        let is_due = !nothing || self.is_to_take_over();
        if is_due || rules.is_some() || !self.settled_meta(None).is_empty() {
            self.publish_changes(home, result, batch, rules.as_ref()).await?;
        }
        // Not before: until what was found by them is recorded, the former ones hold.
        self.rules.learn(&result.learned);
        if rules.is_some() {
            self.recorded_rules = rules;
        }
        Ok(())
    }

    /// What is to be recorded of the rules that were used, if anything.
    fn rules_after(&self, learned: &Learned) -> Option<Vec<u8>> {
        let record = learned.may_matter().then(|| self.rules.former_after(learned).encode());
        record.filter(|record| self.recorded_rules.as_ref() != Some(record))
    }

    async fn publish_changes(
        &mut self,
        home: &Home,
        result: &Arc<ScanResult>,
        batch: Batch,
        rules: Option<&Vec<u8>>,
    ) -> Result<(), Setback> {
        let paths = (result.found.len() + result.gone.len()) as u64;
        self.shared.begin(Some(Work::Publishing { paths }));
        let publisher = self.repo.publisher().await;
        let dot = publisher.dot();
        if dot.writer != self.incarnations.writer {
            return Err(Setback::Again);
        }
        let (prepared, synced) = tokio::join!(self.prepare(result, dot), sync(home, result));
        let unsyncable = synced?;
        if !unsyncable.is_empty() {
            return Err(self.leave_out(unsyncable));
        }
        let Prepared { snapshot, records, revisit } = prepared?;
        let mut changes = Changes::default();
        for (path, record) in &records {
            changes.record(path, record.as_ref());
        }
        for path in &result.forgotten {
            // Nothing else would make a plan look at it, in this run or, after a crash, in the next.
            let retry = Retry { hold: Hold::Blocked, reason: String::new() };
            changes.retry(path, Some(&retry));
        }
        self.stale |= !result.forgotten.is_empty();
        if !revisit.is_empty() {
            // A plan under way does not know of them.
            self.stale |= self.under_way.is_some();
            self.revisit.extend(revisit);
        }
        tracing::debug!(changed = snapshot.is_some(), records = records.len(), "compared");
        match snapshot {
            None => {
                drop((publisher, batch));
                self.record(changes, rules).await?;
            }
            Some(Prospect { objects, root, head, vector }) => {
                let batch = add_all(batch, objects).await?;
                let head = Head { id: head.id, sequence: dot.sequence };
                // Base learns of it in the same transaction: otherwise what was published right
                // before a crash would be met by later changes as if somebody else had made it.
                let mut meta = self.settled_meta(rules);
                meta.extend(self.published_meta(root)?);
                let publisher = publisher.with_base(changes.into_records(), meta);
                match publisher.publish(batch, vec![head], vector, Vec::new()).await {
                    Ok(state) => self.own_state = Some(state.hash()),
                    Err(PublishError::Incarnation) => return Err(Setback::Again),
                    Err(error) => {
                        return Err(Setback::failed("cannot publish local changes", &error));
                    }
                }
                self.stale = true;
            }
        }
        self.incarnations.disowned.clear();
        self.interrupted = None;
        Ok(())
    }

    /// These files are left out from now on; later they are tried again.
    fn leave_out(&mut self, unsyncable: Unsyncable) -> Setback {
        for (path, why) in &unsyncable {
            tracing::warn!("{path:?} cannot be made durable: {why}");
        }
        self.unsyncable.extend(unsyncable);
        if self.pauses.retrying.until.is_none() {
            self.pauses.retrying.lengthen();
        }
        Setback::Again
    }

    /// What is recorded once everything is compared: nothing is left to be published anew, and
    /// what an interrupted batch did is known. And the rules by which that was found.
    fn settled_meta(&self, rules: Option<&Vec<u8>>) -> Vec<(String, Option<Vec<u8>>)> {
        let mut meta = Vec::new();
        meta.extend(rules.map(|rules| (RULES_META.to_owned(), Some(rules.clone()))));
        if !self.incarnations.disowned.is_empty() {
            let settled = Incarnations { disowned: Vec::new(), ..self.incarnations.clone() };
            meta.push((INCARNATION_META.to_owned(), Some(encode_incarnations(&settled))));
        }
        if self.interrupted.is_some() {
            meta.push((APPLYING_META.to_owned(), None));
            meta.push((UNFINISHED_META.to_owned(), Some(encode_unfinished(&Vec::new()))));
        }
        meta
    }

    /// Records that base has of the tree with this `root` what is in none that was applied: if
    /// others delete it before the next plan is carried out, nothing else would tell.
    fn published_meta(&self, root: ObjectId) -> Result<Option<MetaChange>, Setback> {
        if self.interrupted.is_some() {
            return Ok(None);
        }
        let what = "cannot read what was recorded about the folder";
        let snapshot = self.repo.base().snapshot();
        let view = BaseView::new(snapshot.map_err(|error| Setback::failed(what, &error))?);
        let unfinished = view.unfinished().map_err(|error| Setback::failed(what, &error))?;
        let roots = with_one_more(unfinished.as_deref(), root);
        Ok(roots.map(|roots| (UNFINISHED_META.to_owned(), Some(encode_unfinished(&roots)))))
    }

    async fn prepare(&self, result: &Arc<ScanResult>, dot: Dot) -> Result<Prepared, Setback> {
        let (reader, base) = (self.repo.reader(), self.repo.base());
        let (states, result) = (self.repo.states(), Arc::clone(result));
        let disowned = self.incarnations.disowned.clone();
        let interrupted = self.interrupted.clone();
        let takes_over = self.is_to_take_over();
        let what = "cannot compare the folder with what was recorded";
        blocking(move || {
            let snapshot = base.snapshot().map_err(|error| Setback::failed(what, &error))?;
            let view = BaseView::new(snapshot);
            let interrupted = interrupted.as_ref();
            let act = Act { dot, interrupted, disowned: &disowned, takes_over };
            prepare(reader, &states.joined, &view, &result, &act)
                .map_err(|error| Setback::failed(what, &error))
        })
        .await?
    }

    /// Tells base what was found, where that is nothing to publish.
    async fn record(&self, changes: Changes, rules: Option<&Vec<u8>>) -> Result<(), Setback> {
        let meta = self.settled_meta(rules);
        if changes.is_empty() && meta.is_empty() {
            return Ok(());
        }
        let recorded = self.repo.base().apply(changes.into_records(), meta).await;
        recorded.map_err(|error| Setback::failed("cannot record what was found", &error))
    }
}

/// Makes durable what was found, as base is about to say that it is there.
async fn sync(home: &Home, result: &Arc<ScanResult>) -> Result<Unsyncable, Setback> {
    let (root, result) = (home.opened.root.clone(), Arc::clone(result));
    let synced = blocking(move || durable::sync(&root, &result)).await?;
    synced.map_err(|error| Setback::failed("cannot make durable what was found", &error))
}

/// Whether a path holds ignore rules.
pub(super) fn is_rules_file(path: &RelPath) -> bool {
    path.names().last().is_some_and(|name| name.as_bytes() == RULES_FILE)
}

async fn add_all(mut batch: Batch, objects: Vec<Object>) -> Result<Batch, Setback> {
    for object in objects {
        let added = batch.add(object).await;
        added.map_err(|error| Setback::failed("cannot store the new tree", &error))?;
    }
    Ok(batch)
}

/// An object on its way, with the room that it takes there.
type OnTheWay = (Object, OwnedSemaphorePermit);

/// Adds what comes until the scan has ended. Dropping the queue at an error ends the scan.
async fn store(mut batch: Batch, mut queue: mpsc::Receiver<OnTheWay>) -> Result<Batch, AddError> {
    while let Some((object, _room)) = queue.recv().await {
        batch.add(object).await?;
    }
    Ok(batch)
}

/// Takes a scan's objects to the task that owns the batch.
#[derive(Debug)]
struct Objects {
    queue: mpsc::Sender<OnTheWay>,
    /// In bytes.
    room: Arc<Semaphore>,
    runtime: tokio::runtime::Handle,
}

impl Sink for Objects {
    /// The batch drops what is indexed already; asking for each here would cost as much.
    fn known(&self, _link: Link) -> bool {
        false
    }

    fn put(&self, object: Object) -> Result<(), SinkClosed> {
        let bytes = object.bytes().len().clamp(1, OBJECTS_IN_FLIGHT_BYTES);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(bytes);
        let room = self.runtime.block_on(room).map_err(|_| SinkClosed)?;
        self.queue.blocking_send((object, room)).map_err(|_| SinkClosed)
    }
}
