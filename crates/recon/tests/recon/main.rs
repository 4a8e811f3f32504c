//! The trie, sessions between honest sides, sessions with others, and the bytes on the wire.

mod hostile;
mod kept;
mod sets;
mod support;
mod trie;
mod watched;
mod wire;
