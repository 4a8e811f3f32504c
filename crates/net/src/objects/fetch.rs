//! The asking side: reads an answer, checks every object, hands them to the store in batches
//! while reading on.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ark_core::{DeviceId, Link, MAX_OBJECT_BYTES, Object, TopicId, in_words};
use ark_store::{IndexError, ReceiveError, Received, Repo};
use ark_sync::{
    AnswerCheck, AnswerViolation, Expected, ITEM_HEADER_BYTES, Input, ItemHeader, ItemHeaderError,
    MAX_AHEAD_OBJECTS, ObjectsRequest, RequestId,
};
use iroh::endpoint::RecvStream;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::MAX_AHEAD_BYTES;
use super::patience::{Patience, SPAN};
use super::whole::{Whole, Wholes};
use crate::board::Traffic;
use crate::frame::write_frame;
use crate::lane::LaneError;
use crate::repo::Done;
use crate::shared::{CODE_PROTOCOL, Shared, close};

/// Objects handed to the store at once.
const BATCH_OBJECTS: usize = 256;
/// Bytes handed to the store at once. Batches that the store works on at a time share a barrier,
/// so small ones cost little, and of what is not durable yet less is lost when ark is killed.
const BATCH_BYTES: usize = 1 << 20;
/// Objects wait no longer than this for their batch to fill.
const BATCH_DELAY: Duration = Duration::from_millis(200);
/// Batches of one request that the store works on at once.
const BATCHES_AT_ONCE: usize = 4;
/// Checked objects on their way from the reader to a batch.
const CHECKED_CAPACITY: usize = 64;
/// Larger objects are hashed on a thread that may block: a megabyte takes a fraction of a
/// millisecond, too long to hold up every stream's reading.
const HASH_INLINE_BYTES: usize = 64 << 10;
/// Links remembered of one answer: more than a provider may follow, so that an honest one never
/// meets this bound.
const MAX_LINKED: usize = 4 * MAX_AHEAD_OBJECTS;
/// Read from the stream at a time.
const READ_BUFFER: usize = 64 << 10;
/// A permit of the byte budget stands for so many bytes.
const BUDGET_UNIT: usize = 1 << 10;
/// Bytes of received objects that are held in memory and not durable yet, over all requests: the
/// disk's latency times its rate, and what has to be sent again when ark is killed.
const BUDGET_BYTES: usize = 16 << 20;

/// Bounds the bytes of received objects that wait for the store, over all requests. A share is
/// taken when an object is here whole, so that it is only ever the disk that is waited for: no
/// provider holds a share by being slow. What is on its way is bounded by the requests that a
/// provider is asked at once, an object each.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes: Arc<Semaphore>,
    /// Rises when somebody waits: batches that are not full yet are handed over then, because
    /// their share is what is waited for.
    short: watch::Sender<u64>,
    /// Which objects wait.
    wholes: Arc<Wholes>,
}

impl Budget {
    /// Nothing is taken.
    pub(crate) fn new() -> Self {
        let bytes = Arc::new(Semaphore::new(BUDGET_BYTES / BUDGET_UNIT));
        Self { bytes, short: watch::Sender::new(0), wholes: Arc::default() }
    }

    /// Takes the share of an object of `length` bytes. `None`: shutdown.
    async fn take(&self, length: usize) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(length.div_ceil(BUDGET_UNIT)).ok()?;
        if let Ok(permit) = self.bytes.clone().try_acquire_many_owned(units) {
            return Some(permit);
        }
        self.short.send_modify(|count| *count = count.wrapping_add(1));
        self.bytes.clone().acquire_many_owned(units).await.ok()
    }
}

