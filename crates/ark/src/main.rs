//! The `ark` binary.

use std::process::ExitCode;

use clap::Parser as _;

/// A first scan allocates on many threads; the system's allocator would keep what each of them
/// freed for as long as the daemon runs.
#[cfg(unix)]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What is free goes back to the system within a second, on Linux also while nothing is allocated.
/// One arena, and small caches of threads, leave least of it in pieces, and threads that read and
/// hash most of the time seldom wait for it. The allocator reads this before `main`: a pointer to
/// text that ends with a zero.
#[cfg(unix)]
#[expect(unsafe_code, reason = "the allocator finds its options by the name of the symbol alone")]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static ALLOCATOR_OPTIONS: &[u8; ALLOCATOR_OPTIONS_TEXT.len()] = ALLOCATOR_OPTIONS_TEXT;

/// Background threads do not exist elsewhere, and asking for them is complained about.
#[cfg(all(target_os = "linux", not(target_env = "musl")))]
const ALLOCATOR_OPTIONS_TEXT: &[u8; 86] =
    b"background_thread:true,narenas:1,tcache_max:4096,dirty_decay_ms:1000,muzzy_decay_ms:0\0";
#[cfg(all(unix, not(all(target_os = "linux", not(target_env = "musl")))))]
const ALLOCATOR_OPTIONS_TEXT: &[u8; 63] =
    b"narenas:1,tcache_max:4096,dirty_decay_ms:1000,muzzy_decay_ms:0\0";

fn main() -> ExitCode {
    match ark::cli::run(ark::cli::Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_closed_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.exit_code();
            eprintln!("{:#}", anyhow::Error::from(error));
            code
        }
    }
}
