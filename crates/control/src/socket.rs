//! Where the socket is, and how it is opened when its path is too long for the system.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// The name of the socket in the store's directory.
const SOCKET_NAME: &str = "control.sock";
/// The longest path in bytes that fits a socket address on every system (macOS: 104 with the
/// closing NUL).
const MAX_SOCKET_PATH_BYTES: usize = 103;
/// Where the detour for long paths is made. Not `$TMPDIR`, which may be long itself.
const DETOUR_DIRECTORY: &str = "/tmp";

/// Why a socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[error("cannot open the control socket {}", .path.display())]
pub struct SocketError {
    /// The socket.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// The socket of the daemon whose store is at `store_path`.
pub fn socket_path(store_path: &Path) -> PathBuf {
    store_path.join(SOCKET_NAME)
}

/// Opens the daemon's side, for the owner only. One that is left over is replaced: the caller
/// holds the store's lock, so nobody listens on it.
///
/// # Errors
/// [`SocketError`] where the system refuses.
pub fn bind(store_path: &Path) -> Result<UnixListener, SocketError> {
    let path = socket_path(store_path);
    let open = || {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&ShortPath::new(store_path)?.path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    open().map_err(|source| SocketError { path: path.clone(), source })
}

/// Connects to the daemon. Refused and absent both mean that none runs.
pub(crate) async fn connect(store_path: &Path) -> io::Result<UnixStream> {
    let short = ShortPath::new(store_path)?;
    UnixStream::connect(&short.path).await
}

/// A path to the socket that the system accepts. A socket address holds about a hundred bytes;
/// where the path is longer, it leads through a symlink in a fresh directory that only this
/// process knows of, gone again when this is dropped.
struct ShortPath {
    path: PathBuf,
    _detour: Option<tempfile::TempDir>,
}

impl ShortPath {
    fn new(store_path: &Path) -> io::Result<Self> {
        let path = socket_path(store_path);
        if path.as_os_str().len() <= MAX_SOCKET_PATH_BYTES {
            return Ok(Self { path, _detour: None });
        }
        let detour = tempfile::tempdir_in(DETOUR_DIRECTORY)?;
        let link = detour.path().join("store");
        std::os::unix::fs::symlink(std::path::absolute(store_path)?, &link)?;
        Ok(Self { path: socket_path(&link), _detour: Some(detour) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("the socket").permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn a_socket_is_the_owners_and_a_stale_one_is_replaced() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let first = bind(directory.path()).expect("a socket");
        assert_eq!(mode(&socket_path(directory.path())), 0o600);
        drop(first);
        connect(directory.path()).await.expect_err("nobody listens");
        let _second = bind(directory.path()).expect("the stale socket is replaced");
        connect(directory.path()).await.expect("somebody listens");
    }

    #[tokio::test]
    async fn a_long_path_is_reached() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let deep = directory.path().join("d".repeat(90)).join("e".repeat(90));
        std::fs::create_dir_all(&deep).expect("directories");
        let _listener = bind(&deep).expect("a socket");
        assert_eq!(mode(&socket_path(&deep)), 0o600);
        connect(&deep).await.expect("somebody listens");
    }
}