/// Why a request was not answered whole. What was stored before, stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// No stream to the provider.
    #[error(transparent)]
    Lane(#[from] LaneError),
    /// The stream or its connection broke.
    #[error("the stream broke: {0}")]
    Stream(String),
    /// The provider sent nothing, or too little, for too long.
    #[error("the provider stalled")]
    Stalled,
    /// The provider broke the protocol; its connection was closed.
    #[error("the provider broke the protocol")]
    Protocol(#[from] ProtocolError),
    /// This side's disk failed.
    #[error("the store failed")]
    Store(#[from] ReceiveError),
    /// Likewise, when it was asked what is here.
    #[error("the store failed")]
    Index(#[from] IndexError),
    /// A task of this side ended early: shutdown.
    #[error("a task ended early")]
    Task(#[from] JoinError),
    /// Nobody wants the rest any more.
    #[error("it was cancelled")]
    Cancelled,
}

/// How an answer breaks the protocol.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProtocolError {
    /// Not an item.
    #[error(transparent)]
    Header(#[from] ItemHeaderError),
    /// An item that may not come.
    #[error(transparent)]
    Item(#[from] AnswerViolation),
    /// Streamed ahead, but nothing that came before links it.
    #[error("object {} was sent ahead of nothing", .0.id.short())]
    Unlinked(Link),
    /// More bytes streamed ahead than any answer may.
    #[error("more than {MAX_AHEAD_BYTES} bytes were sent ahead")]
    TooMuchAhead,
    /// The bytes hash to something else.
    #[error("the bytes sent for object {} are not it", .0.id.short())]
    Hash(Link),
}

/// Where objects are asked for and where they go.
pub(crate) struct Fetch {
    pub(crate) shared: Arc<Shared>,
    pub(crate) provider: DeviceId,
    pub(crate) store: Repo,
    pub(crate) budget: Arc<Budget>,
    pub(crate) request: RequestId,
    /// Cancelled when what the request still brings is not needed.
    pub(crate) cancel: CancellationToken,
}

impl Fetch {
    /// Asks for `request.links`; every batch that is durable is told as [`Input::Stored`]. Returns
    /// the asked links that the provider does not have. When it is cancelled it reads no further;
    /// what was read whole is kept and told all the same.
    pub(crate) async fn run(
        self,
        mut request: ObjectsRequest,
        told: mpsc::Sender<Done>,
    ) -> Result<Vec<Link>, FetchError> {
        self.leave_out_read(&mut request).await?;
        self.leave_out_found(&mut request, &told).await?;
        if request.links.is_empty() {
            return Ok(Vec::new());
        }
        let Some(peer) = self.shared.peers.get(&self.provider) else {
            return Err(FetchError::Lane(LaneError::Dial("not listed".to_owned())));
        };
        let traffic = &peer.board.traffic;
        let ask = async {
            let turn = peer.lane.turn().await.ok_or(FetchError::Cancelled)?;
            let asked = async {
                let (connection, mut send, recv) = peer.lane.open(&self.shared).await?;
                write_frame(&mut send, &request.encode(), traffic)
                    .await
                    .map_err(|error| FetchError::Stream(in_words(&error)))?;
                // The stream may be stopped already: reading will say so.
                let _ = send.finish();
                Ok::<_, FetchError>((connection, recv))
            };
            // It may grant no stream, or no room on one.
            let (connection, recv) =
                timeout(SPAN, asked).await.map_err(|_| FetchError::Stalled)??;
            Ok::<_, FetchError>((turn, connection, recv))
        };
        let (turn, connection, recv) = tokio::select! {
            () = self.cancel.cancelled() => return Err(FetchError::Cancelled),
            asked = ask => asked?,
        };
        let (checked_tx, checked_rx) = mpsc::channel(CHECKED_CAPACITY);
        let reader = Reader {
            stream: BufReader::with_capacity(READ_BUFFER, recv),
            traffic,
            arrived: peer.lane.arrived(),
            patience: Patience::new(peer.lane.arrived().load(Relaxed)),
            cancel: &self.cancel,
            budget: &self.budget,
            topic: self.store.topic(),
            check: AnswerCheck::new(&request),
            linked: request.ahead.then(HashSet::new),
            ahead_bytes: 0,
        };
        let read = async {
            let read = reader.run(checked_tx).await;
            drop(turn);
            read
        };
        let keep = keep(&self, checked_rx, told);
        // The reader's end, good or bad, ends `keep` after it kept what was read.
        let (read, kept) = tokio::join!(read, keep);
        if let Err(FetchError::Protocol(_)) = read {
            close(&connection, CODE_PROTOCOL, b"the answer breaks the protocol");
        }
        kept?;
        read
    }

    /// What another request has read whole, and was cancelled or broke before it told of it, is not
    /// asked for.
    async fn leave_out_read(&self, request: &mut ObjectsRequest) -> Result<(), FetchError> {
        let kept = tokio::select! {
            () = self.cancel.cancelled() => return Err(FetchError::Cancelled),
            kept = self.budget.wholes.kept(self.store.topic(), &request.links) => kept,
        };
        request.links.retain(|link| !kept.contains(link));
        Ok(())
    }

    /// What this device has made itself meanwhile is not asked for: most of all by the first scan
    /// of a folder that has much of what others have.
    async fn leave_out_found(
        &self,
        request: &mut ObjectsRequest,
        told: &mpsc::Sender<Done>,
    ) -> Result<(), IndexError> {
        let here = self.store.indexed(&request.links).await?;
        let mut here = here.into_iter();
        let (found, links) =
            request.links.drain(..).partition::<Vec<Link>, _>(|_| here.next().unwrap_or(false));
        request.links = links;
        if !found.is_empty() {
            // Nobody listens any more only at shutdown.
            let _ = told.send(Done::Input(Input::Found { links: found })).await;
        }
        Ok(())
    }
}

/// An object whose hash was checked, and its share of the budget.
struct Checked {
    object: Object,
    whole: Whole,
    permit: OwnedSemaphorePermit,
}

struct Reader<'a> {
    stream: BufReader<RecvStream>,
    traffic: &'a Traffic,
    /// Bytes that the provider has brought, over all requests to it.
    arrived: &'a AtomicU64,
    patience: Patience,
    cancel: &'a CancellationToken,
    budget: &'a Budget,
    topic: TopicId,
    check: AnswerCheck,
    /// Where objects may be streamed ahead: those that earlier items link.
    linked: Option<HashSet<Link>>,
    ahead_bytes: usize,
}

impl Reader<'_> {
    /// Reads the answer to its end; returns what is missing there.
    async fn run(mut self, checked: mpsc::Sender<Checked>) -> Result<Vec<Link>, FetchError> {
        let mut missing = Vec::new();
        while let Some(header) = self.header().await? {
            let expected = self.check.expect(&header).map_err(ProtocolError::from)?;
            let link = header.link();
            if matches!(header, ItemHeader::Missing { .. }) {
                missing.push(link);
                continue;
            }
            if expected == Expected::Ahead {
                self.take_ahead(link, header.length())?;
            }
            let Some(object) = self.object(link, header.length()).await? else { break };
            if checked.send(object).await.is_err() {
                // The store failed, and says so itself.
                return Ok(missing);
            }
        }
        if self.check.is_complete() {
            return Ok(missing);
        }
        Err(FetchError::Stream("it ended before every question was answered".to_owned()))
    }

    /// The next item's header; `None` where the answer ended in order.
    async fn header(&mut self) -> Result<Option<ItemHeader>, FetchError> {
        let mut header = [0; ITEM_HEADER_BYTES];
        let read = self.read(&mut header).await?;
        if read == 0 {
            return Ok(None);
        }
        self.fill(&mut header[read..]).await?;
        Ok(Some(ItemHeader::decode(&header).map_err(ProtocolError::from)?))
    }

    async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, FetchError> {
        loop {
            let began = Instant::now();
            let read = tokio::select! {
                () = self.cancel.cancelled() => return Err(FetchError::Cancelled),
                read = timeout(self.patience.left(), self.stream.read(bytes)) => read,
            };
            let read = match read {
                Ok(read) => Some(read.map_err(|error| FetchError::Stream(in_words(&error)))?),
                Err(_) => None,
            };
            let count = read.unwrap_or(0) as u64;
            let arrived = self.arrived.fetch_add(count, Relaxed) + count;
            if self.patience.ends(began.elapsed(), count, arrived) {
                return Err(FetchError::Stalled);
            }
            if let Some(read) = read {
                self.traffic.received(read);
                return Ok(read);
            }
        }
    }

    async fn fill(&mut self, bytes: &mut [u8]) -> Result<(), FetchError> {
        let mut filled = 0;
        while filled < bytes.len() {
            let read = self.read(&mut bytes[filled..]).await?;
            if read == 0 {
                return Err(FetchError::Stream("it ended within an item".to_owned()));
            }
            filled += read;
        }
        Ok(())
    }

    /// An object streamed ahead must be linked by what came before, so that no peer can fill the
    /// store with what nothing needs.
    fn take_ahead(&mut self, link: Link, length: usize) -> Result<(), ProtocolError> {
        if !self.linked.as_mut().is_some_and(|linked| linked.remove(&link)) {
            return Err(ProtocolError::Unlinked(link));
        }
        self.ahead_bytes += length;
        // The one that passed the bound is complete, so one more object's bytes may come.
        if self.ahead_bytes > MAX_AHEAD_BYTES + MAX_OBJECT_BYTES {
            return Err(ProtocolError::TooMuchAhead);
        }
        Ok(())
    }

    /// Reads and checks the bytes of `link`. `None`: shutdown.
    async fn object(&mut self, link: Link, length: usize) -> Result<Option<Checked>, FetchError> {
        let mut bytes = vec![0; length];
        self.fill(&mut bytes).await?;
        let whole = self.budget.wholes.add(self.topic, link);
        let object = if length <= HASH_INLINE_BYTES {
            Object::new(link.kind, bytes)
        } else {
            tokio::task::spawn_blocking(move || Object::new(link.kind, bytes)).await?
        };
        if object.link() != link {
            return Err(ProtocolError::Hash(link).into());
        }
        if let Some(linked) = self.linked.as_mut().filter(|_| link.kind.is_structured()) {
            // What does not decode links nothing; the store rejects it.
            let children = ark_core::links(link, object.bytes()).unwrap_or_default();
            let room = MAX_LINKED.saturating_sub(linked.len());
            let structured = children.into_iter().filter(|child| child.kind.is_structured());
            linked.extend(structured.take(room));
        }
        let permit = self.budget.take(length).await;
        Ok(permit.map(|permit| Checked { object, whole, permit }))
    }
}

/// Gathers checked objects into batches and has the store keep them, several batches at a time.
async fn keep(
    fetch: &Fetch,
    mut checked: mpsc::Receiver<Checked>,
    told: mpsc::Sender<Done>,
) -> Result<(), FetchError> {
    let mut working: JoinSet<Result<(), ReceiveError>> = JoinSet::new();
    let mut batch = Batch::default();
    let mut short = fetch.budget.short.subscribe();
    loop {
        let due = batch.since.map(|since| since + BATCH_DELAY);
        tokio::select! {
            object = checked.recv() => match object {
                Some(object) => batch.push(object),
                None => break,
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                batch.full = true;
            }
            Ok(()) = short.changed() => batch.full = !batch.objects.is_empty(),
            Some(done) = working.join_next() => done??,
        }
        if batch.full {
            while working.len() >= BATCHES_AT_ONCE {
                if let Some(done) = working.join_next().await {
                    done??;
                }
            }
            working.spawn(std::mem::take(&mut batch).keep(
                fetch.store.clone(),
                fetch.request,
                told.clone(),
            ));
        }
    }
    if !batch.objects.is_empty() {
        working.spawn(batch.keep(fetch.store.clone(), fetch.request, told));
    }
    while let Some(done) = working.join_next().await {
        done??;
    }
    Ok(())
}

#[derive(Default)]
struct Batch {
    objects: Vec<Object>,
    wholes: Vec<Whole>,
    permits: Vec<OwnedSemaphorePermit>,
    bytes: usize,
    since: Option<Instant>,
    full: bool,
}

impl Batch {
    fn push(&mut self, Checked { object, whole, permit }: Checked) {
        self.since.get_or_insert_with(Instant::now);
        self.bytes += object.bytes().len();
        self.objects.push(object);
        self.wholes.push(whole);
        self.permits.push(permit);
        self.full |= self.objects.len() >= BATCH_OBJECTS || self.bytes >= BATCH_BYTES;
    }

    async fn keep(
        self,
        store: Repo,
        request: RequestId,
        told: mpsc::Sender<Done>,
    ) -> Result<(), ReceiveError> {
        let length = |object: &Object| u32::try_from(object.bytes().len()).unwrap_or(u32::MAX);
        let received = self.objects.iter().map(|object| (object.link(), length(object))).collect();
        let Received { next, rejected } = store.receive(self.objects).await?;
        let rejected =
            rejected.into_iter().map(|(link, error)| (link, error.to_string())).collect();
        let stored = Input::Stored { request, received, next, rejected };
        // Nobody listens any more only at shutdown.
        let _ = told.send(Done::Input(stored)).await;
        self.wholes.into_iter().for_each(Whole::keep);
        Ok(())
    }
}
