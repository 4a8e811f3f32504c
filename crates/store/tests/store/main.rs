//! The store over real files in temporary directories.

mod base;
mod crash;
mod exchange;
mod faults;
mod index;
mod jj;
mod lease;
mod many;
mod publish;
mod rebuild;
mod rollback;
mod support;
mod trie;
