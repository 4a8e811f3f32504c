//! One task per repo: drives its engine.
//!
//! Everything that happens comes in through one bounded queue and becomes an input of the engine;
//! its effects are carried out here or in tasks whose results come back as inputs. The task itself
//! waits for nothing but its queues, so no peer and no disk holds it up.

mod outcome;
pub(crate) mod show;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ark_core::{DeviceId, Writer, in_words};
use ark_store::Change;
use ark_sync::{
    Announcement, Effect, Engine, EngineOptions, Failure, Input, Known, Message, ObjectsRequest,
    Reconciliation, RequestId, StoreStep, Violation,
};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error_span, warn};

use crate::board::RepoBoard;
use crate::gossip;
use crate::objects::fetch::{Budget, Fetch, FetchError};
use crate::options::{Remote, RepoOptions};
use crate::session::{Link, SessionId};
use crate::shared::Shared;
use crate::status::RepoStatus;

/// Inputs that wait for the task. Streams that are faster wait for room, which their peer sees
/// as flow control.
pub(crate) const INPUT_CAPACITY: usize = 256;
/// Results of effects that wait for the task.
const RESULT_CAPACITY: usize = 256;
/// While much happens, the status is brought up to date this often.
const SHOW_INTERVAL: Duration = Duration::from_millis(200);

/// What happened to a repo.
#[derive(Debug)]
pub(crate) enum RepoInput {
    /// A stream with a device stands.
    Connected {
        /// The device.
        device: DeviceId,
        /// This task's end.
        link: Link,
    },
    /// A message came.
    Received {
        /// From whom.
        device: DeviceId,
        /// On which stream.
        session: SessionId,
        /// What.
        message: Message,
    },
    /// A stream ended.
    Disconnected {
        /// With whom.
        device: DeviceId,
        /// Which.
        session: SessionId,
        /// The device does not list this one for the repo.
        refused: bool,
    },
    /// The device does not list this one for the repo: there will be no stream.
    Refused {
        /// Which.
        device: DeviceId,
    },
    /// A reconciliation says what a device has and this one lacks.
    Lacking {
        /// Who has it.
        device: DeviceId,
        /// Beside which stream.
        session: SessionId,
        /// What; its word only.
        links: Vec<ark_core::Link>,
    },
    /// A reconciliation ended.
    Reconciled {
        /// With whom.
        device: DeviceId,
        /// Beside which stream.
        session: SessionId,
        /// What came of it.
        reconciliation: Reconciliation,
    },
    /// A device broke the protocol; the connection is closed.
    Breach {
        /// Which.
        device: DeviceId,
        /// On which stream, or beside it.
        session: SessionId,
        /// How.
        violation: Violation,
    },
    /// Gossip brought an announcement.
    Announced {
        /// Who delivered it.
        from: DeviceId,
        /// What it says.
        announcement: Announcement,
    },
    /// Gossip lost something.
    GossipLagged,
    /// The config lists these from now on.
    Listed(Vec<Remote>),
    /// Somebody wants to know how things stand, after all that came before.
    Look(oneshot::Sender<RepoStatus>),
}

/// What a folder says of itself; only the newest counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct FolderNews {
    /// The revisions that it shows.
    pub(crate) applied: BTreeMap<Writer, u64>,
    /// Its first scan is done.
    pub(crate) scanned: bool,
    /// How often it began anew.
    pub(crate) beginnings: u64,
}

/// What the task needs beside its options.
pub(crate) struct RepoTask {
    pub(crate) shared: Arc<Shared>,
    pub(crate) end: CancellationToken,
    pub(crate) board: Arc<RepoBoard>,
    pub(crate) input: mpsc::Receiver<RepoInput>,
    pub(crate) folder: watch::Receiver<FolderNews>,
    /// To be broadcast.
    pub(crate) announce: mpsc::Sender<Announcement>,
    /// Whom the sync protocol has met: they should be in the overlay.
    pub(crate) meets: watch::Sender<gossip::Met>,
    pub(crate) budget: Arc<Budget>,
}

