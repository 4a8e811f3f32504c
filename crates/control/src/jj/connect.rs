//! The end of the jj process.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncWriteExt as _, BufReader, BufWriter};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::frame::{read_answer, write_ask};
use super::{Answer, Ask, JJ_VERSION};
use crate::client::{Client, ClientError};
use crate::frame::FrameError;
use crate::message::{Request, Response};

/// Bytes that are gathered before they are written, and read at once: many small frames.
pub(super) const BUFFER_BYTES: usize = 64 << 10;

/// How long a daemon may take until it grants a repo. One that takes up another config has others
/// wait until its folders have come to rest.
const ANSWER_LIMIT: Duration = Duration::from_mins(1);

/// What the daemon answers.
#[derive(Debug)]
pub struct JjReader(BufReader<OwnedReadHalf>);

/// Where it is asked.
#[derive(Debug)]
pub struct JjWriter(BufWriter<OwnedWriteHalf>);

/// Begins a conversation about the repo `repo` with the daemon whose store is at `store_path`.
///
/// # Errors
/// No daemon runs, it cannot be connected to or answers nothing for a minute, or it refuses: then in
/// clear words.
pub async fn connect_jj(
    store_path: &Path,
    repo: &str,
) -> Result<(JjReader, JjWriter), ClientError> {
    let request = Request::Jj { version: JJ_VERSION, repo: repo.to_owned() };
    let asking = async {
        let mut client = Client::connect(store_path).await?;
        match client.ask(&request).await? {
            Response::Jj => Ok(client),
            _ => Err(ClientError::Unexpected),
        }
    };
    let asked = tokio::time::timeout(ANSWER_LIMIT, asking).await;
    let client = asked.unwrap_or(Err(ClientError::Silent { limit: ANSWER_LIMIT }))?;
    let (reader, writer) = client.into_stream().into_split();
    let reader = BufReader::with_capacity(BUFFER_BYTES, reader);
    let writer = BufWriter::with_capacity(BUFFER_BYTES, writer);
    Ok((JjReader(reader), JjWriter(writer)))
}

impl JjReader {
    /// The next answer and the number of its question; `None` where the daemon has ended.
    ///
    /// # Errors
    /// See [`FrameError`]; the connection is of no use after one.
    pub async fn next(&mut self) -> Result<Option<(u64, Answer)>, FrameError> {
        read_answer(&mut self.0).await
    }
}

impl JjWriter {
    /// Asks: it is on its way at the latest after a [`JjWriter::flush`].
    ///
    /// # Errors
    /// See [`FrameError`]; the connection is of no use after one.
    pub async fn ask(&mut self, number: u64, ask: &Ask) -> Result<(), FrameError> {
        write_ask(&mut self.0, number, ask).await
    }

    /// Sends what is gathered.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn flush(&mut self) -> Result<(), FrameError> {
        Ok(self.0.flush().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_answers_nothing_is_not_waited_for_for_ever() {
        let store = tempfile::tempdir().expect("a temporary directory");
        // It takes connections; nobody talks.
        let _listener = crate::bind(store.path()).expect("a socket");
        let error = connect_jj(store.path(), "repo").await.expect_err("silence");
        assert!(matches!(error, ClientError::Silent { .. }), "{error}");
    }
}
