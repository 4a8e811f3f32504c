//! The daemon's side of the control socket.

use std::sync::Arc;
use std::time::Duration;

use ark_control::jj::serve_jj;
use ark_control::{FrameError, Request, Response, read_request, write_response};
use ark_store::JjRepo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::house::House;
use super::{jj, wait};

/// Connections served at once; more wait. Each is one `ark status` or `ark wait` of the owner.
const MAX_CONNECTIONS: usize = 64;
/// jj processes served at once: some wait for hours, in a pager. More are refused, so that whoever
/// asks how things are still gets an answer.
const MAX_JJ_PROCESSES: usize = 256;
/// A status is not drawn more often than this, whatever a client asks.
const MIN_WATCH_INTERVAL: Duration = Duration::from_millis(100);
/// Nobody waits longer; an instant in a million years cannot be represented.
const MAX_WAIT: Duration = Duration::from_hours(2 * 366 * 24);
/// After a failed accept (no file descriptors left, say) others get time to free some.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Serves until `stop`.
pub(super) async fn serve(
    listener: Arc<UnixListener>,
    house: Arc<House>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let processes = Arc::new(Semaphore::new(MAX_JJ_PROCESSES));
    let accept = async {
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (house, stop) = (Arc::clone(&house), stop.clone());
                    let processes = Arc::clone(&processes);
                    tasks.spawn(connection(stream, house, slot, processes, stop));
                }
                Err(error) => {
                    warn!("cannot accept on the control socket: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    stop.run_until_cancelled(accept).await;
}

/// One connection, to its end.
async fn connection(
    mut stream: UnixStream,
    house: Arc<House>,
    slot: OwnedSemaphorePermit,
    processes: Arc<Semaphore>,
    stop: CancellationToken,
) {
    let ended = match stop.run_until_cancelled(converse(&mut stream, &house, &processes)).await {
        None | Some(Ok(None)) => Ok(()),
        Some(Err(error)) => Err(error),
        Some(Ok(Some((repo, _process)))) => {
            // It is the store's from here on.
            drop((house, slot));
            serve_jj(stream, jj::Leased::new(repo), &stop).await
        }
    };
    if let Err(error) = ended {
        debug!("a control connection ended: {error}");
    }
}

/// Answers one question after the other; comes back with the repo when it is jj that asks.
async fn converse(
    stream: &mut UnixStream,
    house: &House,
    processes: &Arc<Semaphore>,
) -> Result<Option<(JjRepo, OwnedSemaphorePermit)>, FrameError> {
    let (mut reader, mut writer) = stream.split();
    loop {
        let request = match read_request(&mut reader).await {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(None),
            Err(error) => {
                if matches!(error, FrameError::Version { .. }) {
                    // Of the answer it understands that its version is another, too.
                    write_response(&mut writer, &Response::Refused(error.to_string())).await?;
                }
                return Err(error);
            }
        };
        match request {
            Request::Status => {
                write_response(&mut writer, &Response::Status(house.status())).await?;
            }
            Request::Watch { interval_ms } => {
                let interval = Duration::from_millis(interval_ms).max(MIN_WATCH_INTERVAL);
                tokio::select! {
                    result = watch(&mut writer, house, interval) => return result.map(|()| None),
                    () = hung_up(&mut reader) => return Ok(None),
                }
            }
            Request::Jj { version, repo } => {
                let process = Arc::clone(processes).try_acquire_owned();
                let process = process.map_err(|_| format!("{MAX_JJ_PROCESSES} jj processes run"));
                let granted = process.and_then(|it| Ok((jj::grant(house, version, &repo)?, it)));
                let response = match &granted {
                    Ok(_) => Response::Jj,
                    Err(why) => Response::Refused(why.clone()),
                };
                write_response(&mut writer, &response).await?;
                if let Ok(granted) = granted {
                    return Ok(Some(granted));
                }
            }
            Request::Wait { repo, timeout_ms } => {
                let timeout = Duration::from_millis(timeout_ms).min(MAX_WAIT);
                let deadline = Instant::now() + timeout;
                let outcome = tokio::select! {
                    outcome = wait::wait(house, repo.as_deref(), deadline) => outcome,
                    () = hung_up(&mut reader) => return Ok(None),
                };
                write_response(&mut writer, &Response::Wait(outcome)).await?;
            }
        }
    }
}

/// Returns when the client is gone, or says something before it was answered, which none does.
async fn hung_up(reader: &mut (impl AsyncRead + Unpin)) {
    // Whatever comes means the same.
    let _ = reader.read_u8().await;
}

async fn watch(
    writer: &mut (impl AsyncWrite + Unpin),
    house: &House,
    interval: Duration,
) -> Result<(), FrameError> {
    let mut changes = house.watch();
    loop {
        changes.mark_unchanged();
        write_response(writer, &Response::Status(house.status())).await?;
        tokio::time::sleep(interval).await;
        if changes.changed().await.is_err() {
            return Ok(());
        }
    }
}
