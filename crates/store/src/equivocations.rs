//! Writers that made two states of one revision, as the index has them.

use std::sync::Arc;

use redb::ReadableTable;

use crate::error::IndexError;
use crate::index::{EQUIVOCATIONS, TopicNumber, equivocation_key};
use crate::repo::{RepoInner, blocking};
use crate::states::Equivocation;

/// Equivocations kept per repo: each is a broken writer, and a hostile one could make any number.
const MAX_EQUIVOCATIONS: usize = 256;

/// The first and the last key that a topic's equivocations may have.
fn bounds(number: TopicNumber) -> ([u8; 52], [u8; 52]) {
    let mut last = [u8::MAX; 52];
    last[..4].copy_from_slice(&number.to_be_bytes());
    let mut first = [0; 52];
    first[..4].copy_from_slice(&number.to_be_bytes());
    (first, last)
}

/// Records one, up to a bound.
pub(crate) async fn record(repo: &RepoInner, seen: Equivocation) -> Result<(), IndexError> {
    let number = repo.number;
    let recorded = repo.store.index.write(move |transaction| {
        let mut table = transaction.open_table(EQUIVOCATIONS)?;
        let (first, last) = bounds(number);
        if table.range::<&[u8; 52]>(&first..=&last)?.count() < MAX_EQUIVOCATIONS {
            let key = equivocation_key(number, seen.writer, seen.revision);
            table.insert(&key, &seen.hashes())?;
        }
        Ok(())
    });
    recorded.await
}

/// See [`Repo::equivocations`](crate::Repo::equivocations).
pub(crate) async fn known(repo: &Arc<RepoInner>) -> Result<Vec<Equivocation>, IndexError> {
    let repo = Arc::clone(repo);
    blocking(move || {
        let read = repo.store.index.begin_read()?;
        let table = read.open_table(EQUIVOCATIONS)?;
        let (first, last) = bounds(repo.number);
        let row = |row: Result<(redb::AccessGuard<'_, _>, redb::AccessGuard<'_, _>), _>| {
            let (key, hashes) = row?;
            Ok(Equivocation::read(key.value(), hashes.value()))
        };
        table.range::<&[u8; 52]>(&first..=&last)?.map(row).collect()
    })
    .await
}
