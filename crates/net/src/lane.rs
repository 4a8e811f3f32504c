//! The connections with one device that carry objects. Either side's is used by both for
//! requests, so it suffices that one of them can dial: that is the side that dialled the sync
//! connection, and it dials this one at once. The other side waits for it a moment, because the
//! addresses that it knows itself may be those of an earlier life of the device.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ark_core::DeviceId;
use iroh::endpoint::{Connection, ConnectionError, Path, RecvStream, SendStream, VarInt};
use iroh::{Endpoint, EndpointId};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tracing::{Instrument, debug, error_span};

use crate::access::OBJECTS_ALPN;
use crate::objects::serve;
use crate::shared::{CODE_REPLACED, Shared, close};

/// Dialling for objects takes no longer: the sync connection stands, so the way is known.
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the side that did not dial waits for the other's connection before it tries itself.
const GRACE: Duration = Duration::from_secs(1);
/// Connections kept with one device; one of each direction is the rule.
const MAX_CONNECTIONS: usize = 4;
/// Requests of one device that are answered at once, and that one device is asked at once, over
/// all repos; more wait. A puller keeps a few under way in each. Each may hold an object that is
/// not here whole.
const MAX_STREAMS: usize = 16;
/// A permit of the bytes read for a device stands for so many.
pub(crate) const SHARE_UNIT: usize = 1 << 10;
/// Bytes that are read, or being read, for one device and not yet written to it, over all its
/// requests: some objects for each, and no more for one that asks and does not read.
const SHARE_BYTES: usize = 16 << 20;

/// The narrowest window of a connection, in bytes. All of it is lost and sent again when a
/// connection breaks, so it is no larger than a near path needs.
const NARROWEST_WINDOW: u32 = 4 << 20;
/// The rate that a window is made for: two gigabits a second.
const FILLED_BYTES_PER_S: u32 = 256 << 20;
/// The widest window, in bytes: also what a far peer can make this side buffer.
const WIDEST_WINDOW: u32 = 32 << 20;

/// Why no stream for a request could be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaneError {
    /// The device could not be dialled.
    #[error("cannot connect: {0}")]
    Dial(String),
    /// The connection broke.
    #[error("the connection broke")]
    Connection(#[from] ConnectionError),
}

/// One of them, and the shortest round trip that was seen on it: later ones contain the queues
/// that the transfer itself makes.
#[derive(Debug)]
struct Standing {
    connection: Connection,
    shortest_rtt: Duration,
}

impl Standing {
    /// Lets so much be under way as fills the path, and no more.
    fn fit_window(&mut self) {
        let selected =
            self.connection.paths().iter().find(Path::is_selected).map(|path| path.rtt());
        self.shortest_rtt = self.shortest_rtt.min(selected.unwrap_or(Duration::MAX));
        self.connection.set_receive_window(window_for(self.shortest_rtt));
    }
}

/// The window that a path with this round trip needs for [`FILLED_BYTES_PER_S`].
fn window_for(rtt: Duration) -> VarInt {
    let rtt_ms = u32::try_from(rtt.as_millis()).unwrap_or(u32::MAX);
    let window = rtt_ms.saturating_mul(FILLED_BYTES_PER_S / 1000);
    VarInt::from_u32(window.clamp(NARROWEST_WINDOW, WIDEST_WINDOW))
}

/// The object connections with one device.
#[derive(Debug)]
pub(crate) struct Lane {
    device: DeviceId,
    endpoint: Endpoint,
    /// Newest last; the newest open one carries new requests.
    connections: Mutex<Vec<Standing>>,
    /// No more are kept: another lane, or none, took the place of this one.
    is_over: AtomicBool,
    /// Held while dialling, so that several requests dial once.
    dialling: tokio::sync::Mutex<()>,
    /// Whether this side dialled the sync connection.
    dials: AtomicBool,
    /// Told when a connection is added.
    added: Notify,
    /// Bounds the requests of the device that are answered at once.
    served: Arc<Semaphore>,
    /// Bounds the bytes read for them.
    share: Arc<Semaphore>,
    /// Bounds the requests that the device is asked at once.
    asked: Arc<Semaphore>,
    /// Bytes that it brought on requests.
    arrived: AtomicU64,
}

