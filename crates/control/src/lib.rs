//! Messages and client for the daemon's Unix socket, and the daemon's end of a jj process's
//! conversation, over whatever holds the repo.
//!
//! - The socket is `control.sock` in the store's directory, for its owner only. Whoever holds
//!   the store's lock may replace one that is left over; nobody else touches it.
//! - A frame is a `u32` length (little endian) and so many bytes: the protocol's version, then
//!   an rkyv archive. Lengths are checked before anything is allocated.
//! - A connection carries one request after the other; only [`Request::Watch`] has several
//!   answers, and goes on until the connection ends; and after a [`Request::Jj`] that was granted,
//!   it is a conversation of another form, see [`jj`].

mod client;
mod frame;
pub mod jj;
mod message;
mod socket;

pub use client::{Client, ClientError};
pub use frame::{FrameError, MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES, read_request, write_response};
pub use message::{
    Amount, PeerRepo, PeerStatus, Progress, Reconciliation, RefusedPeer, RepoStatus, Request,
    Response, Status, WaitOutcome,
};
pub use socket::{SocketError, bind, socket_path};
