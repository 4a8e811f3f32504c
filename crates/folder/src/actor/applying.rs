//! Applies what others wrote: plans for the merge of all heads, and carries the plan out in
//! batches, between which local changes are taken up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ark_core::{
    ObjectId, Overlay, Read, RelPath, Totals, TreeError, Writer, chunk_list, conflicts,
    directory_totals, empty_directory, in_words,
};
use ark_store::{Reader, States};

use super::taking_up::is_rules_file;
use super::{Actor, Due, Home, MAX_FUTILE_ROUNDS, Setback, Tries, blocking};
use crate::apply::{Applied as Batch, Control, Heed, add_failing, apply, batch_length};
use crate::base::{
    APPLIED_META, APPLYING_META, Applied, Applying, BaseError, BaseRead as _, BaseView, Changes,
    Hold, Retry, UNFINISHED_META, encode_applied, encode_applying, encode_unfinished,
    with_one_more,
};
use crate::ignore::{MAX_RULES_BYTES, Rules, RulesError, unusable};
use crate::opening::Opened;
use crate::plan::{Action, Dirty, Held, Plan, plan};
use crate::publish::joined;
use crate::scan::{Extent, FoundNode, Kept};
use crate::status::{MAX_CONFLICTS_LISTED, Work};
use crate::wants::{Lookup, Wants, complete, empty_root, wants_of_any};
use crate::watch::Touch;

/// What is said when no plan could be made.
const NO_PLAN: &str = "cannot work out what others changed";

/// A plan that is being carried out.
#[derive(Debug)]
pub(super) struct UnderWay {
    actions: Vec<Action>,
    /// How many of them were attempted.
    next: usize,
    /// Paths planned for.
    visited: BTreeSet<RelPath>,
    /// Those of them that are not as wanted.
    failing: BTreeMap<RelPath, Retry>,
    /// The retries before; after [`UnderWay::finish`], those now.
    retries: BTreeMap<RelPath, Retry>,
    /// Paths at and below which it leaves all as it is: the scan before did not see it.
    held: BTreeSet<RelPath>,
    /// The tree that the plan leads to, and the revisions that it stands for.
    root: ObjectId,
    revisions: BTreeMap<Writer, u64>,
    /// What was recorded as applied before.
    before: Option<Applied>,
    /// Which trees were applied in part since then, as it is recorded: see
    /// [`BaseView::unfinished`].
    unfinished: Option<Vec<ObjectId>>,
    totals: Totals,
    conflicts: Vec<RelPath>,
    control: Arc<Control>,
}

impl Actor {
    /// Plans if need be, and applies one batch.
    pub(super) async fn apply_some(&mut self) -> Result<(), Setback> {
        let home = self.home()?;
        let planned = self.under_way.take().filter(|_| !self.stale);
        let mut under_way = if let Some(under_way) = planned {
            under_way
        } else {
            self.stale = false;
            self.plan(&home).await?
        };
        let batch = self.carry_on(&home, &mut under_way).await;
        if self.interrupted.is_some() {
            // Nothing else is done before it is known what is on disk.
            self.due = Due::Everything;
        }
        let batch = batch?;
        self.see_dirty(&home, batch.dirty, !batch.records.is_empty());
        if under_way.is_carried_out() {
            self.applied(under_way);
        } else {
            self.under_way = Some(under_way);
        }
        if batch.records.keys().any(is_rules_file) {
            self.retry = Tries::All;
            self.due = Due::Everything;
        }
        Ok(())
    }

