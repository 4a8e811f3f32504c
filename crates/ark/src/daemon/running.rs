//! What runs on an open store: the network side, folders, the control socket's server.

use std::sync::Arc;

use ark_core::{RepoKind, SealingKey, TopicId, in_words};
use ark_folder::Folder;
use ark_net::{Net, RepoOptions};
use ark_store::{RepoError, Store};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use super::house::{House, Kept, RunningFolder, RunningRepo};
use super::{DaemonError, server};
use crate::config::{self, Config, Repo};
use crate::key::Key;

/// It runs until [`Running::stop`].
pub(super) struct Running {
    house: Option<Arc<House>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Running {
    /// Starts everything that `config` names, going on with what was kept. Where that fails,
    /// or is cut short, `kept` has all that there was to keep.
    pub(super) async fn start(
        config: &Config,
        key: &Key,
        store: &Store,
        listener: Arc<UnixListener>,
        kept: &mut Kept,
    ) -> Result<Self, DaemonError> {
        let mut opened = Vec::with_capacity(config.repos.len());
        for repo in &config.repos {
            let topic = TopicId::derive(&repo.id, secret(repo));
            // Without a folder it is whatever the others have, or jj makes of it here. With one over
            // a jj repo that repo alone stops: see `folder`.
            let held = match &repo.folder {
                Some(_) => match store.repo(topic, RepoKind::Folder).await {
                    Err(RepoError::OtherKind { .. }) => store.held(topic).await,
                    held => held,
                },
                None => store.held(topic).await,
            };
            let held = held.map_err(|source| DaemonError::Repo { id: repo.id.clone(), source })?;
            opened.push((repo, held));
        }
        let net_repos = opened.iter().map(|(repo, held)| net_repo(repo, held.clone())).collect();
        if let Some(net) = &mut kept.net {
            net.relist(net_repos).await?;
        } else {
            let options = net_options(config, key);
            kept.net = Some(Net::start(options, net_repos, kept.past.clone()).await?);
        }
        let net = kept.net.as_ref();
        let mut started = Vec::with_capacity(opened.len());
        for (repo, held) in opened {
            if kept.folders.contains_key(&repo.id) {
                started.push((repo, held, None));
                continue;
            }
            // Of the one before it something else may have been told.
            if let Some(net) = net {
                net.folder_begun(held.topic());
            }
            let folder = folder(config, repo, &held).await;
            started.push((repo, held, Some(folder)));
        }
        // What was kept is taken last: nothing fails, or is cut short, from here on.
        let repos = started.into_iter().map(|(repo, held, folder)| {
            let folder = folder.or_else(|| kept.folders.remove(&repo.id));
            let folder = folder.expect("a folder is started unless it was kept");
            let (id, remotes, writers) = (repo.id.clone(), repo.remotes.clone(), repo.writers());
            RunningRepo { id, held, folder, remotes, writers }
        });
        let repos = repos.collect();
        let net = kept.net.take().expect("the network side was started unless it was kept");
        let house = Arc::new(House::new(key.device(), net, repos));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        house.spawn(&tasks, &stop);
        tasks.spawn(server::serve(listener, Arc::clone(&house), tasks.clone(), stop.clone()));
        Ok(Self { house: Some(house), tasks, stop })
    }

    /// Ends everything in order, from the outside in, but the folders of the repos to be kept, and
    /// the network side where it is.
    pub(super) async fn stop(&mut self, keeps_net: bool, is_kept: impl Fn(&str) -> bool) -> Kept {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let Some(house) = self.house.take() else { return Kept::default() };
        if let Some(house) = Arc::into_inner(house) {
            return house.stop(keeps_net, |repo| is_kept(&repo.id)).await;
        }
        error!("something still runs beside what comes after it");
        Kept::default()
    }
}

fn secret(repo: &Repo) -> Option<&str> {
    repo.secret.as_ref().map(config::Secret::reveal)
}

fn net_options(config: &Config, key: &Key) -> ark_net::Options {
    ark_net::Options {
        secret_key: key.endpoint_key(),
        bind: config.network.bind.clone(),
        relay: config.network.relay.clone(),
        discovery: config.network.discovery.clone(),
        port_mapping: config.network.port_mapping,
        enumerate_threshold: config.enumerate_threshold,
        lose_gossip: false,
    }
}

fn net_repo(repo: &Repo, held: ark_store::Repo) -> RepoOptions {
    RepoOptions {
        id: repo.id.clone(),
        topic: held.topic(),
        sealing: SealingKey::derive(&repo.id, secret(repo)),
        repo: held,
        remotes: repo.remotes.clone(),
        has_folder: repo.folder.is_some(),
    }
}

/// Starts the repo's folder, if it has one. One that does not start stops that repo only.
async fn folder(config: &Config, repo: &Repo, held: &ark_store::Repo) -> RunningFolder {
    let Some(folder) = &repo.folder else { return RunningFolder::None };
    if held.kind() != Some(RepoKind::Folder) {
        let text = "this repo is a jj repository: give the folder a repo id of its own".to_owned();
        error!(repo = repo.id, "the folder does not start: {text}");
        return RunningFolder::Failed(text, folder.path.clone());
    }
    let options = ark_folder::Options {
        path: folder.path.clone(),
        ignore: folder.ignore.clone(),
        quiet_period: config.quiet_period,
        rescan_interval: config.rescan_interval,
        writers: repo.writers(),
    };
    match Folder::start(options, held.clone()).await {
        Ok(running) => RunningFolder::Running(running, folder.path.clone()),
        Err(start_error) => {
            let text = in_words(&start_error);
            error!(repo = repo.id, "the folder does not start: {text}");
            RunningFolder::Failed(text, folder.path.clone())
        }
    }
}
