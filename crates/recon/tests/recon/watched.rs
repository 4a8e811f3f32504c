//! One side that keeps to the rules, watched for its ceilings of bytes, rounds, memory and links
//! read while the other does what it likes.

use std::cell::Cell;
use std::convert::Infallible;
use std::sync::Arc;

use ark_recon::message::{Answer, Compared, Opening, Part};
use ark_recon::{
    Answerer, End, Links, LinksUnder, MAX_FRAME_BYTES, MAX_ROUNDS, Message, Node, Nodes, Opener,
    Prefix, SessionError, Sketch, Source, Step, Violation,
};

use crate::support::{Set, answer, key, link};

/// What a session may take and send, as documented.
const SESSION_BYTES: usize = 64 << 20;
/// What an opener may hold.
const HELD_BYTES: usize = 8 << 20;
/// What an opener may say at once, where no bucket has many links.
const STEP_BYTES: usize = 3 << 20;
/// What may be answered to few bytes, and per byte.
const ANSWERED: (usize, usize) = (4 << 20, 64);

/// A set that counts how many links are read of it.
pub struct Counted {
    set: Set,
    reads: Cell<u64>,
}

impl From<Set> for Counted {
    fn from(set: Set) -> Self {
        Self { set, reads: Cell::new(0) }
    }
}

impl Counted {
    pub fn of(count: u64) -> Self {
        Set::of((0..count).map(|n| link(0, n))).into()
    }

    pub fn set(&self) -> &Set {
        &self.set
    }

    /// How many links were read so far.
    pub fn reads(&self) -> u64 {
        self.reads.get()
    }

    /// That no more was read than 16 times all, and some.
    fn assert_little_read(&self) {
        let most = 16 * self.set.members.0.len() as u64 + (1 << 18);
        assert!(self.reads.get() <= most + 1, "{} read, {most} allowed", self.reads.get());
    }
}

impl Links for Counted {
    type Error = Infallible;

    fn links(&self, prefix: Prefix) -> Result<LinksUnder<'_, Infallible>, Infallible> {
        let links = self.set.links(prefix)?;
        Ok(Box::new(links.inspect(|_| self.reads.set(self.reads.get() + 1))))
    }
}

impl Nodes for Counted {
    type Error = Infallible;

    fn node(&self, prefix: Prefix) -> Result<Option<Node>, Infallible> {
        self.set.node(prefix)
    }
}

impl Source for Counted {
    type Failure = Infallible;

    fn sketch(&self, otherwise: u64) -> Result<Option<Arc<Sketch>>, Infallible> {
        self.set.sketch(otherwise)
    }
}

/// How a session came to its end.
#[derive(Debug)]
pub enum Ended {
    InOrder(End),
    By(Violation),
    /// The other side fell silent.
    Silence,
}

pub fn ended(error: SessionError<Infallible>) -> Ended {
    match error {
        SessionError::Violation(violation) => Ended::By(violation),
        error => panic!("{error}"),
    }
}

/// The opening as if it were a comparison of all.
fn as_comparison(opening: &Opening) -> Message {
    let tags = vec![[0; 8]; opening.tags.len()];
    Message::Compare(vec![Compared { prefix: Prefix::ROOT, count: opening.count.into(), tags }])
}

/// An answer to a comparison as one to an opening: it begins with a tag, which is wrong.
fn to_opening(mut answers: Vec<Message>) -> Vec<Message> {
    if let Some(Message::Answer(Answer { parts, .. })) = answers.first_mut()
        && !matches!(parts.first(), None | Some(Part::Rest(_)))
    {
        parts.insert(0, Part::Rest([0; 8]));
    }
    answers
}

/// Runs an opener over `count` links against `other`, which is given each message, the opening as a
/// comparison, and says what it likes.
pub fn against(count: u64, mut other: impl FnMut(Message) -> Vec<Message>) -> Ended {
    let own = Counted::of(count);
    let (mut opener, mut step) = Opener::open(&own, key(0)).unwrap();
    let (mut sent, mut received) = (0, 0);
    loop {
        let said = step.frames.iter().map(Vec::len).sum::<usize>();
        sent += said;
        assert!(said <= STEP_BYTES, "{said} bytes at once");
        assert!(step.frames.iter().all(|frame| frame.len() <= MAX_FRAME_BYTES));
        assert!(sent <= SESSION_BYTES && received <= SESSION_BYTES);
        assert!(opener.rounds() <= MAX_ROUNDS + 1);
        assert!(opener.held_bytes() <= HELD_BYTES, "{} held", opener.held_bytes());
        own.assert_little_read();
        let questions = step.frames.iter();
        let answers: Vec<_> = if received == 0 {
            let opening = questions.map(|frame| Opening::decode(frame).unwrap());
            to_opening(opening.flat_map(|it| other(as_comparison(&it))).collect())
        } else {
            questions.flat_map(|frame| other(Message::decode(frame).unwrap())).collect()
        };
        if let Some(end) = step.end {
            let more = opener.handle(&own, &answer(Vec::new()).encode());
            assert!(matches!(more, Err(SessionError::Violation(Violation::AfterEnd))));
            return Ended::InOrder(end);
        }
        if answers.is_empty() {
            return Ended::Silence;
        }
        step = Step::default();
        for message in answers {
            let frame = message.encode();
            received += frame.len();
            match opener.handle(&own, &frame) {
                Ok(Step { frames, lacking: _, end }) => {
                    step.frames.extend(frames);
                    step.end = end;
                }
                Err(error) => return ended(error),
            }
            if step.end.is_some() {
                break;
            }
        }
    }
}

/// Has an answerer over `count` links answer `questions` until it ends.
pub fn asked(count: u64, questions: impl Iterator<Item = Message>) -> Ended {
    asked_of(&Counted::of(count), questions)
}

/// The same over these links.
pub fn asked_of(own: &Counted, questions: impl Iterator<Item = Message>) -> Ended {
    let mut answerer = Answerer::new(own, key(0), 8).unwrap();
    let (mut sent, mut received) = (0, 0);
    let opening = Opening { count: u32::MAX, whole: [0; 8], tags: vec![[0; 2]; 64] };
    for frame in std::iter::once(opening.encode()).chain(questions.map(|it| it.encode())) {
        received += frame.len();
        let step = match answerer.handle(own, &frame) {
            Ok(step) => step,
            Err(error) => return ended(error),
        };
        assert!(step.frames.iter().all(|frame| frame.len() <= MAX_FRAME_BYTES));
        sent += step.frames.iter().map(Vec::len).sum::<usize>();
        assert!(sent <= ANSWERED.0 + ANSWERED.1 * received);
        assert!(sent <= SESSION_BYTES && received <= SESSION_BYTES);
        own.assert_little_read();
        if let Some(end) = step.end {
            let more = answerer.handle(own, &frame);
            assert!(matches!(more, Err(SessionError::Violation(Violation::AfterEnd))));
            return Ended::InOrder(end);
        }
    }
    Ended::Silence
}