    /// Carries out the next batch of a plan, if there is one left, and records what was done.
    async fn carry_on(&mut self, home: &Home, under_way: &mut UnderWay) -> Result<Batch, Setback> {
        let actions = under_way.next_batch();
        let mut meta = Vec::new();
        let mut batch = Batch::default();
        if !actions.is_empty() {
            self.check_marker(home).await?;
            if actions.iter().any(Action::is_on_disk) {
                self.note_applying(under_way).await?;
                meta.push((APPLYING_META.to_owned(), None));
            }
            batch = self.apply_batch(home, under_way, actions).await?;
        }
        tracing::debug!(
            attempted = batch.attempted,
            of = under_way.actions.len(),
            dirty = ?batch.dirty,
            failing = ?under_way.failing,
            "applied a batch"
        );
        let mut changes = Changes::default();
        for (path, record) in &batch.records {
            changes.record(path, record.as_ref());
        }
        if under_way.is_carried_out() {
            meta.extend(under_way.finish(&mut changes));
        } else {
            meta.extend(under_way.begin());
        }
        if !changes.is_empty() || !meta.is_empty() {
            let recorded = self.repo.base().apply(changes.into_records(), meta).await;
            recorded.map_err(|error| Setback::failed("cannot record what was applied", &error))?;
        }
        self.interrupted = None;
        Ok(batch)
    }

    /// Notes durably which tree is about to be put on disk: if base is not told afterwards, what
    /// is found of it there is nobody's edit.
    async fn note_applying(&mut self, under_way: &UnderWay) -> Result<(), Setback> {
        let applying = Applying { root: under_way.root, held: under_way.held.clone() };
        let record = encode_applying(&applying);
        let noted = self.repo.base().set_meta(APPLYING_META, Some(record)).await;
        noted.map_err(|error| Setback::failed("cannot record what is to be applied", &error))?;
        self.interrupted = Some(applying);
        Ok(())
    }

    /// A batch found paths that are not as base says: they are scanned at once, or, if nothing
    /// else comes of it again and again, when they were quiet.
    fn see_dirty(&mut self, home: &Home, dirty: BTreeSet<RelPath>, did_something: bool) {
        if dirty.is_empty() {
            return;
        }
        self.futile_rounds = if did_something { 0 } else { self.futile_rounds + 1 };
        if self.futile_rounds > MAX_FUTILE_ROUNDS {
            for path in dirty {
                home.watch.again(path);
            }
        } else {
            let paths = dirty.into_iter().map(|path| (path, Touch::Changed)).collect();
            self.due.add(Extent::Paths(paths));
        }
    }

    /// A plan was carried out and recorded.
    fn applied(&mut self, under_way: UnderWay) {
        self.retry = Tries::None;
        self.revisit.clear();
        let UnderWay { totals, conflicts, retries, revisions, .. } = under_way;
        let is_applied = retries.values().all(|retry| retry.hold == Hold::Skipped);
        self.retries = retries;
        if is_applied && self.unsyncable.is_empty() {
            self.pauses.retrying.reset();
        } else if self.pauses.retrying.until.is_none() {
            self.pauses.retrying.lengthen();
        }
        self.shared.say(|said| {
            said.totals = totals;
            said.conflicts = conflicts;
            if is_applied {
                said.applied = revisions;
            }
        });
    }

    async fn apply_batch(
        &mut self,
        home: &Home,
        under_way: &mut UnderWay,
        actions: Vec<Action>,
    ) -> Result<Batch, Setback> {
        self.shared.begin(Some(Work::Applying {
            control: Arc::clone(&under_way.control),
            actions: under_way.actions.len() as u64,
            bytes: under_way.actions.iter().map(Action::bytes).sum(),
        }));
        let (base, reader, home) = (self.repo.base(), self.repo.reader(), home.clone());
        let control = Arc::clone(&under_way.control);
        let (rules, left_alone) = (Arc::clone(&self.rules), self.left_alone(under_way));
        let awaited = self.awaited_paths(under_way);
        let what = "cannot apply what others changed";
        let applied = blocking(move || {
            let snapshot = base.snapshot().map_err(|error| Setback::failed(what, &error))?;
            let view = BaseView::new(snapshot);
            let Opened { root, granularity, .. } = &home.opened;
            let mut ignored = rules.lookup(root);
            // Where it cannot be told a scan says why.
            let mut is_left_alone = |path: &RelPath, is_directory| {
                left_alone.contains(path) || ignored.ignored(path, is_directory).unwrap_or(false)
            };
            let heed = Heed { is_left_alone: &mut is_left_alone, awaited: &awaited };
            apply(root, &reader, &view, *granularity, &actions, &control, heed)
                .map_err(|error| Setback::failed(what, &error))
        });
        let batch = applied.await??;
        under_way.next += batch.attempted;
        add_failing(&mut under_way.failing, batch.retries.clone());
        if batch.attempted == 0 && !under_way.control.stop.load(Ordering::Relaxed) {
            return Err(Setback::Failed(format!("{what}: a batch did nothing")));
        }
        Ok(batch)
    }

