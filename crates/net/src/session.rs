//! A session: the sync connection with one device, from handshake to close. On it there is one
//! bidirectional stream per repo that both list, opened by the side that dialled; the first frame
//! of either direction is a `Hello`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ark_core::{DeviceId, TopicId};
use ark_sync::{MAX_FRAME_BYTES, Message, WireError};
use iroh::endpoint::{Connection, ReadError, ReadExactError, RecvStream, SendStream, WriteError};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::access::CODE_NOT_LISTED;
use crate::board::Traffic;
use crate::frame::{ReadFrameError, read_frame, write_frame};
use crate::outbox::{Outbox, Outgoing, outbox};
use crate::repo::RepoInput;
use crate::shared::{
    CODE_GAVE_UP, CODE_PROTOCOL, CODE_TOO_SLOW, PeerHandle, RepoHandle, Shared, close,
};

/// The first frame must be here this soon after its stream was opened.
const HELLO_TIMEOUT: Duration = Duration::from_secs(20);

/// Which stream something came from: a repo's task tells late news of a lost stream from news of
/// the one that took its place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct SessionId(u64);

impl SessionId {
    fn next() -> Self {
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
    #[error("the first message is not a hello, or the second one of its repo")]
    NotHello,
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
            Self::Read(ReadFrameError::TooLong { .. }) | Self::Malformed(_) | Self::NotHello
        )
    }
}

struct Session {
    shared: Arc<Shared>,
    device: DeviceId,
    connection: Connection,
    /// Repos that have a stream.
    open: Mutex<BTreeSet<TopicId>>,
}

/// Runs until the connection closes. Ends the connection where the other side breaks the
/// protocol; the streams of repos that it does not list are refused one by one.
pub(crate) async fn run(
    shared: Arc<Shared>,
    device: DeviceId,
    connection: Connection,
    dialled_here: bool,
) {
    let topics: Vec<TopicId> = shared.access.topics_of(device).collect();
    let session =
        Arc::new(Session { shared, device, connection, open: Mutex::new(BTreeSet::new()) });
    let mut streams = JoinSet::new();
    if dialled_here {
        for topic in topics {
            streams.spawn(session.clone().open_stream(topic));
        }
    } else {
        // No more streams than repos are read at once: each is a task. One more is there for those
        // to be refused, when every repo has its stream.
        for _ in 0..=topics.len() {
            streams.spawn(session.clone().accept_streams());
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
    fn peer(&self) -> Option<&PeerHandle> {
        self.shared.peers.get(&self.device)
    }

    async fn open_stream(self: Arc<Self>, topic: TopicId) {
        let result = async {
            let (send, recv) = self.connection.open_bi().await?;
            self.stream(topic, None, send, recv).await
        };
        let result = result.await;
        self.ended(Some(topic), result);
    }

    /// Accepts one stream after the other.
    async fn accept_streams(self: Arc<Self>) {
        while let Ok((mut send, mut recv)) = self.connection.accept_bi().await {
            let Some(peer) = self.peer() else { return };
            match self.read_hello(&mut recv, &peer.board.traffic).await {
                Ok((topic, hello)) if self.shared.access.may_see(self.device, topic) => {
                    let result = self.stream(topic, Some(hello), send, recv).await;
                    self.ended(Some(topic), result);
                }
                Ok((topic, _)) => {
                    debug!(topic = %topic.short(), "refused a repo that does not list the device");
                    // Either may be gone already; then nobody needs to be told.
                    let _ = send.reset(CODE_NOT_LISTED);
                    let _ = recv.stop(CODE_NOT_LISTED);
                }
                Err(error) => self.ended(None, Err(error)),
            }
        }
    }

    async fn read_hello(
        &self,
        recv: &mut RecvStream,
        traffic: &Traffic,
    ) -> Result<(TopicId, Message), StreamError> {
        let frame = timeout(HELLO_TIMEOUT, read_frame(recv, MAX_FRAME_BYTES, traffic))
            .await
            .map_err(|_| StreamError::NoHello)??
            .ok_or(StreamError::Ended)?;
        match Message::decode(&frame)? {
            Message::Hello(hello) => Ok((hello.topic, Message::Hello(hello))),
            _ => Err(StreamError::NotHello),
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
        let (Some(repo), Some(peer)) = (self.shared.repos.get(&topic), self.peer()) else {
            return Err(StreamError::NotListed);
        };
        if !self.open.lock().await.insert(topic) {
            return Err(StreamError::NotHello);
        }
        let traffic = &peer.board.traffic;
        let id = SessionId::next();
        let is_greeted = hello.is_some();
        let (outbox, outgoing) = outbox();
        let link = Link { id, outbox, end: EndSession(self.connection.clone()) };
        let device = self.device;
        tell(repo, RepoInput::Connected { device, link }).await?;
        let result = async {
            if let Some(message) = hello {
                peer.board.connected(&self.connection);
                tell(repo, RepoInput::Received { device, session: id, message }).await?;
            }
            // Whichever direction ends first ends the other.
            tokio::select! {
                result = write_messages(send, outgoing, traffic) => result,
                result = self.read_messages(recv, repo, id, peer, is_greeted) => result,
            }
        };
        let result = result.await;
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
        peer: &PeerHandle,
        mut is_greeted: bool,
    ) -> Result<(), StreamError> {
        let device = self.device;
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

/// Tells the repo's task. It ends only at shutdown.
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
