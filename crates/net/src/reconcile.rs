//! Reconciliation: sessions of `ark_recon` with one device about one repo, each on a stream of its
//! own on their sync connection. Either side begins one; its first frame is a
//! [`Message::Reconcile`], all others are `ark_recon`'s.
//!
//! - One at a time in each direction. Where both begin at once, that of the smaller device id
//!   stands, on both sides.
//! - A session's key is that of the connection, of who began it and of its number, which is never
//!   used twice: what is said in one session means nothing in another.
//! - A session sees the store as of its beginning, and ends within [`SESSION_TIMEOUT`]. What was
//!   found by then stands; there is nothing to be resumed.
//! - Where the store keeps no trie, sessions are refused: the walk of the closures does it all.

mod allowance;
mod conversation;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ark_core::{DeviceId, Link, TopicId, in_words};
use ark_recon::{End, SessionKey};
use ark_sync::{Message, Violation};
use iroh::endpoint::{Connection, RecvStream, SendStream};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, warn};

pub(crate) use self::allowance::{Allowance, Verdict};
use self::conversation::{Conversation, Exchange, Failure, Tally, reading};
use crate::frame::write_frame;
use crate::repo::RepoInput;
use crate::session::SessionId;
use crate::shared::{CODE_DUPLICATE, CODE_GAVE_UP, CODE_PROTOCOL, PeerHandle, Shared, close};

/// Sessions that read their set at a time, over all devices and repos: the work of one processor,
/// whatever all of them want.
pub(crate) const READERS: usize = 1;
/// A session that takes longer is ended: its view of the index keeps from being reused what was
/// replaced since. A difference that a line does not carry in this time is walked.
const SESSION_TIMEOUT: Duration = Duration::from_mins(2);
/// So long the session before may take to end after the other side knows that it has.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);
/// What the key material of a connection is exported for.
const KEY_LABEL: &[u8] = b"ark reconciliation v1";

/// A number that no session of this device had before.
fn next_epoch() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

/// What is under way.
#[derive(Debug, Default)]
struct Slot {
    /// The session begun here; cancelled where it gives way.
    ours: Option<CancellationToken>,
    /// One that the device began is being answered.
    theirs: bool,
}

