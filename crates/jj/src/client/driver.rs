//! The thread that talks to the daemon, for as long as there is a client.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ark_control::jj::{JjReader, JjWriter, connect_jj};
use ark_control::{ClientError as ControlError, FrameError};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::error::ClientError;
use super::line::{Heard, Line};

/// How long a daemon that ended is waited for: another one may be about to take its place, which
/// first has to look through its store.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two connections, and two tries to make one.
const PAUSE: Duration = Duration::from_millis(50);
/// How many first connections may end unanswered before that is an error. A daemon that takes up
/// another config lets go of who came just then, and hears the next one.
const MAX_UNANSWERED: usize = 8;
/// How long answers may take to come, from a daemon that hears nothing more: it is ending, and waits
/// for half as long itself until they are taken.
const LAST_WORDS: Duration = Duration::from_secs(10);

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

    async fn connect(&self) -> Result<(JjReader, JjWriter), ControlError> {
        connect_jj(&self.store, &self.repo).await
    }

    /// The first connection. Where no daemon runs that is told at once.
    pub(super) async fn begin(&self) -> Result<(JjReader, JjWriter), ControlError> {
        for _ in 1..MAX_UNANSWERED {
            match self.connect().await {
                Err(ControlError::Ended | ControlError::Frame(FrameError::Io(_))) => {
                    tokio::time::sleep(PAUSE).await;
                }
                outcome => return outcome,
            }
        }
        self.connect().await
    }

    pub(super) fn not_connected(&self, error: ControlError) -> ClientError {
        ClientError::not_connected(&self.store, error)
    }

    /// Talks, on this connection and, when it is lost, on others.
    pub(super) async fn drive(&self, mut connection: (JjReader, JjWriter)) {
        loop {
            let (reader, writer) = connection;
            self.converse(reader, writer).await;
            self.line().lost();
            tokio::time::sleep(PAUSE).await;
            connection = self.reconnect().await;
        }
    }

    async fn converse(&self, mut reader: JjReader, mut writer: JjWriter) {
        let mut listening = std::pin::pin!(self.listen(&mut reader));
        tokio::select! {
            () = &mut listening => {}
            // What was done before it is answered; asked again it might be done twice.
            () = self.speak(&mut writer) => {
                drop(tokio::time::timeout(LAST_WORDS, listening).await);
            }
        }
    }

    /// Hears answers until the connection is of no use.
    async fn listen(&self, reader: &mut JjReader) {
        // However it ended: what was asked is asked again, and whether that helps shows then.
        while let Ok(Some((number, answer))) = reader.next().await {
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
