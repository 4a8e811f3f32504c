//! The command line: what is asked for, on which config, and the code it ends with.

use std::convert::Infallible;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use ark_control::{Client, ClientError, Status, WaitOutcome};
use clap::{Parser, Subcommand, ValueEnum};
use tokio::time::Instant;

use crate::config::{self, Config, LoadError, Surroundings};
use crate::daemon::{self, DaemonError};
use crate::key::{Key, KeyError};
use crate::locate::{self, NoConfig};
use crate::service::{self, ServiceError};
use crate::{logging, report};

const CONFIG_HELP: &str = "The config; else $ARK_CONFIG, ./ark.toml, $XDG_CONFIG_HOME/ark/ark.toml";
/// How often a status is drawn anew while it changes.
const WATCH_INTERVAL_MS: u64 = 500;
/// How soon `ark wait` looks again for a daemon that is not up.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// A daemon answers a wait at its timeout; this much later it is taken for dead.
const ANSWER_GRACE: Duration = Duration::from_secs(10);
/// Where launchd puts the log, in the store's directory.
const LOG_NAME: &str = "ark.log";
/// The longest timeout: more means "for ever" to whoever writes it.
const MAX_WAIT_SECONDS: f64 = 366.0 * 24.0 * 60.0 * 60.0;

/// Keeps folders identical on all of a person's machines, with no server.
///
/// Without a command, runs the daemon in the foreground. It ends cleanly on SIGTERM and SIGINT, and
/// takes up its config anew on SIGHUP.
#[derive(Debug, Parser)]
#[command(name = "ark", version, max_term_width = 100)]
pub struct Arguments {
    #[arg(long, global = true, value_name = "FILE", help = CONFIG_HELP)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the device id: 64 hex digits
    Id,
    /// Validate the config: 0, or 2 with every error by file and line
    Check,
    /// Show what is in step, what is moving, who is connected, conflicts and problems
    Status {
        /// Print one JSON object (with --watch: one a line)
        #[arg(long)]
        json: bool,
        /// Show it again whenever it changes
        #[arg(long)]
        watch: bool,
    },
    /// Wait until everything written before the call is on the connected machines, and theirs here
    Wait {
        /// Only this repo
        #[arg(long, value_name = "ID")]
        repo: Option<String>,
        /// Give up after so many seconds
        #[arg(long, value_name = "S", default_value = "60", value_parser = seconds)]
        timeout: Duration,
    },
    /// Print a unit that runs this binary on this config
    Service {
        /// For which service manager
        kind: ServiceKind,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ServiceKind {
    Systemd,
    Launchd,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if (0.0..=MAX_WAIT_SECONDS).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("not between 0 and {MAX_WAIT_SECONDS}"))
    }
}

