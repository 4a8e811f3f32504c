//! What is asked of the daemon and what of it is answered, apart from any connection: what to send
//! next, what an answer means, what is left when the connection is lost.

use std::collections::{BTreeMap, VecDeque};

use ark_control::jj::{Answer, Ask};
use ark_core::{Link, Object};
use bytes::Bytes;
use tokio::sync::oneshot;

use super::error::ClientError;
use super::outbox::Outbox;

/// How an asker hears.
pub(super) type Reply = oneshot::Sender<Result<Answer, ClientError>>;
/// What an asker waits for.
pub(super) type Waiting = oneshot::Receiver<Result<Answer, ClientError>>;

/// How many connections may be lost that had a question, and did not answer it, before who asked is
/// told: it may be what ends them. So for what is put, of which a barrier is the answer.
const MAX_LOST: usize = 8;

/// The state of all that is under way.
#[derive(Debug, Default)]
pub(super) struct Line {
    outbox: Outbox,
    /// Questions without an answer, by number.
    asked: BTreeMap<u64, Asked>,
    /// Those of them that were not sent on this connection.
    unsent: VecDeque<u64>,
    /// Who waits for a barrier that was not sent, behind what is before a place in the outbox.
    waiting: Vec<(u64, Reply)>,
    /// Barriers that were sent and have no answer.
    barriers: VecDeque<Barrier>,
    /// Connections that were lost in a row while somebody waited for a barrier and none was answered.
    lost: usize,
    /// The number of the next question.
    next: u64,
    /// What a barrier said that nobody waited for.
    failed: Option<ClientError>,
}

#[derive(Debug)]
struct Asked {
    ask: Ask,
    reply: Reply,
    /// Connections that were lost after they had it.
    lost: usize,
}

#[derive(Debug)]
struct Barrier {
    number: u64,
    /// All before this place in the outbox is behind it.
    end: u64,
    replies: Vec<Reply>,
}

/// What an answer means for the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Heard {
    /// It goes on.
    GoOn,
    /// What the daemon has taken in since the last barrier is not known: begin anew.
    BeginAnew,
}

impl Line {
    /// The bytes, if they are still to be acknowledged.
    pub(super) fn get(&self, link: Link) -> Option<Bytes> {
        self.outbox.get(link)
    }

    /// Asks a question that has an answer of its own.
    pub(super) fn ask(&mut self, ask: Ask) -> Waiting {
        let (reply, waiting) = oneshot::channel();
        let number = self.number();
        self.asked.insert(number, Asked { ask, reply, lost: 0 });
        self.unsent.push_back(number);
        waiting
    }

    /// Takes an object in; where there is no room, what to wait for before it is tried again.
    ///
    /// # Errors
    /// What was put earlier failed.
    pub(super) fn put(&mut self, object: Object) -> Result<Option<Waiting>, ClientError> {
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        if self.outbox.push(object).is_ok() {
            return Ok(None);
        }
        let (reply, waiting) = oneshot::channel();
        match self.barriers.front_mut() {
            Some(barrier) => barrier.replies.push(reply),
            None => self.waiting.push((self.outbox.end(), reply)),
        }
        Ok(Some(waiting))
    }

