//! jj's commits, trees, files, symlinks and copies in ark's objects.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use ark_core::jj::{self, Commit, Copy, VIRTUAL};
use ark_core::{Link, MAX_RAW_CONTENT, Object, ObjectId, ObjectKind};
use async_trait::async_trait;
use futures::io::AsyncRead;
use futures::stream::{self, BoxStream, StreamExt as _};
use jj_lib::backend::{
    self, Backend, BackendError, BackendResult, ChangeId, CommitId, CopyHistory, CopyId,
    CopyRecord, FileId, RelatedCopy, SecureSig, SigningFn, SymlinkId, Tree, TreeId,
    make_root_commit,
};
use jj_lib::index::Index;
use jj_lib::object_id::ObjectId as JjId;
use jj_lib::repo_path::{RepoPath, RepoPathBuf};

use crate::content;
use crate::convert::{
    ConvertError, commit_to_ark, commit_to_jj, copy_to_ark, copy_to_jj, tree_to_ark, tree_to_jj,
};
use crate::id::{self, CHANGE_ID_BYTES, ID_BYTES};
use crate::load::{LoadError, load, load_rows};
use crate::storage::{Storage, StorageError, get_all, put_all};

/// How many ids of copies are asked for at once.
const COPIES_AT_ONCE: usize = 1024;

/// Commits, trees, files, symlinks and copies of a jj repo, in a [`Storage`].
///
/// What it writes is durable behind the barrier of the operation that comes after it, and not
/// before.
#[derive(Debug, Clone)]
pub struct ArkBackend {
    storage: Arc<dyn Storage>,
    root_commit: CommitId,
    root_change: ChangeId,
    empty_tree: TreeId,
    /// See [`ArkBackend::of_nobody`].
    keeps_committers: bool,
}

impl ArkBackend {
    /// What jj calls it, in `.jj/repo/store/type`.
    pub const NAME: &str = "ark";

    /// Over `storage`.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self {
            storage,
            root_commit: CommitId::from_bytes(VIRTUAL.as_bytes()),
            root_change: ChangeId::from_bytes(&[0; CHANGE_ID_BYTES]),
            empty_tree: TreeId::from_bytes(VIRTUAL.as_bytes()),
            keeps_committers: false,
        }
    }

    /// Over `storage`, for what nobody asked for: a commit that is rewritten is by whom it was,
    /// whatever name jj gives it.
    pub(crate) fn of_nobody(storage: Arc<dyn Storage>) -> Self {
        Self { keeps_committers: true, ..Self::new(storage) }
    }

    /// Puts in the name and the address of who committed what was rewritten.
    async fn keep_committer(&self, commit: &mut backend::Commit) -> BackendResult<()> {
        if let Some(before) = commit.predecessors.first() {
            let before = self.read_commit(before).await?.committer;
            (commit.committer.name, commit.committer.email) = (before.name, before.email);
        }
        Ok(())
    }

    /// The bytes of the object that jj names so.
    async fn load(&self, kind: ObjectKind, id: &impl JjId) -> BackendResult<bytes::Bytes> {
        let link = Link { kind, id: id::to_ark(id).map_err(|error| not_read(id, error.into()))? };
        load(&*self.storage, link).await.map_err(|error| not_read(id, error))
    }

    async fn copies(&self) -> Result<BTreeMap<ObjectId, Copy>, LoadError> {
        let (last, kind) = (ObjectId::from_bytes([u8::MAX; ID_BYTES]), ObjectKind::Copy);
        let (mut found, mut from) = (BTreeMap::new(), VIRTUAL);
        loop {
            let ids = self.storage.ids(kind, from..=last, COPIES_AT_ONCE).await;
            let ids = ids.map_err(LoadError::Storage)?;
            let links = ids.iter().map(|&id| Link { kind, id });
            let all = get_all(&*self.storage, links).await.map_err(LoadError::Storage)?;
            for (&id, bytes) in ids.iter().zip(&all) {
                found.insert(id, Copy::decode(bytes)?);
            }
            match ids.last().and_then(|&id| id::next(id)) {
                Some(next) if ids.len() >= COPIES_AT_ONCE => from = next,
                _ => return Ok(found),
            }
        }
    }
}

/// As jj is told that something was not read.
fn not_read(id: &impl JjId, error: LoadError) -> BackendError {
    let (object_type, hash) = (id.object_type(), id.hex());
    match error {
        LoadError::NotFound(source) => {
            BackendError::ObjectNotFound { object_type, hash, source: source.into() }
        }
        LoadError::Convert(ConvertError::Id(error)) => BackendError::InvalidHashLength {
            expected: ID_BYTES,
            actual: error.actual,
            object_type,
            hash,
        },
        error => BackendError::ReadObject { object_type, hash, source: error.into() },
    }
}