impl Lane {
    /// No connection yet.
    pub(crate) fn new(device: DeviceId, endpoint: Endpoint) -> Self {
        Self {
            device,
            endpoint,
            connections: Mutex::default(),
            is_over: AtomicBool::new(false),
            dialling: tokio::sync::Mutex::default(),
            dials: AtomicBool::new(false),
            added: Notify::new(),
            served: Arc::new(Semaphore::new(MAX_STREAMS)),
            share: Arc::new(Semaphore::new(SHARE_BYTES / SHARE_UNIT)),
            asked: Arc::new(Semaphore::new(MAX_STREAMS)),
            arrived: AtomicU64::new(0),
        }
    }

    /// What bounds the bytes read for the device, in units of [`SHARE_UNIT`].
    pub(crate) fn share(&self) -> &Arc<Semaphore> {
        &self.share
    }

    /// Waits until the device may be asked one more request. `None`: shutdown.
    pub(crate) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.asked.clone().acquire_owned().await.ok()
    }

    /// Bytes that the device has brought on requests.
    pub(crate) fn arrived(&self) -> &AtomicU64 {
        &self.arrived
    }

    /// Opens a stream for one request; dials if there is no connection.
    pub(crate) async fn open(
        &self,
        shared: &Arc<Shared>,
    ) -> Result<(Connection, SendStream, RecvStream), LaneError> {
        let connection = tokio::select! {
            biased;
            connection = self.arrival() => connection,
            connection = self.dial(shared) => connection?,
        };
        let (send, recv) = connection.open_bi().await?;
        Ok((connection, send, recv))
    }

    /// A sync connection stands.
    pub(crate) fn met(&self, dialled_here: bool) {
        self.dials.store(dialled_here, Relaxed);
    }

    /// The device has spoken on the sync connection, so it has put away what it had before; where
    /// this side dialled, it dials for objects, too.
    pub(crate) fn warm(self: &Arc<Self>, shared: &Arc<Shared>) {
        if !self.dials.load(Relaxed) || self.newest().is_some() {
            return;
        }
        let (lane, shared) = (self.clone(), shared.clone());
        let tasks = shared.tasks.clone();
        tasks.spawn(async move {
            let cancel = shared.cancel.clone();
            tokio::select! {
                () = cancel.cancelled() => {}
                // A failure is met again, and told, by the first request.
                _ = lane.dial(&shared) => {}
            }
        });
    }

    /// The newest connection, or the next one.
    async fn arrival(&self) -> Connection {
        loop {
            let added = self.added.notified();
            if let Some(connection) = self.newest() {
                return connection;
            }
            added.await;
        }
    }

    /// Closes everything, what is being dialled included: this device ends, or meets that one anew
    /// by another list.
    pub(crate) fn end(&self, code: VarInt, reason: &[u8]) {
        // Before the connections are taken: who keeps one looks under their lock.
        self.is_over.store(true, Relaxed);
        self.close(code, reason);
    }

    /// Closes everything: the device started anew, or is gone.
    pub(crate) fn close(&self, code: VarInt, reason: &[u8]) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        for standing in connections.drain(..) {
            close(&standing.connection, code, reason);
        }
    }

    fn newest(&self) -> Option<Connection> {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|standing| standing.connection.close_reason().is_none());
        let newest = connections.last_mut()?;
        newest.fit_window();
        Some(newest.connection.clone())
    }

    fn keep(&self, connection: Connection) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|standing| standing.connection.close_reason().is_none());
        if self.is_over.load(Relaxed) {
            close(&connection, CODE_REPLACED, b"all connections end");
            return;
        }
        if connections.len() == MAX_CONNECTIONS {
            close(&connections.remove(0).connection, CODE_REPLACED, b"too many connections");
        }
        let mut standing = Standing { connection, shortest_rtt: Duration::MAX };
        standing.fit_window();
        connections.push(standing);
        drop(connections);
        self.added.notify_waiters();
    }

    async fn dial(&self, shared: &Arc<Shared>) -> Result<Connection, LaneError> {
        let _one_dial = self.dialling.lock().await;
        if !self.dials.load(Relaxed) {
            // Whoever waits for an arrival beside this sees it first.
            sleep(GRACE).await;
        }
        if let Some(connection) = self.newest() {
            return Ok(connection);
        }
        let id = EndpointId::from_bytes(self.device.as_bytes())
            .map_err(|error| LaneError::Dial(error.to_string()))?;
        let connection = match timeout(DIAL_TIMEOUT, self.endpoint.connect(id, OBJECTS_ALPN)).await
        {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(LaneError::Dial(format!("{error:#}"))),
            Err(_) => return Err(LaneError::Dial("no answer".to_owned())),
        };
        self.serve(shared, connection.clone(), serve::answer);
        self.keep(connection.clone());
        Ok(connection)
    }

    /// Has `answer` answer each stream of `connection`, no more of the device's at once than
    /// [`MAX_STREAMS`], until it closes.
    pub(crate) fn serve<A>(
        &self,
        shared: &Arc<Shared>,
        connection: Connection,
        answer: impl Fn(Arc<Shared>, DeviceId, Connection, SendStream, RecvStream) -> A
        + Send
        + Sync
        + 'static,
    ) where
        A: Future<Output = ()> + Send + 'static,
    {
        let (shared, device, served) = (shared.clone(), self.device, self.served.clone());
        let tasks = shared.tasks.clone();
        let span = error_span!("serve", peer = %device.short());
        tasks.spawn(
            async move {
                let cancel = shared.cancel.clone();
                loop {
                    let stream = tokio::select! {
                        () = cancel.cancelled() => return,
                        stream = async {
                            let stream = connection.accept_bi().await;
                            (stream, served.clone().acquire_owned().await)
                        } => stream,
                    };
                    let (Ok((send, recv)), Ok(permit)) = stream else {
                        debug!("no more requests on this connection");
                        return;
                    };
                    let answer = answer(shared.clone(), device, connection.clone(), send, recv);
                    let cancel = shared.cancel.clone();
                    shared.tasks.spawn(
                        async move {
                            tokio::select! {
                                () = cancel.cancelled() => {}
                                () = answer => {}
                            }
                            drop(permit);
                        }
                        .in_current_span(),
                    );
                }
            }
            .instrument(span),
        );
    }
}