    /// Paths that stay as they are though they are not ignored: the scan leaves them alone, or
    /// what is wanted of them was skipped.
    fn left_alone(&self, under_way: &UnderWay) -> BTreeSet<RelPath> {
        let retries = under_way.retries.iter().chain(&under_way.failing);
        let skipped = retries.filter(|(_, retry)| retry.hold == Hold::Skipped);
        self.kept.keys().chain(skipped.map(|(path, _)| path)).cloned().collect()
    }

    /// Paths that the next scans, or later plans, have to get to: what was changed there or could
    /// not be done, be it before this plan or by it.
    fn awaited_paths(&self, under_way: &UnderWay) -> BTreeSet<RelPath> {
        let due = match &self.due {
            Due::Paths(due) => Some(due.keys()),
            // Nothing is applied then.
            Due::Everything => None,
        };
        let UnderWay { retries, visited, failing, .. } = under_way;
        let before = retries.iter().filter(|(path, _)| !visited.contains(*path));
        let waiting = before.chain(failing).filter(|(_, retry)| retry.hold != Hold::Skipped);
        let seen = self.in_flux.iter().chain(self.unsyncable.keys());
        let all = due.into_iter().flatten().chain(seen).chain(waiting.map(|(path, _)| path));
        all.cloned().collect()
    }

    /// Merges the heads, makes the merge durable, and plans how to get there.
    async fn plan(&mut self, home: &Home) -> Result<UnderWay, Setback> {
        let states = self.repo.states();
        let root = self.join(&states).await?;
        let dirty = match &self.due {
            Due::Everything => return Err(Setback::Again),
            Due::Paths(due) => due.keys().chain(&self.in_flux).cloned().collect(),
        };
        let planning = Planning {
            reader: self.repo.reader(),
            home: home.clone(),
            rules: Arc::clone(&self.rules),
            kept: self.kept.clone(),
            dirty,
            revisit: self.revisit.clone(),
            tries: self.retry,
            root,
            revisions: revisions(&states),
        };
        let base = self.repo.base();
        blocking(move || {
            let snapshot = base.snapshot().map_err(|error| Setback::failed(NO_PLAN, &error))?;
            planning.plan(&BaseView::new(snapshot))
        })
        .await?
    }

    /// The root of the merge of all heads, durable, so that base may speak of it.
    async fn join(&mut self, states: &Arc<States>) -> Result<ObjectId, Setback> {
        let (reader, states) = (self.repo.reader(), Arc::clone(states));
        let joined = blocking(move || joined(reader, &states.joined)).await?;
        let joined = joined.map_err(|error| Setback::failed("cannot merge the heads", &error))?;
        if !joined.made.is_empty() {
            let what = "cannot store the merge of the heads";
            let mut batch = self.repo.batch();
            for object in joined.made {
                batch.add(object).await.map_err(|error| Setback::failed(what, &error))?;
            }
            batch.commit().await.map_err(|error| Setback::failed(what, &error))?;
        }
        self.equivocations = joined.equivocations;
        Ok(joined.tree.root)
    }
}

