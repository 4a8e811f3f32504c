//! Temporary daemons and the trees they keep, and the [simulation](sim) of whole devices; for
//! tests and benches only.
//!
//! Of the daemons everything is on loopback, in temporary directories, with relays, discovery and
//! port mapping off. Failures panic: the caller is a test.

pub mod daemon;
pub mod noise;
pub mod sim;
pub mod tree;

pub use daemon::{Daemon, Machine, Setup, pair};
pub use tree::{Item, Kind, Tree, await_condition};
