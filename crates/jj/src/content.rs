//! Contents of files, streamed: what is in memory does not grow with the file.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use ark_core::{Content, FileTree, Link, Object, ObjectKind, Pieces, file_parts};
use bytes::Bytes;
use futures::io::{AsyncRead, AsyncReadExt as _, Cursor};
use futures::stream::{self, TryStreamExt as _};

use crate::storage::{Storage, StorageError, put_all};

/// The most chunks of a content that are fetched ahead of who reads it: 16 MiB.
const READ_AHEAD: usize = 4;

/// The least and the most bytes that are asked for at once: the room for them is zeroed before,
/// and may not be filled.
const LEAST_READ: usize = 8 << 10;
const MOST_READ: usize = 1 << 20;

/// Why a content was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("cannot read what is to be written")]
    Read(#[source] io::Error),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Writes what `from` gives, to its end: in memory are 8 MiB of it, a piece, and what the storage
/// takes in before it waits.
pub(crate) async fn write(
    storage: &dyn Storage,
    from: &mut (dyn AsyncRead + Send + Unpin),
) -> Result<Content, WriteError> {
    let (mut pieces, mut tree) = (Pieces::new(), FileTree::new());
    loop {
        while let Some((buffer, more)) = pieces.wanted() {
            let is_more = fill(from, buffer, more).await.map_err(WriteError::Read)?;
            pieces.filled(is_more);
        }
        let Some(piece) = pieces.cut() else { break };
        let length = piece.len() as u64;
        let object = Object::new(ObjectKind::Raw, piece);
        tree.push(object.id(), length);
        storage.put(object).await?;
        put_all(storage, tree.take_finished()).await?;
    }
    let (content, _, nodes) = tree.finish();
    put_all(storage, nodes).await?;
    Ok(content)
}

/// Adds the next `more` bytes to the buffer, or all to the end, which is then told by `false`. A
/// small content takes little room, and where there is room for `more` it stays in it: `read_to_end`
/// of `futures` makes it twice as large when it is full, and zeroes it again and again.
async fn fill(
    from: &mut (dyn AsyncRead + Send + Unpin),
    buffer: &mut Vec<u8>,
    more: usize,
) -> io::Result<bool> {
    let full = buffer.len() + more;
    while buffer.len() < full {
        let filled = buffer.len();
        buffer.resize(full.min(filled + filled.clamp(LEAST_READ, MOST_READ)), 0);
        let read = from.read(&mut buffer[filled..]).await;
        buffer.truncate(filled + read.as_ref().map_or(0, |read| *read));
        match read {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// A reader over a content. That it is there at all is known when this comes back.
pub(crate) async fn read(
    storage: Arc<dyn Storage>,
    content: Content,
) -> Result<Pin<Box<dyn AsyncRead + Send>>, StorageError> {
    let root = content.link();
    let bytes = storage.get(root).await?;
    if root.kind == ObjectKind::Raw {
        return Ok(Box::pin(Cursor::new(bytes)));
    }
    let ahead = storage.concurrency().clamp(1, READ_AHEAD);
    let mut walk = Walk { storage: storage.clone(), pending: Vec::new() };
    walk.open(root, &bytes, None).map_err(|error| StorageError::Failed(error.into()))?;
    let chunks = stream::try_unfold(walk, |mut walk| async move {
        Ok::<_, io::Error>(walk.next().await?.map(|chunk| (chunk, walk)))
    });
    let contents = chunks
        .map_ok(move |(link, length)| chunk(storage.clone(), link, length))
        .try_buffered(ahead);
    Ok(Box::pin(contents.into_async_read()))
}

async fn chunk(storage: Arc<dyn Storage>, link: Link, length: u64) -> io::Result<Bytes> {
    let bytes = storage.get(link).await.map_err(io::Error::other)?;
    if bytes.len() as u64 != length {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk of another length"));
    }
    Ok(bytes)
}

/// The chunks of a content in order, its nodes opened one by one.
struct Walk {
    storage: Arc<dyn Storage>,
    /// What is still to be given out or opened, the next one last; nodes with the level that they
    /// must have.
    pending: Vec<(Link, u64, Option<u8>)>,
}

impl Walk {
    async fn next(&mut self) -> io::Result<Option<(Link, u64)>> {
        while let Some((link, length, level)) = self.pending.pop() {
            if link.kind == ObjectKind::Raw {
                return Ok(Some((link, length)));
            }
            let bytes = self.storage.get(link).await.map_err(io::Error::other)?;
            self.open(link, &bytes, Some((length, level)))?;
        }
        Ok(None)
    }

    /// Goes on below a node, which must have the length and the level that its parent said.
    fn open(
        &mut self,
        link: Link,
        bytes: &[u8],
        said: Option<(u64, Option<u8>)>,
    ) -> io::Result<()> {
        let damaged = |reason: String| {
            let reason = format!("object {} is damaged: {reason}", link.id);
            io::Error::new(io::ErrorKind::InvalidData, reason)
        };
        let (level, parts) = file_parts(bytes).map_err(|error| damaged(error.to_string()))?;
        let length = parts.iter().fold(0_u64, |sum, (_, length)| sum.saturating_add(*length));
        if said.is_some_and(|said| said != (length, Some(level))) {
            return Err(damaged("its length or level is not what the link to it said".into()));
        }
        let below = level.checked_sub(1);
        self.pending.extend(parts.into_iter().rev().map(|(link, length)| (link, length, below)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pollster::FutureExt as _;

    use super::*;

    #[test]
    fn a_buffer_is_filled_within_the_room_that_it_has() {
        let bytes: Vec<u8> = (0_u8..251).cycle().take(5 << 20).collect();
        for (more, is_more) in [(5 << 20, true), ((5 << 20) + 1, false), (3 << 20, true)] {
            let mut buffer = Vec::with_capacity(1 + more);
            buffer.push(7);
            let room = buffer.capacity();
            let mut from = Cursor::new(bytes.as_slice());
            assert_eq!(fill(&mut from, &mut buffer, more).block_on().unwrap(), is_more);
            assert_eq!(buffer.capacity(), room);
            assert_eq!(buffer[0], 7);
            assert!(buffer[1..] == bytes[..more.min(bytes.len())]);
        }
    }
}