fn revisions(states: &States) -> BTreeMap<Writer, u64> {
    states.joined.iter().map(|(&writer, state)| (writer, state.state().revision)).collect()
}

/// Files of rules that are not written, and why.
type Refused = BTreeMap<RelPath, String>;
type ReadFailed = <Reader as Read>::Error;

/// All that a plan is made from.
struct Planning {
    reader: Reader,
    home: Home,
    rules: Arc<Rules>,
    kept: BTreeMap<RelPath, Kept>,
    dirty: Dirty,
    revisit: BTreeSet<RelPath>,
    tries: Tries,
    root: ObjectId,
    revisions: BTreeMap<Writer, u64>,
}

impl Planning {
    fn plan(mut self, base: &BaseView) -> Result<UnderWay, Setback> {
        let failed = |error: &dyn std::error::Error| Setback::failed(NO_PLAN, error);
        let before = base.applied().map_err(|error| failed(&error))?;
        let retries = base.retries().map_err(|error| failed(&error))?;
        let is_due = |hold: Hold| match hold {
            Hold::Blocked => true,
            Hold::Failed => self.tries >= Tries::Failed,
            Hold::Skipped => self.tries >= Tries::All,
        };
        let due = retries.iter().filter(|(_, retry)| is_due(retry.hold));
        self.revisit.extend(due.map(|(path, _)| path.clone()));
        let unfinished = base.unfinished().map_err(|error| failed(&error))?;
        let before_root = before.as_ref().map_or_else(empty_root, |applied| applied.root);
        // What is on disk at a path is of one of these trees.
        let from = match &unfinished {
            Some(roots) if roots.is_empty() => {
                for item in base.below(&RelPath::root()).map_err(|error| failed(&error))? {
                    self.revisit.insert(item.map_err(|error| failed(&error))?.0);
                }
                vec![empty_root()]
            }
            roots => roots.iter().flatten().copied().chain([before_root]).collect(),
        };
        // It may be neither made nor stored by anybody.
        let mut overlay = Overlay::new(self.reader.clone());
        overlay.put(empty_directory());
        let wanted = wants_of_any(&overlay, &from, self.root);
        let mut wanted = wanted.map_err(|error| failed(&error))?;
        let mut lookup = Lookup::new(&overlay, self.root);
        complete(&mut wanted, &self.revisit, base, &mut lookup).map_err(|error| failed(&error))?;
        let (Plan { actions, blocked, skipped }, mut refused) = self.hold(&wanted, base)?;
        let wait = |hold, reason| Retry { hold, reason };
        let skipped = skipped.into_iter().map(|path| {
            let reason = refused.remove(&path).unwrap_or_default();
            (path, wait(Hold::Skipped, reason))
        });
        let blocked = blocked.into_iter().map(|path| (path, wait(Hold::Blocked, String::new())));
        let failing = blocked.chain(skipped).collect();
        let totals = directory_totals(&overlay, self.root).map_err(|error| failed(&error))?;
        let conflicts = conflicts(&overlay, self.root, MAX_CONFLICTS_LISTED);
        Ok(UnderWay {
            actions,
            next: 0,
            visited: wanted.into_keys().collect(),
            failing,
            retries,
            held: self.kept.into_keys().collect(),
            root: self.root,
            revisions: self.revisions,
            before,
            unfinished,
            totals,
            conflicts: conflicts.map_err(|error| failed(&error))?,
            control: Arc::default(),
        })
    }

