//! jj-lib on ark's stores: single values, and whole repos on several machines.

mod backend;
mod operations;
mod repo;
mod support;
