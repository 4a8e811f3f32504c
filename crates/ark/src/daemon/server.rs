//! The daemon's side of the control socket.

use std::sync::Arc;
use std::time::Duration;

use ark_control::{FrameError, Request, Response, read_request, write_response};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::house::House;
use super::wait;

/// Connections served at once; more wait. Each is one `ark status` or `ark wait` of the owner.
const MAX_CONNECTIONS: usize = 64;
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
    let accept = async {
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let house = Arc::clone(&house);
                    let connection = async move {
                        if let Err(error) = converse(stream, &house).await {
                            debug!("a control connection ended: {error}");
                        }
                        drop(slot);
                    };
                    tasks.spawn(stop.clone().run_until_cancelled_owned(connection));
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

async fn converse(stream: UnixStream, house: &House) -> Result<(), FrameError> {
    let (mut reader, mut writer) = stream.into_split();
    while let Some(request) = read_request(&mut reader).await? {
        match request {
            Request::Status => {
                write_response(&mut writer, &Response::Status(house.status())).await?;
            }
            Request::Watch { interval_ms } => {
                let interval = Duration::from_millis(interval_ms).max(MIN_WATCH_INTERVAL);
                tokio::select! {
                    result = watch(&mut writer, house, interval) => return result,
                    () = hung_up(&mut reader) => return Ok(()),
                }
            }
            Request::Jj { .. } => {
                let why = "it serves no jj repositories".to_owned();
                write_response(&mut writer, &Response::Refused(why)).await?;
            }
            Request::Wait { repo, timeout_ms } => {
                let timeout = Duration::from_millis(timeout_ms).min(MAX_WAIT);
                let deadline = Instant::now() + timeout;
                let outcome = tokio::select! {
                    outcome = wait::wait(house, repo.as_deref(), deadline) => outcome,
                    () = hung_up(&mut reader) => return Ok(()),
                };
                write_response(&mut writer, &Response::Wait(outcome)).await?;
            }
        }
    }
    Ok(())
}

/// Returns when the client is gone, or says something before it was answered, which none does.
async fn hung_up(reader: &mut OwnedReadHalf) {
    // Whatever comes means the same.
    let _ = reader.read_u8().await;
}

async fn watch(
    writer: &mut OwnedWriteHalf,
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
