//! Names of things: objects, devices, topics, writers, dots and the vectors over them.

use std::collections::BTreeMap;
use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

/// Why a text is not a 32-byte id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("expected 64 hex digits, found {found:?}")]
pub struct ParseIdError {
    /// The text that was given, shortened to 80 characters.
    pub found: String,
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Archive, Serialize, Deserialize)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The id with these 32 bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first ten hex digits: enough for a log line, never for a decision.
            pub fn short(&self) -> String {
                data_encoding::HEXLOWER.encode(&self.0[..5])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl std::str::FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                data_encoding::HEXLOWER_PERMISSIVE
                    .decode(text.as_bytes())
                    .ok()
                    .and_then(|bytes| bytes.try_into().ok())
                    .map(Self)
                    .ok_or_else(|| ParseIdError { found: text.chars().take(80).collect() })
            }
        }
    };
}

id_type! {
    /// The BLAKE3 hash of an object's bytes.
    ObjectId
}
id_type! {
    /// One ark endpoint: an ed25519 public key.
    DeviceId
}
id_type! {
    /// A repo as every protocol names it: derived from the repo id and the optional secret.
    TopicId
}

impl ObjectId {
    /// The id of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

/// Context of [`TopicId::derive`]; part of the format.
const TOPIC_CONTEXT: &str = "ark topic v1";
/// Context of [`SealingKey::derive`]; part of the format.
const SEALING_CONTEXT: &str = "ark gossip sealing v1";

fn derive(context: &str, repo_id: &str, secret: Option<&str>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in [Some(repo_id), secret].into_iter().flatten() {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

impl TopicId {
    /// `derive_key("ark topic v1", ..)` over the length-prefixed repo id and, where there is
    /// one, the length-prefixed secret. A changed secret is a new repo.
    pub fn derive(repo_id: &str, secret: Option<&str>) -> Self {
        Self(derive(TOPIC_CONTEXT, repo_id, secret))
    }
}

/// The key that seals a repo's gossip, from the same inputs as its topic.
#[derive(Clone, PartialEq, Eq)]
pub struct SealingKey([u8; 32]);

impl SealingKey {
    /// Derives the key; inputs as for [`TopicId::derive`], under a context of its own.
    pub fn derive(repo_id: &str, secret: Option<&str>) -> Self {
        Self(derive(SEALING_CONTEXT, repo_id, secret))
    }

    /// The 32 key bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey(..)")
    }
}

/// One life of a device's store: random, renewed whenever the store cannot prove to be the one
/// last open, so that a restored copy never uses a sequence twice.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Archive, Serialize, Deserialize,
)]
pub struct Incarnation(u64);

impl Incarnation {
    /// The incarnation with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// A device in one incarnation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Archive, Serialize, Deserialize)]
pub struct Writer {
    /// The device.
    pub device: DeviceId,
    /// Its incarnation.
    pub incarnation: Incarnation,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:04x}", self.device.short(), self.incarnation.get() >> 48)
    }
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One act of writing in a repo. A writer never uses a sequence twice; sequences begin at 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Archive, Serialize, Deserialize)]
pub struct Dot {
    /// Who wrote.
    pub writer: Writer,
    /// Its count of acts in this repo, from 1.
    pub sequence: u64,
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{}", self.writer, self.sequence)
    }
}

/// The most writers that a vector of an encoded object may speak of. Every rebuild of a device's
/// store makes one more, so it is far above the number of devices; it keeps a state below
/// [`MAX_STATE_BYTES`](crate::MAX_STATE_BYTES).
pub const MAX_WRITERS: usize = 1024;

/// Per writer the highest sequence taken in (a version vector). Absent means 0.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vector(BTreeMap<Writer, u64>);

impl Vector {
    /// The vector that has taken in nothing.
    pub const fn empty() -> Self {
        Self(BTreeMap::new())
    }

    /// The highest sequence of `writer` taken in; 0 for none.
    pub fn get(&self, writer: Writer) -> u64 {
        self.0.get(&writer).copied().unwrap_or(0)
    }

    /// Whether `dot` was taken in.
    pub fn has(&self, dot: Dot) -> bool {
        self.get(dot.writer) >= dot.sequence
    }

    /// Takes in `dot` and every earlier one of its writer.
    pub fn take_in(&mut self, dot: Dot) {
        let highest = self.0.entry(dot.writer).or_insert(0);
        *highest = (*highest).max(dot.sequence);
    }

    /// Takes in all that `other` has.
    pub fn take_in_all(&mut self, other: &Self) {
        for (&writer, &sequence) in &other.0 {
            self.take_in(Dot { writer, sequence });
        }
    }

    /// Whether every dot of `other` is here too.
    pub fn has_all(&self, other: &Self) -> bool {
        other.0.iter().all(|(&writer, &sequence)| self.get(writer) >= sequence)
    }

