//! One task per listed device: keeps one sync connection with it, dials again when it is lost.
//!
//! Both sides dial. Where both succeed at about the same time, the connection dialled by the
//! device with the smaller id stays, and both see it so. Otherwise the newer one stays: a peer
//! that dials again no longer has the old one, whatever this side still believes of it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ark_core::DeviceId;
use iroh::EndpointId;
use iroh::endpoint::{Connection, ConnectionError};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{Instrument, debug, error_span};

use crate::access::{CODE_NOT_LISTED, SYNC_ALPN};
use crate::backoff::Backoff;
use crate::session;
use crate::shared::{CODE_DUPLICATE, CODE_REPLACED, CODE_SHUTDOWN, PeerHandle, Shared, close};

/// Accepted connections that wait for the task. It only ever decides, so they do not wait long.
pub(crate) const ACCEPTED_CAPACITY: usize = 8;
/// A dial that takes longer is given up. iroh itself gives up after some ten seconds.
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// Connections of both directions made within this time are one meeting, dialled from both
/// sides: longer than a handshake takes, short against how soon a restarted peer is missed.
const SAME_MEETING: Duration = Duration::from_secs(3);
/// A connection that lasted this long was a good one: the next dial comes at once.
const GOOD_AFTER: Duration = Duration::from_secs(3);

type Dial = Pin<Box<dyn Future<Output = Result<Connection, String>> + Send>>;

/// The sync connection that stands.
struct Current {
    connection: Connection,
    dialled_here: bool,
    since: Instant,
    session: AbortHandle,
}

struct Peer {
    shared: Arc<Shared>,
    device: DeviceId,
    handle: Arc<PeerHandle>,
    current: Option<Current>,
    dial: Option<Dial>,
    dial_since: Instant,
    next_dial: Instant,
    backoff: Backoff,
    /// Sessions of the current connection and of those just replaced.
    sessions: JoinSet<()>,
}

/// Runs until shutdown, or until the device is listed no more.
pub(crate) async fn run(
    shared: Arc<Shared>,
    (device, handle): (DeviceId, Arc<PeerHandle>),
    accepted: mpsc::Receiver<Connection>,
    network: watch::Receiver<()>,
) {
    let span = error_span!("peer", peer = %device.short());
    let peer = Peer {
        shared,
        device,
        handle,
        current: None,
        dial: None,
        dial_since: Instant::now(),
        next_dial: Instant::now(),
        backoff: Backoff::new(),
        sessions: JoinSet::new(),
    };
    peer.run(accepted, network).instrument(span).await;
}

impl Peer {
    async fn run(
        mut self,
        mut accepted: mpsc::Receiver<Connection>,
        mut network: watch::Receiver<()>,
    ) {
        let end = self.handle.life.end.clone();
        loop {
            let may_dial = self.current.is_none() && self.dial.is_none();
            tokio::select! {
                () = end.cancelled() => break,
                Some(connection) = accepted.recv() => self.accepted(connection),
                result = dialled(&mut self.dial) => {
                    self.dial = None;
                    match result {
                        Ok(connection) => self.offer(connection, true),
                        Err(reason) => self.dial_failed(&reason),
                    }
                }
                () = sleep_until(self.next_dial), if may_dial => self.start_dial(),
                Ok(()) = network.changed() => {
                    // This machine came to another network: waiting has lost its reason.
                    self.dial_soon();
                }
                () = self.handle.moved.notified() => {
                    // So has a dial that is under way: it does not know of the other place.
                    self.dial = None;
                    self.dial_soon();
                }
                Some(result) = self.sessions.join_next_with_id() => {
                    self.session_ended(result.map(|(id, ())| id));
                }
            }
        }
        let is_shutdown = self.shared.cancel.is_cancelled();
        let (code, reason): (_, &[u8]) = if is_shutdown {
            (CODE_SHUTDOWN, b"shutting down")
        } else {
            (CODE_REPLACED, b"the config has changed")
        };
        if let Some(current) = self.current.take() {
            close(&current.connection, code, reason);
        }
        self.handle.lane.close(code, reason);
        if !is_shutdown {
            // They end by themselves and tell their repos, some of which go on.
            let sessions = async { while self.sessions.join_next().await.is_some() {} };
            tokio::select! {
                () = sessions => {}
                () = self.shared.cancel.cancelled() => {}
            }
        }
        self.sessions.shutdown().await;
        self.handle.board.disconnected();
    }

