//! A session: the sync connection with one device, from handshake to close.
//!
//! Each side says of its own accord which repos it lists the other for, and of nothing else. What a
//! stream is for is said by its first frame:
//! - `Hello`: the one stream of a repo, opened by the side that dialled for each repo that it lists
//!   the other for; the other side's first frame is a `Hello`, too, or it resets the stream as not
//!   listed.
//! - `Ask`: opened by the side that was dialled, for each repo that it lists the other for: whether
//!   it is listed there. The answer is the end of the stream, or its reset as not listed. So both
//!   sides are told, and neither waits for a stream that never comes.
//! - `Reconcile`: see [`reconcile`](crate::reconcile).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ark_core::{DeviceId, TopicId};
use ark_sync::{Hello, MAX_FRAME_BYTES, MAX_LISTED, Message, Violation, WireError};
use iroh::endpoint::{
    Connection, ReadError, ReadExactError, ReadToEndError, RecvStream, SendStream, WriteError,
};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::access::CODE_NOT_LISTED;
use crate::board::Traffic;
use crate::frame::{ReadFrameError, read_frame, write_frame};
use crate::outbox::{Outbox, Outgoing, outbox};
use crate::reconcile::Reconciling;
use crate::repo::RepoInput;
use crate::shared::{
    CODE_GAVE_UP, CODE_PROTOCOL, CODE_TOO_SLOW, PeerHandle, RepoHandle, Shared, close,
};

/// The first frame must be here this soon after its stream was opened, and an answer to a question.
const HELLO_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest first frame: a hello that names every device that a repo may list.
const MAX_FIRST_BYTES: usize = 64 << 10;
const _: () = assert!(MAX_LISTED * size_of::<DeviceId>() + 1024 < MAX_FIRST_BYTES);

/// Which stream something came from: a repo's task tells late news of a lost stream from news of
/// the one that took its place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct SessionId(u64);

impl SessionId {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Relaxed))
    }
}

/// The repo's end of a stream.
#[derive(Debug)]
pub(crate) struct Link {
    /// Which stream.
    pub(crate) id: SessionId,
    /// Messages to send.
    pub(crate) outbox: Outbox,
    /// Sessions of reconciliation beside the stream.
    pub(crate) reconciling: Arc<Reconciling>,
    /// Closes the whole session: the device does not keep up, or broke the protocol.
    pub(crate) end: EndSession,
}

/// Ends a session from the repo's side.
#[derive(Clone, Debug)]
pub(crate) struct EndSession(Connection);

impl EndSession {
    /// The device does not read what it is sent.
    pub(crate) fn too_slow(&self) {
        close(&self.0, CODE_TOO_SLOW, b"messages are not read");
    }

