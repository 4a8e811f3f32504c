//! A config that has changed under the running daemon: taken up whole, or not at all.

use std::sync::Arc;

use ark_core::in_words;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::house::Kept;
use super::running::Running;
use super::{Daemon, DaemonError, ports};
use crate::config::{self, Config, Surroundings};

impl Daemon {
    /// On SIGHUP: takes up the config as it is now, or says what is wrong with it and goes on with
    /// the old one. All that runs on the store is taken apart and put together again, but for
    /// folders that stay as they are, and for the network side, which ends and begins only what has
    /// changed, unless it is another network that it is to use. Returns early when the daemon is `ending`.
    ///
    /// # Errors
    /// Neither the new config nor the old one could be started.
    pub(super) async fn re_read(&mut self, ending: &CancellationToken) -> Result<(), DaemonError> {
        let Some(config) = ending.run_until_cancelled(self.changed_config()).await.flatten() else {
            return Ok(());
        };
        info!("the config has changed");
        let old = std::mem::replace(&mut self.config, config);
        // Not cut short: folders come to rest before the store is closed.
        let (keeps_net, config) = (self.config.keeps_network(&old), &self.config);
        let mut kept = self.running.stop(keeps_net, |id| config.keeps_folder(&old, id)).await;
        let taking_up = Box::pin(self.run_on_either(old, &mut kept));
        let taken_up = ending.run_until_cancelled(taking_up).await;
        kept.stop().await;
        taken_up.unwrap_or(Ok(()))
    }

    /// Starts with the new config, or, where that fails, with the old one.
    async fn run_on_either(&mut self, old: Config, kept: &mut Kept) -> Result<(), DaemonError> {
        if let Err(error) = self.run_on(kept).await {
            let why = in_words(&error);
            error!("the changed config cannot be used; going on with the old one: {why}");
            self.config = old;
            self.run_on(kept).await?;
            info!("the old config is in use again");
        } else {
            info!("the config is in use");
        }
        Ok(())
    }

    async fn run_on(&mut self, kept: &mut Kept) -> Result<(), DaemonError> {
        let listener = Arc::clone(&self.listener);
        self.running = Running::start(&self.config, &self.key, &self.store, listener, kept).await?;
        Ok(())
    }

    /// The config as it is now, if it is another one and nothing is seen to be wrong with it.
    async fn changed_config(&self) -> Option<Config> {
        let file = self.config.file.clone();
        // Reading may take as long as the disk likes.
        let load = move || config::load(&file, &Surroundings::found());
        let config = match tokio::task::spawn_blocking(load).await {
            Ok(Ok(config)) => config,
            Ok(Err(error)) => {
                error!("the config was changed and is wrong; going on with the old one\n{error}");
                return None;
            }
            Err(error) => {
                error!("the config was not read; going on with the old one: {error}");
                return None;
            }
        };
        if config == self.config {
            info!("the config has not changed");
            return None;
        }
        if config.store_path != self.config.store_path {
            warn!("the config names another store: restart ark to use it");
            return None;
        }
        let (new, own) = (&config.network.bind, &self.config.network.bind);
        if let Some((address, error)) = ports::first_refused(new, own) {
            let text = "cannot be used; going on with the old config";
            error!("the config was changed, and {address} {text}: {error}");
            return None;
        }
        Some(config)
    }
}
