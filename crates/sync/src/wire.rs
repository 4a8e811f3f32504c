//! The one encoding of every message: an rkyv archive (little endian, unaligned, 32-bit
//! pointers). What is decoded was of bounded length, validated, obeys the message's own rules and
//! encodes back to the same bytes.

use ark_core::{Link, ObjectId, ObjectKind, RepoKind};
use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Error as ArchiveError, Fallible, Source};
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::with::{ArchiveWith, DeserializeWith, SerializeWith};
use rkyv::{Archive, Deserialize, Place, Serialize};

/// Bytes that are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// More bytes than such a message may have.
    #[error("{length} bytes, more than {limit}")]
    TooLong {
        /// Bytes found.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not a valid archive.
    #[error("not a valid archive: {0}")]
    Archive(String),
    /// A valid archive that says what no message may say.
    #[error("{0}")]
    Invalid(&'static str),
    /// Valid, but not the one encoding that it may have.
    #[error("not in canonical form")]
    NotCanonical,
}

/// A type whose archive is a message.
pub(crate) trait Body: Archive + Sized
where
    Self: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, ArchiveError>>,
{
    /// The most bytes of its encoding.
    const LIMIT: usize;

    /// The rules that the archive's validator does not know: order, distinctness, bounds.
    fn validate(&self) -> Result<(), WireError>;
}

/// The one encoding of `body`.
pub(crate) fn encode<T>(body: &T) -> Vec<u8>
where
    T: Body + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, ArchiveError>>,
{
    rkyv::to_bytes::<ArchiveError>(body)
        .expect("an archive of bounded size fits 32-bit pointers")
        .into_vec()
}

/// Decodes what [`encode`] made, and nothing else.
pub(crate) fn decode<T>(bytes: &[u8]) -> Result<T, WireError>
where
    T: Body + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, ArchiveError>>,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, ArchiveError>>
        + Deserialize<T, HighDeserializer<ArchiveError>>,
{
    if bytes.len() > T::LIMIT {
        return Err(WireError::TooLong { length: bytes.len(), limit: T::LIMIT });
    }
    let body: T = rkyv::from_bytes::<T, ArchiveError>(bytes)
        .map_err(|error| WireError::Archive(error.to_string()))?;
    body.validate()?;
    if encode(&body) != bytes {
        return Err(WireError::NotCanonical);
    }
    Ok(body)
}

/// [`ObjectKind`] as it travels: its number.
#[derive(Archive, Serialize, Deserialize)]
#[rkyv(remote = ObjectKind)]
#[repr(u8)]
pub(crate) enum ObjectKindWire {
    Raw = 0,
    File = 1,
    Directory = 2,
    Snapshot = 3,
    Commit = 4,
    Tree = 5,
    Copy = 6,
    View = 7,
    Predecessors = 8,
    Operation = 9,
}

impl From<ObjectKindWire> for ObjectKind {
    fn from(wire: ObjectKindWire) -> Self {
        match wire {
            ObjectKindWire::Raw => Self::Raw,
            ObjectKindWire::File => Self::File,
            ObjectKindWire::Directory => Self::Directory,
            ObjectKindWire::Snapshot => Self::Snapshot,
            ObjectKindWire::Commit => Self::Commit,
            ObjectKindWire::Tree => Self::Tree,
            ObjectKindWire::Copy => Self::Copy,
            ObjectKindWire::View => Self::View,
            ObjectKindWire::Predecessors => Self::Predecessors,
            ObjectKindWire::Operation => Self::Operation,
        }
    }
}

/// [`Link`] as it travels.
#[derive(Archive, Serialize, Deserialize)]
#[rkyv(remote = Link)]
pub(crate) struct LinkWire {
    #[rkyv(with = ObjectKindWire)]
    kind: ObjectKind,
    id: ObjectId,
}

impl From<LinkWire> for Link {
    fn from(LinkWire { kind, id }: LinkWire) -> Self {
        Self { kind, id }
    }
}

/// A [`RepoKind`] as it travels: its number, or [`UNDECIDED`].
pub(crate) struct RepoKindWire;

/// In the place of a kind's number: nothing has decided it yet.
const UNDECIDED: u8 = u8::MAX;

/// A number that no kind has.
#[derive(Debug, thiserror::Error)]
#[error("an unknown kind of repo, {0}")]
struct UnknownKind(u8);

impl ArchiveWith<Option<RepoKind>> for RepoKindWire {
    type Archived = u8;
    type Resolver = ();

    fn resolve_with(kind: &Option<RepoKind>, (): (), out: Place<u8>) {
        out.write(kind.map_or(UNDECIDED, |kind| kind as u8));
    }
}

impl<S: Fallible + ?Sized> SerializeWith<Option<RepoKind>, S> for RepoKindWire {
    fn serialize_with(_: &Option<RepoKind>, _: &mut S) -> Result<(), S::Error> {
        Ok(())
    }
}

impl<D> DeserializeWith<u8, Option<RepoKind>, D> for RepoKindWire
where
    D: Fallible + ?Sized,
    D::Error: Source,
{
    fn deserialize_with(number: &u8, _: &mut D) -> Result<Option<RepoKind>, D::Error> {
        if *number == UNDECIDED {
            return Ok(None);
        }
        let kind = RepoKind::from_u8(*number).ok_or_else(|| D::Error::new(UnknownKind(*number)))?;
        Ok(Some(kind))
    }
}
