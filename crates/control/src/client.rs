//! The side that asks.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;

use crate::frame::{FrameError, read_response, write_request};
use crate::message::{Request, Response, Status, WaitOutcome};
use crate::socket::{self, socket_path};

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

/// Why a daemon gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No daemon runs on this store.
    #[error("no daemon runs on this store: nobody answers at {}", .path.display())]
    NotRunning {
        /// Its socket.
        path: PathBuf,
    },
    /// The socket cannot be used.
    #[error("cannot connect to the daemon at {}", .path.display())]
    Connect {
        /// Its socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It takes connections and answers nothing.
    #[error("the daemon has answered nothing for {} seconds", .limit.as_secs())]
    Silent {
        /// How long it was waited for.
        limit: Duration,
    },
    /// The connection failed, or what came was not understood.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The daemon ended before it answered.
    #[error("the daemon ended before it answered")]
    Ended,
    /// The daemon says no.
    #[error("the daemon refuses: {0}")]
    Refused(String),
    /// An answer to another question.
    #[error("the daemon gave an answer to another question")]
    Unexpected,
}

impl ClientError {
    /// Whether asking again may help: no daemon runs, or it ended.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::NotRunning { .. } | Self::Ended | Self::Frame(FrameError::Io(_)))
    }
}

impl Client {
    /// Connects to the daemon whose store is at `store_path`.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] or [`ClientError::Connect`].
    pub async fn connect(store_path: &Path) -> Result<Self, ClientError> {
        match socket::connect(store_path).await {
            Ok(stream) => Ok(Self { stream }),
            Err(source) => {
                let path = socket_path(store_path);
                Err(match source.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                        ClientError::NotRunning { path }
                    }
                    _ => ClientError::Connect { path, source },
                })
            }
        }
    }

    /// Asks one question.
    pub(crate) async fn ask(&mut self, request: &Request) -> Result<Response, ClientError> {
        match write_request(&mut self.stream, request).await {
            Ok(()) => self.response().await,
            // Who has hung up may have said why before.
            Err(error @ FrameError::Io(_)) => match self.response().await {
                Err(ClientError::Ended | ClientError::Frame(FrameError::Io(_))) => {
                    Err(error.into())
                }
                said => said,
            },
            Err(error) => Err(error.into()),
        }
    }

    /// For a conversation of another form.
    pub(crate) fn into_stream(self) -> UnixStream {
        self.stream
    }

    async fn response(&mut self) -> Result<Response, ClientError> {
        match read_response(&mut self.stream).await? {
            Some(Response::Refused(why)) => Err(ClientError::Refused(why)),
            Some(response) => Ok(response),
            None => Err(ClientError::Ended),
        }
    }

    /// What the daemon says of itself now.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status(&mut self) -> Result<Status, ClientError> {
        match self.ask(&Request::Status).await? {
            Response::Status(status) => Ok(status),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Asks for a status whenever it changes, at most every `interval_ms` milliseconds; then
    /// take them with [`Client::next_status`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn watch(&mut self, interval_ms: u64) -> Result<(), ClientError> {
        Ok(write_request(&mut self.stream, &Request::Watch { interval_ms }).await?)
    }

    /// The next status asked for.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn next_status(&mut self) -> Result<Status, ClientError> {
        match self.response().await? {
            Response::Status(status) => Ok(status),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Waits until `repo`, or every repo, is in step, or `timeout_ms` milliseconds are over.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn wait(
        &mut self,
        repo: Option<String>,
        timeout_ms: u64,
    ) -> Result<WaitOutcome, ClientError> {
        match self.ask(&Request::Wait { repo, timeout_ms }).await? {
            Response::Wait(outcome) => Ok(outcome),
            _ => Err(ClientError::Unexpected),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::write_response;

    #[tokio::test]
    async fn who_hangs_up_and_says_why_is_heard() {
        let store = tempfile::tempdir().expect("a temporary directory");
        let listener = crate::bind(store.path()).expect("a socket");
        let mut client = Client::connect(store.path()).await.expect("a daemon");
        let (mut stream, _) = listener.accept().await.expect("a client");
        let refused = Response::Refused("another version".into());
        write_response(&mut stream, &refused).await.expect("room");
        drop(stream);
        let error = client.status().await.expect_err("refused");
        assert!(matches!(error, ClientError::Refused(why) if why == "another version"));
    }
}
