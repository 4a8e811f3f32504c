//! The engine of one repo: the order in which its machines are asked.
//!
//! `peers` keeps the sessions, `pulls` brings states from their arrival to their join, `order`
//! says which of them are pulled first, `show` what is known, `listing` takes up a changed config.
//! `reconciling` stands beside the walk
//! of `pulls`: it fills the same lanes sooner. Each input changes what they hold; then
//! [`Engine::handle`] does all that has become possible.

mod kind;
mod listing;
mod order;
mod peers;
mod pulls;
mod reconciling;
mod show;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ark_core::{
    DeviceId, Incarnation, Link, MAX_WRITERS, ObjectId, RepoKind, SignedState, TopicId, Writer,
};

use self::reconciling::Reconciling;
use crate::admission::{Admitting, may_write};
use crate::announce::Announcement;
use crate::effect::Effect;
use crate::fetcher::Fetcher;
use crate::input::{Input, StoreStep};
use crate::message::{Role, SummaryEntry};
use crate::pull::{Pull, Vain};
use crate::random::Random;
use crate::session::Peer;
use crate::told::Told;
use crate::view::{Amount, Counters, Problem};
use crate::wishes::Wishes;

/// The mean time between two summaries to a connected peer where nothing else happens: a net
/// under everything that is told as it happens, so it may be wide.
const SAFETY_MS: u64 = 5 * 60 * 1000;
/// The store is left alone for this long when it failed, then twice as long, and so on.
const FIRST_STORE_PAUSE_MS: u64 = 1_000;
/// The longest such pause: a disk that was full is noticed to have room again within it.
const LONGEST_STORE_PAUSE_MS: u64 = 60_000;
/// Content is not asked for before the first scan of the folder here is done, because the folder
/// may have it. A scan that takes longer than this is not waited for.
const SCAN_PATIENCE_MS: u64 = 10_000;
/// Problems kept to be shown.
const MAX_PROBLEMS: usize = 64;
/// Revisions per writer of which the size is remembered, to tell what a peer lacks.
const MAX_GROWTH: usize = 64;
/// Revisions for which peers are asked again, once a connection each, because they say that they
/// have come to have them.
const MAX_FORGIVEN: usize = 1024;
/// States of one writer for which it is remembered who was asked in vain.
const MAX_TRIED: usize = 4;
/// The objects of a repo that holds nothing: a snapshot and its empty root.
const EMPTY_REPO_OBJECTS: usize = 2;

/// What an engine is told once.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The repo.
    pub topic: TopicId,
    /// What it is here; `None`: what the first state is that is joined or published.
    pub kind: Option<RepoKind>,
    /// This device in its incarnation of now.
    pub writer: Writer,
    /// Whether there is a folder here, so that `applied` and `scanned` will be said.
    pub folder: bool,
    /// The other devices that the config lists for the repo.
    pub remotes: BTreeMap<DeviceId, Remote>,
    /// Randomness for jitter.
    pub seed: u64,
}

/// A device that the config lists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remote {
    /// Its name there.
    pub name: String,
    /// What it may do here. States of others are taken from it whatever that is.
    pub role: Role,
}

/// What the store holds at the start.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Joined states, this device's own among them.
    pub joined: Vec<SignedState>,
    /// Staged states.
    pub staged: Vec<SignedState>,
    /// Whether objects are pending: a pull was begun before.
    pub pending: bool,
    /// What the folder shows, per writer.
    pub applied: BTreeMap<Writer, u64>,
    /// Whether the first scan is done already.
    pub scanned: bool,
}

/// A pause of the store after it failed.
#[derive(Debug, Default)]
struct StorePause {
    failures: u32,
    until_ms: u64,
}

