//! Logs: to stderr, filtered by `RUST_LOG`.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// The crates whose logs are ark's own.
const OWN_CRATES: [&str; 6] =
    ["ark", "ark_control", "ark_core", "ark_folder", "ark_net", "ark_store"];

/// The watcher warns of each directory that went before it was unwatched: of thousands, where a tree
/// is deleted, and nothing is wrong.
const QUIETER: &str = ",notify::inotify=error";

/// Starts logging: ark's own crates from `level` on, others from `warn` on, unless `RUST_LOG`
/// says otherwise.
pub fn start(level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        let own = OWN_CRATES.map(|name| format!(",{name}={level}")).concat();
        EnvFilter::new(format!("warn{QUIETER}{own}"))
    });
    let logs = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter);
    // The journal has a clock of its own.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        logs.without_time().init();
    } else {
        logs.init();
    }
}
