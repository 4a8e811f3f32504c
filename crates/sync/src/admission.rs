//! Whether a state that arrived is news, and from one whose word counts.

use std::collections::{BTreeMap, BTreeSet};

use ark_core::{DeviceId, MAX_WRITERS, ObjectId, RepoKind, SignedState, TopicId, Writer};

use crate::engine::Remote;
use crate::message::Role;

/// The incarnations of one device that a repo takes. A device takes one where its store was put
/// back or lost, a few in its life. Vectors never shrink, so without these bounds, on states and
/// on what their vectors name, one device could use up all the writers that a repo may have.
pub(crate) const MAX_INCARNATIONS: usize = 64;
/// The writers of devices that may not write here that vectors may name in all: of devices that
/// were dropped from the config, or that others let write.
const MAX_UNLISTED: usize = 256;

/// What to do with a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    /// It replaces what is known of its writer: stage it.
    Newer,
    /// Its writer made two states of one revision and this is the greater: stage it.
    Equivocating,
    /// Its writer made two states of one revision and this is the lesser.
    EquivocatingLess,
    /// This device's own writer made more than this device knows: the store must see it.
    OwnUnknown,
    /// It is what is known.
    Known,
    /// It was replaced long since.
    Older,
    /// Its device is not listed.
    Unlisted,
    /// Its device is listed, and may not write.
    NotAWriter,
    /// It is of another kind.
    WrongKind(RepoKind),
    /// It is of another repo.
    WrongTopic,
    /// There are as many writers as a repo may have.
    TooMany,
    /// Its device has as many incarnations as a repo takes of one.
    TooManyIncarnations,
}

/// Whether states of `device` count: it is this one, or the config lets it write.
pub(crate) fn may_write(
    own: DeviceId,
    remotes: &BTreeMap<DeviceId, Remote>,
    device: DeviceId,
) -> bool {
    device == own || remotes.get(&device).is_some_and(|remote| remote.role == Role::Peer)
}

/// What a state is held against.
#[derive(Debug)]
pub(crate) struct Admitting<'a> {
    /// The repo.
    pub(crate) topic: TopicId,
    /// Its kind here, once something has decided it.
    pub(crate) kind: Option<RepoKind>,
    /// This device's writer of now.
    pub(crate) own: Writer,
    /// The other devices that are listed.
    pub(crate) remotes: &'a BTreeMap<DeviceId, Remote>,
    /// Revision and hash of the newest state known of its writer.
    pub(crate) known: Option<(u64, ObjectId)>,
    /// How many writers are known.
    pub(crate) writers: usize,
    /// How many of them are of the state's device.
    pub(crate) incarnations: usize,
}

impl Admitting<'_> {
    /// Whether states of this writer count.
    pub(crate) fn may_write(&self, writer: Writer) -> bool {
        may_write(self.own.device, self.remotes, writer.device)
    }

    /// Whether a state of this writer would be taken if it were news.
    pub(crate) fn takes(&self, writer: Writer) -> bool {
        let has_place = self.writers + 1 < MAX_WRITERS && self.incarnations < MAX_INCARNATIONS;
        self.may_write(writer) && (has_place || self.known.is_some())
    }

    /// Whether a state names more writers in its vector than can be taken in, beside those that
    /// `named` has: those that states taken before name.
    pub(crate) fn names_too_many(&self, signed: &SignedState, named: &BTreeSet<Writer>) -> bool {
        let vector = &signed.state().vector;
        let new: Vec<Writer> =
            vector.iter().map(|(writer, _)| writer).filter(|it| !named.contains(it)).collect();
        if new.is_empty() {
            return false;
        }
        let all = || named.iter().chain(&new);
        let of_one = |device: DeviceId| all().filter(|it| it.device == device).count();
        // One place is kept for this device's own next incarnation.
        all().count() + 1 > MAX_WRITERS
            || all().filter(|it| !self.may_write(**it)).count() > MAX_UNLISTED
            || new.iter().any(|it| self.may_write(*it) && of_one(it.device) > MAX_INCARNATIONS)
    }

    /// Decides about `signed`.
    pub(crate) fn decide(&self, signed: &SignedState) -> Admission {
        let state = signed.state();
        if state.topic != self.topic {
            return Admission::WrongTopic;
        }
        if !self.may_write(state.writer) {
            let is_listed = self.remotes.contains_key(&state.writer.device);
            return if is_listed { Admission::NotAWriter } else { Admission::Unlisted };
        }
        if self.kind.is_some_and(|kind| kind != state.kind) {
            return Admission::WrongKind(state.kind);
        }
        let here = (state.revision, signed.hash());
        let admission = match self.known {
            // One place is kept for this device's own next incarnation.
            None if self.writers + 1 >= MAX_WRITERS => return Admission::TooMany,
            None if self.incarnations >= MAX_INCARNATIONS => {
                return Admission::TooManyIncarnations;
            }
            Some(known) if known == here => return Admission::Known,
            Some((revision, _)) if revision > state.revision => return Admission::Older,
            Some((revision, hash)) if revision == state.revision && hash > here.1 => {
                Admission::EquivocatingLess
            }
            Some((revision, _)) if revision == state.revision => Admission::Equivocating,
            _ => Admission::Newer,
        };
        // Only this device issues these, and it keeps the newest: it is not its own doing.
        if state.writer == self.own { Admission::OwnUnknown } else { admission }
    }
}

