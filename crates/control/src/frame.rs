//! Frames on the control socket.

use std::io;

use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error as ArchiveError;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::message::{Request, Response};

/// The version of the messages; it begins every frame.
const VERSION: u8 = 3;

/// The most bytes of a request: a repo id and some numbers, with room.
pub const MAX_REQUEST_BYTES: usize = 64 << 10;
/// The most bytes of a response: a status lists at most some thousand paths per repo.
pub const MAX_RESPONSE_BYTES: usize = 16 << 20;

/// Why a frame could not be sent or understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The connection failed, or ended within a frame.
    #[error("the control connection failed")]
    Io(#[from] io::Error),
    /// Longer than any message of its kind.
    #[error("a message of {length} bytes, more than {limit}")]
    TooLong {
        /// Bytes announced or to be sent.
        length: usize,
        /// The bound.
        limit: usize,
    },
    /// The other side speaks another version.
    #[error("the other side speaks version {found} of the control protocol, this one {VERSION}")]
    Version {
        /// Its version.
        found: u8,
    },
    /// Not an archive of the message expected.
    #[error("not a valid message: {0}")]
    Archive(ArchiveError),
    /// A message that says what none may say.
    #[error("an invalid message: {0}")]
    Invalid(&'static str),
}

async fn write<T>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
    limit: usize,
) -> Result<(), FrameError>
where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, ArchiveError>>,
{
    let archive = rkyv::to_bytes::<ArchiveError>(message).map_err(FrameError::Archive)?;
    let length = archive.len() + 1;
    let header = u32::try_from(length).ok().filter(|_| length <= limit);
    let header = header.ok_or(FrameError::TooLong { length, limit })?;
    // In one piece: who speaks another version hangs up after the first bytes.
    let frame = [&header.to_le_bytes()[..], &[VERSION], &archive].concat();
    stream.write_all(&frame).await?;
    Ok(stream.flush().await?)
}

/// The next message; `None` where the other side closed the connection between two.
async fn read<T: Archive>(
    stream: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> Result<Option<T>, FrameError>
where
    T::Archived: for<'a> CheckBytes<HighValidator<'a, ArchiveError>>
        + Deserialize<T, HighDeserializer<ArchiveError>>,
{
    let mut header = [0; 4];
    let read = stream.read(&mut header).await?;
    if read == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut header[read..]).await?;
    let length = u32::from_le_bytes(header) as usize;
    if length == 0 || length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    let found = stream.read_u8().await?;
    if found != VERSION {
        return Err(FrameError::Version { found });
    }
    let mut archive = vec![0; length - 1];
    stream.read_exact(&mut archive).await?;
    rkyv::from_bytes::<T, ArchiveError>(&archive).map(Some).map_err(FrameError::Archive)
}

/// Reads a request; `None` when the client is done.
///
/// # Errors
/// See [`FrameError`]; the connection is of no use after one.
pub async fn read_request(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<Request>, FrameError> {
    read(stream, MAX_REQUEST_BYTES).await
}

/// Writes a response.
///
/// # Errors
/// See [`FrameError`]; the connection is of no use after one.
pub async fn write_response(
    stream: &mut (impl AsyncWrite + Unpin),
    response: &Response,
) -> Result<(), FrameError> {
    write(stream, response, MAX_RESPONSE_BYTES).await
}

/// Writes a request.
pub(crate) async fn write_request(
    stream: &mut (impl AsyncWrite + Unpin),
    request: &Request,
) -> Result<(), FrameError> {
    write(stream, request, MAX_REQUEST_BYTES).await
}

/// Reads a response; `None` when the daemon closed the connection.
pub(crate) async fn read_response(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<Response>, FrameError> {
    read(stream, MAX_RESPONSE_BYTES).await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sent(bytes: &[u8]) -> Result<Option<Request>, FrameError> {
        read_request(&mut &bytes[..]).await
    }

    #[tokio::test]
    async fn requests_arrive_as_they_were_sent() {
        let requests = [
            Request::Status,
            Request::Watch { interval_ms: 500 },
            Request::Wait { repo: Some("photos".to_owned()), timeout_ms: 60_000 },
        ];
        let mut bytes = Vec::new();
        for request in &requests {
            write_request(&mut bytes, request).await.expect("a vector takes all");
        }
        let mut stream = &bytes[..];
        for request in requests {
            assert_eq!(read_request(&mut stream).await.expect("a request"), Some(request));
        }
        assert_eq!(read_request(&mut stream).await.expect("the end"), None);
    }

    #[tokio::test]
    async fn hostile_frames_are_refused() {
        let too_long = u32::try_from(MAX_REQUEST_BYTES + 1).expect("small").to_le_bytes();
        assert!(matches!(sent(&too_long).await, Err(FrameError::TooLong { .. })));
        assert!(matches!(sent(&[0; 4]).await, Err(FrameError::TooLong { .. })));
        assert!(matches!(sent(&[1, 0, 0, 0, 9]).await, Err(FrameError::Version { found: 9 })));
        assert!(matches!(sent(&[2, 0, 0, 0, VERSION, 77]).await, Err(FrameError::Archive(_))));
        assert!(matches!(sent(&[9, 0, 0, 0, VERSION, 7]).await, Err(FrameError::Io(_))));
        assert!(matches!(sent(&[9, 0]).await, Err(FrameError::Io(_))));
    }

    #[tokio::test]
    async fn every_single_byte_change_is_an_error_or_a_request() {
        let request = Request::Wait { repo: Some("a longer repo id".to_owned()), timeout_ms: 7 };
        let mut bytes = Vec::new();
        write_request(&mut bytes, &request).await.expect("a vector takes all");
        for index in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[index] ^= 1 << bit;
                // No panic and no hang is all that can be asked.
                drop(sent(&changed).await);
            }
        }
    }
}