    /// The plan, and the files of rules that are refused, with the reason: with one that cannot be
    /// used nothing more could be taken up.
    fn hold(&self, wanted: &Wants, base: &BaseView) -> Result<(Plan, Refused), Setback> {
        let mut refused = Refused::new();
        let mut ignored = self.rules.lookup(&self.home.opened.root);
        let held = |path: &RelPath, is_directory| -> Result<_, HeldError> {
            let names = path.names();
            let is_kept = !self.kept.is_empty()
                && (1..=names.len())
                    .any(|depth| self.kept.contains_key(&RelPath::from(names[..depth].to_vec())));
            Ok(if is_kept {
                Some(Held::Kept)
            } else if let Some(reason) = self.unusable(path, wanted)? {
                refused.insert(path.clone(), reason);
                Some(Held::Kept)
            } else {
                ignored.ignored(path, is_directory)?.then_some(Held::Ignored)
            })
        };
        let planned = plan(wanted, base, &self.dirty, held);
        let plan =
            planned.map_err(|error| Setback::Failed(format!("{NO_PLAN}: {}", in_words(&error))))?;
        Ok((plan, refused))
    }

    /// Why what is wanted at `path` is a file of rules that cannot be used, if it is one.
    fn unusable(&self, path: &RelPath, wanted: &Wants) -> Result<Option<String>, HeldError> {
        let Some(Some(want)) = wanted.get(path).filter(|_| is_rules_file(path)) else {
            return Ok(None);
        };
        let FoundNode::File { content, size } = want.node else { return Ok(None) };
        let mut bytes = Vec::new();
        if size <= MAX_RULES_BYTES {
            for chunk in chunk_list(&self.reader, content, size) {
                let (link, _) = chunk.map_err(Box::new)?;
                let read = self.reader.read(link);
                bytes.extend(read.map_err(|source| Box::new(TreeError::Read { link, source }))?);
            }
        }
        let reason = unusable(size, &bytes);
        Ok(reason.map(|reason| format!("{path:?} is not written, it cannot be used: {reason}")))
    }
}

/// Why it could not be told whether a path is to be left alone.
#[derive(Debug, thiserror::Error)]
enum HeldError {
    #[error(transparent)]
    Base(#[from] BaseError),
    #[error(transparent)]
    Rules(#[from] RulesError),
    #[error(transparent)]
    Content(#[from] Box<TreeError<ReadFailed>>),
}

impl UnderWay {
    fn is_carried_out(&self) -> bool {
        self.next == self.actions.len()
    }

    fn next_batch(&self) -> Vec<Action> {
        let rest = &self.actions[self.next..];
        rest[..batch_length(rest)].to_vec()
    }

    /// What is to be recorded while not all of it was attempted: that its tree is applied in part.
    fn begin(&mut self) -> Option<(String, Option<Vec<u8>>)> {
        let roots = with_one_more(self.unfinished.as_deref(), self.root)?;
        let record = encode_unfinished(&roots);
        self.unfinished = Some(roots);
        Some((UNFINISHED_META.to_owned(), Some(record)))
    }

    /// What is to be recorded once all of it was attempted: the retries and the tree applied.
    fn finish(&mut self, changes: &mut Changes) -> Vec<(String, Option<Vec<u8>>)> {
        let visited = std::mem::take(&mut self.visited);
        for path in self.retries.keys().filter(|path| visited.contains(*path)) {
            if !self.failing.contains_key(path) {
                changes.retry(path, None);
            }
        }
        for (path, retry) in &self.failing {
            if self.retries.get(path) != Some(retry) {
                changes.retry(path, Some(retry));
            }
        }
        self.retries.retain(|path, _| !visited.contains(path));
        self.retries.append(&mut self.failing);
        let is_applied = self.retries.values().all(|retry| retry.hold == Hold::Skipped);
        let before = self.before.as_ref().map(|applied| applied.revisions.clone());
        let revisions =
            if is_applied { self.revisions.clone() } else { before.unwrap_or_default() };
        let applied = Applied { root: self.root, revisions };
        let mut meta = Vec::new();
        if self.before.as_ref() != Some(&applied) {
            meta.push((APPLIED_META.to_owned(), Some(encode_applied(&applied))));
        }
        if self.unfinished.is_some() {
            meta.push((UNFINISHED_META.to_owned(), None));
        }
        meta
    }
}
