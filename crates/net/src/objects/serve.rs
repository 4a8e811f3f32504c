//! The serving side: reads objects from the store and streams them.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ark_core::{DeviceId, Link};
use ark_store::{ReadError, Repo};
use ark_sync::{
    ITEM_HEADER_BYTES, ItemHeader, MAX_AHEAD_OBJECTS, MAX_REQUEST_BYTES, ObjectsRequest, WireError,
};
use bytes::Bytes;
use iroh::endpoint::{Connection, RecvStream, SendStream};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::MAX_AHEAD_BYTES;
use super::read_ahead::ReadAhead;
use crate::board::Traffic;
use crate::frame::{ReadFrameError, read_frame};
use crate::shared::{CODE_GAVE_UP, CODE_PROTOCOL, Shared, close};

/// A request must be here, whole, this soon after its stream was opened.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// A reader that takes nothing for this long is given up: longer than a disk stalls. One that
/// takes little is not: the line may be slow, and other answers may share it.
const WRITE_TIMEOUT: Duration = Duration::from_mins(2);
/// Objects of so many bytes are written together with their header.
const SMALL_OBJECT: usize = 256 << 10;
/// What a structured object is taken to have until it is read: nodes of search trees have some
/// kilobytes, and hardly ever more than this.
const STRUCTURED_BYTES: usize = 1 << 20;

