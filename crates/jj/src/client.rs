//! The storage that a daemon keeps, over its Unix socket.
//!
//! A thread of its own talks to it; whoever asks waits for a word from there, on any executor. What
//! is put is sent at once and answered by the next barrier alone; until then it is kept here, too.
//! When the connection is lost, another one is made, and what has no answer is asked again: nothing
//! is lost that is still here, and what a barrier has acknowledged is with the daemon, whatever
//! becomes of it. A change of heads that was done by a daemon which was killed before it had said so
//! is done again by the next one: see [`Storage::update_heads`].

mod cache;
mod driver;
mod error;
mod line;
mod outbox;

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use ark_control::jj::{Answer, Ask, MAX_ANSWERS_AT_ONCE, MAX_HEADER_BYTES, MAX_IDS};
use ark_core::{Link, MAX_OBJECT_BYTES, Object, ObjectId, ObjectKind};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;

use crate::storage::{Storage, StorageError};
use cache::Cache;
use driver::Shared;
use line::Waiting;

pub use error::ClientError;

/// A repo of a daemon.
pub struct Client {
    shared: Arc<Shared>,
    cache: Cache,
    /// The thread ends when this goes.
    alive: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    /// Connects to the daemon whose store is at `store`, for the repo of that id in its config.
    /// Blocks until it has answered.
    ///
    /// # Errors
    /// No daemon runs there, or it refuses.
    pub fn connect(store: impl Into<PathBuf>, repo: &str) -> Result<Self, ClientError> {
        let shared = Arc::new(Shared::new(store.into(), repo.to_owned()));
        let (alive, ended) = oneshot::channel();
        let (connected, outcome) = mpsc::channel();
        let talking = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("ark-jj".into())
            .spawn(move || talk(&talking, &connected, ended))
            .map_err(ClientError::no_thread)?;
        let client =
            Self { shared, cache: Cache::default(), alive: Some(alive), thread: Some(thread) };
        let stopped = || ClientError::no_thread(io::Error::other("it stopped"));
        outcome.recv().map_err(|_| stopped())??;
        Ok(client)
    }

    /// What somebody who asked is told.
    async fn hear(&self, waiting: Waiting) -> Result<Answer, ClientError> {
        self.shared.ring();
        let stopped = |_| ClientError::no_thread(io::Error::other("it stopped"));
        waiting.await.map_err(stopped)?
    }

    async fn ask(&self, ask: Ask) -> Result<Answer, ClientError> {
        let waiting = self.shared.line().ask(ask);
        self.hear(waiting).await
    }
}

/// What does not fit into a frame is never sent: it would end each connection anew.
fn fits(length: usize, limit: usize) -> Result<(), ClientError> {
    if length <= limit { Ok(()) } else { Err(ClientError::TooLarge { length, limit }) }
}

/// Connects, says how that went, and goes on until the client has ended.
fn talk(
    shared: &Shared,
    connected: &mpsc::Sender<Result<(), ClientError>>,
    ended: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            // Who connects waits for this; so below.
            drop(connected.send(Err(ClientError::no_thread(error))));
            return;
        }
    };
    runtime.block_on(async {
        let talking = async {
            match shared.begin().await {
                Ok(connection) => {
                    drop(connected.send(Ok(())));
                    shared.drive(connection).await;
                }
                Err(error) => drop(connected.send(Err(shared.not_connected(error)))),
            }
        };
        tokio::select! {
            () = talking => {}
            _ = ended => {}
        }
    });
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to say any more.
            drop(thread.join());
        }
    }
}

#[async_trait]
impl Storage for Client {
    async fn get(&self, link: Link) -> Result<Bytes, StorageError> {
        let held = self.shared.line().get(link);
        if let Some(bytes) = held.or_else(|| self.cache.get(link)) {
            return Ok(bytes);
        }
        match self.ask(Ask::Get(link)).await? {
            Answer::Object(bytes) if ObjectId::of(&bytes) == link.id => {
                self.cache.insert(link, bytes.clone());
                Ok(bytes)
            }
            Answer::Absent => Err(StorageError::NotFound { link }),
            _ => Err(ClientError::Unexpected.into()),
        }
    }

    async fn put(&self, object: Object) -> Result<(), StorageError> {
        fits(object.bytes().len(), MAX_OBJECT_BYTES)?;
        loop {
            let room = self.shared.line().put(object.clone())?;
            let Some(room) = room else { break };
            self.hear(room).await?;
        }
        self.shared.ring();
        if object.link().kind.is_structured() {
            self.cache.insert(object.link(), object.into_bytes());
        }
        Ok(())
    }

    async fn barrier(&self) -> Result<(), StorageError> {
        let waiting = self.shared.line().barrier();
        if let Some(waiting) = waiting {
            self.hear(waiting).await?;
        }
        Ok(())
    }

    async fn ids(
        &self,
        kind: ObjectKind,
        range: RangeInclusive<ObjectId>,
        limit: usize,
    ) -> Result<Vec<ObjectId>, StorageError> {
        let (mut found, mut from) = (Vec::new(), *range.start());
        while found.len() < limit {
            let at_once = (limit - found.len()).min(MAX_IDS);
            let ask = Ask::Ids { kind, range: from..=*range.end(), limit: at_once };
            let Answer::Ids(ids) = self.ask(ask).await? else {
                return Err(ClientError::Unexpected.into());
            };
            let is_all = ids.len() < at_once;
            found.extend(ids);
            match found.last().and_then(|&last| crate::id::next(last)) {
                Some(next) if !is_all && next <= *range.end() => from = next,
                _ => break,
            }
        }
        Ok(found)
    }

    async fn heads(&self) -> Result<Vec<ObjectId>, StorageError> {
        match self.ask(Ask::Heads).await? {
            Answer::Ids(heads) => Ok(heads),
            _ => Err(ClientError::Unexpected.into()),
        }
    }

    async fn update_heads(
        &self,
        old: &[ObjectId],
        new: Option<ObjectId>,
    ) -> Result<(), StorageError> {
        fits(size_of_val(old), MAX_HEADER_BYTES / 2)?;
        match self.ask(Ask::UpdateHeads { old: old.to_vec(), new }).await? {
            Answer::Done => Ok(()),
            _ => Err(ClientError::Unexpected.into()),
        }
    }

    async fn replace_heads(&self, old: &[ObjectId], new: ObjectId) -> Result<bool, StorageError> {
        fits(size_of_val(old), MAX_HEADER_BYTES / 2)?;
        match self.ask(Ask::ReplaceHeads { old: old.to_vec(), new }).await? {
            Answer::Done => Ok(true),
            Answer::Changed => Ok(false),
            _ => Err(ClientError::Unexpected.into()),
        }
    }

    /// As many as the daemon reads at once, and as many on the way there and back.
    fn concurrency(&self) -> usize {
        2 * MAX_ANSWERS_AT_ONCE
    }
}
