//! Composition: config, daemon, command line.
//!
//! - Only here is TOML read and only here are arguments parsed; the crates below take options.
//! - Results go to stdout, logs to stderr; the exit code says the rest.
//! - What refuses to start writes nothing.

pub mod cli;
pub mod config;
pub mod daemon;
pub mod key;
pub mod locate;
pub mod logging;
pub mod report;
pub mod service;
