//! A storage in memory that holds what the daemon's will hold: every object is checked, and has
//! all that it links.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard};

use ark_core::{Checked, Link, Object, ObjectId, ObjectKind, Summary, check, links};
use ark_jj::{ArkBackend, ArkOpStore, Storage, StorageError};
use async_trait::async_trait;
use bytes::Bytes;
use jj_lib::backend::{
    Backend as _, ChangeId, Commit, CommitId, MillisSinceEpoch, Signature, Timestamp,
};
use jj_lib::merge::Merge;
use jj_lib::op_store::RootOperationData;
use jj_lib::repo_path::RepoPath;
use pollster::FutureExt as _;

/// See [`Memory::on`].
#[derive(Debug, Default)]
struct Inner {
    objects: BTreeMap<Link, (Bytes, Summary)>,
    /// What no barrier came after.
    undurable: BTreeSet<Link>,
    heads: BTreeSet<ObjectId>,
    is_failing: bool,
    /// What others make of the heads just before they are next changed.
    meanwhile: VecDeque<BTreeSet<ObjectId>>,
    gets: usize,
    put_bytes: usize,
}

/// One machine's storage.
#[derive(Debug, Default)]
pub struct Memory(Mutex<Inner>);

impl Memory {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// From now on every call fails, or none.
    pub fn fail(&self, is_failing: bool) {
        self.inner().is_failing = is_failing;
    }

    /// How many objects were got.
    pub fn gets(&self) -> usize {
        self.inner().gets
    }

    /// Bytes of all that was put, what was there included.
    pub fn put_bytes(&self) -> usize {
        self.inner().put_bytes
    }

    pub fn len_of(&self, kind: ObjectKind) -> usize {
        self.inner().objects.keys().filter(|link| link.kind == kind).count()
    }

    /// Removes an object, as damage does.
    pub fn lose(&self, link: Link) {
        self.inner().objects.remove(&link).unwrap();
    }

    /// Whether all of it is durable.
    pub fn is_durable(&self) -> bool {
        self.inner().undurable.is_empty()
    }

    /// Everything the other's heads reach comes here; its heads become heads here, too.
    pub fn pull(&self, other: &Self) {
        let mut wanted = Vec::new();
        let other = other.inner();
        let mut here = self.inner();
        let operation = |id: &ObjectId| Link { kind: ObjectKind::Operation, id: *id };
        let mut next: Vec<Link> = other.heads.iter().map(operation).collect();
        let mut seen = BTreeSet::new();
        while let Some(link) = next.pop() {
            if !here.objects.contains_key(&link) && seen.insert(link) {
                next.extend(links(link, &other.objects[&link].0).unwrap());
                wanted.push(link);
            }
        }
        for link in wanted {
            here.objects.insert(link, other.objects[&link].clone());
        }
        here.heads.extend(&other.heads);
    }

    /// Just before heads are changed the next time they become these, as when a state is joined at
    /// that moment. Given several times: before the time after that, and so on.
    pub fn set_heads_meanwhile(&self, heads: impl IntoIterator<Item = ObjectId>) {
        self.inner().meanwhile.push_back(heads.into_iter().collect());
    }

    /// The heads are set as the heads rule would have it.
    pub fn set_heads(&self, heads: impl IntoIterator<Item = ObjectId>) {
        self.inner().heads = heads.into_iter().collect();
    }
}

impl Memory {
    fn change_heads(
        &self,
        old: &[ObjectId],
        new: Option<ObjectId>,
        only_all: bool,
    ) -> Result<bool, StorageError> {
        let mut inner = self.inner();
        if inner.is_failing {
            return Err(failed());
        }
        if let Some(heads) = inner.meanwhile.pop_front() {
            inner.heads = heads;
        }
        if only_all && !old.iter().all(|id| inner.heads.contains(id)) {
            return Ok(false);
        }
        for id in old {
            inner.heads.remove(id);
        }
        if let Some(id) = new {
            let link = Link { kind: ObjectKind::Operation, id };
            assert!(!inner.undurable.contains(&link), "told before it was durable");
            inner.heads.insert(id);
        }
        Ok(true)
    }
}

fn failed() -> StorageError {
    StorageError::Failed("the disk is on fire".into())
}