/// One repo's engine.
#[derive(Debug)]
pub struct Engine {
    options: EngineOptions,
    joined: BTreeMap<Writer, SignedState>,
    pulls: BTreeMap<Writer, Pull>,
    /// Writers that may write no more, and of which something may still be staged.
    leaving: BTreeMap<Writer, Leaving>,
    /// States that the store will not take again, by writer: revision and hash of the newest.
    dead: BTreeMap<Writer, (u64, ObjectId)>,
    /// Who was asked in vain for states that others were taken in the place of, by writer.
    tried: BTreeMap<Writer, BTreeMap<(u64, ObjectId), Vain>>,
    /// Who is asked again for which revision, because it came to have it after it had not.
    forgiven: BTreeSet<(DeviceId, Writer, u64)>,
    peers: BTreeMap<DeviceId, Peer>,
    told: Told,
    wishes: Wishes,
    fetcher: Fetcher,
    reconciling: Reconciling,
    applied: BTreeMap<Writer, u64>,
    scanned: bool,
    /// Until when content waits for the first scan; set with the first input.
    scan_awaited_ms: Option<u64>,
    /// What each revision brought, per writer, newest last.
    growth: BTreeMap<Writer, VecDeque<(u64, Amount)>>,
    received: Amount,
    problems: Vec<Problem>,
    counters: Counters,
    /// Nothing of the repo is here.
    cold: bool,
    store: StorePause,
    safety_ms: Option<u64>,
    random: Random,
    now_ms: u64,
    effects: Vec<Effect>,
}

/// Whether the store was told to drop what it has staged of a writer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Leaving {
    /// It is to be told.
    Due,
    /// It was, and has not answered.
    Told,
}

/// A state's place among those of its writer: the greater stands.
fn place(state: &SignedState) -> (u64, ObjectId) {
    (state.state().revision, state.hash())
}

impl Engine {
    /// An engine over what the store holds. Effects come first with the first
    /// [`Engine::handle`]: give it [`Input::Timer`].
    pub fn new(options: EngineOptions, known: Known) -> Self {
        let joined: BTreeMap<_, _> =
            known.joined.into_iter().map(|state| (state.state().writer, state)).collect();
        let cold = !known.pending && joined.values().all(|it| it.state().heads.is_empty());
        let own = options.writer.device;
        let may_write = |device| may_write(own, &options.remotes, device);
        let fits = |kind| options.kind.is_none_or(|here| here == kind);
        // Who may write no more is not listened to, though a state of it was; nor is one of another
        // kind finished, which came while this one was not decided.
        let (staged, dropped): (Vec<_>, Vec<_>) = known
            .staged
            .into_iter()
            .partition(|it| may_write(it.state().writer.device) && fits(it.state().kind));
        let resumed = staged.into_iter().map(|state| (state.state().writer, Pull::resumed(state)));
        let leaving = dropped.iter().map(|state| (state.state().writer, Leaving::Due));
        let peers = options.remotes.keys().map(|&device| (device, Peer::default())).collect();
        Self {
            joined,
            pulls: resumed.collect(),
            leaving: leaving.collect(),
            dead: BTreeMap::new(),
            tried: BTreeMap::new(),
            forgiven: BTreeSet::new(),
            peers,
            told: Told::default(),
            wishes: Wishes::default(),
            fetcher: Fetcher::new(),
            reconciling: Reconciling::default(),
            applied: known.applied,
            scanned: known.scanned || !options.folder,
            scan_awaited_ms: None,
            growth: BTreeMap::new(),
            received: Amount::default(),
            problems: Vec::new(),
            counters: Counters::default(),
            cold,
            store: StorePause::default(),
            safety_ms: None,
            random: Random::new(options.seed),
            now_ms: 0,
            effects: Vec::new(),
            options,
        }
    }

    /// Takes in what happened at `now_ms` and says what is to be done, in order. `now_ms` never
    /// goes back.
    pub fn handle(&mut self, input: Input, now_ms: u64) -> Vec<Effect> {
        self.now_ms = self.now_ms.max(now_ms);
        self.scan_awaited_ms.get_or_insert(self.now_ms.saturating_add(SCAN_PATIENCE_MS));
        self.take_in(input);
        self.advance_pulls();
        self.look_up_lacking();
        self.wish_for_older();
        self.send_wishes();
        self.keep_safe();
        self.send_haves();
        std::mem::take(&mut self.effects)
    }

    /// When [`Input::Timer`] is to be given, if nothing else happens before. In milliseconds, on
    /// the clock of [`Engine::handle`].
    pub fn wake_at(&self) -> Option<u64> {
        let store = Some(self.store.until_ms).filter(|&until_ms| until_ms > self.now_ms);
        let haves = self.peers.values().filter_map(Peer::have_due_at).min();
        let fetcher = self.fetcher.wake_at(self.now_ms);
        let scan = self.scan_awaited_ms.filter(|_| self.awaits_scan());
        let stalls = self.stalls_at();
        let all = [store, haves, fetcher, scan, stalls, self.wishes.due_at(), self.safety_ms];
        all.into_iter().flatten().min()
    }

