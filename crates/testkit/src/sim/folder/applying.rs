//! How others' changes come onto the disk: planned, carried out batch by batch, recorded.

use ark_core::{Link, Overlay, RelPath, empty_directory};
use ark_folder::apply::add_failing;
use ark_folder::base::{Hold, Retry};
use ark_folder::plan::{Action, Dirty, Held, Plan, plan};
use ark_folder::wants::{Lookup, WantsError, complete, empty_root, wants};

use super::{
    Batch, Context, Doing, Extent, FIRST_PAUSE_MS, Folder, MAX_FUTILE_ROUNDS, MAX_PAUSE_MS, Said,
    Tries, UnderWay, merged, tell,
};
use crate::sim::batch::Ground;
use crate::sim::store::Absent;
use crate::sim::weather::Fault;

impl Folder {
    /// Plans if need be, and begins the next batch.
    pub(super) fn begin_batch(&mut self, cx: &mut Context<'_>) -> Result<u64, String> {
        let planned = self.under_way.take().filter(|_| !self.stale);
        let under_way = if let Some(under_way) = planned {
            under_way
        } else {
            self.stale = false;
            let planned = self.plan(cx);
            planned.map_err(|error| format!("cannot work out what others changed: {error}"))?
        };
        let rest = &under_way.actions[under_way.next..];
        let limit = cx.dice.between(cx.weather.batch_actions);
        let left = rest.len().min(usize::try_from(limit).unwrap_or(usize::MAX));
        if rest[..left].iter().any(Action::is_on_disk) {
            cx.store.base().applying = Some(under_way.root);
            self.interrupted = Some(under_way.root);
        }
        self.under_way = Some(under_way);
        self.doing = Doing::Acting { batch: Batch::default(), left };
        Ok(cx.now_ms + if left > 0 { cx.dice.between(cx.weather.store_ms) } else { 0 })
    }

    fn plan(&mut self, cx: &mut Context<'_>) -> Result<UnderWay, WantsError<Absent>> {
        let mut overlay = Overlay::new(cx.store.durable());
        let joined = merged(&mut overlay, cx.store.durable())?;
        overlay.put(empty_directory());
        let made = overlay.into_made();
        let kept = cx.store.keep(&made, Link::directory(joined.root));
        assert_eq!(kept, Ok(()), "the merge of whole trees is whole");
        let durable = cx.store.durable();
        let base = &durable.base;
        let mut overlay = Overlay::new(durable);
        overlay.put(empty_directory());
        let is_due = |hold: Hold| match hold {
            Hold::Blocked => true,
            Hold::Failed => self.tries >= Tries::Failed,
            Hold::Skipped => self.tries >= Tries::All,
        };
        let due = base.retries.iter().filter(|(_, retry)| is_due(retry.hold));
        self.revisit.extend(due.map(|(path, _)| path.clone()));
        if base.unfinished {
            // The difference between the trees does not tell what is on disk.
            self.revisit.extend(base.records.keys().cloned());
        }
        let before = base.applied.as_ref().filter(|_| !base.unfinished);
        let from = before.map_or_else(empty_root, |(root, _)| *root);
        let mut wanted = wants(&overlay, from, joined.root)?;
        let mut lookup = Lookup::new(&overlay, joined.root);
        complete(&mut wanted, &self.revisit, &base.records, &mut lookup)?;
        let dirty: Dirty = match &self.due {
            Extent::Paths(paths) => paths.iter().cloned().collect(),
            Extent::Everything => [RelPath::root()].into_iter().collect(),
        };
        let held = |_: &RelPath, _| Ok::<_, WantsError<Absent>>(None::<Held>);
        let Plan { actions, blocked, skipped } = plan(&wanted, &base.records, &dirty, held)?;
        let wait = |hold| move |path| (path, Retry { hold, reason: String::new() });
        let blocked = blocked.into_iter().map(wait(Hold::Blocked));
        let failing = blocked.chain(skipped.into_iter().map(wait(Hold::Skipped))).collect();
        let joined_states = durable.joined().iter();
        let revisions =
            joined_states.map(|(&writer, state)| (writer, state.state().revision)).collect();
        if !actions.is_empty() {
            let words: Vec<_> = actions.iter().map(words).collect();
            cx.said.push(Said::Note(format!("plans {}", words.join(", "))));
        }
        let (visited, root) = (wanted.into_keys().collect(), joined.root);
        Ok(UnderWay { actions, next: 0, visited, failing, root, revisions })
    }

