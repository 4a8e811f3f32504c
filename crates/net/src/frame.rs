//! Frames on a stream: a 32-bit little-endian length, then that many bytes. The length is
//! checked before anything is allocated.

use iroh::endpoint::{ReadExactError, RecvStream, SendStream, WriteError};

use crate::board::Traffic;

/// Bytes of the length in front of a frame.
pub(crate) const LENGTH_BYTES: usize = 4;

/// Why a frame could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadFrameError {
    /// The stream or its connection failed.
    #[error("the stream broke")]
    Stream(#[from] ReadExactError),
    /// A frame longer than this protocol knows.
    #[error("a frame of {length} bytes, more than {limit}")]
    TooLong {
        /// Bytes announced.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
}

/// Reads a frame of at most `limit` bytes; `None` where the stream ended in order.
pub(crate) async fn read_frame(
    stream: &mut RecvStream,
    limit: usize,
    traffic: &Traffic,
) -> Result<Option<Vec<u8>>, ReadFrameError> {
    let mut length = [0; LENGTH_BYTES];
    match stream.read_exact(&mut length).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    traffic.received(LENGTH_BYTES);
    let length = u32::from_le_bytes(length) as usize;
    if length > limit {
        return Err(ReadFrameError::TooLong { length, limit });
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await?;
    traffic.received(length);
    Ok(Some(frame))
}

/// Writes a frame. Frames are bounded by whoever makes them.
pub(crate) async fn write_frame(
    stream: &mut SendStream,
    frame: &[u8],
    traffic: &Traffic,
) -> Result<(), WriteError> {
    let length = u32::try_from(frame.len()).expect("frames are made within their protocol's limit");
    stream.write_all(&length.to_le_bytes()).await?;
    stream.write_all(frame).await?;
    traffic.sent(LENGTH_BYTES + frame.len());
    Ok(())
}