/// Why an answer ended early.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("no request came in time")]
    NoRequest,
    #[error("the request is broken")]
    Request(#[from] ReadFrameError),
    #[error("the request is not one: {0}")]
    Malformed(#[from] WireError),
    #[error("the peer went away")]
    Write(#[from] io::Error),
    #[error("the peer does not read")]
    Stalled,
}

/// Answers one request. Closes the connection where the request breaks the protocol.
pub(crate) async fn answer(
    shared: Arc<Shared>,
    device: DeviceId,
    connection: Connection,
    mut send: SendStream,
    mut recv: RecvStream,
) {
    let Some(peer) = shared.peers.get(&device) else { return };
    let traffic = &peer.board.traffic;
    let result = async {
        let request = read_request(&mut recv, traffic).await?;
        let share = peer.lane.share();
        answer_request(&shared, device, request, share, &mut send, traffic).await
    };
    match result.await {
        Ok(()) => {}
        Err(
            error
            @ (ServeError::Request(ReadFrameError::TooLong { .. }) | ServeError::Malformed(_)),
        ) => {
            debug!(%error, "closing: a request breaks the protocol");
            close(&connection, CODE_PROTOCOL, b"the request breaks the protocol");
        }
        Err(error) => {
            debug!(%error, "a request was not answered whole");
            // The stream may be closed already: then there is nobody to tell.
            let _ = send.reset(CODE_GAVE_UP);
        }
    }
}

async fn read_request(
    recv: &mut RecvStream,
    traffic: &Traffic,
) -> Result<ObjectsRequest, ServeError> {
    let frame = timeout(REQUEST_TIMEOUT, read_frame(recv, MAX_REQUEST_BYTES, traffic))
        .await
        .map_err(|_| ServeError::NoRequest)??;
    Ok(ObjectsRequest::decode(&frame.ok_or(ServeError::NoRequest)?)?)
}

async fn answer_request(
    shared: &Shared,
    device: DeviceId,
    request: ObjectsRequest,
    share: &Arc<Semaphore>,
    send: &mut SendStream,
    traffic: &Traffic,
) -> Result<(), ServeError> {
    let repo = shared.repos.get(&request.topic);
    let Some(repo) = repo.filter(|_| shared.access.may_see(device, request.topic)) else {
        // Another repo's object and one that nobody has are told apart by nothing.
        debug!(topic = %request.topic.short(), "asked for a repo that does not list the device");
        for &link in &request.links {
            write(send, &ItemHeader::Missing { link }.encode(), traffic).await?;
        }
        finish(send);
        return Ok(());
    };
    let lengths = match repo.store.lengths(&request.links).await {
        Ok(lengths) => lengths,
        Err(error) => {
            warn!(%error, "cannot tell which objects are here");
            let _ = send.reset(CODE_GAVE_UP);
            return Ok(());
        }
    };
    let asked = request.links.iter().copied().zip(lengths);
    let mut answer = Answer {
        store: repo.store.clone(),
        seen: request.links.iter().copied().collect(),
        queue: asked.map(|(link, length)| Wanted::Asked { link, length }).collect(),
        ahead: request.ahead,
        ahead_bytes: 0,
        ahead_objects: 0,
    };
    answer.stream(share.clone(), send, traffic).await?;
    finish(send);
    Ok(())
}

/// Ends the answer; a stream that is gone has nobody to tell.
fn finish(send: &mut SendStream) {
    let _ = send.finish();
}

/// What is still to be sent.
#[derive(Clone, Copy)]
enum Wanted {
    /// `length`: at most so many bytes; `None`: it is not here.
    Asked {
        link: Link,
        length: Option<usize>,
    },
    Ahead {
        link: Link,
    },
}

impl Wanted {
    /// What is reserved for its bytes before it is read.
    fn bytes(self) -> usize {
        match self {
            Self::Asked { link, length } if !link.kind.is_structured() => length.unwrap_or(0),
            Self::Asked { length: None, .. } => 0,
            Self::Asked { .. } | Self::Ahead { .. } => STRUCTURED_BYTES,
        }
    }
}

struct Answer {
    store: Repo,
    seen: HashSet<Link>,
    queue: VecDeque<Wanted>,
    ahead: bool,
    ahead_bytes: usize,
    ahead_objects: usize,
}

impl Answer {
    /// Reads in parallel, writes in order.
    async fn stream(
        &mut self,
        share: Arc<Semaphore>,
        send: &mut SendStream,
        traffic: &Traffic,
    ) -> Result<(), ServeError> {
        let mut reads = ReadAhead::new(share);
        loop {
            while let Some(&wanted) = self.queue.front() {
                let Some(room) = reads.room(wanted.bytes()).await else { break };
                self.queue.pop_front();
                let store = self.store.clone();
                reads.push(room, async move { (wanted, read(&store, wanted).await) });
            }
            let Some(((wanted, bytes), room)) = reads.next().await else { return Ok(()) };
            self.write(wanted, bytes, send, traffic).await?;
            drop(room);
        }
    }

    async fn write(
        &mut self,
        wanted: Wanted,
        bytes: Option<Bytes>,
        send: &mut SendStream,
        traffic: &Traffic,
    ) -> Result<(), ServeError> {
        let (link, bytes) = match (wanted, bytes) {
            (Wanted::Asked { link, .. }, None) => {
                return write(send, &ItemHeader::Missing { link }.encode(), traffic).await;
            }
            (Wanted::Ahead { .. }, None) => return Ok(()),
            (Wanted::Asked { link, .. }, Some(bytes)) => (link, bytes),
            (Wanted::Ahead { link }, Some(bytes)) => {
                self.ahead_bytes += bytes.len();
                (link, bytes)
            }
        };
        let length = u32::try_from(bytes.len()).expect("objects are bounded by MAX_OBJECT_BYTES");
        let header = ItemHeader::Present { link, length }.encode();
        if self.ahead && link.kind.is_structured() {
            self.queue_children(link, &bytes);
        }
        // Small ones in one write: the stream is locked for each.
        if bytes.len() <= SMALL_OBJECT {
            let mut item = Vec::with_capacity(ITEM_HEADER_BYTES + bytes.len());
            item.extend_from_slice(&header);
            item.extend_from_slice(&bytes);
            return write(send, &item, traffic).await;
        }
        write(send, &header, traffic).await?;
        write(send, &bytes, traffic).await
    }

    fn queue_children(&mut self, link: Link, bytes: &[u8]) {
        let children = match ark_core::links(link, bytes) {
            Ok(children) => children,
            Err(error) => {
                warn!(%error, "an indexed object does not decode");
                return;
            }
        };
        for child in children.into_iter().filter(|child| child.kind.is_structured()) {
            if self.ahead_objects == MAX_AHEAD_OBJECTS || self.ahead_bytes >= MAX_AHEAD_BYTES {
                return;
            }
            if self.seen.insert(child) {
                self.ahead_objects += 1;
                self.queue.push_back(Wanted::Ahead { link: child });
            }
        }
    }
}

/// The bytes of what is wanted; `None` where it is missing or not readable here.
async fn read(store: &Repo, wanted: Wanted) -> Option<Bytes> {
    let link = match wanted {
        Wanted::Asked { length: None, .. } => return None,
        // What an indexed object links is indexed.
        Wanted::Asked { link, .. } | Wanted::Ahead { link } => link,
    };
    match store.read(link).await {
        Ok(bytes) => Some(bytes),
        Err(ReadError::Absent { .. }) => None,
        Err(error) => {
            warn!(%error, "an object cannot be served");
            None
        }
    }
}

/// Writes all of `bytes`, however slowly they leave.
async fn write(
    send: &mut (impl AsyncWrite + Unpin),
    mut bytes: &[u8],
    traffic: &Traffic,
) -> Result<(), ServeError> {
    while !bytes.is_empty() {
        let written =
            timeout(WRITE_TIMEOUT, send.write(bytes)).await.map_err(|_| ServeError::Stalled)??;
        if written == 0 {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        traffic.sent(written);
        bytes = &bytes[written..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, duplex};
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_may_be_slow_but_not_still() {
        const TAKEN: usize = 1 << 10;
        const LENGTH: usize = 256 << 10;
        let traffic = Traffic::default();
        let (mut send, mut recv) = duplex(TAKEN);
        let object = vec![7; LENGTH];
        let reader = async {
            let mut taken = [0; TAKEN];
            for _ in 0..LENGTH / TAKEN {
                sleep(WRITE_TIMEOUT / 2).await;
                recv.read_exact(&mut taken).await?;
            }
            Ok(())
        };
        tokio::try_join!(write(&mut send, &object, &traffic), reader).unwrap();
        // What fits into the pipe, and then nothing more.
        let stalled = write(&mut send, &object, &traffic).await;
        assert!(matches!(stalled, Err(ServeError::Stalled)), "{stalled:?}");
    }
}