    /// Carries out the next action of a batch, or ends it.
    pub(super) fn act(&mut self, mut batch: Batch, left: usize, cx: &mut Context<'_>) -> u64 {
        let under_way = self.under_way.as_mut().expect("a batch is of a plan");
        if left > 0 {
            let action = &under_way.actions[under_way.next];
            let (disk, durable, clock) = (&mut *cx.disk, cx.store.durable(), cx.clock);
            batch.act(action, &mut Ground { disk, durable, oracle: cx.oracle, clock });
            cx.said.push(Said::Touched(action.paths().cloned().collect()));
            under_way.next += 1;
            self.doing = Doing::Acting { batch, left: left - 1 };
            return cx.now_ms + cx.dice.between(cx.weather.action_ms);
        }
        let applied = batch.finish(cx.disk, &cx.store.durable().base.records);
        if cx.weather.fault != Some(Fault::NotSynced) {
            cx.disk.sync();
        }
        self.doing = Doing::Recording(applied);
        cx.now_ms + cx.dice.between(cx.weather.store_ms)
    }

    /// Tells base what a batch did; in one transaction.
    pub(super) fn record(
        &mut self,
        batch: ark_folder::apply::Applied,
        cx: &mut Context<'_>,
    ) -> u64 {
        let mut under_way = self.under_way.take().expect("a batch is of a plan");
        add_failing(&mut under_way.failing, batch.retries);
        let base = cx.store.base();
        let did_something = !batch.records.is_empty();
        let is_carried_out = under_way.next == under_way.actions.len();
        tell(base, batch.records);
        base.unfinished = !is_carried_out;
        base.applying = None;
        self.interrupted = None;
        if !batch.dirty.is_empty() {
            cx.said.push(Said::Note(format!("finds {:?} dirty", batch.dirty)));
            self.futile_rounds = if did_something { 0 } else { self.futile_rounds + 1 };
            if self.futile_rounds > MAX_FUTILE_ROUNDS {
                cx.said.push(Said::Touched(batch.dirty));
            } else {
                self.due.add(Extent::Paths(batch.dirty));
            }
        }
        if is_carried_out {
            self.carried_out(under_way, cx);
        } else {
            self.under_way = Some(under_way);
        }
        cx.now_ms
    }

    /// A plan was carried out.
    fn carried_out(&mut self, under_way: UnderWay, cx: &mut Context<'_>) {
        let UnderWay { visited, failing, root, revisions, .. } = under_way;
        let base = cx.store.base();
        base.retries.retain(|path, _| !visited.contains(path));
        base.retries.extend(failing);
        self.retries.clone_from(&base.retries);
        self.tries = Tries::None;
        self.revisit.clear();
        let is_applied = self.retries.values().all(|retry| retry.hold == Hold::Skipped);
        let before = base.applied.take().map(|(_, revisions)| revisions).unwrap_or_default();
        base.applied = Some((root, if is_applied { revisions.clone() } else { before }));
        if is_applied {
            (self.retry_at, self.pause_ms) = (None, 0);
            if self.applied != revisions {
                self.applied = revisions.clone();
                cx.said.push(Said::Applied(revisions));
            }
        } else if self.retry_at.is_none() {
            self.pause_ms = (self.pause_ms * 2).clamp(FIRST_PAUSE_MS, MAX_PAUSE_MS);
            self.retry_at = Some(cx.now_ms + self.pause_ms);
        }
    }
}

fn words(action: &Action) -> String {
    match action {
        Action::Adopt { path, .. } => format!("adopt {path}"),
        Action::Forget { path } => format!("forget {path}"),
        Action::MakeDirectory { path, .. } => format!("make {path}"),
        Action::Open { path } => format!("open {path}"),
        Action::Move { from, to, .. } => format!("move {from} to {to}"),
        Action::Exchange { from, to, .. } => format!("exchange {from} and {to}"),
        Action::Write { path, .. } => format!("write {path}"),
        Action::Remove { path } => format!("remove {path}"),
        Action::RemoveDirectory { path } => format!("remove directory {path}"),
        Action::SetPermissions { path, .. } => format!("set bits of {path}"),
    }
}
