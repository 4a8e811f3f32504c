//! jj-lib on ark's stores: single values, whole repos, and several machines that have the same.

mod backend;
mod client;
mod daemon;
mod machine;
mod operations;
mod repo;
mod resolve;
mod support;
