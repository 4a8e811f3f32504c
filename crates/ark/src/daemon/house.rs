//! Everything that runs, and the threads of knowledge between its parts: what a folder applied
//! is told to the network side, and whatever changes rings one bell.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ark_control::Status;
use ark_core::{DeviceId, RepoKind, Writer, in_words};
use ark_folder::Folder;
use ark_net::{Net, Past, Remote};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use super::status::{self, Meters};
use crate::report;

/// How often rates are measured while something moves.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);
/// How often long work says in the log how far it is.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The running parts.
pub(super) struct House {
    pub(super) device: DeviceId,
    pub(super) net: Net,
    pub(super) repos: Vec<RunningRepo>,
    meters: Mutex<Meters>,
    bell: watch::Sender<u64>,
}

/// A repo.
pub(super) struct RunningRepo {
    pub(super) id: String,
    pub(super) held: ark_store::Repo,
    pub(super) folder: RunningFolder,
    pub(super) remotes: Vec<Remote>,
    /// Those of the remotes whose states are taken.
    pub(super) writers: BTreeSet<DeviceId>,
}

/// A repo's folder, and where it is.
pub(super) enum RunningFolder {
    /// The repo is only held here.
    None,
    Running(Folder, PathBuf),
    /// It did not start, for the reason in the text.
    Failed(String, PathBuf),
}

impl RunningRepo {
    /// Whether states of this writer count here: it is an incarnation of this device, or listed as
    /// one that writes. Others are not told of, so nobody owes anything for them.
    pub(super) fn counts(&self, writer: Writer) -> bool {
        writer.device == self.held.writer().device || self.writers.contains(&writer.device)
    }

    pub(super) fn running_folder(&self) -> Option<&Folder> {
        match &self.folder {
            RunningFolder::Running(folder, _) => Some(folder),
            RunningFolder::None | RunningFolder::Failed(..) => None,
        }
    }
}

impl House {
    pub(super) fn new(device: DeviceId, net: Net, repos: Vec<RunningRepo>) -> Self {
        let (bell, _) = watch::channel(0);
        Self { device, net, repos, meters: Mutex::default(), bell }
    }

    /// Rings when [`House::status`] may have changed.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.bell.subscribe()
    }

    fn ring(&self) {
        self.bell.send_modify(|count| *count += 1);
    }

    /// The picture of now.
    pub(super) fn status(&self) -> Status {
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        status::status(self, &mut meters, Instant::now())
    }

    /// Starts what connects the parts.
    pub(super) fn spawn(self: &Arc<Self>, tasks: &TaskTracker, stop: &CancellationToken) {
        let until_stop = |future: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            tasks.spawn(stop.clone().run_until_cancelled_owned(future));
        };
        for index in 0..self.repos.len() {
            until_stop(Box::pin(Arc::clone(self).tell_applied(index)));
            until_stop(Box::pin(Arc::clone(self).take_over(index)));
        }
        until_stop(Box::pin(Arc::clone(self).pass_on_bell()));
        until_stop(Box::pin(Arc::clone(self).measure()));
    }

    /// Tells the network side what the folder has scanned and applied.
    async fn tell_applied(self: Arc<Self>, index: usize) {
        let repo = &self.repos[index];
        let Some(folder) = repo.running_folder() else { return };
        let topic = repo.held.topic();
        let mut changes = folder.watch();
        let (mut told, mut scanned) = (None, false);
        loop {
            changes.mark_unchanged();
            let status = folder.status();
            if told.as_ref() != Some(&status.applied) {
                self.net.applied(topic, status.applied.clone());
                told = Some(status.applied);
            }
            if status.scanned && !scanned {
                self.net.scanned(topic);
                scanned = true;
            }
            self.ring();
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Makes jj's heads of devices that the config lists no more as writers this one's own, if it
    /// writes itself. A folder sees to its own.
    async fn take_over(self: Arc<Self>, index: usize) {
        let RunningRepo { id, held, writers, .. } = &self.repos[index];
        let writes = || held.states().joined.keys().any(|writer| writer.device == self.device);
        if held.kind() != Some(RepoKind::Jj) || !writes() {
            return;
        }
        let Ok(jj) = held.jj() else { return };
        let is_gone = |device| device != self.device && !writers.contains(&device);
        if let Err(failed) = jj.take_over(is_gone).await {
            let why = in_words(&failed);
            error!(repo = id, "what dropped devices made is not taken over: {why}");
        }
    }

    async fn pass_on_bell(self: Arc<Self>) {
        let mut changes = self.net.watch();
        while changes.changed().await.is_ok() {
            self.ring();
        }
    }

    /// While something moves: measures how fast, and says so in the log now and then.
    async fn measure(self: Arc<Self>) {
        let mut changes = self.watch();
        while changes.changed().await.is_ok() {
            let mut logged = Instant::now();
            while self.measure_once(&mut logged) {
                tokio::time::sleep(SAMPLE_INTERVAL).await;
                self.ring();
            }
            // What rang while nothing moved rings again at once; a pause keeps that cheap.
            tokio::time::sleep(SAMPLE_INTERVAL).await;
        }
    }

    /// Whether anything moves.
    fn measure_once(&self, logged: &mut Instant) -> bool {
        let status = self.status();
        let moving: Vec<_> = report::moving(&status).collect();
        if !moving.is_empty() && logged.elapsed() >= LOG_INTERVAL {
            *logged = Instant::now();
            for (repo, progress) in &moving {
                info!(repo, "{}", report::progress(progress));
            }
        }
        !moving.is_empty()
    }

    /// Brings folders to rest but those of the repos to be kept; then, where the network side is not
    /// kept, tells the peers. Returns what a next house goes on with.
    pub(super) async fn stop(
        self,
        keeps_net: bool,
        is_kept: impl Fn(&RunningRepo) -> bool,
    ) -> Kept {
        let (kept, rest): (Vec<_>, Vec<_>) = self
            .repos
            .into_iter()
            .partition(|repo| repo.running_folder().is_some() && is_kept(repo));
        stop_folders(rest.into_iter().map(|repo| repo.folder)).await;
        let folders = kept.into_iter().map(|repo| (repo.id, repo.folder)).collect();
        if keeps_net {
            return Kept { net: Some(self.net), past: Past::default(), folders };
        }
        Kept { net: None, past: self.net.shutdown().await, folders }
    }
}

async fn stop_folders(folders: impl Iterator<Item = RunningFolder>) {
    let mut stopping = tokio::task::JoinSet::new();
    for folder in folders {
        if let RunningFolder::Running(folder, _) = folder {
            stopping.spawn(folder.stop());
        }
    }
    while stopping.join_next().await.is_some() {}
}

/// What goes on from one house to the next.
#[derive(Default)]
pub(super) struct Kept {
    /// The network side, with the repos of before.
    pub(super) net: Option<Net>,
    /// What it counted, where it was ended.
    pub(super) past: Past,
    /// By the repo's id.
    pub(super) folders: BTreeMap<String, RunningFolder>,
}

impl Kept {
    /// Ends what no house took.
    pub(super) async fn stop(self) {
        stop_folders(self.folders.into_values()).await;
        if let Some(net) = self.net {
            net.shutdown().await;
        }
    }
}
