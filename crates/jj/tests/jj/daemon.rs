//! A daemon in this process, over a storage in memory: its socket, and the other end of what a
//! client says. What was put and is behind no barrier is gone with the connection, as a lease is.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ark_control::jj::{Repository, serve_jj};
use ark_control::{Request, Response, read_request, write_response};
use ark_core::{Link, Object, ObjectId, ObjectKind};
use ark_jj::{Client, Storage, StorageError};
use bytes::Bytes;
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::support::Memory;

/// The repo that it has.
const REPO: &str = "repo";

/// A machine with a storage and perhaps a running daemon.
pub struct Daemon {
    pub memory: Arc<Memory>,
    store: TempDir,
    runtime: Option<Runtime>,
}

impl Daemon {
    pub fn start() -> Self {
        let store = tempfile::tempdir().unwrap();
        let mut daemon = Self { memory: Memory::new(), store, runtime: None };
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
        runtime.spawn(accept(listener, Arc::clone(&self.memory)));
        self.runtime = Some(runtime);
    }

    pub fn store(&self) -> &Path {
        self.store.path()
    }

    pub fn client(&self) -> Arc<Client> {
        Arc::new(Client::connect(self.store(), REPO).unwrap())
    }
}

async fn accept(listener: UnixListener, memory: Arc<Memory>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(converse(stream, Arc::clone(&memory)));
    }
}

async fn converse(mut stream: UnixStream, memory: Arc<Memory>) {
    let granted = match read_request(&mut stream).await.unwrap() {
        Some(Request::Jj { repo, .. }) if repo == REPO => Response::Jj,
        _ => Response::Refused("there is no such repo".into()),
    };
    write_response(&mut stream, &granted).await.unwrap();
    if granted == Response::Jj {
        // A client that is gone is no failure of this end.
        let lent = Lent { memory, lease: Mutex::default() };
        let _ = serve_jj(stream, lent, &CancellationToken::new()).await;
    }
}

/// The storage, and what one client has put since the last barrier.
struct Lent {
    memory: Arc<Memory>,
    lease: Mutex<Vec<Object>>,
}

impl Lent {
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

    async fn put(&self, object: Object) -> Result<(), String> {
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
        self.memory.update_heads(&old, new).await.map_err(words)
    }

    async fn replace_heads(&self, old: Vec<ObjectId>, new: ObjectId) -> Result<bool, String> {
        self.memory.replace_heads(&old, new).await.map_err(words)
    }
}
