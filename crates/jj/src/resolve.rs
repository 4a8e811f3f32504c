//! Several heads become one, the same on every machine.
//!
//! jj merges operations by itself when it finds several heads, but says in the new operation who
//! did it, where, when and by which command, and rewrites commits under the user's own name, time
//! and settings: two machines that merge the same heads make two operations, which are two heads
//! again. Here jj's merge runs with all of that fixed or taken from the heads: the order of the
//! parents (end time, then id), user, host, times, what random ids begin with, how files are merged,
//! and that nothing is signed.
//!
//! And it runs on an index of its own. jj takes the order of commits out of its index: on whose
//! rewriting a working copy goes on, and which side of a conflict comes first. A workspace's index
//! has commits in the order in which they came to that machine. Here an empty one is made for each
//! merge, and filled by what the merge asks of it: the operations and their ancestors decide alone.
//! That reads every operation and every commit once.
//!
//! Heads may change while that is done. What was made of heads of which one was replaced meanwhile
//! is let go, and all is done again with those that there are then: otherwise a late one would bring
//! back what another has dropped, as `jj op abandon` does. A head that comes after the last look at
//! them, and before jj loads the repo, is merged by jj itself, as one that another process makes at
//! that moment would be; where two machines do that with the same heads each makes an operation of
//! its own, and the next resolving makes one of those.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::sync::Arc;

use ark_core::ObjectId;
use futures::future::try_join_all;
use jj_lib::backend::{Backend as _, BackendError, MillisSinceEpoch, Timestamp};
use jj_lib::config::{ConfigGetError, ConfigLayer, ConfigLoadError, ConfigSource, StackedConfig};
use jj_lib::dag_walk_async;
use jj_lib::default_index::{DefaultIndexStore, DefaultIndexStoreInitError};
use jj_lib::default_submodule_store::DefaultSubmoduleStore;
use jj_lib::object_id::ObjectId as _;
use jj_lib::op_heads_store::OpHeadsStore;
use jj_lib::op_store::{OpStore, OpStoreError, OperationId, RootOperationData};
use jj_lib::operation::Operation;
use jj_lib::repo::{RepoLoader, RepoLoaderError};
use jj_lib::settings::UserSettings;
use jj_lib::signing::Signer;
use jj_lib::store::Store;
use jj_lib::tree_merge::MergeOptions;

use crate::{ArkBackend, ArkOpHeadsStore, ArkOpStore, Storage, StorageError};

/// What the operation says of itself.
const DESCRIPTION: &str = "reconcile divergent operations";
/// By whom and on which machine it says that it was made. Commits are told nobody's name.
const NAME: &str = "ark";
/// The latest time that the operation may say to have been made at: the end of the year 9999,
/// which is the last that jj writes and reads.
const LATEST_MS: i64 = 253_402_300_799_999;
/// How long before that a merge is made of heads that have no time after them.
const LAST_DAYS_MS: u64 = 30 * 24 * 60 * 60 * 1000;
/// How often it is begun anew because the heads changed meanwhile. Somebody else got on each time, so
/// this ends with what they do: of twenty processes that commit twice at once, each of which may merge
/// before, the last one loses to the others 114 times at most. Beyond that whoever waits is better told.
const MAX_ROUNDS: usize = 256;