/// As jj is told that something was not written.
fn not_written(
    object_type: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> BackendError {
    BackendError::WriteObject { object_type, source: source.into() }
}

#[async_trait]
impl Backend for ArkBackend {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn commit_id_length(&self) -> usize {
        ID_BYTES
    }

    fn change_id_length(&self) -> usize {
        CHANGE_ID_BYTES
    }

    fn root_commit_id(&self) -> &CommitId {
        &self.root_commit
    }

    fn root_change_id(&self) -> &ChangeId {
        &self.root_change
    }

    fn empty_tree_id(&self) -> &TreeId {
        &self.empty_tree
    }

    fn concurrency(&self) -> usize {
        self.storage.concurrency().max(1)
    }

    async fn read_file(
        &self,
        path: &RepoPath,
        id: &FileId,
    ) -> BackendResult<Pin<Box<dyn AsyncRead + Send>>> {
        let content = id::content(id).map_err(|error| not_read(id, error.into()))?;
        content::read(self.storage.clone(), content).await.map_err(|error| match error {
            StorageError::NotFound { .. } => not_read(id, LoadError::NotFound(error)),
            error => BackendError::ReadFile {
                path: path.to_owned(),
                id: id.clone(),
                source: error.into(),
            },
        })
    }

    async fn write_file(
        &self,
        _path: &RepoPath,
        contents: &mut (dyn AsyncRead + Send + Unpin),
    ) -> BackendResult<FileId> {
        let content = content::write(&*self.storage, contents).await;
        content.map(id::file_id).map_err(|error| not_written("file", error))
    }

    async fn read_symlink(&self, _path: &RepoPath, id: &SymlinkId) -> BackendResult<String> {
        let bytes = self.load(ObjectKind::Raw, id).await?;
        let target = std::str::from_utf8(&bytes).map_err(|source| BackendError::InvalidUtf8 {
            object_type: id.object_type(),
            hash: id.hex(),
            source,
        })?;
        Ok(target.to_owned())
    }

    async fn write_symlink(&self, _path: &RepoPath, target: &str) -> BackendResult<SymlinkId> {
        if target.len() as u64 > MAX_RAW_CONTENT {
            return Err(not_written("symlink", format!("a target of {} bytes", target.len())));
        }
        let object = Object::new(ObjectKind::Raw, target.as_bytes().to_vec());
        let id = SymlinkId::from_bytes(object.id().as_bytes());
        self.storage.put(object).await.map_err(|error| not_written("symlink", error))?;
        Ok(id)
    }

    async fn read_copy(&self, id: &CopyId) -> BackendResult<CopyHistory> {
        let bytes = self.load(ObjectKind::Copy, id).await?;
        let copy = Copy::decode(&bytes).map_err(|error| not_read(id, error.into()))?;
        copy_to_jj(copy).map_err(|error| not_read(id, error.into()))
    }

    async fn write_copy(&self, copy: &CopyHistory) -> BackendResult<CopyId> {
        let object = copy_to_ark(copy).and_then(|copy| Ok(copy.encode()?));
        let object = object.map_err(|error| not_written("copy", error))?;
        let id = CopyId::from_bytes(object.id().as_bytes());
        self.storage.put(object).await.map_err(|error| not_written("copy", error))?;
        Ok(id)
    }

    async fn get_related_copies(&self, copy_id: &CopyId) -> BackendResult<Vec<RelatedCopy>> {
        let not_read = |error| not_read(copy_id, error);
        let id = id::to_ark(copy_id).map_err(|error| not_read(error.into()))?;
        let mut copies = self.copies().await.map_err(not_read)?;
        if !copies.contains_key(&id) {
            let link = Link { kind: ObjectKind::Copy, id };
            return Err(not_read(LoadError::NotFound(StorageError::NotFound { link })));
        }
        let mut related = Vec::new();
        for id in related_copies(&copies, id) {
            if let Some(copy) = copies.remove(&id) {
                let history = copy_to_jj(copy).map_err(|error| not_read(error.into()))?;
                related.push(RelatedCopy { id: CopyId::from_bytes(id.as_bytes()), history });
            }
        }
        Ok(related)
    }

    async fn read_tree(&self, _path: &RepoPath, id: &TreeId) -> BackendResult<Tree> {
        if *id == self.empty_tree {
            return Ok(Tree::default());
        }
        let root = id::to_ark(id).map_err(|error| not_read(id, error.into()))?;
        let entries = load_rows(&*self.storage, ObjectKind::Tree, root, |level, nodes| {
            jj::open_tree(level, nodes.iter().map(AsRef::as_ref))
        })
        .await
        .map_err(|error| not_read(id, error))?;
        tree_to_jj(entries).map_err(|error| not_read(id, error.into()))
    }

    async fn write_tree(&self, _path: &RepoPath, contents: &Tree) -> BackendResult<TreeId> {
        let made = tree_to_ark(contents).and_then(|entries| Ok(jj::tree(entries)?));
        let (root, nodes) = made.map_err(|error| not_written("tree", error))?;
        put_all(&*self.storage, nodes).await.map_err(|error| not_written("tree", error))?;
        Ok(TreeId::from_bytes(root.as_bytes()))
    }

    async fn read_commit(&self, id: &CommitId) -> BackendResult<backend::Commit> {
        if *id == self.root_commit {
            return Ok(make_root_commit(self.root_change.clone(), self.empty_tree.clone()));
        }
        let bytes = self.load(ObjectKind::Commit, id).await?;
        let commit = Commit::decode(&bytes).map_err(|error| not_read(id, error.into()))?;
        Ok(commit_to_jj(commit))
    }

    async fn write_commit(
        &self,
        mut contents: backend::Commit,
        sign_with: Option<&mut SigningFn>,
    ) -> BackendResult<(CommitId, backend::Commit)> {
        if contents.secure_sig.is_some() {
            return Err(not_written("commit", "it is signed already"));
        }
        if contents.parents.is_empty() {
            return Err(BackendError::Other("Cannot write a commit with no parents".into()));
        }
        if self.keeps_committers {
            self.keep_committer(&mut contents).await?;
        }
        let mut commit = commit_to_ark(&contents).map_err(|error| not_written("commit", error))?;
        if let Some(sign) = sign_with {
            let data = commit.unsigned_bytes();
            let sig = sign(&data).map_err(|error| not_written("commit", error))?;
            commit.signing = Some(jj::Signing { data: None, signature: sig.clone() });
            contents.secure_sig = Some(SecureSig { data, sig });
        }
        let object = commit.encode().map_err(|error| not_written("commit", error))?;
        let id = CommitId::from_bytes(object.id().as_bytes());
        self.storage.put(object).await.map_err(|error| not_written("commit", error))?;
        Ok((id, contents))
    }

    /// Nothing: that a file was copied is recorded in trees ([`Backend::write_copy`]), not told
    /// from how alike contents are.
    fn get_copy_records(
        &self,
        _paths: Option<&[RepoPathBuf]>,
        _root: &CommitId,
        _head: &CommitId,
    ) -> BackendResult<BoxStream<'_, BackendResult<CopyRecord>>> {
        Ok(stream::empty().boxed())
    }

    /// Nothing to do: objects that no head and no lease reaches are collected by who keeps them.
    fn gc(&self, _index: &dyn Index, _keep_newer: SystemTime) -> BackendResult<()> {
        Ok(())
    }
}

