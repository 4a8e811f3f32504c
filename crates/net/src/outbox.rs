//! What waits to be sent to one device in one repo.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use ark_sync::Message;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// Messages that wait. The engine coalesces what can be, so a device that does not take so many
/// is stuck: it is disconnected and starts anew with a summary.
const CAPACITY: usize = 256;
/// Bytes of states that wait while another answer may be added. An answer itself is as long as the
/// states that it needs; all but states is short.
const STATES_BYTES: usize = 4 << 20;

/// The repo's end.
#[derive(Debug)]
pub(crate) struct Outbox {
    messages: mpsc::Sender<Message>,
    /// Bytes of states in it.
    waiting: Arc<AtomicUsize>,
    /// When states were last added.
    turn: u64,
}

/// The stream's end.
#[derive(Debug)]
pub(crate) struct Outgoing {
    messages: mpsc::Receiver<Message>,
    waiting: Arc<AtomicUsize>,
    /// Bytes of states in the message that was taken last.
    taken: usize,
}

/// Both ends, with nothing between them.
pub(crate) fn outbox() -> (Outbox, Outgoing) {
    let (sender, receiver) = mpsc::channel(CAPACITY);
    let waiting = Arc::<AtomicUsize>::default();
    let outgoing = Outgoing { messages: receiver, waiting: waiting.clone(), taken: 0 };
    (Outbox { messages: sender, waiting, turn: 0 }, outgoing)
}

impl Outbox {
    /// Adds a message; false where too much waits already. All states of one `turn`, from 1, are
    /// one answer.
    pub(crate) fn add(&mut self, message: Message, turn: u64) -> bool {
        let bytes = states_bytes(&message);
        if bytes > 0 {
            if self.turn != turn && self.waiting.load(Relaxed) > STATES_BYTES {
                return false;
            }
            self.turn = turn;
            self.waiting.fetch_add(bytes, Relaxed);
        }
        // A stream that ended takes nothing; that is told elsewhere.
        !matches!(self.messages.try_send(message), Err(TrySendError::Full(_)))
    }
}

impl Outgoing {
    /// The next message; the one before it does not wait any more. `None` where no more come.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        self.waiting.fetch_sub(std::mem::take(&mut self.taken), Relaxed);
        let message = self.messages.recv().await?;
        self.taken = states_bytes(&message);
        Some(message)
    }
}

fn states_bytes(message: &Message) -> usize {
    match message {
        Message::States(states) => states.iter().map(Vec::len).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states() -> Message {
        Message::States(vec![vec![0; 1 << 20]])
    }

    #[tokio::test]
    async fn one_answer_may_be_long_and_others_wait_for_it() {
        let (mut outbox, mut outgoing) = outbox();
        for _ in 0..10 {
            assert!(outbox.add(states(), 1));
        }
        assert!(outbox.add(Message::Summary(Vec::new()), 2), "it is short");
        assert!(!outbox.add(states(), 2));
        for _ in 0..6 {
            outgoing.next().await.unwrap();
        }
        assert!(!outbox.add(states(), 3), "the sixth is still being written");
        outgoing.next().await.unwrap();
        assert!(outbox.add(states(), 4));
    }

    #[test]
    fn messages_are_bounded() {
        let (mut outbox, _outgoing) = outbox();
        let took = (0..1_000).filter(|_| outbox.add(Message::Summary(Vec::new()), 1)).count();
        assert_eq!(took, CAPACITY);
    }
}
