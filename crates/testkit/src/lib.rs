//! Temporary daemons and the trees they keep, for tests and benches only.
//!
//! Everything is on loopback, in temporary directories, with relays, discovery and port mapping
//! off. Failures panic: the caller is a test.

pub mod daemon;
pub mod tree;

pub use daemon::{Daemon, Machine, Setup, pair};
pub use tree::{Item, Kind, Tree, await_condition};
