//! The heads of a jj repo, as jj is told of them.

use std::sync::Arc;

use ark_core::ObjectId;
use ark_core::jj::VIRTUAL;
use async_trait::async_trait;
use jj_lib::op_heads_store::{OpHeadsStore, OpHeadsStoreError, OpHeadsStoreLock};
use jj_lib::op_store::OperationId;

use crate::id::{self, IdError};
use crate::storage::Storage;

/// The heads of a jj repo, in a [`Storage`], as they are at the moment. Where there are several, jj
/// merges them by itself when it loads the repo, on each machine into another operation: first
/// comes [`resolve_heads`](crate::resolve_heads). A head that comes between the two is merged by jj,
/// as it merges what another process does at that moment.
#[derive(Debug, Clone)]
pub struct ArkOpHeadsStore {
    storage: Arc<dyn Storage>,
}

impl ArkOpHeadsStore {
    /// What jj calls it, in `.jj/repo/op_heads/type`.
    pub const NAME: &str = "ark_op_heads_store";

    /// Over `storage`.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage }
    }
}

/// Nobody is kept out: heads are changed in one act. jj takes the lock to merge several heads by
/// itself; [`resolve_heads`](crate::resolve_heads), which comes before, makes one operation of the
/// same heads, whoever does it at the same time.
struct NoLock;

impl OpHeadsStoreLock for NoLock {}

/// The operation, the root aside, which is never a head: it is what a repo without heads shows.
fn stored(id: &OperationId) -> Result<Option<ObjectId>, IdError> {
    id::to_ark(id).map(|id| (id != VIRTUAL).then_some(id))
}

#[async_trait]
impl OpHeadsStore for ArkOpHeadsStore {
    fn name(&self) -> &str {
        Self::NAME
    }

    async fn update_op_heads(
        &self,
        old_ids: &[OperationId],
        new_id: &OperationId,
    ) -> Result<(), OpHeadsStoreError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| OpHeadsStoreError::Write {
            new_op_id: new_id.clone(),
            source,
        };
        let new = stored(new_id).map_err(|error| failed(error.into()))?;
        let mut old = Vec::new();
        for id in old_ids {
            old.extend(
                stored(id).map_err(|error| failed(error.into()))?.filter(|id| Some(*id) != new),
            );
        }
        self.storage.barrier().await.map_err(|error| failed(error.into()))?;
        self.storage.update_heads(&old, new).await.map_err(|error| failed(error.into()))
    }

    async fn get_op_heads(&self) -> Result<Vec<OperationId>, OpHeadsStoreError> {
        let heads = self.storage.heads().await;
        let mut heads = heads.map_err(|error| OpHeadsStoreError::Read(error.into()))?;
        if heads.is_empty() {
            heads.push(VIRTUAL);
        }
        Ok(heads.iter().map(|id| OperationId::from_bytes(id.as_bytes())).collect())
    }

    async fn lock(&self) -> Result<Box<dyn OpHeadsStoreLock + '_>, OpHeadsStoreError> {
        Ok(Box::new(NoLock))
    }
}