    /// Asks for a barrier behind all that was put; `None` where there is nothing.
    pub(super) fn barrier(&mut self) -> Option<Waiting> {
        self.failed = None;
        if self.outbox.is_empty() {
            return None;
        }
        let (reply, waiting) = oneshot::channel();
        let end = self.outbox.end();
        match self.barriers.back_mut().filter(|barrier| barrier.end >= end) {
            Some(barrier) => barrier.replies.push(reply),
            None => self.waiting.push((end, reply)),
        }
        Some(waiting)
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Whether anybody waits for anything.
    pub(super) fn is_awaited(&self) -> bool {
        !self.asked.is_empty() || !self.waiting.is_empty()
    }

    /// What is to be sent next: questions that somebody waits for first.
    pub(super) fn send(&mut self) -> Option<(u64, Ask)> {
        while let Some(number) = self.unsent.pop_front() {
            if let Some(asked) = self.asked.get(&number) {
                return Some((number, asked.ask.clone()));
            }
        }
        let sent = self.outbox.sent();
        let is_due = self.waiting.iter().any(|(end, _)| *end <= sent);
        let is_heavy = self.outbox.is_heavy() && self.barriers.is_empty();
        if is_due || is_heavy && sent == self.outbox.end() {
            let due = self.waiting.extract_if(.., |(end, _)| *end <= sent);
            let replies = due.map(|(_, reply)| reply).collect();
            let number = self.number();
            self.barriers.push_back(Barrier { number, end: sent, replies });
            return Some((number, Ask::Barrier));
        }
        let object = self.outbox.send()?;
        Some((self.number(), Ask::Put(object)))
    }

    /// An answer came.
    pub(super) fn answered(&mut self, number: u64, answer: Answer) -> Heard {
        if let Some(asked) = self.asked.remove(&number) {
            // Who asked may not wait any more; so below.
            drop(asked.reply.send(told(answer)));
            return Heard::GoOn;
        }
        let Some(index) = self.barriers.iter().position(|barrier| barrier.number == number) else {
            return Heard::GoOn;
        };
        // They are answered in order; one that was passed over is answered with the next.
        let replies: Vec<Reply> =
            self.barriers.range_mut(..=index).flat_map(|it| it.replies.drain(..)).collect();
        let end = self.barriers[index].end;
        self.barriers.drain(..=index);
        self.lost = 0;
        let refused = match &answer {
            Answer::Refused(link, _) => Some(*link),
            _ => None,
        };
        let result = match told(answer) {
            Ok(Answer::Done) => Ok(Answer::Done),
            Ok(_) => Err(ClientError::Unexpected),
            Err(error) => Err(error),
        };
        let heard = match &result {
            Ok(_) => {
                self.outbox.acknowledge(end);
                // It was mended meanwhile.
                self.failed = None;
                Heard::GoOn
            }
            Err(error) => {
                if replies.is_empty() {
                    self.failed = Some(error.clone());
                } else if let Some(link) = refused {
                    // Once somebody is told: it would fail every barrier to come.
                    self.outbox.remove(link);
                }
                Heard::BeginAnew
            }
        };
        for reply in replies {
            drop(reply.send(result.clone()));
        }
        heard
    }

    /// The connection is gone: everything without an answer is to be sent again, but for what too
    /// many connections had.
    pub(super) fn lost(&mut self) {
        for (number, asked) in &mut self.asked {
            // They are in order.
            if self.unsent.binary_search(number).is_err() {
                asked.lost += 1;
            }
        }
        let is_many = |_: &u64, asked: &mut Asked| asked.lost > MAX_LOST;
        for (_, asked) in self.asked.extract_if(.., is_many) {
            drop(asked.reply.send(Err(ClientError::Breaking)));
        }
        self.begin_anew();
        self.lost = if self.waiting.is_empty() { 0 } else { self.lost + 1 };
        if self.lost > MAX_LOST {
            self.lost = 0;
            for (_, reply) in self.waiting.drain(..) {
                drop(reply.send(Err(ClientError::Breaking)));
            }
        }
    }

    fn begin_anew(&mut self) {
        self.outbox.send_again();
        self.unsent = self.asked.keys().copied().collect();
        for barrier in self.barriers.drain(..) {
            self.waiting.extend(barrier.replies.into_iter().map(|reply| (barrier.end, reply)));
        }
    }

    /// There will be none for now: whoever waits is told so. What was put stays.
    pub(super) fn give_up(&mut self, error: &ClientError) {
        self.begin_anew();
        let asked = std::mem::take(&mut self.asked).into_values().map(|asked| asked.reply);
        let waiting = self.waiting.drain(..).map(|(_, reply)| reply);
        for reply in asked.chain(waiting) {
            drop(reply.send(Err(error.clone())));
        }
        self.unsent.clear();
    }
}

fn told(answer: Answer) -> Result<Answer, ClientError> {
    match answer {
        Answer::Failed(why) | Answer::Refused(_, why) => Err(ClientError::Failed(why)),
        answer => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use ark_core::ObjectKind;

    use super::*;

    fn object(n: usize) -> Object {
        Object::new(ObjectKind::Raw, n.to_le_bytes().to_vec())
    }

    fn put(line: &mut Line, n: usize) {
        assert!(line.put(object(n)).unwrap().is_none());
    }

    /// All that is sent now: the first byte of what is put, letters of the rest.
    fn sent(line: &mut Line) -> (String, Option<u64>) {
        let (mut text, mut last) = (String::new(), None);
        while let Some((number, ask)) = line.send() {
            text.push(match ask {
                Ask::Put(object) => char::from(b'0' + object.bytes()[0]),
                Ask::Barrier => 'B',
                Ask::Heads => 'H',
                _ => '?',
            });
            last = Some(number);
        }
        (text, last)
    }

    #[test]
    fn a_barrier_comes_behind_what_was_put_and_is_shared() {
        let mut line = Line::default();
        assert!(line.barrier().is_none(), "there is nothing");
        put(&mut line, 1);
        let mut first = line.barrier().unwrap();
        put(&mut line, 2);
        let mut heads = line.ask(Ask::Heads);
        let (text, _) = sent(&mut line);
        assert_eq!(text, "H1B2");
        let mut second = line.barrier().unwrap();
        let (text, last) = sent(&mut line);
        assert_eq!(text, "B");
        let mut third = line.barrier().unwrap();
        assert_eq!(sent(&mut line).0, "", "it is the same one");
        assert_eq!(line.answered(last.unwrap(), Answer::Done), Heard::GoOn);
        for waiting in [&mut first, &mut second, &mut third] {
            assert_eq!(waiting.try_recv().unwrap().unwrap(), Answer::Done);
        }
        assert!(line.barrier().is_none());
        heads.try_recv().unwrap_err();
        assert_eq!(line.answered(1000, Answer::Done), Heard::GoOn, "nobody asked that");
        line.answered(1, Answer::Ids(Vec::new()));
        line.answered(2, Answer::Ids(Vec::new()));
        assert_eq!(heads.try_recv().unwrap().unwrap(), Answer::Ids(Vec::new()));
    }

    #[test]
    fn what_no_barrier_acknowledged_is_sent_again() {
        let mut line = Line::default();
        for n in 1..=3 {
            put(&mut line, n);
        }
        let mut first = line.barrier().unwrap();
        let (text, number) = sent(&mut line);
        assert_eq!(text, "123B");
        put(&mut line, 4);
        let mut second = line.barrier().unwrap();
        let mut heads = line.ask(Ask::Heads);
        assert_eq!(sent(&mut line).0, "H4B");
        line.answered(number.unwrap(), Answer::Done);
        assert!(first.try_recv().is_ok());
        line.lost();
        let (text, number) = sent(&mut line);
        assert_eq!(text, "H4B");
        line.answered(number.unwrap(), Answer::Done);
        assert!(second.try_recv().is_ok());
        heads.try_recv().unwrap_err();
        let gone = ClientError::Unexpected;
        line.give_up(&gone);
        assert!(heads.try_recv().unwrap().is_err());
        assert_eq!(sent(&mut line).0, "");
    }

    #[test]
    fn a_barrier_that_failed_acknowledges_nothing() {
        let mut line = Line::default();
        put(&mut line, 1);
        let mut first = line.barrier().unwrap();
        let (_, number) = sent(&mut line);
        put(&mut line, 2);
        let mut second = line.barrier().unwrap();
        assert_eq!(sent(&mut line).0, "2B");
        let heard = line.answered(number.unwrap(), Answer::Failed("full".into()));
        assert_eq!(heard, Heard::BeginAnew);
        assert!(matches!(first.try_recv(), Ok(Err(ClientError::Failed(_)))));
        // The other one, which would have passed, is asked for anew, behind all.
        line.lost();
        let (text, number) = sent(&mut line);
        assert_eq!(text, "12B");
        second.try_recv().unwrap_err();
        line.answered(number.unwrap(), Answer::Done);
        assert!(matches!(second.try_recv(), Ok(Ok(Answer::Done))));
    }

    #[test]
    fn one_that_is_refused_is_told_once_and_let_go() {
        let mut line = Line::default();
        for n in 1..=3 {
            put(&mut line, n);
        }
        let mut first = line.barrier().unwrap();
        let (_, number) = sent(&mut line);
        let refused = Answer::Refused(object(2).link(), "never".into());
        assert_eq!(line.answered(number.unwrap(), refused), Heard::BeginAnew);
        assert!(matches!(first.try_recv(), Ok(Err(ClientError::Failed(_)))));
        line.lost();
        let mut second = line.barrier().unwrap();
        let (text, number) = sent(&mut line);
        assert_eq!(text, "13B");
        line.answered(number.unwrap(), Answer::Done);
        assert!(matches!(second.try_recv(), Ok(Ok(Answer::Done))));
        assert!(line.barrier().is_none());
    }

    #[test]
    fn what_no_connection_survives_is_told_though_others_are_answered() {
        let mut line = Line::default();
        let mut poison = line.ask(Ask::Get(object(1).link()));
        for round in 0..=MAX_LOST {
            poison.try_recv().unwrap_err();
            let mut heads = line.ask(Ask::Heads);
            let (text, number) = sent(&mut line);
            assert_eq!(text, "?H", "{round}");
            line.answered(number.unwrap(), Answer::Ids(Vec::new()));
            assert!(heads.try_recv().is_ok());
            line.lost();
        }
        assert!(matches!(poison.try_recv(), Ok(Err(ClientError::Breaking))));
        // So what is put, and it stays.
        put(&mut line, 1);
        let mut barrier = line.barrier().unwrap();
        for _ in 0..=MAX_LOST {
            barrier.try_recv().unwrap_err();
            assert_eq!(sent(&mut line).0, "1B");
            line.lost();
        }
        assert!(matches!(barrier.try_recv(), Ok(Err(ClientError::Breaking))));
        let mut later = line.ask(Ask::Heads);
        for _ in 0..=MAX_LOST {
            line.lost();
            assert_eq!(sent(&mut line).0, "H1");
        }
        later.try_recv().unwrap_err();
    }

    #[test]
    fn a_failure_that_was_mended_is_not_told() {
        let mut line = Line::default();
        let chunk = |n: u8| Object::new(ObjectKind::Raw, vec![n; 4 << 20]);
        for n in 1..=4 {
            assert!(line.put(chunk(n)).unwrap().is_none());
        }
        for answer in [Answer::Failed("full".into()), Answer::Done] {
            let (text, number) = sent(&mut line);
            assert_eq!(text, "1234B");
            line.answered(number.unwrap(), answer);
            line.lost();
        }
        assert!(line.put(chunk(5)).unwrap().is_none());
    }

    #[test]
    fn much_is_brought_behind_a_barrier_that_nobody_asked_for() {
        let mut line = Line::default();
        let chunk = |n: u8| Object::new(ObjectKind::Raw, vec![n; 4 << 20]);
        for n in 1..=3 {
            assert!(line.put(chunk(n)).unwrap().is_none());
        }
        assert_eq!(sent(&mut line).0, "123");
        assert!(line.put(chunk(4)).unwrap().is_none());
        let (text, number) = sent(&mut line);
        assert_eq!(text, "4B");
        for n in 5..=7 {
            assert!(line.put(chunk(n)).unwrap().is_none());
        }
        assert_eq!(sent(&mut line).0, "567", "one at a time");
        let mut room = line.put(chunk(8)).unwrap().expect("no room");
        let heard = line.answered(number.unwrap(), Answer::Failed("full".into()));
        assert_eq!(heard, Heard::BeginAnew);
        assert!(matches!(room.try_recv(), Ok(Err(ClientError::Failed(_)))));
        line.lost();
        let (text, number) = sent(&mut line);
        assert_eq!(text, "1234567B");
        line.answered(number.unwrap(), Answer::Failed("full".into()));
        line.lost();
        assert!(matches!(line.put(chunk(8)), Err(ClientError::Failed(_))), "nobody was told yet");
        let (text, number) = sent(&mut line);
        assert_eq!(text, "1234567B");
        line.answered(number.unwrap(), Answer::Done);
        assert!(line.get(chunk(1).link()).is_none());
        assert!(line.put(chunk(8)).unwrap().is_none());
    }
}