/// Why the heads were not resolved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The heads could not be read or changed.
    #[error("cannot read or change the heads")]
    Heads(#[source] StorageError),
    /// They were replaced each time that they were to be.
    #[error("the heads of the repo changed {MAX_ROUNDS} times while they were merged")]
    Changing,
    /// A head or an ancestor of one could not be read.
    #[error("cannot read an operation")]
    Operations(#[from] OpStoreError),
    /// The settings that are always the same are refused.
    #[error("the settings are refused")]
    Settings(#[from] ConfigGetError),
    /// They are not even read.
    #[error("the settings are refused")]
    SettingsText(#[from] ConfigLoadError),
    /// There is no room for the index that the merge takes.
    #[error("cannot make a temporary directory")]
    Directory(#[source] io::Error),
    /// It cannot be begun.
    #[error("cannot make an index")]
    Index(#[from] DefaultIndexStoreInitError),
    /// jj could not merge them.
    #[error("cannot merge the operations")]
    Merge(#[from] RepoLoaderError),
    /// The store could not be read or written.
    #[error("cannot read or write the repo")]
    Backend(#[from] BackendError),
}

/// Makes one head of the repo's heads where there are several, and says which it is; `None` where
/// the repo has none yet. A head that another one comes after is dropped, and so are all but one of
/// ark's own merges of the same operations; the rest are merged by jj's own rules, into an
/// operation that depends on them alone.
///
/// A commit that the merge rewrites keeps its author and its committer, but for the time; one that
/// it makes has neither, until jj rewrites it for somebody.
///
/// # Errors
/// The heads are as they were, or it is not known whether they were changed: it can be tried again.
pub async fn resolve_heads(storage: Arc<dyn Storage>) -> Result<Option<ObjectId>, ResolveError> {
    for _ in 0..MAX_ROUNDS {
        let heads = storage.heads().await.map_err(ResolveError::Heads)?;
        if heads.len() < 2 {
            return Ok(heads.first().copied());
        }
        let new = one_of(&storage, &heads).await?;
        if storage.replace_heads(&heads, new).await.map_err(ResolveError::Heads)? {
            return Ok(Some(new));
        }
    }
    Err(ResolveError::Changing)
}

/// The operation that takes the place of these heads: it is written, or one of them.
async fn one_of(storage: &Arc<dyn Storage>, heads: &[ObjectId]) -> Result<ObjectId, ResolveError> {
    let backend = ArkBackend::of_nobody(storage.clone());
    let root_data = RootOperationData { root_commit_id: backend.root_commit_id().clone() };
    let op_store: Arc<dyn OpStore> = Arc::new(ArkOpStore::new(storage.clone(), root_data));
    let operations = in_order(one_of_each(newest(&op_store, heads).await?));
    let new = if let [only] = operations.as_slice() {
        only.id().clone()
    } else {
        let settings = settings(&operations)?;
        let merging = MergeOptions::from_settings(&settings)?;
        let store = Store::new(Box::new(backend), Signer::new(None, Vec::new()), merging);
        let op_heads: Arc<dyn OpHeadsStore> = Arc::new(ArkOpHeadsStore::new(storage.clone()));
        let dir = tempfile::tempdir().map_err(ResolveError::Directory)?;
        let index = Arc::new(DefaultIndexStore::init(dir.path())?);
        let submodules = Arc::new(DefaultSubmoduleStore::load(dir.path()));
        let loader = RepoLoader::new(settings, store, op_store, op_heads, index, submodules);
        let merged = loader.merge_operations(operations, None, Some(DESCRIPTION), []);
        merged.await?.0.operation().id().clone()
    };
    Ok(ObjectId::from_bytes(new.as_bytes().try_into().expect("ids here are of 32 bytes")))
}

/// The operations of these heads that no other one comes after.
async fn newest(
    op_store: &Arc<dyn OpStore>,
    heads: &[ObjectId],
) -> Result<HashSet<Operation>, OpStoreError> {
    let read = async |id: &ObjectId| -> Result<Operation, OpStoreError> {
        let id = OperationId::from_bytes(id.as_bytes());
        let data = op_store.read_operation(&id).await?;
        Ok(Operation::new(op_store.clone(), id, data))
    };
    dag_walk_async::heads(
        try_join_all(heads.iter().map(read)).await?,
        |operation: &Operation| operation.id().clone(),
        async |operation: &Operation| operation.parents().await,
    )
    .await
}

/// All of them but ark's merges of the same operations: of those the one with the least id. There
/// is more than one where machines have other versions of ark, or of jj in it; to merge those, too,
/// would make two again, without an end. Nothing is lost: nobody did anything in a merge.
fn one_of_each(operations: impl IntoIterator<Item = Operation>) -> Vec<Operation> {
    let mut operations: Vec<Operation> = operations.into_iter().collect();
    operations.sort_unstable_by(|a, b| a.id().cmp(b.id()));
    let mut merged: HashSet<BTreeSet<OperationId>> = HashSet::new();
    operations.retain(|operation| {
        !is_own(operation) || merged.insert(operation.parent_ids().iter().cloned().collect())
    });
    operations
}

/// Whether it is a merge that was made here.
fn is_own(operation: &Operation) -> bool {
    let metadata = operation.metadata();
    operation.parent_ids().len() > 1
        && (metadata.hostname.as_str(), metadata.username.as_str()) == (NAME, NAME)
        && metadata.description == DESCRIPTION
}

/// By end time, then id: in this order they are merged.
fn in_order(mut operations: Vec<Operation>) -> Vec<Operation> {
    operations.sort_by_cached_key(|operation| {
        (operation.metadata().time.end.timestamp, operation.id().clone())
    });
    operations
}

/// Settings that follow from the operations alone. What a user has set is not looked at.
fn settings(operations: &[Operation]) -> Result<UserSettings, ResolveError> {
    let ids: Vec<u8> = operations.iter().flat_map(|operation| operation.id().to_bytes()).collect();
    let seed = ObjectId::of(&ids);
    // A number of TOML has 63 bits beside its sign.
    let seed = u64::from_le_bytes(*seed.as_bytes().first_chunk().expect("an id is 32 bytes")) >> 1;
    let ends = operations.iter().map(|operation| operation.metadata().time.end.timestamp.0);
    let time = time_after(ends.max().unwrap_or(0), seed);
    let time = Timestamp { timestamp: MillisSinceEpoch(time), tz_offset: 0 };
    let time = time.to_datetime().expect("a time up to the year 9999").to_rfc3339();
    // Without a name: jj writes it into every commit that it makes or rewrites, and whoever
    // rewrites that commit next fills in what is empty, and nothing else.
    let text = format!(
        "user = {{ name = \"\", email = \"\" }}\n\
         operation = {{ hostname = \"{NAME}\", username = \"{NAME}\" }}\n\
         signing = {{ behavior = \"drop\", backend = \"none\" }}\n\
         merge = {{ hunk-level = \"line\", same-change = \"accept\" }}\n\
         experimental = {{ record-predecessors-in-commit = true }}\n\
         debug = {{ commit-timestamp = \"{time}\", operation-timestamp = \"{time}\", randomness-seed = {seed} }}\n"
    );
    let mut config = StackedConfig::with_defaults();
    config.add_layer(ConfigLayer::parse(ConfigSource::CommandArg, &text)?);
    Ok(UserSettings::from_config(config)?)
}

/// The time of a merge whose last head ended at `last`: one millisecond later, so that it comes last
/// by time, too. Where no time is left some other for each merge: jj refuses to write a commit that
/// there is already, and the same rewriting at the same time would be one.
fn time_after(last: i64, seed: u64) -> i64 {
    if last < LATEST_MS {
        last.max(0) + 1
    } else {
        let before = i64::try_from(seed % LAST_DAYS_MS).expect("it is less than a month");
        LATEST_MS - before
    }
}
