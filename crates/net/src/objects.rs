//! `ark/objects/1`: bulk transfer of objects. The framing is `ark_sync::objects`: one request
//! per bidirectional stream, then an item per object asked for, missing ones said to be so, and
//! with `ahead` structured objects that nobody asked for but that earlier items link.

pub(crate) mod fetch;
mod patience;
mod read_ahead;
pub(crate) mod serve;
mod whole;

/// Bytes of structured objects that an answer may stream ahead: the directories of some millions
/// of files. What is not streamed ahead is asked for.
const MAX_AHEAD_BYTES: usize = 256 << 20;