    /// Whether content waits for the first scan of the folder here.
    fn awaits_scan(&self) -> bool {
        !self.scanned && self.scan_awaited_ms.is_some_and(|until_ms| until_ms > self.now_ms)
    }

    fn take_in(&mut self, input: Input) {
        match input {
            Input::PeerConnected { peer } => self.connected(peer),
            Input::PeerDisconnected { peer } => self.disconnected(peer),
            Input::Message { peer, message } => self.heard(peer, message),
            Input::Announced { announcement, .. } => self.announced(announcement),
            Input::Lagged => {
                self.reconciling.all_due();
                self.send_summaries();
            }
            Input::Published { state, new } => self.published(state, &new),
            Input::Renewed { writer } => self.renewed(writer),
            Input::LookedUp { writer, revision, absent } => {
                self.looked_up(writer, revision, &absent);
            }
            Input::Staged { writer, outcome } => self.staged(writer, outcome),
            Input::Stored { request, received, next, rejected } => {
                self.stored(request, &received, &next, rejected);
            }
            Input::Found { links } => {
                self.fetcher.found(&links);
                self.came(|id| links.iter().any(|link| link.id == id));
            }
            Input::RequestEnded { request, missing } => self.fetcher.ended(request, &missing),
            Input::RequestFailed { request, failure } => self.request_failed(request, failure),
            Input::Abandoned { writer } => self.abandoned(writer),
            Input::JoinResult { writer, outcome } => self.join_result(writer, outcome),
            Input::StoreFailed { step, reason } => self.store_failed(step, reason),
            Input::Applied { revisions } => {
                self.applied.extend(revisions);
                self.ask_haves();
            }
            Input::Scanned => {
                self.scanned = true;
                self.ask_haves();
            }
            Input::FolderBegun => {
                self.applied.clear();
                self.scanned = !self.options.folder;
                self.scan_awaited_ms = Some(self.now_ms.saturating_add(SCAN_PATIENCE_MS));
                self.ask_haves();
            }
            Input::Listed { remotes } => self.listed(remotes),
            Input::Lacking { peer, links } => self.lacking(peer, &links),
            Input::Reconciled { peer, reconciliation } => self.reconciled(peer, reconciliation),
            Input::Breach { peer, violation } => self.breached(peer, violation),
            Input::Timer => {}
        }
    }

    fn published(&mut self, state: SignedState, new: &[Link]) {
        let writer = state.state().writer;
        if self.joined.get(&writer).is_some_and(|known| !state.replaces(known)) {
            return;
        }
        if !state.state().heads.is_empty() && !(1..=EMPTY_REPO_OBJECTS).contains(&new.len()) {
            self.cold = false;
        }
        let objects = new.len() as u64;
        self.grew(writer, state.state().revision, Amount { objects, bytes: 0 });
        self.decided(state.state().kind);
        if new.is_empty() {
            // Where too many are new to be named, any may be.
            self.something_came();
        } else {
            self.fetcher.found(new);
            self.came(|id| new.iter().any(|link| link.id == id));
        }
        self.effects.push(Effect::Announce(Announcement::fitting(&state, new)));
        self.joined.insert(writer, state);
        self.ask_haves();
        self.check_roles();
    }

    /// The old incarnation is one more writer now, whose states are taken from peers.
    fn renewed(&mut self, writer: Writer) {
        self.options.writer = writer;
        self.send_summaries();
        self.ask_haves();
    }

    fn grew(&mut self, writer: Writer, revision: u64, amount: Amount) {
        let growth = self.growth.entry(writer).or_default();
        if growth.len() == MAX_GROWTH {
            growth.pop_front();
        }
        growth.push_back((revision, amount));
    }

    /// Revision and hash that a state of a writer has to be newer than to be news: of the newest
    /// known, joined or not; of the joined one, where the one to come cannot be finished.
    fn known(&self, writer: Writer) -> Option<(u64, ObjectId)> {
        let joined = self.joined.get(&writer).map(place);
        if self.is_stuck(writer) {
            return joined;
        }
        joined.max(self.pulls.get(&writer).map(|pull| place(pull.newest())))
    }