    /// Dials at once, where no connection stands.
    fn dial_soon(&mut self) {
        self.backoff = Backoff::new();
        self.next_dial = Instant::now();
    }

    fn start_dial(&mut self) {
        let endpoint = self.shared.endpoint.clone();
        let device = self.device;
        self.dial_since = Instant::now();
        self.dial = Some(Box::pin(async move {
            let id = EndpointId::from_bytes(device.as_bytes()).map_err(|e| e.to_string())?;
            match timeout(DIAL_TIMEOUT, endpoint.connect(id, SYNC_ALPN)).await {
                Ok(Ok(connection)) => Ok(connection),
                Ok(Err(error)) => Err(format!("{error:#}")),
                Err(_) => Err("no answer".to_owned()),
            }
        }));
    }

    fn dial_failed(&mut self, reason: &str) {
        debug!(reason, "dialling failed");
        self.wait_to_dial();
    }

    fn wait_to_dial(&mut self) {
        self.next_dial = Instant::now() + self.backoff.next(rand::random());
    }

    fn accepted(&mut self, connection: Connection) {
        // Of two dials at a time that of the smaller id stays. One that has been going nowhere for
        // long is no longer of this meeting: it would only take the place of a good connection.
        let stale = self.dial_since.elapsed() >= SAME_MEETING / 2;
        if self.shared.device > self.device || stale {
            self.dial = None;
        }
        self.offer(connection, false);
    }

    /// A connection came about: keeps it or the one that stands.
    fn offer(&mut self, connection: Connection, dialled_here: bool) {
        if let Some(current) = &self.current {
            let one_meeting = current.since.elapsed() < SAME_MEETING
                && current.dialled_here != dialled_here
                && current.connection.close_reason().is_none();
            let ours_stays = self.shared.device < self.device;
            if one_meeting && current.dialled_here == ours_stays {
                debug!(dialled_here, "closing a second connection");
                close(&connection, CODE_DUPLICATE, b"another connection stays");
                return;
            }
            let code = if one_meeting { CODE_DUPLICATE } else { CODE_REPLACED };
            close(&current.connection, code, b"a newer connection stays");
            if !one_meeting {
                // The peer started anew: what it had open is gone.
                self.handle.lane.close(CODE_REPLACED, b"the devices met anew");
            }
        }
        debug!(dialled_here, "a connection stands");
        self.handle.lane.met(dialled_here);
        self.handle.board.met();
        let of = (self.device, self.handle.clone());
        let session = session::run(self.shared.clone(), of, connection.clone(), dialled_here);
        let session = self.sessions.spawn(session.in_current_span());
        self.current = Some(Current { connection, dialled_here, since: Instant::now(), session });
    }

    fn session_ended(&mut self, result: Result<tokio::task::Id, JoinError>) {
        let id = result.unwrap_or_else(|error| error.id());
        // Sessions of replaced connections end on their own; nothing depends on them.
        let Some(current) = self.current.take_if(|current| current.session.id() == id) else {
            return;
        };
        let reason = current.connection.close_reason();
        close(&current.connection, CODE_REPLACED, b"the session ended");
        debug!(reason = ?reason, "the connection is gone");
        let PeerHandle { board, lane, .. } = &*self.handle;
        // A connection on which nothing was said left nothing open beside it.
        if board.disconnected() {
            lane.close(CODE_REPLACED, b"the devices parted");
        }
        let refused = matches!(&reason, Some(ConnectionError::ApplicationClosed(close))
            if close.error_code == CODE_NOT_LISTED);
        if refused {
            board.set_problem(Some("it does not list this device".to_owned()));
        }
        if current.since.elapsed() >= GOOD_AFTER {
            self.backoff = Backoff::new();
        }
        self.wait_to_dial();
    }
}