/// `copy`, its ancestors and all descendants of those: children before parents, otherwise by id.
fn related_copies(copies: &BTreeMap<ObjectId, Copy>, copy: ObjectId) -> Vec<ObjectId> {
    let parents = |id: &ObjectId| copies.get(id).into_iter().flat_map(|copy| &copy.parents);
    let mut children: BTreeMap<ObjectId, BTreeSet<ObjectId>> = BTreeMap::new();
    for id in copies.keys() {
        for parent in parents(id) {
            children.entry(*parent).or_default().insert(*id);
        }
    }
    let mut related = BTreeSet::new();
    let mut ancestors = vec![copy];
    while let Some(id) = ancestors.pop() {
        if related.insert(id) {
            ancestors.extend(parents(&id));
        }
    }
    let mut below: Vec<ObjectId> = related.iter().copied().collect();
    while let Some(id) = below.pop() {
        let new = children.get(&id).into_iter().flatten().filter(|id| related.insert(**id));
        below.extend(new);
    }
    // A copy comes once all its children have come, which are all related as it is. Hashes make
    // no circles.
    let mut waiting: BTreeMap<ObjectId, usize> =
        related.iter().map(|id| (*id, children.get(id).map_or(0, BTreeSet::len))).collect();
    let mut ready: BTreeSet<ObjectId> =
        waiting.iter().filter(|(_, children)| **children == 0).map(|(id, _)| *id).collect();
    let mut order = Vec::new();
    while let Some(id) = ready.pop_first() {
        order.push(id);
        for parent in parents(&id).collect::<BTreeSet<_>>() {
            if let Some(children) = waiting.get_mut(parent) {
                *children -= 1;
                if *children == 0 {
                    ready.insert(*parent);
                }
            }
        }
    }
    order
}