struct Driver {
    shared: Arc<Shared>,
    /// Ends the task and its requests.
    end: CancellationToken,
    options: RepoOptions,
    engine: Engine,
    began: Instant,
    /// Counts what the engine was told.
    turn: u64,
    links: BTreeMap<DeviceId, Link>,
    /// Remotes that said that they do not list this device for the repo.
    refused_by: BTreeMap<DeviceId, bool>,
    requests: HashMap<RequestId, CancellationToken>,
    results: mpsc::Sender<Done>,
    announce: mpsc::Sender<Announcement>,
    meets: watch::Sender<gossip::Met>,
    budget: Arc<Budget>,
    board: Arc<RepoBoard>,
    shown_at: Option<Instant>,
    /// Of the folder, as far as the engine was told.
    beginnings: u64,
}

/// A result of an effect.
#[derive(Debug)]
pub(crate) enum Done {
    /// To be told to the engine.
    Input(Input),
    /// A request came to its end.
    Request { id: RequestId, last: Input },
}

/// Runs until shutdown, or until the repo is listed no more.
pub(crate) async fn run(options: RepoOptions, task: RepoTask) {
    let span = error_span!("repo", repo = %options.id);
    let RepoTask { shared, end, board, mut input, mut folder, announce, meets, budget } = task;
    // Before the states are read, so that nothing falls between.
    let mut changes = options.repo.subscribe();
    let (results, mut done) = mpsc::channel(RESULT_CAPACITY);
    let mut driver = Driver {
        engine: engine(&options),
        began: Instant::now(),
        turn: 0,
        links: BTreeMap::new(),
        refused_by: BTreeMap::new(),
        requests: HashMap::new(),
        results,
        announce,
        meets,
        budget,
        board,
        shown_at: None,
        beginnings: 0,
        shared,
        end,
        options,
    };
    async {
        driver.feed(Input::Timer);
        let end = driver.end.clone();
        loop {
            let wake_at =
                driver.engine.wake_at().map(|ms| driver.began + Duration::from_millis(ms));
            tokio::select! {
                () = end.cancelled() => break,
                Some(result) = done.recv() => driver.done(result),
                Some(input) = input.recv() => driver.input(input),
                Ok(()) = folder.changed() => {
                    let news = folder.borrow_and_update().clone();
                    driver.folder(news);
                }
                change = changes.recv() => match change {
                    Ok(change) => driver.change(change),
                    Err(RecvError::Lagged(_)) => driver.changes_lost(),
                    // The store is closed: nothing more can be kept or served.
                    Err(RecvError::Closed) => break,
                },
                () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => {
                    driver.feed(Input::Timer);
                }
            }
            driver.show(input.is_empty() && done.is_empty());
        }
        // Requests end with this token; what they have read is kept, though not told any more.
        for (_, cancel) in driver.requests.drain() {
            cancel.cancel();
        }
    }
    .instrument(span)
    .await;
}

fn engine(options: &RepoOptions) -> Engine {
    let states = options.repo.states();
    let known = Known {
        joined: states.joined.values().cloned().collect(),
        staged: states.staged.values().cloned().collect(),
        pending: !states.staged.is_empty(),
        applied: BTreeMap::new(),
        scanned: false,
    };
    let engine_options = EngineOptions {
        topic: options.topic,
        kind: options.repo.kind(),
        writer: options.repo.writer(),
        folder: options.has_folder,
        remotes: remotes(&options.remotes),
        seed: rand::random(),
    };
    Engine::new(engine_options, known)
}

/// The remotes as the engine knows them.
fn remotes(remotes: &[Remote]) -> BTreeMap<DeviceId, ark_sync::Remote> {
    let remotes = remotes.iter().map(|remote| {
        let Remote { device, ref name, role, .. } = *remote;
        (device, ark_sync::Remote { name: name.clone(), role })
    });
    remotes.collect()
}

