//! Where the objects and the heads of a jj repo are kept.

use std::fmt::Debug;
use std::ops::RangeInclusive;

use ark_core::{Link, Object, ObjectId, ObjectKind};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

/// Why a storage did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// There is no such object in this repo.
    #[error("there is no {:?} {}", .link.kind, .link.id)]
    NotFound {
        /// What was asked for.
        link: Link,
    },
    /// Whether there is cannot be said, or it could not be done.
    #[error("the store failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The objects and the heads of one jj repo.
///
/// Its futures are polled from any thread, and by executors that know nothing of it: whatever it
/// waits for must wake them itself.
#[async_trait]
pub trait Storage: Debug + Send + Sync + 'static {
    /// The bytes of an object, whose hash was verified.
    ///
    /// # Errors
    /// It is not there, or could not be read: never one for the other.
    async fn get(&self, link: Link) -> Result<Bytes, StorageError>;

    /// Takes an object in. What it links was taken in before. It may come back before the object
    /// is durable, so that many are under way at once; an object that was taken in can be got.
    ///
    /// # Errors
    /// It could not.
    async fn put(&self, object: Object) -> Result<(), StorageError>;

    /// Comes back once all that was taken in before is durable.
    ///
    /// # Errors
    /// Some of it is not, and may be lost.
    async fn barrier(&self) -> Result<(), StorageError>;

    /// The ids of the objects of this kind that lie in the range, in order: the lowest of them,
    /// `limit` at most.
    ///
    /// # Errors
    /// They could not be read.
    async fn ids(
        &self,
        kind: ObjectKind,
        range: RangeInclusive<ObjectId>,
        limit: usize,
    ) -> Result<Vec<ObjectId>, StorageError>;

    /// The operations that are the repo's heads, in order of id; none before the first one.
    ///
    /// # Errors
    /// They could not be read.
    async fn heads(&self) -> Result<Vec<ObjectId>, StorageError>;

    /// In one act, durably: drops those heads of `old` that are heads, `new` aside, and makes
    /// `new` one if it is none yet. Comes after a [`Storage::barrier`] over `new`.
    ///
    /// This is for what somebody did: where another replaced `old` meanwhile, both were done at
    /// once, and `new` becomes a head all the same.
    ///
    /// Done twice it is as done once, unless somebody acts in between: where `new` was dropped
    /// meanwhile it is a head again. A storage that loses the answer asks twice.
    ///
    /// # Errors
    /// Nothing was changed, or it is not known whether it was.
    async fn update_heads(
        &self,
        old: &[ObjectId],
        new: Option<ObjectId>,
    ) -> Result<(), StorageError>;

    /// As [`Storage::update_heads`], but only if all of `old`, of which `new` may be one, are heads
    /// in that moment. Otherwise nothing is changed, and the answer is `false`.
    ///
    /// This is for who does nothing but make one head of several: where one of them was replaced
    /// meanwhile, `new` has in it what that one had, and to make it a head would bring that back.
    /// Heads that came since and are not in `old` stay, and do no harm. Where an answer was lost,
    /// `false` may also mean that it was done: whoever hears it looks at the heads again.
    ///
    /// # Errors
    /// Nothing was changed, or it is not known whether it was.
    async fn replace_heads(&self, old: &[ObjectId], new: ObjectId) -> Result<bool, StorageError>;

    /// How many requests are handled well at once; at least 1.
    fn concurrency(&self) -> usize;
}

/// The bytes of many objects, in their order, as many under way at once as the storage likes.
pub(crate) async fn get_all(
    storage: &dyn Storage,
    links: impl IntoIterator<Item = Link>,
) -> Result<Vec<Bytes>, StorageError> {
    let links: Vec<Link> = links.into_iter().collect();
    stream::iter(links)
        .map(|link| storage.get(link))
        .buffered(storage.concurrency().max(1))
        .try_collect()
        .await
}

/// Takes in many objects, children first.
pub(crate) async fn put_all(
    storage: &dyn Storage,
    objects: impl IntoIterator<Item = Object>,
) -> Result<(), StorageError> {
    for object in objects {
        storage.put(object).await?;
    }
    Ok(())
}
