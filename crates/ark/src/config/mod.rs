//! The config file: read once, checked whole, and handed on as plain values.
//!
//! Two stages. `raw` takes the text apart into the keys of the interface, `validate` turns
//! them into a [`Config`]. Both go on after an error, so that all of them are told at once.
//! Nothing is written here, and no crate below sees TOML.

mod document;
mod paths;
mod problem;
mod raw;
#[cfg(test)]
mod tests;
mod validate;

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ark_core::DeviceId;
use ark_net::{Discovery, Relay, Remote, Role};

use crate::key::Key;
pub use problem::Problems;

/// More than any config has: whoever names another file by mistake hears so at once.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// A config that holds: every value was checked, every path is absolute.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The file that it was read from, absolute.
    pub file: PathBuf,
    /// Where objects, index, key and control socket are.
    pub store_path: PathBuf,
    /// How other devices are reached.
    pub network: Network,
    /// Where two devices find out what one of them lacks: at most so many ids are listed in full.
    pub enumerate_threshold: usize,
    /// How long a file that nobody closes must be quiet before it is taken up.
    pub quiet_period: Duration,
    /// How often everything is looked at again though nothing asks for it.
    pub rescan_interval: Duration,
    /// The repos, in the order of the file.
    pub repos: Vec<Repo>,
}

impl Config {
    /// Whether the folder of repo `id` is just what it was in `old`, and has the same writers.
    pub fn keeps_folder(&self, old: &Self, id: &str) -> bool {
        let folder = |config: &Self| {
            let repo = config.repos.iter().find(|repo| repo.id == id)?;
            let folder = (repo.secret.clone(), repo.folder.clone()?, repo.writers());
            Some((folder, config.quiet_period, config.rescan_interval))
        };
        folder(self).is_some_and(|now| folder(old) == Some(now))
    }

    /// Whether other devices are reached just as in `old`, so that connections with them can go on.
    pub fn keeps_network(&self, old: &Self) -> bool {
        self.network == old.network && self.enumerate_threshold == old.enumerate_threshold
    }
}

/// How other devices are reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Network {
    /// The UDP addresses to open; empty: any free port.
    pub bind: Vec<SocketAddr>,
    /// Which relays help.
    pub relay: Relay,
    /// How addresses are found.
    pub discovery: Vec<Discovery>,
    /// Whether to ask the router for a port.
    pub port_mapping: bool,
}

/// One repo.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Repo {
    /// Its id, the same on every machine.
    pub id: String,
    /// Its secret, the same on every machine.
    pub secret: Option<Secret>,
    /// The other devices.
    pub remotes: Vec<Remote>,
    /// Where it is on this machine; `None`: only held.
    pub folder: Option<Folder>,
}

impl Repo {
    /// The other devices whose states are taken.
    pub fn writers(&self) -> BTreeSet<DeviceId> {
        let peers = self.remotes.iter().filter(|remote| remote.role == Role::Peer);
        peers.map(|remote| remote.device).collect()
    }
}

/// A folder kept in step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Folder {
    /// The directory.
    pub path: PathBuf,
    /// Patterns in gitignore syntax.
    pub ignore: Vec<String>,
}

/// A text that must not appear in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Why there is no config.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file could not be read.
    #[error("{}: cannot be read: {source}", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It was read and is wrong.
    #[error(transparent)]
    Invalid(#[from] Problems),
}

/// What a config is checked against besides its own text.
#[derive(Clone, Default, Debug)]
pub struct Surroundings {
    /// What `~` stands for.
    pub home: Option<PathBuf>,
    /// The device whose key lies at a store path, where there is one.
    pub device_at: Option<fn(&Path) -> Option<DeviceId>>,
}

impl Surroundings {
    /// Those of this process.
    pub fn found() -> Self {
        let device_at =
            |store_path: &Path| Key::read(store_path).ok().flatten().map(|key| key.device());
        Self { home: std::env::home_dir(), device_at: Some(device_at) }
    }
}

/// Reads and checks the config in `file`. Reads file metadata, writes nothing.
///
/// # Errors
/// [`LoadError::Read`] where the file cannot be read; [`LoadError::Invalid`] with everything
/// that is wrong with it.
pub fn load(file: &Path, surroundings: &Surroundings) -> Result<Config, LoadError> {
    let failed = |source| LoadError::Read { file: file.to_owned(), source };
    let absolute = std::path::absolute(file).map_err(failed)?;
    let bytes = read_bounded(file).map_err(failed)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => validate::parse(file, &absolute, text, surroundings).map_err(Into::into),
        Err(error) => {
            let line = bytes[..error.valid_up_to()].split(|&byte| byte == b'\n').count();
            let place = problem::Place { line, field: "toml".to_owned() };
            let text = "not UTF-8 text".to_owned();
            Err(Problems::new(file, vec![problem::Problem { place, text }]).into())
        }
    }
}

fn read_bounded(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(file)?.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_CONFIG_BYTES {
        let text = format!("more than {MAX_CONFIG_BYTES} bytes: this is not a config");
        return Err(std::io::Error::other(text));
    }
    Ok(bytes)
}
