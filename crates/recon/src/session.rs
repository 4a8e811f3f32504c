//! A session: two sides that find out what each lacks.

use ark_core::Link;

/// What a side is to do after a message.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Step {
    /// Frames for the other side, in order.
    pub frames: Vec<Vec<u8>>,
    /// Links that the other side has and this one lacks.
    pub lacking: Vec<Link>,
    /// Set once there is nothing more to do.
    pub end: Option<End>,
}

/// How a session ended in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Every difference was found.
    Complete,
    /// A bound was reached, or no progress was made. What was found stands; another session, with
    /// another key, goes on from there.
    Incomplete,
}