    /// The writers with their highest sequences, in order of writer; sequences are at least 1.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Writer, u64)> + '_ {
        self.0.iter().map(|(&writer, &sequence)| (writer, sequence))
    }

    /// Its one encoded form: per writer the dot of the highest sequence, in order of writer.
    pub(crate) fn to_wire(&self) -> Vec<Dot> {
        self.iter().map(|(writer, sequence)| Dot { writer, sequence }).collect()
    }

    /// The rules of the encoded form.
    ///
    /// # Errors
    /// The rule that is broken, in words.
    pub(crate) fn validate_wire(dots: &[Dot]) -> Result<(), String> {
        if dots.len() > MAX_WRITERS {
            return Err(format!("a vector of {} writers, more than {MAX_WRITERS}", dots.len()));
        }
        if !dots.is_sorted_by(|a, b| a.writer < b.writer) {
            return Err("the writers of a vector are not sorted and distinct".into());
        }
        if dots.iter().any(|dot| dot.sequence == 0) {
            return Err("a vector with a sequence of 0".into());
        }
        Ok(())
    }

    /// How many writers it speaks of.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has taken in nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(Writer, u64)> for Vector {
    fn from_iter<I: IntoIterator<Item = (Writer, u64)>>(items: I) -> Self {
        let mut vector = Self::empty();
        for (writer, sequence) in items {
            if sequence > 0 {
                vector.take_in(Dot { writer, sequence });
            }
        }
        vector
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn writer(n: u8) -> Writer {
        Writer { device: DeviceId::from_bytes([n; 32]), incarnation: Incarnation::new(n.into()) }
    }

    fn vectors() -> impl Strategy<Value = Vector> {
        vec((0u8..5, 0u64..4), 0..6)
            .prop_map(|items| items.into_iter().map(|(n, seq)| (writer(n), seq)).collect())
    }

    fn dots() -> impl Strategy<Value = Dot> {
        (0u8..5, 1u64..5).prop_map(|(n, sequence)| Dot { writer: writer(n), sequence })
    }

    fn joined(a: &Vector, b: &Vector) -> Vector {
        let mut joined = a.clone();
        joined.take_in_all(b);
        joined
    }

    proptest! {
        #[test]
        fn vectors_join_as_sets_of_dots_do(a in vectors(), b in vectors(), c in vectors(), dot in dots()) {
            prop_assert_eq!(joined(&a, &b), joined(&b, &a));
            prop_assert_eq!(joined(&joined(&a, &b), &c), joined(&a, &joined(&b, &c)));
            prop_assert_eq!(&joined(&a, &a), &a);
            prop_assert_eq!(joined(&a, &b).has(dot), a.has(dot) || b.has(dot));
            prop_assert!(joined(&a, &b).has_all(&a));
            prop_assert_eq!(a.has_all(&b), joined(&a, &b) == a);
            prop_assert_eq!(a.has_all(&b) && b.has_all(&a), a == b);
        }

        #[test]
        fn taking_in_a_dot_takes_in_the_earlier_ones(a in vectors(), dot in dots(), other in dots()) {
            let mut more = a.clone();
            more.take_in(dot);
            prop_assert!(more.has(dot) && more.has_all(&a));
            let is_earlier = other.writer == dot.writer && other.sequence <= dot.sequence;
            prop_assert_eq!(more.has(other), a.has(other) || is_earlier);
        }

        #[test]
        fn a_vector_has_one_encoding(a in vectors()) {
            let wire = a.to_wire();
            prop_assert_eq!(Vector::validate_wire(&wire), Ok(()));
            let back: Vector = wire.iter().map(|dot| (dot.writer, dot.sequence)).collect();
            prop_assert_eq!((back.len(), &back), (wire.len(), &a));
            for i in 1..wire.len() {
                let mut swapped = wire.clone();
                swapped.swap(i - 1, i);
                prop_assert!(Vector::validate_wire(&swapped).is_err());
                swapped[i] = swapped[i - 1];
                prop_assert!(Vector::validate_wire(&swapped).is_err());
                swapped = wire.clone();
                swapped[i].sequence = 0;
                prop_assert!(Vector::validate_wire(&swapped).is_err());
            }
        }

        #[test]
        fn ids_are_read_as_they_are_written(bytes: [u8; 32]) {
            let id = ObjectId::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            prop_assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
            for wrong in ["", &id.to_string()[1..], &id.to_string()[2..], &format!("{id}00"), &"g".repeat(64)] {
                prop_assert!(wrong.parse::<ObjectId>().is_err());
            }
        }
    }

    #[test]
    fn topics_depend_on_id_and_secret_each() {
        let topics = [
            TopicId::derive("a", None),
            TopicId::derive("b", None),
            TopicId::derive("a", Some("b")),
            TopicId::derive("ab", None),
            TopicId::derive("a", Some("c")),
        ];
        let distinct: std::collections::BTreeSet<_> = topics.iter().collect();
        assert_eq!(distinct.len(), topics.len());
        assert_ne!(SealingKey::derive("a", None).as_bytes(), topics[0].as_bytes());
        // Pinned: the topic is the repo's name in every protocol and index.
        assert_eq!(
            TopicId::derive("my-project", Some("secret")).to_string(),
            "487cfd13dcf092518fcbbcaede9953ea770b91038bd321a93d6eac56e5d9d80c"
        );
    }
}
