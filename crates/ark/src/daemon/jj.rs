//! jj processes: what each of them has of a repo.

use std::error::Error;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use ark_control::jj::{JJ_VERSION, PutFailure, Repository};
use ark_core::{Link, Object, ObjectId, ObjectKind, in_words};
use ark_store::{JjRepo, Lease, PutError, ReadError};
use bytes::Bytes;

use super::house::{House, RunningFolder};

/// The jj repo that a process asks for.
///
/// # Errors
/// Why it gets none, in words.
pub(super) fn grant(house: &House, version: u16, id: &str) -> Result<JjRepo, String> {
    check(version)?;
    let repo = house.repos.iter().find(|repo| repo.id == id);
    let repo = repo.ok_or_else(|| format!("its config names no repo {id:?}"))?;
    if !matches!(repo.folder, RunningFolder::None) {
        return Err(format!("its config has a folder for the repo {id:?}"));
    }
    repo.held.jj().map_err(|error| in_words(&error))
}

fn check(version: u16) -> Result<(), String> {
    if version == JJ_VERSION {
        return Ok(());
    }
    Err(format!(
        "it talks with jj by version {JJ_VERSION}, this program by version {version}: use the \
         same version of ark for both, and restart the older one"
    ))
}

/// What a process has of its repo.
pub(super) struct Leased {
    repo: JjRepo,
    /// Of what it put and no barrier covers. Another one after a put or a barrier that failed: the
    /// process puts again what it knows no better of. Whatever else broke it, it stays until one of
    /// those has failed: a barrier of another one would pass over what this one let go.
    lease: Mutex<Arc<Lease>>,
}

impl Leased {
    pub(super) fn new(repo: JjRepo) -> Self {
        let lease = Mutex::new(Arc::new(repo.lease()));
        Self { repo, lease }
    }

    fn lease(&self) -> Arc<Lease> {
        Arc::clone(&self.lease.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What failed, in words; the lease is given back.
    fn give_back(&self, error: impl Error + 'static) -> String {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(self.repo.lease());
        in_words(&error)
    }
}

impl Repository for Leased {
    async fn get(&self, link: Link) -> Result<Option<Bytes>, String> {
        match self.lease().get(link).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(ReadError::Absent { .. }) => Ok(None),
            Err(error) => Err(in_words(&error)),
        }
    }

    async fn put(&self, object: Object) -> Result<(), PutFailure> {
        self.lease().put(object).await.map_err(|error| match error {
            PutError::Lease(error) => PutFailure::Failed(self.give_back(error)),
            error => PutFailure::Refused(self.give_back(error)),
        })
    }

    async fn barrier(&self) -> Result<(), String> {
        self.lease().barrier().await.map_err(|error| self.give_back(error))
    }

    async fn ids(
        &self,
        kind: ObjectKind,
        range: RangeInclusive<ObjectId>,
        limit: usize,
    ) -> Result<Vec<ObjectId>, String> {
        self.lease().ids(kind, range, limit).await.map_err(|error| in_words(&error))
    }

    async fn heads(&self) -> Result<Vec<ObjectId>, String> {
        Ok(self.repo.heads())
    }

    async fn update_heads(&self, old: Vec<ObjectId>, new: Option<ObjectId>) -> Result<(), String> {
        self.lease().update_heads(&old, new).await.map_err(|error| in_words(&error))
    }

    async fn replace_heads(&self, old: Vec<ObjectId>, new: ObjectId) -> Result<bool, String> {
        self.lease().replace_heads(&old, new).await.map_err(|error| in_words(&error))
    }
}

#[cfg(test)]
mod tests {
    use ark_core::jj::VIRTUAL;
    use ark_core::{RepoKind, TopicId};
    use ark_store::Store;

    use super::*;
    use crate::key::Key;

    /// What a change of heads let go of because the store failed is not acknowledged after it.
    #[tokio::test]
    async fn what_a_failed_change_of_heads_let_go_fails_the_next_barrier() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let key = Key::read_or_create(directory.path()).expect("a key");
        let options = ark_store::Options {
            path: directory.path().join("store"),
            witness_dir: directory.path().join("witness"),
            signing_key: key.signing_key(),
            index_cache_bytes: ark_store::DEFAULT_INDEX_CACHE_BYTES,
        };
        let store = Store::open(options).await.expect("a store");
        let repo = store.repo(TopicId::derive("repo", None), RepoKind::Jj).await.expect("a repo");
        let object = || Object::new(ObjectKind::Raw, b"put".to_vec());
        let update = [true, false].map(|updates| (updates, Leased::new(repo.jj().expect("jj"))));
        for (_, leased) in &update {
            leased.put(object()).await.expect("taken in");
        }
        store.close().await.expect("a clean end");
        for (updates, leased) in &update {
            if *updates {
                leased.update_heads(vec![VIRTUAL], None).await.expect_err("closed");
            } else {
                leased.replace_heads(vec![VIRTUAL], VIRTUAL).await.expect_err("closed");
            }
            leased.barrier().await.expect_err("what was put is gone");
        }
    }

    #[test]
    fn another_version_is_refused_in_clear_words() {
        check(JJ_VERSION).expect("the same version");
        let refused = check(JJ_VERSION + 1).expect_err("another version");
        assert!(refused.contains(&format!("version {}:", JJ_VERSION + 1)), "{refused}");
    }
}
