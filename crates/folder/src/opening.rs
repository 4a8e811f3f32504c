//! Finding the folder, and making sure that it is the one that was synced.

use std::io;
use std::path::Path;

use ark_core::{RelPath, TopicId};

use crate::base::{BaseError, BaseView};
use crate::fs::{FsErrorKind, Granularity, Root};
use crate::marker::{Halt, Marker};

/// The name of the record that holds the token of the folder's marker.
pub(crate) const MARKER_META: &str = "folder-marker";
/// Length of a marker's token in bytes.
const TOKEN_BYTES: usize = 16;

/// A folder that may be touched.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    pub root: Root,
    pub marker: Marker,
    pub granularity: Granularity,
    /// Whether the marker's token is not yet recorded.
    pub is_new: bool,
}

/// Why a folder may not be touched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenFailed {
    #[error(transparent)]
    Halt(#[from] Halt),
    #[error(transparent)]
    Base(#[from] BaseError),
    #[error(
        "the folder {path} does not exist, though it was synced before: if its disk is not \
         mounted, mount it; nothing is deleted meanwhile"
    )]
    Vanished { path: String },
    #[error("cannot make the folder {path}: {source}")]
    Make { path: String, source: io::Error },
    #[error("{0}")]
    Open(String),
}

/// Opens the folder at `path`, which is made if it was never synced and its parent is there.
/// Blocking.
///
/// # Errors
/// It must not be touched; the text says why and what to do.
pub(crate) fn open(path: &Path, topic: TopicId, base: &BaseView) -> Result<Opened, OpenFailed> {
    let token = base.meta(MARKER_META)?.map(<[u8; TOKEN_BYTES]>::try_from);
    let was_synced = token.is_some() || !base.is_empty()?;
    let shown = || path.display().to_string();
    let root = match Root::open(path) {
        Err(error) if error.kind() == FsErrorKind::NotFound && was_synced => {
            return Err(OpenFailed::Vanished { path: shown() });
        }
        Err(error) if error.kind() == FsErrorKind::NotFound => {
            std::fs::create_dir(path)
                .map_err(|source| OpenFailed::Make { path: shown(), source })?;
            Root::open(path)
        }
        other => other,
    };
    let root = root.map_err(|error| OpenFailed::Open(error.in_words()))?;
    let (marker, is_new) = match token {
        // A token of another length stands for none that any folder has.
        Some(token) => (Marker { topic, token: token.unwrap_or_default() }, false),
        None => match Marker::read(&root)? {
            // Made in an earlier life of the store, or right before a crash.
            Some(marker) => (Marker { topic, ..marker }, true),
            None if was_synced => return Err(Halt::Missing { path: shown() }.into()),
            None => {
                let marker = Marker::new(topic);
                marker.write(&root)?;
                (marker, true)
            }
        },
    };
    marker.check(&root)?;
    let granularity = root.granularity();
    Ok(Opened { root, marker, granularity, is_new })
}

/// Removes temporaries that a crash left: a directory and a name in it each. Blocking. What
/// cannot be removed now is found by the next scan of everything.
pub(crate) fn sweep(root: &Root, leftovers: &[(RelPath, Vec<u8>)]) {
    for (directory, name) in leftovers {
        match root.dir(directory).and_then(|dir| dir.unlink(name)) {
            Err(error) if !error.is_absent() => {
                tracing::warn!(error = %error.in_words(), "a temporary cannot be removed");
            }
            _ => {}
        }
    }
}