/// The end of the dial under way; never, where there is none.
async fn dialled(dial: &mut Option<Dial>) -> Result<Connection, String> {
    match dial {
        Some(dial) => dial.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use ark_core::TopicId;
    use iroh::SecretKey;
    use iroh::address_lookup::memory::MemoryLookup;
    use tokio::sync::{Notify, Semaphore};
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::access::Access;
    use crate::board::{Bell, PeerBoard, PeerPast};
    use crate::endpoint;
    use crate::lane::Lane;
    use crate::options::{Options, Relay};
    use crate::shared::{Handles, Life, Listing};

    /// Guards against waiting forever; nothing is asserted about time.
    const GUARD: Duration = Duration::from_mins(3);
    /// What nobody waits for.
    const NEVER: Duration = Duration::from_hours(24);

    /// An endpoint that lets nobody but `device` in.
    async fn open(
        key: &SecretKey,
        device: DeviceId,
    ) -> (iroh::Endpoint, Arc<Access>, MemoryLookup) {
        let options = Options {
            secret_key: key.clone(),
            bind: vec!["127.0.0.1:0".parse().unwrap()],
            relay: Relay::Disabled,
            discovery: Vec::new(),
            port_mapping: false,
            enumerate_threshold: crate::DEFAULT_ENUMERATE_THRESHOLD,
            lose_gossip: false,
        };
        let access = Arc::new(Access::new(Vec::new(), Bell::new()));
        access.list([(TopicId::derive("x", None), vec![device])]);
        let hints = MemoryLookup::new();
        (endpoint::open(&options, &access, hints.clone()).await.unwrap(), access, hints)
    }

    #[tokio::test]
    async fn who_is_elsewhere_is_dialled_there_whatever_is_waited_for() {
        let [here, there] = [1, 2].map(|_| SecretKey::generate());
        let [id, device] =
            [&here, &there].map(|key| DeviceId::from_bytes(*key.public().as_bytes()));
        let (endpoint, access, hints) = open(&here, device).await;
        let (other, ..) = open(&there, id).await;
        let cancel = CancellationToken::new();
        let shared = Arc::new(Shared {
            device: id,
            endpoint: endpoint.clone(),
            access,
            peers: Handles::new(),
            repos: Handles::new(),
            cancel: cancel.clone(),
            tasks: TaskTracker::new(),
            reconcilers: Arc::new(Semaphore::new(1)),
            enumerate_threshold: crate::DEFAULT_ENUMERATE_THRESHOLD,
            lose_gossip: false,
        });
        let board = PeerBoard::new(device, String::new(), PeerPast::default(), Bell::new());
        let (accepted, queue) = mpsc::channel(ACCEPTED_CAPACITY);
        let handle = Arc::new(PeerHandle {
            board: Arc::new(board),
            lane: Arc::new(Lane::new(device, endpoint.clone())),
            allowances: Mutex::default(),
            accepted,
            listing: Listing::default(),
            moved: Notify::new(),
            life: Life::within(&cancel),
        });
        // One dial hangs, and the next is far off.
        let peer = Peer {
            shared,
            device,
            handle: handle.clone(),
            current: None,
            dial: Some(Box::pin(std::future::pending())),
            dial_since: Instant::now(),
            next_dial: Instant::now() + NEVER,
            backoff: Backoff::new(),
            sessions: JoinSet::new(),
        };
        let (_network, changes) = watch::channel(());
        let task = tokio::spawn(peer.run(queue, changes));
        let addr = other.bound_sockets()[0];
        hints.set_endpoint_info(iroh::EndpointAddr::new(there.public()).with_ip_addr(addr));
        handle.moved.notify_one();
        let dialled = timeout(GUARD, other.accept()).await.expect("it is dialled");
        assert!(dialled.is_some());
        cancel.cancel();
        timeout(GUARD, task).await.expect("it ends").unwrap();
        endpoint.close().await;
        other.close().await;
    }
}
