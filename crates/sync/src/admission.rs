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
