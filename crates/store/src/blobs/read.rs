//! Reads of objects, checked against their ids.

use std::fs::File;
use std::io;

use ark_core::{Link, MAX_OBJECT_BYTES, ObjectId};
use bytes::Bytes;
use iroh_blobs::Hash;
use iroh_blobs::api::ExportBaoError;

use super::living::Life;
use super::{Blobs, DATA, stopped};
use crate::counters::count;
use crate::error::ReadError;

/// A read of an object that too many others read is tried so often: each try goes through the
/// store's queue, which moves.
const MAX_BUSY_READS: usize = 10_000;

impl Blobs {
    /// The bytes of an object that is recorded as being here, checked against its id. Blocking.
    pub(crate) fn read_blocking(
        &self,
        runtime: &tokio::runtime::Handle,
        link: Link,
    ) -> Result<Bytes, ReadError> {
        match self.read_file(link)? {
            Some(bytes) => Ok(bytes),
            None => runtime.block_on(self.read_blob(link)),
        }
    }

    /// As [`Blobs::read_blocking`], from async code.
    pub(crate) async fn read(&self, link: Link) -> Result<Bytes, ReadError> {
        let blobs = self.clone();
        let read = tokio::task::spawn_blocking(move || blobs.read_file(link)).await;
        match read.map_err(|e| ReadError::Blob { link, source: stopped(e) })?? {
            Some(bytes) => Ok(bytes),
            None => self.read_blob(link).await,
        }
    }

    /// Reads the object's own file, several times faster than by way of the store's messages.
    /// `None`: it has none, or not these bytes; the store is to be asked.
    fn read_file(&self, link: Link) -> Result<Option<Bytes>, ReadError> {
        use io::Read;
        if link.id.as_bytes() == Hash::EMPTY.as_bytes() {
            return Ok(Some(Bytes::new()));
        }
        let path = self.inner.root.join(DATA).join(format!("{}.data", link.id));
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(ReadError::Blob { link, source: self.io("read", error) });
            }
        };
        count(&self.inner.counts.blob_reads, 1);
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        let bound = MAX_OBJECT_BYTES as u64;
        let mut bytes = Vec::with_capacity(usize::try_from(length.min(bound)).unwrap_or(0));
        let read = file.by_ref().take(bound + 1).read_to_end(&mut bytes);
        read.map_err(|e| ReadError::Blob { link, source: self.io("read", e) })?;
        Ok((ObjectId::of(&bytes) == link.id).then(|| bytes.into()))
    }

    /// Reads by way of the store, which checks the bytes against their hash.
    async fn read_blob(&self, link: Link) -> Result<Bytes, ReadError> {
        count(&self.inner.counts.blob_reads, 1);
        let failed = |source| ReadError::Blob { link, source };
        let damaged = |reason: String| Err(ReadError::Damaged { link, reason });
        let mut life = self.inner.living.checked().await.map_err(failed)?;
        loop {
            let error = match self.get(&life, link).await? {
                Ok(bytes) if bytes.is_empty() => return damaged("it has no bytes".into()),
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            match error.kind() {
                io::ErrorKind::NotFound => return damaged("its bytes are gone".into()),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                    return damaged(error.to_string());
                }
                io::ErrorKind::ResourceBusy => return Err(failed(self.io("read", error))),
                _ if error.raw_os_error().is_some() => {
                    return Err(failed(self.io("read", error)));
                }
                // An ended store says this of every object, a living one of what it cannot open.
                _ => {
                    self.inner.living.suspect();
                    let now = self.inner.living.checked().await.map_err(failed)?;
                    if now.number == life.number {
                        return damaged(error.to_string());
                    }
                    life = now;
                }
            }
        }
    }

    /// One read; again while so many others read the same object that its queue is full.
    async fn get(&self, life: &Life, link: Link) -> Result<Result<Bytes, io::Error>, ReadError> {
        let hash = Hash::from_bytes(*link.id.as_bytes());
        let mut attempts = 0;
        loop {
            let error = match life.store.blobs().get_bytes(hash).await {
                Ok(bytes) => return Ok(Ok(bytes)),
                Err(ExportBaoError::ExportBaoInner { source, .. }) => io::Error::from(source),
                Err(ExportBaoError::ExportBaoIo { source, .. }) => source,
                Err(error) => {
                    self.inner.living.suspect();
                    return Err(ReadError::Blob { link, source: stopped(error) });
                }
            };
            attempts += 1;
            if error.kind() != io::ErrorKind::ResourceBusy || attempts >= MAX_BUSY_READS {
                return Ok(Err(error));
            }
            tokio::task::yield_now().await;
        }
    }
}
