//! A daemon in this process, over a storage in memory: its socket, and the other end of what a
//! client says. What was put and is behind no barrier is gone with the connection, as a lease is.

use std::net::Shutdown;
use std::ops::RangeInclusive;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ark_control::jj::{PutFailure, Repository, serve_jj};
use ark_control::{Request, Response, read_request, write_response};
use ark_core::{Link, Object, ObjectId, ObjectKind};
use ark_jj::{Client, Storage, StorageError};
use bytes::Bytes;
use pollster::FutureExt as _;
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::support::Memory;

/// The repo that it has.
const REPO: &str = "repo";
/// The object that it never takes in.
pub const REFUSED: &[u8] = b"refused";

/// How long a daemon that hears nothing more gives the client to come back, before it answers.
const DEAF: Duration = Duration::from_millis(300);

/// A machine with a storage and perhaps a running daemon.
pub struct Daemon {
    pub memory: Arc<Memory>,
    ears: Arc<Ears>,
    store: TempDir,
    runtime: Option<Runtime>,
}

impl Daemon {
    pub fn start() -> Self {
        let store = tempfile::tempdir().unwrap();
        let mut daemon = Self { memory: Memory::new(), ears: Arc::default(), store, runtime: None };
        daemon.restart();
        daemon
    }

    /// Ends at once whatever it does.
    pub fn kill(&mut self) {
        self.runtime = None;
    }

    /// Starts one in the place of the one that was killed.
    pub fn restart(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(async { ark_control::bind(self.store.path()).unwrap() });
        runtime.spawn(accept(listener, Arc::clone(&self.memory), Arc::clone(&self.ears)));
        self.runtime = Some(runtime);
    }

    /// Hears nothing more on a connection that asks it to update the heads, as one does that ends.
    pub fn deafen_on_update(&self) {
        self.ears.deafens.store(true, Ordering::SeqCst);
    }

    pub fn await_deaf(&self) {
        let mut is_deaf = self.ears.is_deaf.subscribe();
        is_deaf.wait_for(|is_deaf| *is_deaf).block_on().unwrap();
    }

    /// How often it was asked to update the heads.
    pub fn updates(&self) -> usize {
        self.ears.updates.load(Ordering::SeqCst)
    }

    pub fn store(&self) -> &Path {
        self.store.path()
    }

    pub fn client(&self) -> Arc<Client> {
        Arc::new(Client::connect(self.store(), REPO).unwrap())
    }
}

/// What it hears.
#[derive(Default)]
struct Ears {
    deafens: AtomicBool,
    is_deaf: watch::Sender<bool>,
    connections: watch::Sender<usize>,
    updates: AtomicUsize,
}

async fn accept(listener: UnixListener, memory: Arc<Memory>, ears: Arc<Ears>) {
    while let Ok((stream, _)) = listener.accept().await {
        ears.connections.send_modify(|connections| *connections += 1);
        tokio::spawn(converse(stream, Arc::clone(&memory), Arc::clone(&ears)));
    }
}

async fn converse(mut stream: UnixStream, memory: Arc<Memory>, ears: Arc<Ears>) {
    let granted = match read_request(&mut stream).await.unwrap() {
        Some(Request::Jj { repo, .. }) if repo == REPO => Response::Jj,
        _ => Response::Refused("there is no such repo".into()),
    };
    write_response(&mut stream, &granted).await.unwrap();
    if granted == Response::Jj {
        // A client that is gone is no failure of this end.
        let socket = stream.as_fd().try_clone_to_owned().unwrap().into();
        let lent = Lent { memory, lease: Mutex::default(), socket, ears };
        let _ = serve_jj(stream, lent, &CancellationToken::new()).await;
    }
}

/// The storage, and what one client has put since the last barrier.
struct Lent {
    memory: Arc<Memory>,
    lease: Mutex<Vec<Object>>,
    socket: std::os::unix::net::UnixStream,
    ears: Arc<Ears>,
}

impl Lent {
    async fn deafen(&self) {
        let mut connections = self.ears.connections.subscribe();
        let before = *connections.borrow();
        self.socket.shutdown(Shutdown::Read).unwrap();
        self.ears.is_deaf.send_replace(true);
        let is_back = connections.wait_for(|&connections| connections > before);
        drop(tokio::time::timeout(DEAF, is_back).await);
    }

    fn take(&self) -> Vec<Object> {
        std::mem::take(&mut *self.lease.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn words(error: StorageError) -> String {
    match error {
        StorageError::Failed(source) => source.to_string(),
        error => error.to_string(),
    }
}

impl Repository for Lent {
    async fn get(&self, link: Link) -> Result<Option<Bytes>, String> {
        match self.memory.get(link).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StorageError::NotFound { .. }) => Ok(None),
            Err(error) => Err(words(error)),
        }
    }

    async fn put(&self, object: Object) -> Result<(), PutFailure> {
        if object.bytes().as_ref() == REFUSED {
            return Err(PutFailure::Refused("nobody wants this".into()));
        }
        self.lease.lock().unwrap_or_else(PoisonError::into_inner).push(object);
        Ok(())
    }

    async fn barrier(&self) -> Result<(), String> {
        for object in self.take() {
            self.memory.put(object).await.map_err(words)?;
        }
        self.memory.barrier().await.map_err(words)
    }

    async fn ids(
        &self,
        kind: ObjectKind,
        range: RangeInclusive<ObjectId>,
        limit: usize,
    ) -> Result<Vec<ObjectId>, String> {
        self.memory.ids(kind, range, limit).await.map_err(words)
    }

    async fn heads(&self) -> Result<Vec<ObjectId>, String> {
        self.memory.heads().await.map_err(words)
    }

    async fn update_heads(&self, old: Vec<ObjectId>, new: Option<ObjectId>) -> Result<(), String> {
        self.ears.updates.fetch_add(1, Ordering::SeqCst);
        if self.ears.deafens.swap(false, Ordering::SeqCst) {
            self.deafen().await;
        }
        self.memory.update_heads(&old, new).await.map_err(words)
    }

    async fn replace_heads(&self, old: Vec<ObjectId>, new: ObjectId) -> Result<bool, String> {
        self.memory.replace_heads(&old, new).await.map_err(words)
    }
}
