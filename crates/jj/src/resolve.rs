//! Several heads become one, the same on every machine.
//!
//! jj merges operations by itself when it finds several heads, but says in the new operation who
//! did it, where, when and by which command, and rewrites commits under the user's own name, time
//! and settings: two machines that merge the same heads make two operations, which are two heads
//! again. Here jj's merge runs with all of that fixed or taken from the heads: the order of the
//! parents (end time, then id), user, host, times, what random ids begin with, how files are merged,
//! and that nothing is signed.

use std::collections::HashSet;
use std::sync::Arc;

use ark_core::ObjectId;
use futures::future::try_join_all;
use jj_lib::backend::{BackendError, MillisSinceEpoch, Timestamp};
use jj_lib::config::{ConfigGetError, ConfigLayer, ConfigLoadError, ConfigSource, StackedConfig};
use jj_lib::index::IndexStore;
use jj_lib::object_id::ObjectId as _;
use jj_lib::op_heads_store::OpHeadsStore;
use jj_lib::op_store::{OpStore, OpStoreError, OperationId, RootOperationData};
use jj_lib::operation::Operation;
use jj_lib::repo::{RepoLoader, RepoLoaderError};
use jj_lib::settings::UserSettings;
use jj_lib::signing::Signer;
use jj_lib::store::Store;
use jj_lib::submodule_store::SubmoduleStore;
use jj_lib::tree_merge::MergeOptions;
use jj_lib::{backend::Backend as _, dag_walk_async};

use crate::{ArkBackend, ArkOpHeadsStore, ArkOpStore, Storage, StorageError};

/// What the operation says of itself.
const DESCRIPTION: &str = "reconcile divergent operations";
/// The latest time that the operation may say to have been made at: the end of the year 9999,
/// which is the last that jj writes and reads.
const LATEST_MS: i64 = 253_402_300_799_999;

/// Why the heads were not resolved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The heads could not be read or changed.
    #[error("cannot read or change the heads")]
    Heads(#[source] StorageError),
    /// A head or an ancestor of one could not be read.
    #[error("cannot read an operation")]
    Operations(#[from] OpStoreError),
    /// The settings that are always the same are refused.
    #[error("the settings are refused")]
    Settings(#[from] ConfigGetError),
    /// They are not even read.
    #[error("the settings are refused")]
    SettingsText(#[from] ConfigLoadError),
    /// jj could not merge them.
    #[error("cannot merge the operations")]
    Merge(#[from] RepoLoaderError),
    /// The store could not be read or written.
    #[error("cannot read or write the repo")]
    Backend(#[from] BackendError),
}

/// Makes one head of the repo's heads where there are several, and says which it is; `None` where
/// the repo has none yet. A head that another one comes after is dropped; the rest are merged by
/// jj's own rules, into an operation that depends on them alone.
///
/// `index` is the workspace's own index of the repo; it decides nothing.
///
/// # Errors
/// The heads are as they were, or it is not known whether they were changed: it can be tried again.
pub async fn resolve_heads(
    storage: Arc<dyn Storage>,
    index: Arc<dyn IndexStore>,
    submodules: Arc<dyn SubmoduleStore>,
) -> Result<Option<ObjectId>, ResolveError> {
    let heads = storage.heads().await.map_err(ResolveError::Heads)?;
    if heads.len() < 2 {
        return Ok(heads.first().copied());
    }
    let backend = ArkBackend::new(storage.clone());
    let root_data = RootOperationData { root_commit_id: backend.root_commit_id().clone() };
    let op_store: Arc<dyn OpStore> = Arc::new(ArkOpStore::new(storage.clone(), root_data));
    let operations = newest(&op_store, &heads).await?;
    let new = if let [only] = operations.as_slice() {
        only.id().clone()
    } else {
        let settings = settings(&operations)?;
        let merging = MergeOptions::from_settings(&settings)?;
        let store = Store::new(Box::new(backend), Signer::new(None, Vec::new()), merging);
        let op_heads: Arc<dyn OpHeadsStore> = Arc::new(ArkOpHeadsStore::new(storage.clone()));
        let loader = RepoLoader::new(settings, store, op_store, op_heads, index, submodules);
        let merged = loader.merge_operations(operations, None, Some(DESCRIPTION), []);
        merged.await?.0.operation().id().clone()
    };
    let new = ObjectId::from_bytes(new.as_bytes().try_into().expect("ids here are of 32 bytes"));
    let old: Vec<ObjectId> = heads.into_iter().filter(|head| *head != new).collect();
    storage.update_heads(&old, Some(new)).await.map_err(ResolveError::Heads)?;
    Ok(Some(new))
}

/// The operations of these heads that no other one comes after, by end time, then id.
async fn newest(
    op_store: &Arc<dyn OpStore>,
    heads: &[ObjectId],
) -> Result<Vec<Operation>, ResolveError> {
    let read = async |id: &ObjectId| -> Result<Operation, OpStoreError> {
        let id = OperationId::from_bytes(id.as_bytes());
        let data = op_store.read_operation(&id).await?;
        Ok(Operation::new(op_store.clone(), id, data))
    };
    let operations = try_join_all(heads.iter().map(read)).await?;
    let newest: HashSet<Operation> = dag_walk_async::heads(
        operations,
        |operation: &Operation| operation.id().clone(),
        async |operation: &Operation| operation.parents().await,
    )
    .await?;
    let mut newest: Vec<Operation> = newest.into_iter().collect();
    newest.sort_by_cached_key(|operation| {
        (operation.metadata().time.end.timestamp, operation.id().clone())
    });
    Ok(newest)
}

/// Settings that follow from the operations alone. What a user has set is not looked at.
fn settings(operations: &[Operation]) -> Result<UserSettings, ResolveError> {
    let ends = operations.iter().map(|operation| operation.metadata().time.end.timestamp.0);
    // One more than the last of them, so that the merge comes last by time, too.
    let last = ends.max().unwrap_or(0).saturating_add(1).clamp(0, LATEST_MS);
    let time = Timestamp { timestamp: MillisSinceEpoch(last), tz_offset: 0 };
    let time = time.to_datetime().expect("a time up to the year 9999").to_rfc3339();
    let ids: Vec<u8> = operations.iter().flat_map(|operation| operation.id().to_bytes()).collect();
    let seed = ObjectId::of(&ids);
    // A number of TOML has 63 bits beside its sign.
    let seed = u64::from_le_bytes(*seed.as_bytes().first_chunk().expect("an id is 32 bytes")) >> 1;
    let text = format!(
        "user = {{ name = \"ark\", email = \"\" }}\n\
         operation = {{ hostname = \"ark\", username = \"ark\" }}\n\
         signing = {{ behavior = \"drop\", backend = \"none\" }}\n\
         merge = {{ hunk-level = \"line\", same-change = \"accept\" }}\n\
         experimental = {{ record-predecessors-in-commit = true }}\n\
         debug = {{ commit-timestamp = \"{time}\", operation-timestamp = \"{time}\", randomness-seed = {seed} }}\n"
    );
    let mut config = StackedConfig::with_defaults();
    config.add_layer(ConfigLayer::parse(ConfigSource::CommandArg, &text)?);
    Ok(UserSettings::from_config(config)?)
}
