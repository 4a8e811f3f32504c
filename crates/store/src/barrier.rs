//! The barrier between bytes and what speaks of them: blobs are made durable, then the index
//! commits. Callers that come while one is under way share the next.

use std::sync::Arc;

use redb::WriteTransaction;
use tokio::sync::{mpsc, oneshot};

use crate::blobs::{Blobs, Import, Tag};
use crate::error::{BlobError, DiskError, IndexError};
use crate::failpoint::Failpoints;
use crate::index::{self, Apply, Group};

/// Callers that may wait for the barrier: more wait for room.
const QUEUE: usize = 64;
/// The most callers that share one.
const MAX_SHARED: usize = 64;

struct Request {
    imports: Vec<Arc<Import>>,
    /// A tag that must be durable too.
    tag: Option<Tag>,
    apply: Apply,
    /// Hears of the blobs' failure; without one, `committed` hears of the index.
    failed: oneshot::Sender<BlobError>,
    committed: oneshot::Sender<Result<(), IndexError>>,
}

enum Command {
    Pass(Request),
    Close(oneshot::Sender<()>),
}

/// The way to the barrier. Cheap to clone; its task ends with the last clone.
#[derive(Clone, Debug)]
pub(crate) struct Barrier {
    commands: mpsc::Sender<Command>,
}

impl Barrier {
    /// Starts the barrier's task.
    pub(crate) fn start(blobs: Blobs, index: index::Writer, failpoints: Failpoints) -> Self {
        let (commands, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(run(blobs, index, failpoints, receiver));
        Self { commands }
    }

    /// Makes `imports` and `tag` durable, then runs `change` in the index and waits until that is
    /// durable. The imports must have ended. Where it fails, what it was for is not in the index,
    /// unless the disk lies.
    pub(crate) async fn pass<T: Send + 'static>(
        &self,
        imports: Vec<Arc<Import>>,
        tag: Option<Tag>,
        change: impl FnOnce(&WriteTransaction) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, DiskError> {
        let (apply, result) = index::with_result(change);
        let (failed, blobs_failed) = oneshot::channel();
        let (committed, index_heard) = oneshot::channel();
        let request = Request { imports, tag, apply, failed, committed };
        let closed = DiskError::Index(IndexError::Closed);
        if self.commands.send(Command::Pass(request)).await.is_err() {
            return Err(closed);
        }
        // The barrier drops `failed` unused when the blobs are durable.
        if let Ok(error) = blobs_failed.await {
            return Err(DiskError::Blob(error));
        }
        match index_heard.await {
            Ok(Ok(())) => result.await.map_err(|_| closed),
            Ok(Err(error)) => Err(DiskError::Index(error)),
            Err(_) => Err(closed),
        }
    }

    /// Ends the barrier after those who wait at it.
    pub(crate) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Close(done)).await.is_ok() {
            drop(closed.await);
        }
    }
}

async fn run(
    blobs: Blobs,
    index: index::Writer,
    failpoints: Failpoints,
    mut commands: mpsc::Receiver<Command>,
) {
    while let Some(first) = commands.recv().await {
        let mut requests = Vec::new();
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Pass(request) => requests.push(request),
                Command::Close(done) => {
                    serve(&blobs, &index, &failpoints, requests).await;
                    let _ = done.send(());
                    return;
                }
            }
            next = (requests.len() < MAX_SHARED).then(|| commands.try_recv().ok()).flatten();
        }
        serve(&blobs, &index, &failpoints, requests).await;
    }
}

async fn serve(
    blobs: &Blobs,
    index: &index::Writer,
    failpoints: &Failpoints,
    mut requests: Vec<Request>,
) {
    let imports: Vec<_> =
        requests.iter_mut().flat_map(|request| std::mem::take(&mut request.imports)).collect();
    let tags: Vec<_> = requests.iter().filter_map(|request| request.tag).collect();
    let mut synced = blobs.sync(&imports, &tags).await;
    if synced.is_ok() {
        let hit = failpoints.hit("index");
        synced = hit.map_err(|e| BlobError::Io { what: "index", source: Arc::new(e) });
    }
    match synced {
        Ok(()) => {
            // Held until the commit: who asks for one of these objects meanwhile must find
            // either its import or its row.
            let mut group = Group::holding(imports);
            for request in requests {
                drop(request.failed);
                group.push(request.apply, request.committed);
            }
            index.submit(group).await;
        }
        Err(error) => {
            for request in requests {
                drop(request.failed.send(error.clone()));
            }
        }
    }
}
