//! The device's secret key: made once, never replaced.
//!
//! `<store.path>/secret_key` holds the 32 bytes as 64 hex digits, for the owner only. Whoever
//! has them is this device, and without them the device is another one; so a file that is
//! damaged is refused in words and left as it is.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ark_core::DeviceId;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use rand::Rng as _;

/// The key's name in the store's directory.
const KEY_NAME: &str = "secret_key";
/// The name of the file that holds the id, for scripts.
const ID_NAME: &str = "endpoint_id";
/// Hex digits of a key; the file has a closing newline too.
const KEY_DIGITS: usize = 64;
/// More than this was never written here.
const MAX_KEY_FILE_BYTES: u64 = 1 << 10;

/// The secret key of a device.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key of {:?}", self.device())
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The store's directory or a file in it cannot be used.
    #[error("cannot {doing} {}", .path.display())]
    Io {
        /// What was tried: "read", "create".
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The file is there and does not hold a key.
    #[error(
        "{} is damaged: {reason}. It is this device's identity, so it is not replaced: restore it \
         from a backup, or move it away to start as a new device",
        .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Key {
    /// The device's id: the public half.
    pub fn device(&self) -> DeviceId {
        DeviceId::from_bytes(*self.endpoint_key().public().as_bytes())
    }

    /// The key as the endpoint takes it.
    pub fn endpoint_key(&self) -> iroh::SecretKey {
        iroh::SecretKey::from_bytes(&self.0)
    }

    /// The key as states are signed with.
    pub fn signing_key(&self) -> ed25519_dalek::SigningKey {
        ed25519_dalek::SigningKey::from_bytes(&self.0)
    }

    /// The key in the store at `store_path`; `None` where there is none yet.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn read(store_path: &Path) -> Result<Option<Self>, KeyError> {
        let path = store_path.join(KEY_NAME);
        let read = || -> io::Result<(u32, Vec<u8>)> {
            let file = File::open(&path)?;
            let mode = file.metadata()?.mode();
            let mut bytes = Vec::new();
            file.take(MAX_KEY_FILE_BYTES).read_to_end(&mut bytes)?;
            Ok((mode, bytes))
        };
        let (mode, bytes) = match read() {
            Ok(found) => found,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(KeyError::Io { doing: "read", path, source }),
        };
        if mode & 0o077 != 0 {
            let file = path.display();
            tracing::warn!("others may read the secret key: run `chmod 600 {file}`");
        }
        match parse(&bytes) {
            Ok(key) => Ok(Some(key)),
            Err(reason) => Err(KeyError::Damaged { path, reason }),
        }
    }

    /// The key in the store at `store_path`, made and made durable where there is none. Of two
    /// processes that make it at once one succeeds, and both have its key.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn read_or_create(store_path: &Path) -> Result<Self, KeyError> {
        if let Some(key) = Self::read(store_path)? {
            return Ok(key);
        }
        let failed = |source| KeyError::Io { doing: "create", path: store_path.to_owned(), source };
        create_store_directory(store_path).map_err(failed)?;
        let mut secret = [0; 32];
        rand::rng().fill_bytes(&mut secret);
        create_key_file(store_path, &secret).map_err(|source| KeyError::Io {
            doing: "create",
            path: store_path.join(KEY_NAME),
            source,
        })?;
        // Read back: it is the other one's if another process was faster.
        Self::read(store_path)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
    }

    /// Writes the device's id to `<store.path>/endpoint_id`, for scripts.
    ///
    /// # Errors
    /// [`KeyError::Io`].
    pub fn write_id(&self, store_path: &Path) -> Result<(), KeyError> {
        let path = store_path.join(ID_NAME);
        let new = store_path.join(format!("{ID_NAME}.new"));
        std::fs::write(&new, format!("{}\n", self.device()))
            .and_then(|()| std::fs::rename(&new, &path))
            .map_err(|source| KeyError::Io { doing: "write", path, source })
    }
}

fn parse(bytes: &[u8]) -> Result<Key, String> {
    let digits = bytes.trim_ascii();
    if digits.len() != KEY_DIGITS {
        return Err(format!("{} characters instead of {KEY_DIGITS} hex digits", digits.len()));
    }
    let mut secret = [0; 32];
    match HEXLOWER_PERMISSIVE.decode_mut(digits, &mut secret) {
        Ok(_) => Ok(Key(secret)),
        Err(_) => Err("not hex digits".to_owned()),
    }
}

/// Makes the store's directory for its owner only; those above it as usual.
fn create_store_directory(store_path: &Path) -> io::Result<()> {
    if let Some(parent) = store_path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(store_path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && store_path.is_dir() => Ok(()),
        other => other,
    }
}

/// Writes the key under a name of its own and links it to the final one, so that nobody ever
/// sees half a key, and a key that is there is never replaced.
fn create_key_file(store_path: &Path, secret: &[u8; 32]) -> io::Result<()> {
    let new = store_path.join(format!("{KEY_NAME}.{:016x}", rand::rng().next_u64()));
    let linked = write_synced(&new, format!("{}\n", HEXLOWER.encode(secret)).as_bytes())
        .and_then(|()| std::fs::hard_link(&new, store_path.join(KEY_NAME)));
    let removed = std::fs::remove_file(&new);
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    removed?;
    File::open(store_path)?.sync_all()
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = directory.path().join("a/store");
        (directory, store)
    }

    #[test]
    fn a_key_is_made_once_for_the_owner_only() {
        let (_directory, store) = store();
        assert!(Key::read(&store).expect("absent is no error").is_none());
        let key = Key::read_or_create(&store).expect("a key");
        let again = Key::read_or_create(&store).expect("the same key");
        assert_eq!(key.device(), again.device());
        assert_eq!(key.device().as_bytes(), key.signing_key().verifying_key().as_bytes());
        let metadata = std::fs::metadata(store.join(KEY_NAME)).expect("the key");
        assert_eq!(metadata.mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&store).expect("the store").mode() & 0o777, 0o700);
        let names = std::fs::read_dir(&store).expect("the store").count();
        assert_eq!(names, 1, "nothing but the key is left");
        key.write_id(&store).expect("the id");
        let id = std::fs::read_to_string(store.join(ID_NAME)).expect("the id");
        assert_eq!(id, format!("{}\n", key.device()));
    }

    #[test]
    fn many_at_once_have_one_key() {
        let (_directory, store) = store();
        let device = || Key::read_or_create(&store).expect("a key").device();
        let devices: Vec<DeviceId> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(device)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        assert!(devices.iter().all(|device| *device == devices[0]), "{devices:?}");
    }

    #[test]
    fn a_damaged_key_is_refused_and_left_alone() {
        let (_directory, store) = store();
        std::fs::create_dir_all(&store).expect("the store");
        let key = store.join(KEY_NAME);
        let long = "ab".repeat(33);
        let foreign = "zz".repeat(32);
        for damaged in ["", "abcd", long.as_str(), foreign.as_str(), "\0\0\0"] {
            std::fs::write(&key, damaged).expect("the key");
            let error = Key::read_or_create(&store).expect_err("it is damaged");
            assert!(matches!(error, KeyError::Damaged { .. }), "{error}");
            assert_eq!(std::fs::read_to_string(&key).expect("the key"), damaged);
        }
    }
}
