//! Imports of one batch: several at a time, each object's bytes written once, all held until the
//! index has committed.

use std::sync::Arc;

use ark_core::Object;
use tokio::task::{JoinError, JoinSet};

use crate::blobs::{Blobs, Import};
use crate::error::{BlobError, DiskError};
use crate::index::{Index, TopicNumber};

/// Imports under way, and what was imported.
#[derive(Debug)]
pub(crate) struct Importer {
    blobs: Blobs,
    index: Index,
    tasks: JoinSet<Result<(), BlobError>>,
    imports: Vec<Arc<Import>>,
}

impl Importer {
    pub(crate) fn new(blobs: Blobs, index: Index) -> Self {
        Self { blobs, index, tasks: JoinSet::new(), imports: Vec::new() }
    }

    /// Begins to import `object`, unless its bytes are durable for some repo. Waits while too
    /// much is under way. `topics`: how many topics there are.
    pub(crate) async fn add(
        &mut self,
        object: Object,
        topics: TopicNumber,
    ) -> Result<(), DiskError> {
        // First registered, then looked up: whoever else imports it either shares this import
        // or has its row committed by now. So no file is written over that an index relies on.
        let import = self.blobs.register(&object);
        let stored = self.index.view().and_then(|view| view.is_stored(topics, object.id()));
        if stored? {
            import.skip();
            self.imports.push(import);
            return Ok(());
        }
        let permit = self.blobs.permit(object.bytes().len()).await?;
        let blobs = self.blobs.clone();
        // Not before: who stops waiting above must not leave one that nobody writes.
        self.imports.push(Arc::clone(&import));
        self.tasks.spawn(async move {
            let imported = blobs.import(&import, object).await;
            drop(permit);
            imported
        });
        while let Some(ended) = self.tasks.try_join_next() {
            outcome(ended)?;
        }
        Ok(())
    }

    /// Waits for all imports. What is returned is to be held until the index has committed.
    pub(crate) async fn finish(&mut self) -> Result<Vec<Arc<Import>>, DiskError> {
        self.settle().await?;
        Ok(std::mem::take(&mut self.imports))
    }

    /// Waits for all imports: what was added can be read then.
    pub(crate) async fn settle(&mut self) -> Result<(), DiskError> {
        while let Some(ended) = self.tasks.join_next().await {
            outcome(ended)?;
        }
        Ok(())
    }
}

impl Drop for Importer {
    fn drop(&mut self) {
        // An import given to the blob store cannot be called back. Its task goes on holding it,
        // so that nobody begins the same one while that is still writing.
        self.tasks.detach_all();
    }
}

fn outcome(ended: Result<Result<(), BlobError>, JoinError>) -> Result<(), BlobError> {
    ended.map_err(|error| BlobError::Stopped { source: Arc::new(error) })?
}
