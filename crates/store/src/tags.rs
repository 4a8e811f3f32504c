//! The names under which states are kept as blobs, so that a lost index can be made anew. A
//! name says enough to burn what it names without reading it.

use ark_core::{DeviceId, Incarnation, ObjectId, SignedState, TopicId, Writer};

/// Every name begins so; the number is the version of the names.
pub(crate) const PREFIX: &str = "ark/state/1/";

/// What the name of a state's tag says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StateTag {
    pub(crate) topic: TopicId,
    pub(crate) writer: Writer,
    pub(crate) revision: u64,
    /// The sequence of the dot that was issued for it; of others' states the highest it shows.
    pub(crate) sequence: u64,
    pub(crate) hash: ObjectId,
}

impl StateTag {
    /// The tag of a state; `sequence` is the dot that it was published under.
    pub(crate) fn new(state: &SignedState, sequence: u64) -> Self {
        let hash = state.hash();
        let state = state.state();
        Self { topic: state.topic, writer: state.writer, revision: state.revision, sequence, hash }
    }

    /// The tag of a state as it shows itself.
    pub(crate) fn of(state: &SignedState) -> Self {
        Self::new(state, state.state().vector.get(state.state().writer))
    }

    /// `ark/state/1/<topic>/<device>.<incarnation>/<revision>.<sequence>/<hash>`, all in hex.
    pub(crate) fn name(&self) -> String {
        let Self { topic, writer, revision, sequence, hash } = self;
        let (device, incarnation) = (writer.device, writer.incarnation.get());
        format!(
            "{PREFIX}{topic}/{device}.{incarnation:016x}/{revision:016x}.{sequence:016x}/{hash}"
        )
    }

    /// What the names of all tags of a writer's revision begin with.
    pub(crate) fn revision_prefix(state: &SignedState) -> String {
        let name = Self::of(state).name();
        let revision_end = name.rfind('.').map_or(name.len(), |at| at + 1);
        name[..revision_end].to_owned()
    }

    /// Reads what [`StateTag::name`] made.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(PREFIX)?.split('/');
        let topic = parts.next()?.parse().ok()?;
        let (device, incarnation) = parts.next()?.split_once('.')?;
        let (revision, sequence) = parts.next()?.split_once('.')?;
        let hash = parts.next()?.parse().ok()?;
        let device: DeviceId = device.parse().ok()?;
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let incarnation = Incarnation::new(hex(incarnation)?);
        let writer = Writer { device, incarnation };
        let tag = Self { topic, writer, revision: hex(revision)?, sequence: hex(sequence)?, hash };
        (parts.next().is_none() && tag.name() == name).then_some(tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        let writer = Writer {
            device: DeviceId::from_bytes([7; 32]),
            incarnation: Incarnation::new(u64::MAX),
        };
        let topic = TopicId::derive("a", None);
        let hash = ObjectId::of(b"state");
        let tag = StateTag { topic, writer, revision: 1, sequence: 300, hash };
        assert_eq!(StateTag::parse(&tag.name()), Some(tag));
        assert_eq!(StateTag::parse(&tag.name().to_uppercase()), None);
        assert_eq!(StateTag::parse(&format!("{}/x", tag.name())), None);
        assert_eq!(StateTag::parse(PREFIX), None);
    }
}