    /// The states of a writer that are not to be asked for whatever else is known: those to come,
    /// and the newest that cannot be joined.
    fn held(&self, writer: Writer) -> impl Iterator<Item = (u64, ObjectId)> {
        let pull = self.pulls.get(&writer).into_iter();
        let to_come = pull.flat_map(|it| std::iter::once(&it.current).chain(&it.next));
        to_come.map(|it| place(&it.state)).chain(self.dead.get(&writer).copied())
    }

    /// What is said to be known here: the newest joined or staged state of every writer.
    fn summary(&self) -> Vec<SummaryEntry> {
        let mut newest: BTreeMap<Writer, &SignedState> = BTreeMap::new();
        let staged = self.pulls.values().map(Pull::newest);
        for state in self.joined.values().chain(staged) {
            let known = newest.entry(state.state().writer).or_insert(state);
            if state.replaces(known) {
                *known = state;
            }
        }
        newest.into_values().take(MAX_WRITERS).map(SummaryEntry::of).collect()
    }

    /// How many writers are known.
    fn count_writers(&self) -> usize {
        let unjoined = self.pulls.keys().filter(|writer| !self.joined.contains_key(writer));
        self.joined.len() + unjoined.count()
    }

    /// What a state of `writer` is held against, while `writers` are known.
    fn admitting(&self, writer: Writer, writers: usize) -> Admitting<'_> {
        let device = writer.device;
        let first = Writer { device, incarnation: Incarnation::new(0) };
        let last = Writer { device, incarnation: Incarnation::new(u64::MAX) };
        let joined = self.joined.range(first..=last).count();
        let pulled = self.pulls.range(first..=last);
        let unjoined = pulled.filter(|(writer, _)| !self.joined.contains_key(writer)).count();
        Admitting {
            topic: self.options.topic,
            kind: self.options.kind,
            own: self.options.writer,
            remotes: &self.options.remotes,
            known: self.known(writer),
            writers,
            incarnations: joined + unjoined,
        }
    }

    /// The states that this device's vector follows, or will once what is pulled is joined.
    fn naming(&self) -> impl Iterator<Item = &SignedState> {
        let pulled =
            self.pulls.values().flat_map(|pull| std::iter::once(&pull.current).chain(&pull.next));
        self.joined.values().chain(pulled.map(|arrived| &arrived.state))
    }

    /// Whether this device's vector names a writer, or will.
    fn is_named(&self, writer: Writer) -> bool {
        let names = |state: &SignedState| {
            let state = state.state();
            state.writer == writer || state.vector.get(writer) > 0
        };
        writer == self.options.writer || self.naming().any(names)
    }

    /// The writers that this device's vector names, or will.
    fn named(&self) -> BTreeSet<Writer> {
        let names = self.naming().flat_map(|state| {
            let state = state.state();
            state.vector.iter().map(|(writer, _)| writer).chain([state.writer])
        });
        names.chain([self.options.writer]).collect()
    }

    /// Shows a problem, once.
    fn problem(&mut self, problem: Problem) {
        if self.problems.contains(&problem) {
            return;
        }
        if self.problems.len() == MAX_PROBLEMS {
            self.problems.remove(0);
        }
        self.problems.push(problem.clone());
        self.effects.push(Effect::Problem(problem));
    }

    /// The store did what it was asked to.
    fn store_worked(&mut self) {
        if self.store.failures > 0 {
            self.store = StorePause::default();
            self.problems.retain(|problem| !matches!(problem, Problem::Store { .. }));
        }
    }

    fn store_failed(&mut self, step: StoreStep, reason: String) {
        // What failed together is one failure.
        if self.store.until_ms <= self.now_ms {
            let pause_ms = FIRST_STORE_PAUSE_MS << self.store.failures.min(16);
            self.store.failures = self.store.failures.saturating_add(1);
            self.store.until_ms = self.now_ms.saturating_add(pause_ms.min(LONGEST_STORE_PAUSE_MS));
        }
        self.problems.retain(|problem| !matches!(problem, Problem::Store { .. }));
        self.problem(Problem::Store { reason });
        self.step_failed(step);
    }

    fn store_is_paused(&self) -> bool {
        self.store.until_ms > self.now_ms
    }
}
