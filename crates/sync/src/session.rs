//! The session with one peer: what may be said when, and what it said last.

use std::collections::BTreeMap;

use ark_core::{DeviceId, MAX_WRITERS, RepoKind, TopicId, Writer};

use crate::gate::Gate;
use crate::message::{Have, HaveEntry, Hello, Message, PROTOCOL, SummaryEntry};
use crate::told::Moment;
use crate::view::Problem;

/// States that do not decode, per session, before it is ended. A peer relays only what it has
/// verified itself; a few may be of a newer format.
const MAX_FORGED_STATES: u32 = 16;

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
    /// It sent on the repo's stream what has a stream of its own.
    #[error("it sent on one stream what belongs on another")]
    Misplaced,
    /// It sent bytes that are no message.
    #[error("it sent what is no message")]
    Malformed,
    /// It told of changes before it told what it has, or of more writers than there may be.
    #[error("it told of changes that do not fit what it told before")]
    Changes,
    /// It broke the rules of reconciliation.
    #[error("it broke the rules of reconciliation")]
    Reconciliation,
}

/// What a message means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    /// Its hello. If there is a problem, nothing else is exchanged in this session.
    Hello(Option<Problem>),
    /// What it knows; whether this is the first time in this session.
    Summary(Vec<SummaryEntry>, First),
    /// It wants these writers' states.
    Want(Vec<Writer>),
    /// States.
    States(Vec<Vec<u8>>),
    /// It has said what it has, or what of that has changed: these. Whether this is the first time
    /// in this session.
    Have(Vec<HaveEntry>, First),
    /// Nothing that asks for anything: it takes other devices' states from now on, or the session is
    /// not one to listen to.
    Ignored,
}

/// Whether something is said for the first time in a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum First {
    /// It is.
    Yes,
    /// It is not.
    No,
}

/// What a session is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// No hello yet.
    Opening,
    /// As it should be.
    Open,
    /// It speaks of something else: nothing is exchanged.
    Apart,
    /// It broke the protocol: it is not listened to until it connects anew.
    Ended,
}

#[derive(Debug)]
struct Session {
    standing: Standing,
    summarized: bool,
    had: bool,
    forged: u32,
    have: Gate,
    /// How much of what is here it was told.
    told: Option<Moment>,
}

/// A remote, over all its sessions.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    session: Option<Session>,
    /// Its last hello.
    pub(crate) hello: Option<Hello>,
    /// What it said last that it has.
    pub(crate) writers: BTreeMap<Writer, HaveEntry>,
    /// Whether it has said that its first scan is done.
    pub(crate) scanned: bool,
}

impl Peer {
    /// A new stream stands.
    pub(crate) fn connect(&mut self) {
        self.session = Some(Session {
            standing: Standing::Opening,
            summarized: false,
            had: false,
            forged: 0,
            have: Gate::default(),
            told: None,
        });
    }

    /// The stream is gone.
    pub(crate) fn disconnect(&mut self) {
        self.session = None;
    }

    /// The peer broke the protocol.
    pub(crate) fn end(&mut self) {
        if let Some(session) = &mut self.session {
            session.standing = Standing::Ended;
        }
    }

    fn is(&self, standing: Standing) -> bool {
        self.session.as_ref().is_some_and(|session| session.standing == standing)
    }

    /// Whether anything may be said to it.
    pub(crate) fn is_audible(&self) -> bool {
        self.is(Standing::Opening) || self.is(Standing::Open)
    }

    /// Whether it has said a hello that fits.
    pub(crate) fn is_open(&self) -> bool {
        self.is(Standing::Open)
    }

