//! The sign in a folder that it is the folder of this repo and was synced before.
//!
//! Without it an empty directory, where a disk is not mounted, would read as everything deleted.

use std::io::{Read as _, Write as _};

use ark_core::{Permissions, TopicId};

use crate::fs::{FsError, FsErrorKind, Root};

/// The directory that holds it, in the folder's root. Reserved: never synced.
const MARKER_DIRECTORY: &str = ".ark";
/// Its name there.
const MARKER_NAME: &[u8] = b"marker";
/// First line of a marker of this version.
const HEADER: &str = "ark folder 1";
/// More bytes than any marker has.
const MAX_MARKER_BYTES: u64 = 4096;

/// What to do about a folder that is the right one although its marker does not say so.
const UNITE: &str = "make .ark/marker in it an empty file: what is in the folder and what others \
                     have are then united, and nothing is deleted";

/// What stands in the place of a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// Nothing.
    None,
    /// An empty file: somebody's word that this is the folder, whatever it was before.
    Blank,
    /// A marker.
    Marker(Marker),
}

/// What the marker of a folder says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Marker {
    /// The repo that the folder belongs to.
    pub topic: TopicId,
    /// Random, made with the marker: tells this folder from another one of the same repo, such
    /// as an older copy put in its place.
    pub token: [u8; 16],
}

/// Why a folder must not be touched: neither scanned nor written. Each says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Halt {
    /// The folder's path leads nowhere, or to another directory than the one held open.
    #[error(
        "the folder {path} is no longer where it was: it was moved, replaced or unmounted; \
         put it back, then restart ark"
    )]
    Moved {
        /// The folder.
        path: String,
    },
    /// The folder was synced before and has no marker now.
    #[error(
        "the folder {path} has no .ark/marker, though it was synced before: if its disk is not \
         mounted, mount it; if this is the folder all the same, {UNITE}"
    )]
    Lost {
        /// The folder.
        path: String,
    },
    /// The marker is of another repo.
    #[error(
        "the folder {path} belongs to another repo (its .ark/marker says {found}); if it is \
         really meant for this one, {UNITE}"
    )]
    OtherRepo {
        /// The folder.
        path: String,
        /// The repo's topic as the marker has it.
        found: TopicId,
    },
    /// The marker is of this repo, but this is another folder than the one that was synced.
    #[error(
        "the folder {path} is not the one that was synced here, but another of the same repo \
         (an older copy, perhaps): put the right one back; if this is to take its place, {UNITE}"
    )]
    OtherFolder {
        /// The folder.
        path: String,
    },
    /// The marker is there but says nothing that this version understands.
    #[error(
        "the file .ark/marker in {path} is damaged or of a newer version of ark; if the folder \
         is the right one, {UNITE}"
    )]
    Unreadable {
        /// The folder.
        path: String,
    },
    /// It could not be told.
    #[error("cannot tell whether {path} is the folder of this repo")]
    Failed {
        /// The folder.
        path: String,
        /// Why.
        #[source]
        source: FsError,
    },
}

impl Marker {
    /// A marker for `topic` with a new random token.
    pub fn new(topic: TopicId) -> Self {
        Self { topic, token: rand::random() }
    }

    /// Reads the marker of the folder. Also checks that the folder is still where it was opened.
    ///
    /// # Errors
    /// The folder was moved away, or its marker is unreadable.
    pub fn read(root: &Root) -> Result<Sign, Halt> {
        let path = || root.path().display().to_string();
        let failed = |source| Halt::Failed { path: path(), source };
        if !root.in_place().map_err(failed)? {
            return Err(Halt::Moved { path: path() });
        }
        let opened =
            root.top().open_reserved(MARKER_DIRECTORY).and_then(|d| d.open_file(MARKER_NAME));
        let file = match opened {
            Ok((file, _)) => file,
            Err(error) if error.kind() == FsErrorKind::NotFound => return Ok(Sign::None),
            Err(error) => return Err(failed(error)),
        };
        let mut text = String::new();
        match file.take(MAX_MARKER_BYTES).read_to_string(&mut text) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                return Err(Halt::Unreadable { path: path() });
            }
            Err(source) => {
                let path = path();
                let source = FsError { operation: "read", path: shown_path(), source };
                return Err(Halt::Failed { path, source });
            }
        }
        match Self::parse(&text) {
            Some(marker) => Ok(Sign::Marker(marker)),
            None if text.trim().is_empty() => Ok(Sign::Blank),
            None => Err(Halt::Unreadable { path: path() }),
        }
    }

    /// Checks that the folder carries this marker.
    ///
    /// # Errors
    /// It does not: each [`Halt`] says what to do.
    pub fn check(&self, root: &Root) -> Result<(), Halt> {
        let path = || root.path().display().to_string();
        match Self::read(root)? {
            Sign::None | Sign::Blank => Err(Halt::Lost { path: path() }),
            Sign::Marker(found) if found.topic != self.topic => {
                Err(Halt::OtherRepo { path: path(), found: found.topic })
            }
            Sign::Marker(found) if found.token != self.token => {
                Err(Halt::OtherFolder { path: path() })
            }
            Sign::Marker(_) => Ok(()),
        }
    }

    /// Writes it into the folder, durably and at once whole.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, root: &Root) -> Result<(), Halt> {
        self.try_write(root)
            .map_err(|source| Halt::Failed { path: root.path().display().to_string(), source })
    }

    fn try_write(&self, root: &Root) -> Result<(), FsError> {
        let top = root.top();
        match top.make_dir(MARKER_DIRECTORY.as_bytes(), Permissions::from_mode(0o700)) {
            Ok(()) => {}
            Err(error) if error.kind() == FsErrorKind::Exists => {}
            Err(error) => return Err(error),
        }
        let dir = top.open_reserved(MARKER_DIRECTORY)?;
        let mut temporary = dir.create_temp()?;
        let written = temporary
            .file
            .write_all(self.to_text().as_bytes())
            .and_then(|()| temporary.file.sync_all())
            .map_err(|source| FsError { operation: "write", path: shown_path(), source });
        if let Err(error) = written.and_then(|()| dir.rename(&temporary.name, &dir, MARKER_NAME)) {
            // The first failure is the one to tell; a temporary left behind is swept later.
            let _ = dir.unlink(&temporary.name);
            return Err(error);
        }
        dir.sync()?;
        top.sync()
    }

    fn to_text(self) -> String {
        let token = data_encoding::HEXLOWER.encode(&self.token);
        format!("{HEADER}\ntopic {}\nfolder {token}\n", self.topic)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let header = lines.next()?;
        let topic = lines.next()?.strip_prefix("topic ")?.parse().ok()?;
        let token = lines.next()?.strip_prefix("folder ")?.as_bytes();
        let token = data_encoding::HEXLOWER.decode(token).ok()?;
        let is_whole = header == HEADER && lines.next().is_none();
        is_whole.then_some(Self { topic, token: token.try_into().ok()? })
    }
}

fn shown_path() -> String {
    format!("{MARKER_DIRECTORY}/marker")
}
