//! The composition: config, daemon, command line.
