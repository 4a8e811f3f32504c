//! The thread that talks to the daemon, for as long as there is a client.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ark_control::ClientError as ControlError;
use ark_control::jj::{JjReader, JjWriter, connect_jj};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::error::ClientError;
use super::line::{Heard, Line};

/// How long a daemon that ended is waited for: another one may be about to take its place, which
/// first has to look through its store.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many connections in a row may end without one answer before whoever waits is told: what is
/// asked may be what ends them.
const MAX_FRUITLESS: usize = 8;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// Where a daemon is, what is asked of it, and the bell that says so.
#[derive(Debug)]
pub(super) struct Shared {
    store: PathBuf,
    repo: String,
    line: Mutex<Line>,
    work: Notify,
}

impl Shared {
    pub(super) fn new(store: PathBuf, repo: String) -> Self {
        Self { store, repo, line: Mutex::default(), work: Notify::new() }
    }

    /// The state of all; whoever adds to it rings afterwards.
    pub(super) fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is something to send.
    pub(super) fn ring(&self) {
        self.work.notify_one();
    }

    pub(super) async fn connect(&self) -> Result<(JjReader, JjWriter), ControlError> {
        connect_jj(&self.store, &self.repo).await
    }

    pub(super) fn not_connected(&self, error: ControlError) -> ClientError {
        ClientError::not_connected(&self.store, error)
    }

    /// Talks, on this connection and, when it is lost, on others.
    pub(super) async fn drive(&self, mut connection: (JjReader, JjWriter)) {
        let mut fruitless = 0;
        loop {
            let (mut reader, mut writer) = connection;
            fruitless += 1;
            tokio::select! {
                () = self.listen(&mut reader, &mut fruitless) => {}
                () = self.speak(&mut writer) => {}
            }
            drop((reader, writer));
            self.line().lost();
            if fruitless > MAX_FRUITLESS {
                self.line().give_up(&ClientError::Breaking);
                fruitless = 0;
            }
            connection = self.reconnect().await;
        }
    }

    /// Hears answers until the connection is of no use; with the first one it was not fruitless.
    async fn listen(&self, reader: &mut JjReader, fruitless: &mut usize) {
        // However it ended: what was asked is asked again, and whether that helps shows then.
        while let Ok(Some((number, answer))) = reader.next().await {
            *fruitless = 0;
            let heard = self.line().answered(number, answer);
            if heard == Heard::BeginAnew {
                return;
            }
            // There may be room again, or a barrier due.
            self.ring();
        }
    }

    /// Sends what there is, until the connection is of no use.
    async fn speak(&self, writer: &mut JjWriter) {
        loop {
            let next = self.line().send();
            let sent = match next {
                Some((number, ask)) => writer.ask(number, &ask).await,
                None => match writer.flush().await {
                    Ok(()) => {
                        self.work.notified().await;
                        Ok(())
                    }
                    failed => failed,
                },
            };
            if sent.is_err() {
                return;
            }
        }
    }

    /// Another connection. Who waits for an answer is told if there is none for long, and then at
    /// once when there is none still.
    async fn reconnect(&self) -> (JjReader, JjWriter) {
        let mut patience = PATIENCE;
        loop {
            while !self.line().is_awaited() {
                self.work.notified().await;
            }
            let deadline = Instant::now() + patience;
            let error = loop {
                match self.connect().await {
                    Ok(connection) => return connection,
                    Err(error) if !error.is_absent() || Instant::now() >= deadline => break error,
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            };
            let error = self.not_connected(error);
            self.line().give_up(&error);
            patience = Duration::ZERO;
        }
    }
}