impl Driver {
    /// Tells the engine and carries out what it wants.
    fn feed(&mut self, input: Input) {
        let now_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.turn += 1;
        for effect in self.engine.handle(input, now_ms) {
            self.carry_out(effect);
        }
    }

    fn input(&mut self, input: RepoInput) {
        match input {
            RepoInput::Connected { device, link } => self.connected(device, link),
            RepoInput::Disconnected { device, session, refused } => {
                if self.is_current(device, session) {
                    self.links.remove(&device);
                    self.refused_by.insert(device, refused);
                    self.meets.send_if_modified(|met| met.remove(&device).is_some());
                    self.feed(Input::PeerDisconnected { peer: device });
                }
            }
            RepoInput::Received { device, session, message } => {
                if self.is_current(device, session) {
                    if matches!(message, Message::Hello(_)) {
                        self.meets
                            .send_if_modified(|met| met.insert(device, session) != Some(session));
                    }
                    self.feed(Input::Message { peer: device, message });
                }
            }
            RepoInput::Refused { device } => {
                // Where a stream stands, this is of an earlier connection.
                if !self.links.contains_key(&device) {
                    self.refused_by.insert(device, true);
                }
            }
            RepoInput::Lacking { device, session, links } => {
                if self.is_current(device, session) {
                    self.feed(Input::Lacking { peer: device, links });
                }
            }
            RepoInput::Reconciled { device, session, reconciliation } => {
                if self.is_current(device, session) {
                    self.feed(Input::Reconciled { peer: device, reconciliation });
                }
            }
            RepoInput::Breach { device, session, violation } => {
                if self.is_current(device, session) {
                    self.feed(Input::Breach { peer: device, violation });
                }
            }
            RepoInput::Announced { from, announcement } => {
                self.feed(Input::Announced { from, announcement });
            }
            RepoInput::GossipLagged => self.feed(Input::Lagged),
            RepoInput::Listed(listed) => {
                let is_listed = |device| listed.iter().any(|remote| remote.device == device);
                self.refused_by.retain(|&device, _| is_listed(device));
                let remotes = remotes(&listed);
                self.options.remotes = listed;
                self.feed(Input::Listed { remotes });
            }
            // Whoever asked may have gone.
            RepoInput::Look(answer) => _ = answer.send(self.status()),
        }
    }

    fn folder(&mut self, news: FolderNews) {
        if self.beginnings != news.beginnings {
            self.beginnings = news.beginnings;
            self.feed(Input::FolderBegun);
        }
        if news.scanned {
            self.feed(Input::Scanned);
        }
        self.feed(Input::Applied { revisions: news.applied });
    }

    fn is_current(&self, device: DeviceId, session: SessionId) -> bool {
        self.links.get(&device).is_some_and(|link| link.id == session)
    }

    fn connected(&mut self, device: DeviceId, link: Link) {
        if self.links.insert(device, link).is_some() {
            self.feed(Input::PeerDisconnected { peer: device });
        }
        self.refused_by.remove(&device);
        self.feed(Input::PeerConnected { peer: device });
    }

