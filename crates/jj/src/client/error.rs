//! Why the daemon did not do what it was asked.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ark_control::{ClientError as ControlError, FrameError};
use ark_core::in_words;

use crate::storage::StorageError;

/// Why the daemon did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// It does not run, or ended and did not come back. What was written and not acknowledged is
    /// sent again by the next call that finds it.
    #[error(
        "the ark daemon with the store {} does not answer: start it (run `ark`, or its service), then run the command again",
        .store.display()
    )]
    Gone {
        /// Its store.
        store: PathBuf,
        /// What was seen.
        #[source]
        source: Arc<ControlError>,
    },
    /// It runs, and says nothing: another version of it hangs up so, and one that hangs.
    #[error(
        "the ark daemon with the store {} runs, but does not answer; if that lasts, restart it, and use the same version of ark for both",
        .store.display()
    )]
    Silent {
        /// Its store.
        store: PathBuf,
        /// What was seen.
        #[source]
        source: Arc<ControlError>,
    },
    /// It does not have the repo, or is of another version than this program.
    #[error("the ark daemon refuses: {0}")]
    Refused(String),
    /// It tried. What was put is kept, and comes before the next barrier again, but for an object that
    /// it will never take in: that one is let go with this error, and what links it fails then.
    #[error("the ark daemon could not do it: {0}")]
    Failed(String),
    /// Connections with it end before it has answered anything, again and again.
    #[error("the connection with the ark daemon breaks again and again; its log says why")]
    Breaking,
    /// More than any object may have, or any question.
    #[error("{length} bytes are too many for the ark daemon, which takes {limit}")]
    TooLarge {
        /// Bytes.
        length: usize,
        /// The bound.
        limit: usize,
    },
    /// It is another program than this one takes it for.
    #[error("the ark daemon gave an answer to another question")]
    Unexpected,
    /// The thread that talks to it is not there.
    #[error("no thread to talk to the ark daemon")]
    Thread(#[source] Arc<io::Error>),
}

impl ClientError {
    pub(super) fn not_connected(store: &Path, error: ControlError) -> Self {
        match error {
            ControlError::Refused(why) => Self::Refused(why),
            error @ ControlError::NotRunning { .. } => {
                Self::Gone { store: store.to_owned(), source: Arc::new(error) }
            }
            error @ (ControlError::Ended
            | ControlError::Silent { .. }
            | ControlError::Frame(FrameError::Io(_))) => {
                Self::Silent { store: store.to_owned(), source: Arc::new(error) }
            }
            // It is another user's, or of another version.
            error => Self::Refused(in_words(&error)),
        }
    }

    pub(super) fn no_thread(error: io::Error) -> Self {
        Self::Thread(Arc::new(error))
    }
}

impl From<ClientError> for StorageError {
    fn from(error: ClientError) -> Self {
        Self::Failed(error.into())
    }
}
