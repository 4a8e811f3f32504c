//! jj's operations and views in ark's objects.

use std::sync::Arc;
use std::time::SystemTime;

use ark_core::jj::{self, Operation as ArkOperation, Predecessors, VIRTUAL};
use ark_core::{Link, ObjectId, ObjectKind};
use async_trait::async_trait;
use jj_lib::object_id::{HexPrefix, ObjectId as JjId, PrefixResolution};
use jj_lib::op_store::{
    OpStore, OpStoreError, OpStoreResult, Operation, OperationId, RootOperationData, View, ViewId,
};

use crate::id::{self, ID_BYTES};
use crate::load::{LoadError, load, load_rows};
use crate::storage::{Storage, put_all};
use crate::{operation, view};

/// Operations and views of a jj repo, in a [`Storage`].
#[derive(Debug, Clone)]
pub struct ArkOpStore {
    storage: Arc<dyn Storage>,
    root_data: RootOperationData,
    root_operation: OperationId,
    root_view: ViewId,
}

impl ArkOpStore {
    /// What jj calls it, in `.jj/repo/op_store/type`.
    pub const NAME: &str = "ark_op_store";

    /// Over `storage`.
    pub fn new(storage: Arc<dyn Storage>, root_data: RootOperationData) -> Self {
        Self {
            storage,
            root_data,
            root_operation: OperationId::from_bytes(VIRTUAL.as_bytes()),
            root_view: ViewId::from_bytes(VIRTUAL.as_bytes()),
        }
    }

    async fn load_operation(&self, id: &OperationId) -> Result<Operation, LoadError> {
        let link = Link { kind: ObjectKind::Operation, id: id::to_ark(id)? };
        let operation = ArkOperation::decode(&load(&*self.storage, link).await?)?;
        let many = match operation.predecessors {
            Predecessors::Tree(root) => {
                load_rows(&*self.storage, ObjectKind::Predecessors, root, |level, nodes| {
                    jj::open_predecessors(level, nodes.iter().map(AsRef::as_ref))
                })
                .await
                .map_err(LoadError::of_part)?
            }
            Predecessors::Unknown | Predecessors::Listed(_) => Vec::new(),
        };
        Ok(operation::to_jj(operation, many))
    }

    async fn load_view(&self, id: &ViewId) -> Result<View, LoadError> {
        let rows = load_rows(&*self.storage, ObjectKind::View, id::to_ark(id)?, |level, nodes| {
            jj::open_view(level, nodes.iter().map(AsRef::as_ref))
        });
        Ok(view::to_jj(rows.await?))
    }
}

/// As jj is told that something was not read.
fn not_read(id: &impl JjId, error: LoadError) -> OpStoreError {
    let (object_type, hash) = (id.object_type(), id.hex());
    match error {
        LoadError::NotFound(source) => {
            OpStoreError::ObjectNotFound { object_type, hash, source: source.into() }
        }
        error => OpStoreError::ReadObject { object_type, hash, source: error.into() },
    }
}

/// As jj is told that something was not written.
fn not_written(
    object_type: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> OpStoreError {
    OpStoreError::WriteObject { object_type, source: source.into() }
}

#[async_trait]
impl OpStore for ArkOpStore {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn root_operation_id(&self) -> &OperationId {
        &self.root_operation
    }

    async fn read_view(&self, id: &ViewId) -> OpStoreResult<View> {
        if *id == self.root_view {
            return Ok(View::make_root(self.root_data.root_commit_id.clone()));
        }
        self.load_view(id).await.map_err(|error| not_read(id, error))
    }

    async fn write_view(&self, contents: &View) -> OpStoreResult<ViewId> {
        let made = view::to_ark(contents).and_then(|rows| Ok(jj::view(rows)?));
        let (root, nodes) = made.map_err(|error| not_written("view", error))?;
        put_all(&*self.storage, nodes).await.map_err(|error| not_written("view", error))?;
        Ok(ViewId::from_bytes(root.as_bytes()))
    }

    async fn read_operation(&self, id: &OperationId) -> OpStoreResult<Operation> {
        if *id == self.root_operation {
            return Ok(Operation::make_root(self.root_view.clone()));
        }
        self.load_operation(id).await.map_err(|error| not_read(id, error))
    }

    /// When it comes back, the operation and all that was written before it is durable.
    async fn write_operation(&self, contents: &Operation) -> OpStoreResult<OperationId> {
        let made = operation::to_ark(contents)
            .and_then(|(operation, nodes)| Ok((operation.encode()?, nodes)));
        let (object, nodes) = made.map_err(|error| not_written("operation", error))?;
        let id = OperationId::from_bytes(object.id().as_bytes());
        let not_written = |error| not_written("operation", error);
        put_all(&*self.storage, nodes.into_iter().chain([object])).await.map_err(not_written)?;
        self.storage.barrier().await.map_err(not_written)?;
        Ok(id)
    }

    async fn resolve_operation_id_prefix(
        &self,
        prefix: &HexPrefix,
    ) -> OpStoreResult<PrefixResolution<OperationId>> {
        let mut found: Vec<OperationId> = Vec::new();
        if prefix.matches(&self.root_operation) {
            found.push(self.root_operation.clone());
        }
        if let Some(least) = least(prefix) {
            // The first two at or after the least id of this prefix: what else matches follows
            // them.
            let range = least..=ObjectId::from_bytes([u8::MAX; ID_BYTES]);
            let ids = self.storage.ids(ObjectKind::Operation, range, 2).await;
            let ids = ids.map_err(|error| OpStoreError::Other(error.into()))?;
            let ids = ids.iter().map(|id| OperationId::from_bytes(id.as_bytes()));
            found.extend(ids.filter(|id| prefix.matches(id)));
        }
        Ok(match found.len() {
            0 => PrefixResolution::NoMatch,
            1 => PrefixResolution::SingleMatch(found.swap_remove(0)),
            _ => PrefixResolution::AmbiguousMatch,
        })
    }

    /// Nothing to do: objects that no head and no lease reaches are collected by who keeps them.
    async fn gc(&self, _head_ids: &[OperationId], _keep_newer: SystemTime) -> OpStoreResult<()> {
        Ok(())
    }
}

/// The least id with this prefix; `None` where it is longer than ids are.
fn least(prefix: &HexPrefix) -> Option<ObjectId> {
    let given = prefix.min_prefix_bytes();
    let mut bytes = [0; ID_BYTES];
    bytes.get_mut(..given.len())?.copy_from_slice(given);
    Some(ObjectId::from_bytes(bytes))
}