#[cfg(test)]
mod tests {
    use ark_core::{Dot, Head, Incarnation, State};
    use ed25519_dalek::SigningKey;

    use super::*;

    fn writer(n: u8) -> Writer {
        let key = SigningKey::from_bytes(&[n; 32]);
        let device = DeviceId::from_bytes(key.verifying_key().to_bytes());
        Writer { device, incarnation: Incarnation::new(1) }
    }

    fn state(n: u8, topic: &str, kind: RepoKind, revision: u64) -> SignedState {
        let (writer, id) = (writer(n), ObjectId::of(&[]));
        let mut vector = ark_core::Vector::empty();
        vector.take_in(Dot { writer, sequence: revision });
        let state = State {
            topic: TopicId::derive(topic, None),
            kind,
            writer,
            revision,
            heads: vec![Head { id, sequence: revision }],
            vector,
            held: Vec::new(),
        };
        SignedState::sign(state, &SigningKey::from_bytes(&[n; 32])).unwrap()
    }

    #[test]
    fn each_state_has_its_outcome() {
        let remote = |n: u8, role| (writer(n).device, Remote { name: n.to_string(), role });
        let remotes =
            [remote(2, Role::Peer), remote(4, Role::Reader), remote(5, Role::Mirror)].into();
        let among = |state: &SignedState, known, writers, incarnations| {
            let (topic, kind, own) =
                (TopicId::derive("x", None), Some(RepoKind::Folder), writer(1));
            let here =
                Admitting { topic, kind, own, remotes: &remotes, known, writers, incarnations };
            let admission = here.decide(state);
            if matches!(admission, Admission::TooMany | Admission::TooManyIncarnations) {
                assert!(!here.takes(state.state().writer));
            }
            admission
        };
        let decide = |state: &SignedState, known, writers| among(state, known, writers, 1);
        let theirs = state(2, "x", RepoKind::Folder, 5);
        let (least, hash, most) =
            (ObjectId::from_bytes([0; 32]), theirs.hash(), ObjectId::from_bytes([255; 32]));
        for (known, admission) in [
            (None, Admission::Newer),
            (Some((4, most)), Admission::Newer),
            (Some((5, hash)), Admission::Known),
            (Some((5, least)), Admission::Equivocating),
            (Some((5, most)), Admission::EquivocatingLess),
            (Some((6, least)), Admission::Older),
        ] {
            assert_eq!(decide(&theirs, known, 1), admission);
        }
        assert_eq!(decide(&theirs, None, MAX_WRITERS - 1), Admission::TooMany);
        assert_eq!(decide(&theirs, Some((4, most)), MAX_WRITERS), Admission::Newer);
        let many = MAX_INCARNATIONS;
        assert_eq!(among(&theirs, None, many, many - 1), Admission::Newer);
        assert_eq!(among(&theirs, None, many, many), Admission::TooManyIncarnations);
        assert_eq!(among(&theirs, Some((4, most)), many, many), Admission::Newer);

        let own = state(1, "x", RepoKind::Folder, 5);
        assert_eq!(decide(&own, Some((5, own.hash())), 1), Admission::Known);
        assert_eq!(decide(&own, Some((6, hash)), 1), Admission::Older);
        for known in [None, Some((4, hash)), Some((5, least)), Some((5, most))] {
            assert_eq!(decide(&own, known, 1), Admission::OwnUnknown);
        }
        let jj = state(2, "x", RepoKind::Jj, 5);
        assert_eq!(decide(&jj, None, 1), Admission::WrongKind(RepoKind::Jj));
        assert_eq!(decide(&state(3, "x", RepoKind::Jj, 5), None, 1), Admission::Unlisted);
        for n in [4, 5] {
            let theirs = state(n, "x", RepoKind::Folder, 5);
            assert_eq!(decide(&theirs, None, 1), Admission::NotAWriter);
            assert_eq!(decide(&theirs, Some((4, least)), 1), Admission::NotAWriter);
        }
        assert_eq!(decide(&state(3, "y", RepoKind::Jj, 5), None, 1), Admission::WrongTopic);
    }
}