#[async_trait]
impl Storage for Memory {
    async fn get(&self, link: Link) -> Result<Bytes, StorageError> {
        let mut inner = self.inner();
        inner.gets += 1;
        if inner.is_failing {
            return Err(failed());
        }
        inner
            .objects
            .get(&link)
            .map(|(bytes, _)| bytes.clone())
            .ok_or(StorageError::NotFound { link })
    }

    async fn put(&self, object: Object) -> Result<(), StorageError> {
        let mut inner = self.inner();
        if inner.is_failing {
            return Err(failed());
        }
        let link = object.link();
        inner.put_bytes += object.bytes().len();
        let checked = check(link, object.bytes(), |link| {
            inner.objects.get(&link).map(|(_, summary)| summary.clone())
        });
        let summary = match checked {
            Ok(Checked::Complete(summary)) => summary,
            Ok(Checked::Missing(missing)) => {
                return Err(StorageError::Failed(format!("{missing:?} is missing").into()));
            }
            Err(error) => return Err(StorageError::Failed(error.into())),
        };
        if inner.objects.insert(link, (object.into_bytes(), summary)).is_none() {
            inner.undurable.insert(link);
        }
        Ok(())
    }

    async fn barrier(&self) -> Result<(), StorageError> {
        let mut inner = self.inner();
        if inner.is_failing {
            return Err(failed());
        }
        inner.undurable.clear();
        Ok(())
    }

    async fn ids(
        &self,
        kind: ObjectKind,
        range: RangeInclusive<ObjectId>,
        limit: usize,
    ) -> Result<Vec<ObjectId>, StorageError> {
        let inner = self.inner();
        if inner.is_failing {
            return Err(failed());
        }
        let of_kind = inner.objects.keys().filter(|link| link.kind == kind).map(|link| link.id);
        let mut ids: Vec<ObjectId> = of_kind.filter(|id| range.contains(id)).collect();
        ids.sort_unstable();
        ids.truncate(limit);
        Ok(ids)
    }

    async fn heads(&self) -> Result<Vec<ObjectId>, StorageError> {
        let inner = self.inner();
        if inner.is_failing {
            return Err(failed());
        }
        Ok(inner.heads.iter().copied().collect())
    }

    async fn update_heads(
        &self,
        old: &[ObjectId],
        new: Option<ObjectId>,
    ) -> Result<(), StorageError> {
        assert!(!old.iter().any(|id| Some(*id) == new));
        self.change_heads(old, new, false).map(|_| ())
    }

    async fn replace_heads(&self, old: &[ObjectId], new: ObjectId) -> Result<bool, StorageError> {
        self.change_heads(old, Some(new), true)
    }

    fn concurrency(&self) -> usize {
        8
    }
}

pub fn backend() -> (Arc<Memory>, ArkBackend) {
    let memory = Memory::new();
    (memory.clone(), ArkBackend::new(memory))
}

pub fn op_store(memory: &Arc<Memory>) -> ArkOpStore {
    let root_commit_id = CommitId::from_bytes(&[0; 32]);
    ArkOpStore::new(memory.clone(), RootOperationData { root_commit_id })
}

pub fn path() -> &'static RepoPath {
    RepoPath::from_internal_string("some/path").unwrap()
}

pub fn time(millis: i64) -> Timestamp {
    Timestamp { timestamp: MillisSinceEpoch(millis), tz_offset: 60 }
}

pub fn signature(name: &str) -> Signature {
    Signature { name: name.into(), email: format!("{name}@example.org"), timestamp: time(5) }
}

pub fn commit(backend: &ArkBackend, description: &str) -> Commit {
    Commit {
        parents: vec![backend.root_commit_id().clone()],
        predecessors: Vec::new(),
        root_tree: Merge::resolved(backend.empty_tree_id().clone()),
        conflict_labels: Merge::resolved(String::new()),
        change_id: ChangeId::from_bytes(&[9; 16]),
        description: description.into(),
        author: signature("author"),
        committer: signature("committer"),
        secure_sig: None,
    }
}

pub fn write(backend: &ArkBackend, commit: Commit) -> CommitId {
    backend.write_commit(commit, None).block_on().unwrap().0
}