/// Takes an object connection that `device` dialled.
pub(crate) fn accepted(shared: &Arc<Shared>, device: DeviceId, connection: Connection) {
    if let Some(peer) = shared.peers.get(&device) {
        peer.lane.serve(shared, connection.clone(), serve::answer);
        peer.lane.keep(connection);
    }
}

#[cfg(test)]
mod tests {
    use iroh::EndpointAddr;
    use iroh::endpoint::{PortmapperConfig, presets};

    use super::*;

    #[tokio::test]
    async fn what_is_dialled_when_it_ends_is_not_kept() {
        let open = async || {
            let builder = Endpoint::builder(presets::Minimal)
                .alpns(vec![OBJECTS_ALPN.to_vec()])
                .portmapper_config(PortmapperConfig::Disabled)
                .clear_ip_transports();
            builder.bind_addr("127.0.0.1:0").unwrap().bind().await.unwrap()
        };
        let (here, there) = (open().await, open().await);
        let addr = EndpointAddr::new(there.id()).with_ip_addr(there.bound_sockets()[0]);
        let dial = async || {
            let accept = async { there.accept().await.unwrap().accept().unwrap().await };
            let (dialled, accepted) =
                tokio::join!(here.connect(addr.clone(), OBJECTS_ALPN), accept);
            (dialled.unwrap(), accepted.unwrap())
        };
        let lane = Lane::new(DeviceId::from_bytes(*there.id().as_bytes()), here.clone());
        let (first, _there) = dial().await;
        lane.keep(first.clone());
        lane.close(CODE_REPLACED, b"they parted");
        assert!(first.close_reason().is_some());
        let (second, _there) = dial().await;
        lane.keep(second.clone());
        assert!(second.close_reason().is_none(), "they may meet again");
        let (third, _there) = dial().await;
        lane.end(CODE_REPLACED, b"it ends");
        lane.keep(third.clone());
        assert!(second.close_reason().is_some() && third.close_reason().is_some());
        here.close().await;
        there.close().await;
    }

    #[test]
    fn the_window_fits_the_path() {
        assert_eq!(window_for(Duration::ZERO), VarInt::from_u32(NARROWEST_WINDOW));
        assert_eq!(window_for(Duration::MAX), VarInt::from_u32(WIDEST_WINDOW));
        let between = window_for(Duration::from_millis(50)).into_inner();
        assert!(between > u64::from(NARROWEST_WINDOW) && between < u64::from(WIDEST_WINDOW));
    }
}
