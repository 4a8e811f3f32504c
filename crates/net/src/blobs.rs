//! iroh-blobs' own protocol, for whoever speaks that and not ours: a Get of one raw blob, whole or
//! in ranges. Hash sequences, `GetMany`, Observe and Push are refused.
//!
//! A device gets what the index of a repo has that lists it, and nothing else: iroh-blobs'
//! provider is handed a store that holds the one object asked for, never the one that holds all.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ark_core::{DeviceId, Link, ObjectId, in_words};
use ark_store::{IndexError, ReadError};
use bytes::Bytes;
use iroh::endpoint::{Connection, RecvStream, SendStream, VarInt};
use iroh_blobs::Hash;
use iroh_blobs::protocol::{ERR_INTERNAL, ERR_PERMISSION, GetRequest, Request};
use iroh_blobs::provider::events::EventSender;
use iroh_blobs::provider::{StreamPair, handle_get};
use iroh_blobs::store::readonly_mem::ReadonlyMemStore;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::board::PeerBoard;
use crate::lane::SHARE_UNIT;
use crate::shared::{RepoHandle, Shared};

/// The protocol's name.
pub(crate) use iroh_blobs::ALPN;

/// A request must be here, whole, this soon after its stream was opened.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of a request: more than name every second chunk of the largest object. iroh-blobs would
/// take a mebibyte, which takes many in memory once it is decoded.
const MAX_REQUEST_BYTES: usize = 16 << 10;
/// A reader that takes nothing for this long is given up, as one of our own protocol is.
const WRITE_TIMEOUT: Duration = Duration::from_mins(2);
/// How often an object is in memory while it is served: as it was read, and in the store made
/// of it.
const COPIES: usize = 2;

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("no request came in time")]
    NoRequest,
    #[error("it is no request")]
    Malformed(#[source] io::Error),
    #[error("it is no request for one blob")]
    Refused,
    #[error("it is not here, or not for this device")]
    Missing,
    #[error("cannot tell whether it is here")]
    Index(#[from] IndexError),
    #[error("it cannot be read")]
    Read(#[from] ReadError),
    #[error("a task ended early")]
    Task(#[from] JoinError),
    #[error("shutdown")]
    Shutdown,
}

impl ServeError {
    /// What the other side is told. What is missing is told as iroh-blobs tells it.
    fn code(&self) -> VarInt {
        match self {
            Self::Refused => ERR_PERMISSION,
            _ => ERR_INTERNAL,
        }
    }
}

/// Takes a connection that `device` dialled.
pub(crate) fn accepted(shared: &Arc<Shared>, device: DeviceId, connection: Connection) {
    if let Some(peer) = shared.peers.get(&device) {
        peer.lane.serve(shared, connection, answer);
    }
}

/// Answers one request.
async fn answer(
    shared: Arc<Shared>,
    device: DeviceId,
    connection: Connection,
    mut send: SendStream,
    recv: RecvStream,
) {
    let Some(peer) = shared.peers.get(&device) else { return };
    let mut recv = CountedRecv { stream: recv, board: peer.board.clone() };
    let found = async {
        let request = read_request(&mut recv).await?;
        let (repo, link, length) = find(&shared, device, request.hash).await?;
        let units = u32::try_from((COPIES * length).div_ceil(SHARE_UNIT));
        let units = units.map_err(|_| ServeError::Missing)?;
        let share = peer.lane.share().clone().acquire_many_owned(units).await;
        let share = share.map_err(|_| ServeError::Shutdown)?;
        let bytes = repo.store.read(link).await?;
        let alone = spawn_blocking(move || ReadonlyMemStore::new([bytes])).await?;
        Ok::<_, ServeError>((request, alone, share))
    };
    match found.await {
        Ok((request, alone, _share)) => {
            let send = CountedSend { stream: send, board: peer.board.clone() };
            let id = connection.stable_id() as u64;
            let pair = StreamPair::new(id, recv, send, EventSender::DEFAULT);
            if let Err(error) = handle_get(pair, alone.into(), request).await {
                debug!(%error, "a blob was not sent whole");
            }
        }
        Err(error) => {
            let reason = in_words(&error);
            match error {
                ServeError::Index(_) | ServeError::Read(_) => warn!(reason, "cannot serve a blob"),
                _ => debug!(reason, "refused a request for blobs"),
            }
            // Either may be gone already: then there is nobody to tell.
            let _ = send.reset(error.code());
            let _ = recv.stream.stop(error.code());
        }
    }
}

async fn read_request(recv: &mut CountedRecv) -> Result<GetRequest, ServeError> {
    let request = timeout(REQUEST_TIMEOUT, Request::read_async(recv)).await;
    let (request, _) =
        request.map_err(|_| ServeError::NoRequest)?.map_err(ServeError::Malformed)?;
    match request {
        Request::Get(request) if request.ranges.is_blob() => Ok(request),
        _ => Err(ServeError::Refused),
    }
}

/// The repo that has the object for `device`, and how many bytes it has. An object of another
/// repo and one that nobody has are told apart by nothing.
async fn find(
    shared: &Shared,
    device: DeviceId,
    hash: Hash,
) -> Result<(Arc<RepoHandle>, Link, usize), ServeError> {
    let link = Link::raw(ObjectId::from_bytes(*hash.as_bytes()));
    for topic in shared.access.topics_of(device) {
        let Some(repo) = shared.repos.get(&topic) else { continue };
        if let [Some(length)] = repo.store.lengths(&[link]).await?[..] {
            return Ok((repo, link, length));
        }
    }
    Err(ServeError::Missing)
}

/// What is read is counted, and of a request no more is read than one may have: iroh-blobs refuses
/// it where more follows.
struct CountedRecv {
    stream: RecvStream,
    board: Arc<PeerBoard>,
}

impl iroh_blobs::util::RecvStream for CountedRecv {
    async fn recv_bytes(&mut self, len: usize) -> io::Result<Bytes> {
        let bytes = self.stream.recv_bytes(len.min(MAX_REQUEST_BYTES)).await?;
        self.board.traffic.received(bytes.len());
        Ok(bytes)
    }

    async fn recv_bytes_exact(&mut self, len: usize) -> io::Result<Bytes> {
        let bytes = self.stream.recv_bytes_exact(len).await?;
        self.board.traffic.received(len);
        Ok(bytes)
    }

    async fn recv_exact(&mut self, target: &mut [u8]) -> io::Result<()> {
        self.stream.recv_exact(target).await?;
        self.board.traffic.received(target.len());
        Ok(())
    }

    fn stop(&mut self, code: VarInt) -> io::Result<()> {
        Ok(self.stream.stop(code)?)
    }

    fn id(&self) -> u64 {
        self.stream.id().index()
    }
}

/// What is sent is counted, and nobody is waited for who takes nothing.
struct CountedSend {
    stream: SendStream,
    board: Arc<PeerBoard>,
}

impl iroh_blobs::util::SendStream for CountedSend {
    async fn send_bytes(&mut self, bytes: Bytes) -> io::Result<()> {
        let length = bytes.len();
        timeout(WRITE_TIMEOUT, self.stream.write_chunk(bytes)).await??;
        self.board.traffic.sent(length);
        Ok(())
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(WRITE_TIMEOUT, self.stream.write_all(bytes)).await??;
        self.board.traffic.sent(bytes.len());
        Ok(())
    }

    async fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn reset(&mut self, code: VarInt) -> io::Result<()> {
        Ok(self.stream.reset(code)?)
    }

    async fn stopped(&mut self) -> io::Result<Option<VarInt>> {
        Ok(self.stream.stopped().await?)
    }

    fn id(&self) -> u64 {
        self.stream.id().index()
    }
}