    fn done(&mut self, done: Done) {
        let input = match done {
            Done::Input(input) => input,
            Done::Request { id, last } => {
                if self.requests.remove(&id).is_none() {
                    // Cancelled: nobody waits for its end.
                    return;
                }
                last
            }
        };
        self.feed(input);
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Published { state, new } => {
                self.feed(Input::Published { state, new: new.to_vec() });
            }
            Change::Incarnation { new, .. } => self.feed(Input::Renewed { writer: new }),
            // The others are results of this task's own effects.
            _ => {}
        }
    }

    /// The store's changes came faster than they were read: the states say what was missed.
    fn changes_lost(&mut self) {
        let states = self.options.repo.states();
        let own = self.options.repo.writer();
        self.feed(Input::Renewed { writer: own });
        if let Some(state) = states.joined.get(&own) {
            self.feed(Input::Published { state: state.clone(), new: Vec::new() });
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Send { peer, message } => self.send(peer, message),
            Effect::Announce(announcement) => self.announce(announcement),
            Effect::Lookup { writer, revision, links } => {
                let task = outcome::lookup(self.options.repo.clone(), writer, revision, links);
                self.spawn(async move { Some(Done::Input(task.await)) });
            }
            Effect::Stage { state, replacing } => {
                let task = outcome::stage(self.options.repo.clone(), state, replacing);
                self.spawn(async move { Some(Done::Input(task.await)) });
            }
            Effect::Abandon { writer } => {
                let task = outcome::abandon(self.options.repo.clone(), writer);
                self.spawn(async move { Some(Done::Input(task.await)) });
            }
            Effect::Join { writer } => {
                let task = outcome::join(self.options.repo.clone(), writer);
                self.spawn(async move { Some(Done::Input(task.await)) });
            }
            Effect::Request { id, peer, request } => self.request(id, peer, request),
            Effect::Cancel { id } => {
                if let Some(cancel) = self.requests.remove(&id) {
                    cancel.cancel();
                }
            }
            Effect::Reconcile { peer } => self.reconcile(peer),
            Effect::Misbehaved { peer, violation } => {
                warn!(peer = %peer.short(), %violation, "closing: the peer misbehaves");
                if let Some(link) = self.links.get(&peer) {
                    link.end.violation();
                }
            }
            Effect::Problem(problem) => warn!("{problem}"),
            _ => debug!("an effect that this version does not know"),
        }
    }

    fn send(&mut self, peer: DeviceId, message: Message) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        if !link.outbox.add(message, self.turn) {
            warn!(peer = %peer.short(), "closing: the peer does not read its messages");
            link.end.too_slow();
        }
    }

    /// Begins a session of reconciliation, or says at once that none can be had now.
    fn reconcile(&self, peer: DeviceId) {
        let begun = self.links.get(&peer).is_some_and(|link| link.reconciling.open());
        if !begun {
            debug!(peer = %peer.short(), "no reconciliation can be begun now");
            let reconciliation = Reconciliation::default();
            let ended = Done::Input(Input::Reconciled { peer, reconciliation });
            self.spawn(std::future::ready(Some(ended)));
        }
    }

    /// Gossip is a hint: what does not fit is lost.
    fn announce(&self, announcement: Announcement) {
        if self.announce.try_send(announcement).is_err() {
            debug!("gossip does not keep up");
        }
    }

    fn request(&mut self, id: RequestId, peer: DeviceId, request: ObjectsRequest) {
        let cancel = self.end.child_token();
        self.requests.insert(id, cancel.clone());
        let fetch = Fetch {
            shared: self.shared.clone(),
            provider: peer,
            store: self.options.repo.clone(),
            budget: self.budget.clone(),
            request: id,
            cancel,
        };
        let results = self.results.clone();
        self.spawn(async move {
            let last = match fetch.run(request, results).await {
                Ok(missing) => Input::RequestEnded { request: id, missing },
                Err(FetchError::Cancelled) => return None,
                Err(error @ (FetchError::Store(_) | FetchError::Index(_))) => {
                    let step = StoreStep::Receive { request: id };
                    Input::StoreFailed { step, reason: in_words(&error) }
                }
                Err(error) => {
                    debug!(peer = %peer.short(), error = %in_words(&error), "a request failed");
                    let violation = matches!(error, FetchError::Protocol(_));
                    let failure = if violation { Failure::Violation } else { Failure::Broken };
                    Input::RequestFailed { request: id, failure }
                }
            };
            Some(Done::Request { id, last })
        });
    }

    /// Runs an effect beside the task; its result comes back through the queue of results.
    fn spawn(&self, task: impl Future<Output = Option<Done>> + Send + 'static) {
        let results = self.results.clone();
        self.shared.tasks.spawn(
            async move {
                if let Some(done) = task.await {
                    // Nobody listens any more only at shutdown.
                    let _ = results.send(done).await;
                }
            }
            .in_current_span(),
        );
    }
}