    /// The device said what it may not say.
    pub(crate) fn violation(&self) {
        close(&self.0, CODE_PROTOCOL, b"a message breaks the protocol");
    }
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("cannot open a stream")]
    Open(#[from] iroh::endpoint::ConnectionError),
    #[error("no first message came in time")]
    NoHello,
    #[error(transparent)]
    Read(#[from] ReadFrameError),
    #[error("cannot write")]
    Write(#[from] WriteError),
    #[error("not a message: {0}")]
    Malformed(#[from] WireError),
    #[error("a stream does not begin as it must, or is the second one of its repo")]
    BadBeginning,
    #[error("what was asked is not answered")]
    NoAnswer(#[from] ReadToEndError),
    #[error("the repo does not list the other side there")]
    NotListed,
    #[error("the other side ended the stream")]
    Ended,
    #[error("shutdown")]
    Shutdown,
}

impl StreamError {
    /// Whether the other side is at fault.
    fn is_violation(&self) -> bool {
        matches!(
            self,
            Self::Read(ReadFrameError::TooLong { .. }) | Self::Malformed(_) | Self::BadBeginning
        )
    }
}

/// What a stream that the other side opened is for.
enum Beginning {
    Hello(Hello),
    Ask(TopicId),
    Reconcile { topic: TopicId, epoch: u64, frame: Vec<u8> },
}

impl Beginning {
    fn topic(&self) -> TopicId {
        match self {
            Self::Hello(hello) => hello.topic,
            Self::Ask(topic) | Self::Reconcile { topic, .. } => *topic,
        }
    }
}

struct Session {
    shared: Arc<Shared>,
    device: DeviceId,
    peer: Arc<PeerHandle>,
    connection: Connection,
    dialled_here: bool,
    /// Repos that have a stream.
    open: Mutex<BTreeMap<TopicId, Arc<Reconciling>>>,
}

/// Runs until the connection closes. Ends the connection where the other side breaks the
/// protocol; the streams of repos that it does not list are refused one by one.
pub(crate) async fn run(
    shared: Arc<Shared>,
    (device, peer): (DeviceId, Arc<PeerHandle>),
    connection: Connection,
    dialled_here: bool,
) {
    let topics: Vec<TopicId> = peer.listing.repos.keys().copied().collect();
    let open = Mutex::default();
    let session = Arc::new(Session { shared, device, peer, connection, dialled_here, open });
    let mut streams = JoinSet::new();
    // No more streams are read at once than these, each in a task. Every repo may have its stream
    // and be reconciled; one more is there for those to be refused or answered at once.
    for _ in 0..=2 * topics.len() {
        streams.spawn(session.clone().accept_streams());
    }
    for topic in topics {
        if dialled_here {
            streams.spawn(session.clone().open_stream(topic));
        } else {
            streams.spawn(session.clone().ask(topic));
        }
    }
    while let Some(result) = streams.join_next().await {
        if let Err(error) = result {
            warn!(%error, "a stream's task failed");
        }
    }
    // Streams refused one by one leave the connection standing, for gossip and status.
    session.connection.closed().await;
}

impl Session {
    async fn open_stream(self: Arc<Self>, topic: TopicId) {
        let result = async {
            let (send, recv) = self.connection.open_bi().await?;
            self.stream(topic, None, send, recv).await
        };
        let result = result.await;
        self.ended(Some(topic), result);
    }

    /// Finds out whether the other side lists this device for a repo.
    async fn ask(self: Arc<Self>, topic: TopicId) {
        let Some(repo) = self.shared.repos.get(&topic) else { return };
        match self.is_listed(topic, &self.peer.board.traffic).await {
            Ok(true) => {}
            Ok(false) => {
                debug!(topic = topic.short(), "the other side does not list this device");
                // The task is gone only at shutdown.
                let _ = tell(&repo, RepoInput::Refused { device: self.device }).await;
            }
            Err(error) => debug!(topic = topic.short(), %error, "not told whether it lists this"),
        }
    }

    async fn is_listed(&self, topic: TopicId, traffic: &Traffic) -> Result<bool, StreamError> {
        let (mut send, mut recv) = self.connection.open_bi().await?;
        match write_frame(&mut send, &Message::Ask(topic).encode(), traffic).await {
            Err(WriteError::Stopped(CODE_NOT_LISTED)) => return Ok(false),
            result => result?,
        }
        // It may have been refused already.
        let _ = send.finish();
        let answer = timeout(HELLO_TIMEOUT, recv.read_to_end(0));
        match answer.await.map_err(|_| StreamError::NoHello)? {
            Ok(_) => Ok(true),
            Err(ReadToEndError::Read(ReadError::Reset(CODE_NOT_LISTED))) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Accepts one stream after the other.
    async fn accept_streams(self: Arc<Self>) {
        while let Ok((mut send, mut recv)) = self.connection.accept_bi().await {
            let traffic = &self.peer.board.traffic;
            let beginning = match self.read_beginning(&mut recv, traffic).await {
                Ok(beginning) => beginning,
                Err(error) if error.is_violation() => {
                    self.ended(None, Err(error));
                    continue;
                }
                // Given up by whoever opened it, who knows what follows from that.
                Err(error) => {
                    debug!(%error, "a stream ended before it began");
                    continue;
                }
            };
            let topic = beginning.topic();
            if !self.shared.access.may_see(self.device, topic) {
                debug!(topic = %topic.short(), "refused a repo that does not list the device");
                // Either may be gone already; then nobody needs to be told.
                let _ = send.reset(CODE_NOT_LISTED);
                let _ = recv.stop(CODE_NOT_LISTED);
                continue;
            }
            match beginning {
                Beginning::Hello(hello) => {
                    let hello = Message::Hello(hello);
                    let result = self.stream(topic, Some(hello), send, recv).await;
                    self.ended(Some(topic), result);
                }
                // The end of the stream is the answer.
                Beginning::Ask(_) => _ = send.finish(),
                Beginning::Reconcile { epoch, frame, .. } => {
                    let reconciling = self.open.lock().await.get(&topic).cloned();
                    // Without the repo's stream there is nothing that it could be for.
                    if let Some(reconciling) = reconciling {
                        reconciling.answer(epoch, &frame, (send, recv)).await;
                    }
                }
            }
        }
    }

    async fn read_beginning(
        &self,
        recv: &mut RecvStream,
        traffic: &Traffic,
    ) -> Result<Beginning, StreamError> {
        let frame = timeout(HELLO_TIMEOUT, read_frame(recv, MAX_FIRST_BYTES, traffic))
            .await
            .map_err(|_| StreamError::NoHello)??
            .ok_or(StreamError::Ended)?;
        match Message::decode(&frame)? {
            // The streams of repos are opened by the side that dialled.
            Message::Hello(hello) if !self.dialled_here => Ok(Beginning::Hello(hello)),
            Message::Ask(topic) => Ok(Beginning::Ask(topic)),
            Message::Reconcile { topic, epoch } => Ok(Beginning::Reconcile { topic, epoch, frame }),
            _ => Err(StreamError::BadBeginning),
        }
    }

    /// Runs the stream of one repo between its task and the wire.
    async fn stream(
        &self,
        topic: TopicId,
        hello: Option<Message>,
        send: SendStream,
        recv: RecvStream,
    ) -> Result<(), StreamError> {
        let Some(repo) = self.shared.repos.get(&topic) else {
            return Err(StreamError::NotListed);
        };
        let (repo, peer) = (&*repo, &*self.peer);
        let (id, device, connection) = (SessionId::next(), self.device, self.connection.clone());
        let of = (device, self.peer.clone());
        let reconciling =
            Arc::new(Reconciling::new(self.shared.clone(), of, topic, id, connection.clone()));
        match self.open.lock().await.entry(topic) {
            Entry::Vacant(entry) => _ = entry.insert(reconciling.clone()),
            Entry::Occupied(_) => return Err(StreamError::BadBeginning),
        }
        let traffic = &peer.board.traffic;
        let is_greeted = hello.is_some();
        let (outbox, outgoing) = outbox();
        let end = EndSession(connection);
        let link = Link { id, outbox, reconciling: reconciling.clone(), end };
        tell(repo, RepoInput::Connected { device, link }).await?;
        let result = async {
            if let Some(message) = hello {
                peer.board.connected(&self.connection);
                tell(repo, RepoInput::Received { device, session: id, message }).await?;
            }
            // Whichever direction ends first ends the other.
            tokio::select! {
                result = write_messages(send, outgoing, traffic) => result,
                result = self.read_messages(recv, repo, id, is_greeted) => result,
            }
        };
        let result = result.await;
        reconciling.end().await;
        if result.as_ref().is_err_and(StreamError::is_violation) {
            let violation = Violation::Malformed;
            tell(repo, RepoInput::Breach { device, session: id, violation }).await?;
        }
        let refused = matches!(result, Err(StreamError::NotListed));
        tell(repo, RepoInput::Disconnected { device, session: id, refused }).await?;
        self.open.lock().await.remove(&topic);
        result
    }

    async fn read_messages(
        &self,
        mut recv: RecvStream,
        repo: &RepoHandle,
        session: SessionId,
        mut is_greeted: bool,
    ) -> Result<(), StreamError> {
        let (device, peer) = (self.device, &self.peer);
        loop {
            let read = read_frame(&mut recv, MAX_FRAME_BYTES, &peer.board.traffic);
            let read = if is_greeted {
                read.await
            } else {
                timeout(HELLO_TIMEOUT, read).await.map_err(|_| StreamError::NoHello)?
            };
            is_greeted = true;
            let frame = match read {
                Ok(Some(frame)) => frame,
                Ok(None) => return Err(StreamError::Ended),
                Err(ReadFrameError::Stream(ReadExactError::ReadError(ReadError::Reset(
                    CODE_NOT_LISTED,
                )))) => return Err(StreamError::NotListed),
                Err(error) => return Err(error.into()),
            };
            let message = Message::decode(&frame)?;
            if matches!(message, Message::Hello(_)) {
                peer.board.connected(&self.connection);
                peer.lane.warm(&self.shared);
            }
            tell(repo, RepoInput::Received { device, session, message }).await?;
        }
    }

    /// What follows from the end of a stream.
    fn ended(&self, topic: Option<TopicId>, result: Result<(), StreamError>) {
        let Err(error) = result else { return };
        let topic = topic.map(|topic| topic.short());
        match error {
            StreamError::NotListed => debug!(topic, "the other side does not list this device"),
            error if error.is_violation() => {
                warn!(topic, %error, "closing: the other side breaks the protocol");
                self.peer.board.set_problem(Some(format!("it broke the protocol: {error}")));
                close(&self.connection, CODE_PROTOCOL, b"a frame breaks the protocol");
            }
            // A connection that lost one of its streams is not worth repairing: met anew, both
            // sides begin with a summary.
            error => {
                debug!(topic, %error, "a stream ended");
                close(&self.connection, CODE_GAVE_UP, b"a stream ended");
            }
        }
    }
}

/// Tells the repo's task. It ends only at shutdown, or with the repo.
async fn tell(repo: &RepoHandle, input: RepoInput) -> Result<(), StreamError> {
    repo.input.send(input).await.map_err(|_| StreamError::Shutdown)
}

async fn write_messages(
    mut send: SendStream,
    mut outgoing: Outgoing,
    traffic: &Traffic,
) -> Result<(), StreamError> {
    while let Some(message) = outgoing.next().await {
        match write_frame(&mut send, &message.encode(), traffic).await {
            Err(WriteError::Stopped(CODE_NOT_LISTED)) => return Err(StreamError::NotListed),
            result => result?,
        }
    }
    Ok(())
}
