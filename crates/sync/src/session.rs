//! The session with one peer.

/// A breach of the protocol: the session ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// Something else than a hello came first.
    #[error("it did not begin with a hello")]
    NoHello,
    /// A second hello.
    #[error("it said hello twice")]
    SecondHello,
    /// Its hello is for another repo.
    #[error("its hello names another repo")]
    WrongTopic,
    /// It sent more states that do not decode than an honest peer could.
    #[error("it sent too many states that are forged or damaged")]
    ForgedStates,
    /// It answered a request with what was not asked or does not match its hash.
    #[error("it sent objects that are not what was asked for")]
    WrongObjects,
}