/// The sessions with one device about one repo on one connection.
#[derive(Debug)]
pub(crate) struct Reconciling {
    shared: Arc<Shared>,
    device: DeviceId,
    peer: Arc<PeerHandle>,
    topic: TopicId,
    /// The stream of the repo beside which they are.
    session: SessionId,
    connection: Connection,
    slot: Mutex<Slot>,
    /// Held while a session is answered; the number of the last one.
    answering: tokio::sync::Mutex<u64>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Reconciling {
    /// None yet.
    pub(crate) fn new(
        shared: Arc<Shared>,
        (device, peer): (DeviceId, Arc<PeerHandle>),
        topic: TopicId,
        session: SessionId,
        connection: Connection,
    ) -> Self {
        let cancel = shared.cancel.child_token();
        Self {
            shared,
            device,
            peer,
            topic,
            session,
            connection,
            slot: Mutex::default(),
            answering: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
            cancel,
        }
    }

    /// The repo's stream is gone: ends what is under way, and returns when that is told.
    pub(crate) async fn end(&self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Begins a session, of whose end the repo's task is told; `false` where none may begin now.
    pub(crate) fn open(self: &Arc<Self>) -> bool {
        let gives_way = CancellationToken::new();
        {
            let mut slot = self.slot();
            let is_free = slot.ours.is_none() && !slot.theirs && !self.cancel.is_cancelled();
            let may_open = || self.allowance(|allowance| allowance.open(Instant::now()));
            if !is_free || !may_open() {
                return false;
            }
            slot.ours = Some(gives_way.clone());
        }
        let this = self.clone();
        let run = async move {
            let tally = Tally::default();
            let result = tokio::select! {
                () = gives_way.cancelled() => Err(Failure::GivesWay),
                result = this.bounded(this.ask(&tally)) => result,
            };
            this.slot().ours = None;
            this.ended(&tally, result).await;
        };
        self.shared.tasks.spawn(self.tasks.track_future(run.in_current_span()));
        true
    }

    /// Answers a session that the device began on a stream whose first frame is read.
    pub(crate) async fn answer(&self, epoch: u64, first: &[u8], streams: (SendStream, RecvStream)) {
        let _tracked = self.tasks.token();
        let tally = Tally::default();
        tally.received(first);
        let mut streams = Some(streams);
        let result = match self.allowance(|allowance| allowance.answer(Instant::now())) {
            Verdict::Granted => self.bounded(self.reply(epoch, &mut streams, &tally)).await,
            Verdict::Breach => Err(Failure::Endless),
            Verdict::Refused => Err(Failure::BrokenOff),
        };
        if let Some((mut send, mut recv)) = streams {
            // Not taken up. Either may be gone already; then nobody needs to be told.
            let gives_way = matches!(result, Err(Failure::GivesWay));
            let code = if gives_way { CODE_DUPLICATE } else { CODE_GAVE_UP };
            let _ = send.reset(code);
            let _ = recv.stop(code);
            match &result {
                Err(error) if error.is_violation() => {}
                Err(error) => return debug!(error = %in_words(error), "not taken up"),
                Ok(_) => return,
            }
        }
        self.ended(&tally, result).await;
    }

    /// Runs a session within its time.
    async fn bounded(
        &self,
        session: impl Future<Output = Result<End, Failure>>,
    ) -> Result<End, Failure> {
        tokio::select! {
            () = self.cancel.cancelled() => Err(Failure::BrokenOff),
            result = timeout(SESSION_TIMEOUT, session) => result.unwrap_or(Err(Failure::TooLong)),
        }
    }

    /// A session that begins here.
    async fn ask(&self, tally: &Tally) -> Result<End, Failure> {
        let epoch = next_epoch();
        let (key, repo) = (self.key(self.shared.device, epoch)?, self.repo()?);
        let opened = reading(self.readers(), move || Conversation::open(&repo, key)).await?;
        let (conversation, step) = opened?;
        let (mut send, recv) = self.connection.open_bi().await?;
        let first = Message::Reconcile { topic: self.topic, epoch }.encode();
        write_frame(&mut send, &first, &self.peer.board.traffic).await?;
        tally.sent(&first);
        let exchange = self.exchange(send, recv, tally);
        exchange.run(conversation, step, |links| self.lacking(links)).await
    }

    /// A session that the device began. The streams are left where it is not taken up.
    async fn reply(
        &self,
        epoch: u64,
        streams: &mut Option<(SendStream, RecvStream)>,
        tally: &Tally,
    ) -> Result<End, Failure> {
        let mut last =
            timeout(TURN_TIMEOUT, self.answering.lock()).await.map_err(|_| Failure::BrokenOff)?;
        if epoch <= *last {
            return Err(Failure::Repeated);
        }
        *last = epoch;
        let _theirs = Theirs::take(self)?;
        let (key, repo) = (self.key(self.device, epoch)?, self.repo()?);
        let threshold = self.shared.enumerate_threshold;
        let answer = move || Conversation::answer(&repo, key, threshold);
        let (conversation, step) = reading(self.readers(), answer).await??;
        let (send, recv) = streams.take().ok_or(Failure::BrokenOff)?;
        let exchange = self.exchange(send, recv, tally);
        exchange.run(conversation, step, |links| self.lacking(links)).await
    }

    /// What is known only to the two sides of the connection and to this session.
    fn key(&self, opener: DeviceId, epoch: u64) -> Result<SessionKey, Failure> {
        let mut material = [0; 32];
        self.connection
            .export_keying_material(&mut material, KEY_LABEL, opener.as_bytes())
            .map_err(|_| Failure::NoKey)?;
        Ok(SessionKey::derive(&material, self.topic, epoch))
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn allowance<T>(&self, ask: impl FnOnce(&mut Allowance) -> T) -> T {
        let mut allowances = self.peer.allowances.lock().unwrap_or_else(PoisonError::into_inner);
        ask(allowances.entry(self.topic).or_insert_with(|| Allowance::new(Instant::now())))
    }

    fn repo(&self) -> Result<ark_store::Repo, Failure> {
        let repo = self.shared.repos.get(&self.topic).ok_or(Failure::BrokenOff)?;
        Ok(repo.store.clone())
    }

    fn readers(&self) -> &Arc<tokio::sync::Semaphore> {
        &self.shared.reconcilers
    }

    fn exchange<'a>(
        &'a self,
        send: SendStream,
        recv: RecvStream,
        tally: &'a Tally,
    ) -> Exchange<'a> {
        let (traffic, readers) = (&self.peer.board.traffic, self.readers());
        Exchange { send, recv, tally, traffic, readers }
    }

    async fn lacking(&self, links: Vec<Link>) {
        let (device, session) = (self.device, self.session);
        self.tell(RepoInput::Lacking { device, session, links }).await;
    }

    async fn tell(&self, input: RepoInput) {
        if let Some(repo) = self.shared.repos.get(&self.topic) {
            // The task is gone only at shutdown.
            let _ = repo.input.send(input).await;
        }
    }

    /// Says how a session ended; whoever broke the rules is left.
    async fn ended(&self, tally: &Tally, result: Result<End, Failure>) {
        let (device, session) = (self.device, self.session);
        let complete = matches!(result, Ok(End::Complete));
        let reconciliation = tally.total(complete);
        debug!(?reconciliation, "a reconciliation ended");
        self.tell(RepoInput::Reconciled { device, session, reconciliation }).await;
        match result {
            Err(error) if error.is_violation() => {
                warn!(error = %in_words(&error), "closing: the other side breaks the rules");
                let violation = Violation::Reconciliation;
                self.tell(RepoInput::Breach { device, session, violation }).await;
                close(&self.connection, CODE_PROTOCOL, b"reconciliation breaks the protocol");
            }
            Err(error) => debug!(error = %in_words(&error), "it ended before its end"),
            Ok(_) => {}
        }
    }
}

/// A session of the device that is being answered.
struct Theirs<'a>(&'a Reconciling);

impl<'a> Theirs<'a> {
    /// Where both began one, the one of the greater id gives way.
    fn take(owner: &'a Reconciling) -> Result<Self, Failure> {
        let mut slot = owner.slot();
        if let Some(ours) = &slot.ours {
            if owner.shared.device < owner.device {
                return Err(Failure::GivesWay);
            }
            ours.cancel();
        }
        slot.theirs = true;
        drop(slot);
        Ok(Self(owner))
    }
}

impl Drop for Theirs<'_> {
    fn drop(&mut self) {
        self.0.slot().theirs = false;
    }
}
