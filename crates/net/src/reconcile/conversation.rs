//! What is said in a session: frames of `ark_recon` between the own set, as of one moment, and a
//! stream. The set is read where that may block.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use ark_core::Link;
use ark_recon::{Answerer, End, MAX_FRAME_BYTES, Opener, SessionError, SessionKey, Step};
use ark_store::{IndexError, Repo, Trie};
use ark_sync::Reconciliation;
use iroh::endpoint::{ConnectionError, RecvStream, SendStream, WriteError};
use tokio::sync::{Semaphore, mpsc};

use crate::board::Traffic;
use crate::frame::{LENGTH_BYTES, ReadFrameError, read_frame, write_frame};

/// Why a session ended before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("cannot open a stream")]
    Open(#[from] ConnectionError),
    #[error("cannot read")]
    Read(#[from] ReadFrameError),
    #[error("cannot write")]
    Write(#[from] WriteError),
    #[error("the own set cannot be read")]
    Index(#[from] IndexError),
    #[error("this store keeps no trie of the repo")]
    NoTrie,
    #[error("the other side broke off")]
    BrokenOff,
    #[error("the connection derives no keys")]
    NoKey,
    #[error(transparent)]
    Violation(#[from] ark_recon::Violation),
    #[error("a session of this number was there before")]
    Repeated,
    #[error("it begins sessions without end")]
    Endless,
    #[error("it gives way to a session that the other side began")]
    GivesWay,
    #[error("it takes too long")]
    TooLong,
    #[error("an internal error")]
    Panicked,
}

impl Failure {
    /// Whether the other side is at fault.
    pub(super) fn is_violation(&self) -> bool {
        matches!(
            self,
            Self::Read(ReadFrameError::TooLong { .. })
                | Self::Violation(_)
                | Self::Repeated
                | Self::Endless
        )
    }
}

impl From<SessionError<IndexError>> for Failure {
    fn from(error: SessionError<IndexError>) -> Self {
        match error {
            SessionError::Source(error) => Self::Index(error),
            SessionError::Violation(violation) => Self::Violation(violation),
            // It is non-exhaustive; whatever comes is no fault that is known.
            _ => Self::BrokenOff,
        }
    }
}

/// What a session has cost so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    sent: AtomicU64,
    received: AtomicU64,
    round_trips: AtomicU32,
}

impl Tally {
    /// Counts the bytes of a frame that was received.
    pub(super) fn received(&self, frame: &[u8]) {
        self.received.fetch_add((LENGTH_BYTES + frame.len()) as u64, Relaxed);
    }

    /// Counts the bytes of a frame that was sent.
    pub(super) fn sent(&self, frame: &[u8]) {
        self.sent.fetch_add((LENGTH_BYTES + frame.len()) as u64, Relaxed);
    }

    /// What is told of it in the end.
    pub(super) fn total(&self, complete: bool) -> Reconciliation {
        Reconciliation {
            round_trips: self.round_trips.load(Relaxed),
            sent_bytes: self.sent.load(Relaxed),
            received_bytes: self.received.load(Relaxed),
            complete,
        }
    }
}

/// Which side of the session this is.
#[derive(Debug)]
enum Side {
    Opener(Opener),
    Answerer(Answerer),
}

/// A session with the set that it is about.
#[derive(Debug)]
pub(super) struct Conversation {
    trie: Trie,
    side: Side,
}

impl Conversation {
    /// As the opener, with what is to be said first. Blocks.
    pub(super) fn open(repo: &Repo, key: SessionKey) -> Result<(Self, Step), Failure> {
        let trie = repo.trie()?.ok_or(Failure::NoTrie)?;
        let (opener, step) = Opener::open(&trie, key)?;
        Ok((Self { trie, side: Side::Opener(opener) }, step))
    }

    /// As the answerer. Blocks.
    pub(super) fn answer(
        repo: &Repo,
        key: SessionKey,
        enumerate_threshold: usize,
    ) -> Result<(Self, Step), Failure> {
        let trie = repo.trie()?.ok_or(Failure::NoTrie)?;
        let answerer = Answerer::new(&trie, key, enumerate_threshold)?;
        Ok((Self { trie, side: Side::Answerer(answerer) }, Step::default()))
    }

    /// Takes a frame. Blocks.
    fn handle(&mut self, frame: &[u8]) -> Result<Step, Failure> {
        Ok(match &mut self.side {
            Side::Opener(opener) => opener.handle(&self.trie, frame)?,
            Side::Answerer(answerer) => answerer.handle(&self.trie, frame)?,
        })
    }

    /// Rounds of questions so far; the answerer does not know where one ends.
    fn rounds(&self) -> u32 {
        match &self.side {
            Side::Opener(opener) => opener.rounds(),
            Side::Answerer(_) => 0,
        }
    }
}

/// Where a session goes on: its stream, and who counts it.
pub(super) struct Exchange<'a> {
    pub(super) send: SendStream,
    pub(super) recv: RecvStream,
    pub(super) tally: &'a Tally,
    pub(super) traffic: &'a Traffic,
    /// Bounds how many read their sets at a time.
    pub(super) readers: &'a Arc<Semaphore>,
}

impl Exchange<'_> {
    /// Talks until the end of the session. `lacking` gets what this side is told that it lacks.
    pub(super) async fn run<F: Future<Output = ()>>(
        self,
        conversation: Conversation,
        first: Step,
        lacking: impl Fn(Vec<Link>) -> F,
    ) -> Result<End, Failure> {
        let Self { send, mut recv, tally, traffic, readers } = self;
        // What is answered is written before more is read than one question; what is asked waits
        // for nothing: the next questions come when these are answered.
        let (frames, queue) = mpsc::channel(1);
        let talk = async move {
            let (mut conversation, mut step) = (conversation, first);
            loop {
                if !step.lacking.is_empty() {
                    lacking(step.lacking).await;
                }
                if !step.frames.is_empty() {
                    frames.send(step.frames).await.map_err(|_| Failure::BrokenOff)?;
                }
                if let Some(end) = step.end {
                    return Ok(end);
                }
                let frame = read_frame(&mut recv, MAX_FRAME_BYTES, traffic).await?;
                let frame = frame.ok_or(Failure::BrokenOff)?;
                tally.received(&frame);
                let result;
                (conversation, result) = reading(readers, move || {
                    let result = conversation.handle(&frame);
                    (conversation, result)
                })
                .await?;
                tally.round_trips.store(conversation.rounds(), Relaxed);
                step = result?;
            }
        };
        let (end, ()) = tokio::try_join!(talk, write(send, queue, tally, traffic))?;
        Ok(end)
    }
}

/// Writes until no more is to be said, and ends the stream.
async fn write(
    mut send: SendStream,
    mut queue: mpsc::Receiver<Vec<Vec<u8>>>,
    tally: &Tally,
    traffic: &Traffic,
) -> Result<(), Failure> {
    while let Some(frames) = queue.recv().await {
        for frame in frames {
            write_frame(&mut send, &frame, traffic).await?;
            tally.sent(&frame);
        }
    }
    // The other side may have what it wanted, and be gone.
    let _ = send.finish();
    Ok(())
}

/// Runs what reads from the disk, when it is its turn. It goes on to its end though nobody waits
/// for it any more.
pub(super) async fn reading<T: Send + 'static>(
    readers: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let turn = readers.clone().acquire_owned().await.map_err(|_| Failure::Panicked)?;
    let work = move || {
        let result = work();
        drop(turn);
        result
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| Failure::Panicked)
}
