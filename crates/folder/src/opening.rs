//! Finding the folder, and making sure that it is the one that was synced.

use std::io;
use std::path::Path;

use ark_core::TopicId;

use crate::base::{APPLIED_META, APPLYING_META, BaseError, BaseView, Changes};
use crate::fs::{FsErrorKind, Gate, Granularity, Root};
use crate::marker::{Halt, Marker, Sign};

/// The name of the record that holds the token of the folder's marker.
pub(crate) const MARKER_META: &str = "folder-marker";
/// Named records as base takes them.
pub(crate) type Meta = Vec<(String, Option<Vec<u8>>)>;
/// Length of a marker's token in bytes.
const TOKEN_BYTES: usize = 16;

/// A folder that may be touched.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    pub root: Root,
    pub marker: Marker,
    pub granularity: Granularity,
    pub history: History,
}

/// What base has to learn of the folder before anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum History {
    /// Nothing: it is the one that was synced.
    Known,
    /// The token of its marker.
    New,
    /// To forget all and to take down this token; then the marker is to be written.
    Anew,
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
         mounted, mount it; nothing is deleted meanwhile. If it is lost, make the directory \
         anew: ark then says how to fill it"
    )]
    Vanished { path: String },
    #[error("cannot make the folder {path}: {source}")]
    Make { path: String, source: io::Error },
    #[error("{0}")]
    Open(String),
}

/// Opens the folder at `path`, which is made if it was never synced and its parent is there.
/// With a `gate`, for tests, every change of it passes that. Blocking.
///
/// # Errors
/// It must not be touched; the text says why and what to do.
pub(crate) fn open(
    path: &Path,
    gate: Option<&Gate>,
    topic: TopicId,
    base: &BaseView,
) -> Result<Opened, OpenFailed> {
    let open_root = || match gate {
        None => Root::open(path),
        Some(gate) => Root::open_behind(path, gate.clone()),
    };
    let token = base.meta(MARKER_META)?.map(<[u8; TOKEN_BYTES]>::try_from);
    let was_synced = token.is_some() || !base.is_empty()?;
    let shown = || path.display().to_string();
    let root = match open_root() {
        Err(error) if error.kind() == FsErrorKind::NotFound && was_synced => {
            return Err(OpenFailed::Vanished { path: shown() });
        }
        Err(error) if error.kind() == FsErrorKind::NotFound => {
            match std::fs::create_dir(path) {
                // Its user was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(|source| OpenFailed::Make { path: shown(), source })?,
            }
            open_root()
        }
        other => other,
    };
    let root = root.map_err(|error| OpenFailed::Open(error.in_words()))?;
    let (marker, history) = match (token, Marker::read(&root)?) {
        (_, Sign::Blank) if was_synced => (Marker::new(topic), History::Anew),
        // A token of another length stands for none that any folder has.
        (Some(token), _) => (Marker { topic, token: token.unwrap_or_default() }, History::Known),
        // Made in an earlier life of the store, or right before a crash.
        (None, Sign::Marker(marker)) => (Marker { topic, ..marker }, History::New),
        (None, Sign::None) if was_synced => return Err(Halt::Lost { path: shown() }.into()),
        (None, Sign::None | Sign::Blank) => {
            let marker = Marker::new(topic);
            marker.write(&root)?;
            (marker, History::New)
        }
    };
    if history != History::Anew {
        marker.check(&root)?;
    }
    let granularity = root.granularity();
    Ok(Opened { root, marker, granularity, history })
}

/// What is to be told to base so that it knows nothing but the `marker`: then nothing that is
/// not in the folder reads as deleted. Blocking.
///
/// # Errors
/// Base could not be read.
pub(crate) fn anew(base: &BaseView, marker: &Marker) -> Result<(Changes, Meta), BaseError> {
    let mut changes = Changes::default();
    changes.forget_all(base)?;
    let meta = vec![
        (MARKER_META.to_owned(), Some(marker.token.to_vec())),
        (APPLIED_META.to_owned(), None),
        (APPLYING_META.to_owned(), None),
    ];
    Ok((changes, meta))
}
