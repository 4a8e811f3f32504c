//! Whether a state that arrived is news, and from one whose word counts.

use std::collections::BTreeMap;

use ark_core::{DeviceId, MAX_WRITERS, ObjectId, RepoKind, SignedState, TopicId, Writer};

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
    /// It is of another kind.
    WrongKind(RepoKind),
    /// It is of another repo.
    WrongTopic,
    /// There are as many writers as a repo may have.
    TooMany,
}

/// What a state is held against.
#[derive(Debug)]
pub(crate) struct Admitting<'a> {
    /// The repo.
    pub(crate) topic: TopicId,
    /// Its kind here.
    pub(crate) kind: RepoKind,
    /// This device's writer of now.
    pub(crate) own: Writer,
    /// The other devices that are listed.
    pub(crate) remotes: &'a BTreeMap<DeviceId, String>,
    /// Revision and hash of the newest state known of its writer.
    pub(crate) known: Option<(u64, ObjectId)>,
    /// How many writers are known.
    pub(crate) writers: usize,
}

impl Admitting<'_> {
    /// Whether states of this writer count: it is listed, or an incarnation of this device.
    pub(crate) fn lists(&self, writer: Writer) -> bool {
        writer.device == self.own.device || self.remotes.contains_key(&writer.device)
    }

    /// Decides about `signed`.
    pub(crate) fn decide(&self, signed: &SignedState) -> Admission {
        let state = signed.state();
        if state.topic != self.topic {
            return Admission::WrongTopic;
        }
        if !self.lists(state.writer) {
            return Admission::Unlisted;
        }
        if state.kind != self.kind {
            return Admission::WrongKind(state.kind);
        }
        let here = (state.revision, signed.hash());
        let admission = match self.known {
            // One place is kept for this device's own next incarnation.
            None if self.writers + 1 >= MAX_WRITERS => return Admission::TooMany,
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
        let remotes = [(writer(2).device, "two".to_owned())].into();
        let decide = |state: &SignedState, known, writers| {
            let (topic, kind, own) = (TopicId::derive("x", None), RepoKind::Folder, writer(1));
            Admitting { topic, kind, own, remotes: &remotes, known, writers }.decide(state)
        };
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

        let own = state(1, "x", RepoKind::Folder, 5);
        assert_eq!(decide(&own, Some((5, own.hash())), 1), Admission::Known);
        assert_eq!(decide(&own, Some((6, hash)), 1), Admission::Older);
        for known in [None, Some((4, hash)), Some((5, least)), Some((5, most))] {
            assert_eq!(decide(&own, known, 1), Admission::OwnUnknown);
        }
        let jj = state(2, "x", RepoKind::Jj, 5);
        assert_eq!(decide(&jj, None, 1), Admission::WrongKind(RepoKind::Jj));
        assert_eq!(decide(&state(3, "x", RepoKind::Jj, 5), None, 1), Admission::Unlisted);
        assert_eq!(decide(&state(3, "y", RepoKind::Jj, 5), None, 1), Admission::WrongTopic);
    }
}