    /// Whether what it said last that it has is of this session, or of the last one if there is
    /// none. It is said after the states that answer our summary.
    pub(crate) fn is_current(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.had)
    }

    /// Whether it has this revision, or a newer one, durable.
    pub(crate) fn has(&self, writer: Writer, revision: u64) -> bool {
        self.writers.get(&writer).is_some_and(|entry| entry.durable >= revision)
    }

    /// When it is to be told what is here; the gate opens with its first summary, because what
    /// answers that comes first.
    pub(crate) fn have_gate(&mut self) -> Option<&mut Gate> {
        let session = self.session.as_mut()?;
        (session.standing == Standing::Open && session.summarized).then_some(&mut session.have)
    }

    /// How much of what is here it was told; nothing, where it is to be told all.
    pub(crate) fn told(&mut self) -> Option<&mut Option<Moment>> {
        self.session.as_mut().map(|session| &mut session.told)
    }

    /// When [`Peer::have_gate`] opens, if somebody asked it.
    pub(crate) fn have_due_at(&self) -> Option<u64> {
        let session = self.session.as_ref()?;
        let open = session.standing == Standing::Open && session.summarized;
        session.have.due_at().filter(|_| open)
    }

    /// One of its states does not decode.
    ///
    /// # Errors
    /// It was one too many.
    pub(crate) fn forged(&mut self) -> Result<(), Violation> {
        let Some(session) = &mut self.session else { return Ok(()) };
        session.forged += 1;
        if session.forged > MAX_FORGED_STATES { Err(Violation::ForgedStates) } else { Ok(()) }
    }

    /// Takes a message in.
    ///
    /// # Errors
    /// It may not be said now.
    pub(crate) fn hear(
        &mut self,
        device: DeviceId,
        message: Message,
        (topic, kind): (TopicId, Option<RepoKind>),
    ) -> Result<Heard, Violation> {
        let Some(session) = &mut self.session else { return Ok(Heard::Ignored) };
        match (session.standing, message) {
            (Standing::Apart | Standing::Ended, _) => Ok(Heard::Ignored),
            (Standing::Opening, Message::Hello(hello)) => {
                if hello.topic != topic {
                    return Err(Violation::WrongTopic);
                }
                let problem = misfit(device, kind, &hello);
                session.standing = if problem.is_some() { Standing::Apart } else { Standing::Open };
                self.hello = Some(hello);
                Ok(Heard::Hello(problem))
            }
            (Standing::Opening, _) => Err(Violation::NoHello),
            (Standing::Open, Message::Hello(_)) => Err(Violation::SecondHello),
            (Standing::Open, Message::Reconcile { .. } | Message::Ask(_)) => {
                Err(Violation::Misplaced)
            }
            (Standing::Open, Message::Listed(listed)) => {
                if let Some(hello) = &mut self.hello {
                    hello.listed = listed;
                }
                Ok(Heard::Ignored)
            }
            (Standing::Open, Message::Summary(entries)) => {
                let first = if session.summarized { First::No } else { First::Yes };
                session.summarized = true;
                Ok(Heard::Summary(entries, first))
            }
            (Standing::Open, Message::WantStates(writers)) => Ok(Heard::Want(writers)),
            (Standing::Open, Message::States(states)) => Ok(Heard::States(states)),
            (Standing::Open, Message::Have(Have { writers, scanned })) => {
                let first = if session.had { First::No } else { First::Yes };
                session.had = true;
                self.scanned = scanned;
                self.writers = writers.iter().map(|entry| (entry.writer, *entry)).collect();
                Ok(Heard::Have(writers, first))
            }
            (Standing::Open, Message::HaveChanged(Have { writers, scanned })) => {
                if !session.had {
                    return Err(Violation::Changes);
                }
                self.scanned = scanned;
                self.writers.extend(writers.iter().map(|entry| (entry.writer, *entry)));
                if self.writers.len() > MAX_WRITERS {
                    return Err(Violation::Changes);
                }
                Ok(Heard::Have(writers, First::No))
            }
        }
    }
}

/// What of a hello does not fit, if anything.
fn misfit(device: DeviceId, kind: Option<RepoKind>, hello: &Hello) -> Option<Problem> {
    if hello.protocol != PROTOCOL {
        return Some(Problem::Protocol { device, found: hello.protocol });
    }
    let found = hello.kind?;
    (found != kind?).then_some(Problem::WrongKind { device, found })
}
