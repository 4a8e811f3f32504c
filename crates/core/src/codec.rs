//! The canonical encoding of structured bytes: a two-byte header (kind, version), then an rkyv
//! archive (little endian, unaligned, 32-bit pointers). What is decoded was validated, encodes
//! back to the same bytes, and obeys the type's own rules.

use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error as ArchiveError;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

use crate::object::{DecodeError, MAX_OBJECT_BYTES, ObjectKind};

/// Length of the header in bytes.
const HEADER_BYTES: usize = 2;

/// A type whose archive is the body of a structured object.
pub(crate) trait Body:
    Archive + Sized + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, ArchiveError>>
{
    /// The object's kind.
    const KIND: ObjectKind;
    /// The version of the body's format.
    const VERSION: u8 = 1;

    /// The rules that the archive's validator does not know: order, distinctness, bounds.
    ///
    /// # Errors
    /// The rule that is broken, in words.
    fn validate(&self) -> Result<(), String>;
}

/// The one encoding of `body`.
pub(crate) fn encode<T: Body>(body: &T) -> Vec<u8> {
    let mut bytes = vec![T::KIND as u8, T::VERSION];
    bytes.extend_from_slice(&archive(body));
    bytes
}

/// An archive without a header. Serialising into memory cannot fail but for pointers over
/// 2 GiB, which nothing under [`MAX_OBJECT_BYTES`] reaches.
pub(crate) fn archive<T>(body: &T) -> AlignedVec
where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, ArchiveError>>,
{
    rkyv::to_bytes::<ArchiveError>(body).expect("an archive of bounded size fits 32-bit pointers")
}

/// Decodes what [`encode`] made, and nothing else.
pub(crate) fn decode<T>(bytes: &[u8]) -> Result<T, DecodeError>
where
    T: Body,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, ArchiveError>>
        + Deserialize<T, HighDeserializer<ArchiveError>>,
{
    let kind = T::KIND;
    if bytes.len() > MAX_OBJECT_BYTES {
        return Err(DecodeError::TooLarge { kind, length: bytes.len() });
    }
    if bytes.get(..HEADER_BYTES) != Some(&[kind as u8, T::VERSION]) {
        let found = bytes[..bytes.len().min(HEADER_BYTES)].to_vec();
        return Err(DecodeError::Header { kind, found });
    }
    let body: T = rkyv::from_bytes::<T, ArchiveError>(&bytes[HEADER_BYTES..])
        .map_err(|error| DecodeError::Archive { kind, reason: error.to_string() })?;
    body.validate().map_err(|reason| DecodeError::Invalid { kind, reason })?;
    if encode(&body) != bytes {
        return Err(DecodeError::NotCanonical { kind });
    }
    Ok(body)
}