/// Why a command could not be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// No config was named, and none found.
    #[error(transparent)]
    NoConfig(#[from] NoConfig),
    /// The config cannot be read, or is wrong.
    #[error(transparent)]
    Config(#[from] LoadError),
    /// There is no repo of the id given.
    #[error("{}: there is no repo {id:?}", .file.display())]
    UnknownRepo {
        /// The config.
        file: PathBuf,
        /// What was asked for.
        id: String,
    },
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The daemon could not start, or did not end cleanly.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// The daemon did not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The wait was over before everything was in step.
    #[error("not in step:\n  {}", .0.join("\n  "))]
    NotInStep(Vec<String>),
    /// No unit can be printed.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The runtime could not be set up.
    #[error("cannot start")]
    Runtime(#[source] io::Error),
    /// The result could not be printed.
    #[error("cannot print the result")]
    Print(#[source] io::Error),
}

impl CommandError {
    /// 2 for wrong usage or config, 1 for everything else.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::NoConfig(_) | Self::Config(_) | Self::UnknownRepo { .. } => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }

    /// Whether it is only that nobody reads the output any more, as in `ark status | head -1`.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Print(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Carries out what the command line says.
///
/// # Errors
/// See [`CommandError`].
pub fn run(arguments: Arguments) -> Result<(), CommandError> {
    logging::start(if arguments.command.is_none() { "info" } else { "warn" });
    let config = load(arguments.config)?;
    match arguments.command {
        None => run_daemon(config),
        Some(Command::Id) => {
            print(&format!("{}\n", Key::read_or_create(&config.store_path)?.device()))
        }
        Some(Command::Check) => print(&format!("{}: ok\n", config.file.display())),
        Some(Command::Status { json, watch: false }) => runtime()?.block_on(status(&config, json)),
        Some(Command::Status { json, watch: true }) => runtime()?.block_on(watch(&config, json)),
        Some(Command::Wait { repo, timeout }) => runtime()?.block_on(wait(&config, repo, timeout)),
        Some(Command::Service { kind }) => print(&unit(kind, &config)?),
    }
}

fn run_daemon(config: Config) -> Result<(), CommandError> {
    let runtime = runtime()?;
    let ended = runtime.block_on(daemon::run(config));
    // After a clean end nothing is left; after another one, what hangs is not waited for.
    runtime.shutdown_background();
    Ok(ended?)
}

fn load(named: Option<PathBuf>) -> Result<Config, CommandError> {
    let file = locate::config_file(named)?;
    Ok(config::load(&file, &Surroundings::found())?)
}

fn runtime() -> Result<tokio::runtime::Runtime, CommandError> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CommandError::Runtime)
}

fn print(text: &str) -> Result<(), CommandError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(CommandError::Print)
}

fn unit(kind: ServiceKind, config: &Config) -> Result<String, ServiceError> {
    let binary = service::this_binary()?;
    match kind {
        ServiceKind::Systemd => Ok(service::systemd(&binary, &config.file)),
        ServiceKind::Launchd => {
            service::launchd(&binary, &config.file, &config.store_path.join(LOG_NAME))
        }
    }
}

async fn status(config: &Config, json: bool) -> Result<(), CommandError> {
    let status = Client::connect(&config.store_path).await?.status().await?;
    print(&if json { json_text(&status, true) } else { report::text(&status) })
}

async fn watch(config: &Config, json: bool) -> Result<(), CommandError> {
    // On a terminal each picture replaces the last; in a pipe they follow each other.
    let clear = if io::stdout().is_terminal() && !json { "\x1b[H\x1b[J" } else { "" };
    loop {
        let mut client = Client::connect(&config.store_path).await?;
        let shown = watch_one(&mut client, |status| {
            let text = if json { json_text(status, false) } else { report::text(status) };
            print(&format!("{clear}{text}"))
        });
        let Err(error) = shown.await;
        match error {
            // A daemon that takes up its config anew lets go of whoever asks; one that ends is not
            // there the next time.
            CommandError::Client(error) if error.is_absent() => {
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            error => return Err(error),
        }
    }
}

/// Shows what comes until that fails.
async fn watch_one(
    client: &mut Client,
    show: impl Fn(&Status) -> Result<(), CommandError>,
) -> Result<Infallible, CommandError> {
    client.watch(WATCH_INTERVAL_MS).await?;
    loop {
        show(&client.next_status().await?)?;
    }
}

fn json_text(status: &Status, pretty: bool) -> String {
    let text =
        if pretty { serde_json::to_string_pretty(status) } else { serde_json::to_string(status) };
    text.expect("a status has only text keys, so it is JSON") + "\n"
}

async fn wait(
    config: &Config,
    repo: Option<String>,
    timeout: Duration,
) -> Result<(), CommandError> {
    if let Some(id) = &repo
        && !config.repos.iter().any(|known| known.id == *id)
    {
        return Err(CommandError::UnknownRepo { file: config.file.clone(), id: id.clone() });
    }
    let deadline = Instant::now() + timeout;
    loop {
        let answer =
            tokio::time::timeout_at(deadline + ANSWER_GRACE, ask(config, repo.clone(), deadline));
        let absent = match answer.await {
            Ok(Ok(WaitOutcome::InStep)) => return Ok(()),
            Ok(Ok(WaitOutcome::Missing(missing))) => return Err(CommandError::NotInStep(missing)),
            Ok(Ok(WaitOutcome::UnknownRepo)) => {
                let text = "the daemon runs on an older config: send it SIGHUP".to_owned();
                return Err(CommandError::NotInStep(vec![text]));
            }
            Ok(Err(error)) if error.is_absent() => error.to_string(),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => "the daemon does not answer".to_owned(),
        };
        if Instant::now() >= deadline {
            return Err(CommandError::NotInStep(vec![absent]));
        }
        tokio::time::sleep_until((Instant::now() + RETRY_INTERVAL).min(deadline)).await;
    }
}

async fn ask(
    config: &Config,
    repo: Option<String>,
    deadline: Instant,
) -> Result<WaitOutcome, ClientError> {
    let mut client = Client::connect(&config.store_path).await?;
    let left = deadline.saturating_duration_since(Instant::now());
    client.wait(repo, u64::try_from(left.as_millis()).unwrap_or(u64::MAX)).await
}
