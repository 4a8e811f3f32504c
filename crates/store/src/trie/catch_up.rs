//! Bringing a trie after its heads where that is much: the closure is walked on a thread of its
//! own, and what it counts is written in parts that hold up nobody who waits for the index. They go
//! from the first key to the last, so that neighbours share pages.
//!
//! Meanwhile the tables are of nothing in particular, and say so. What is joined or published in
//! that time is looked for at the end; a crash leaves them so, and they are made anew.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, MutexGuard, PoisonError};

use ark_core::ObjectId;
use ark_recon::{Node, Prefix};
use redb::WriteTransaction;

use super::count::{CountError, Counting, Row, Window};
use super::{LinksOf, Roots, UNKNOWN, clear_nodes, roots_in};
use crate::error::IndexError;
use crate::index::{LINKS, NODES, ROOTS, node_key, object_key, object_keys};
use crate::repo::RepoInner;
use crate::states::heads_in;

/// Links counted at a time: some 25 MB. Of more, the closure is walked several times.
const MAX_COUNTED: usize = 1 << 18;
/// Rows written in one transaction, which others wait for: some 20 ms. Where they lie far from each
/// other each changes a page of its own, which are 4 MiB then.
const PART_ROWS: usize = 1024;
/// Nodes written in one transaction, of 640 bytes.
const PART_NODES: usize = 1024;

/// From which heads to which; of `None` nothing is known.
struct Task {
    old: Option<Roots>,
    new: Roots,
}

/// Whether it is caught up in a repo.
#[derive(Debug, Default)]
pub(crate) enum Course {
    #[default]
    Idle,
    /// By a thread; `again`: there may be more since it looked.
    Running { again: bool },
    /// What would have to be read is damaged.
    GivenUp,
}

/// Begins to catch up with what is in the index once everything that was given to it before is
/// done, unless it was given up since the repo was opened.
pub(crate) fn start(repo: &Arc<RepoInner>) {
    match &mut *course(repo) {
        Course::Running { again } => return *again = true,
        Course::GivenUp => return,
        idle @ Course::Idle => *idle = Course::Running { again: false },
    }
    let repo = Arc::clone(repo);
    repo.store.runtime.clone().spawn_blocking(move || while !ends(&repo, catch_up(&repo)) {});
}

fn course(repo: &RepoInner) -> MutexGuard<'_, Course> {
    repo.course.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a thread that had this outcome ends.
fn ends(repo: &RepoInner, outcome: Result<(), CountError>) -> bool {
    let mut course = course(repo);
    let is_more = matches!(*course, Course::Running { again: true });
    *course = match outcome {
        Ok(()) if is_more => Course::Running { again: false },
        Ok(()) => Course::Idle,
        Err(error) if error.lasts() => {
            tracing::warn!(%error, "no more comparisons in this repo before the next start");
            Course::GivenUp
        }
        // The next change tries it again; a store that is being closed has none.
        Err(error) => {
            tracing::info!(%error, "what a repo is compared by could not be made for now");
            Course::Idle
        }
    };
    !matches!(*course, Course::Running { .. })
}

fn catch_up(repo: &Arc<RepoInner>) -> Result<(), CountError> {
    loop {
        let beginning = Arc::clone(repo);
        match write(repo, move |transaction| begin(&beginning, transaction))? {
            Some(task) => bring(repo, &task)?,
            None => return Ok(()),
        }
    }
}

fn write<T: Send + 'static>(
    repo: &RepoInner,
    change: impl FnOnce(&WriteTransaction) -> Result<T, IndexError> + Send + 'static,
) -> Result<T, IndexError> {
    repo.store.failpoints.hit("trie-part").map_err(redb::Error::from)?;
    repo.store.runtime.block_on(repo.store.index.write(change))
}

/// `None`: there is nothing to do.
fn begin(repo: &RepoInner, transaction: &WriteTransaction) -> Result<Option<Task>, IndexError> {
    let new = Roots(heads_in(transaction, repo.number, &repo.states())?.into_iter().collect());
    let mut table = transaction.open_table(ROOTS)?;
    let old = roots_in(&table, repo.number)?;
    if old.as_ref() == Some(&new) {
        return Ok(None);
    }
    table.insert(repo.number, UNKNOWN)?;
    repo.kept.forget();
    Ok(Some(Task { old, new }))
}

fn bring(repo: &RepoInner, task: &Task) -> Result<(), CountError> {
    // As of before the first part is written, for all walks.
    let before = match &task.old {
        Some(old) if !old.0.is_empty() => {
            Some((old, repo.store.index.begin_read()?.open_table(LINKS)?))
        }
        _ => None,
    };
    let old = before.as_ref().map_or(&Roots::default(), |(old, _)| *old).clone();
    let links = before.as_ref().map(|(_, links)| links);
    let mut first = ObjectId::from_bytes([0; 32]);
    loop {
        let window = Window::From { first, until: None, most: MAX_COUNTED };
        let read = |link| repo.read_reached(link);
        let mut counting = Counting::new(repo.number, links, read, window);
        counting.turn(&old, &task.new)?;
        let until = counting.until();
        put(repo, counting.into_rows(), first, until, links.is_none())?;
        match until {
            Some(until) => first = until,
            None => break,
        }
    }
    Ok(finish(repo, &task.new)?)
}

/// Writes rows from `first` up to `until`; in place of what is there, if it is to be made anew.
fn put(
    repo: &RepoInner,
    mut rows: Vec<Row>,
    first: ObjectId,
    until: Option<ObjectId>,
    anew: bool,
) -> Result<(), IndexError> {
    let number = repo.number;
    let end = match until {
        Some(until) => Bound::Excluded(object_keys(number, until).0),
        None => Bound::Included(object_keys(number, Prefix::ROOT.last()).1),
    };
    let mut from = object_keys(number, first).0;
    loop {
        let rest = rows.split_off(rows.len().min(PART_ROWS));
        let next = rest.first().map(|row| object_key(number, row.link));
        let to = next.map_or(end, Bound::Excluded);
        write(repo, move |transaction| {
            let mut links = transaction.open_table(LINKS)?;
            if anew {
                let range = (Bound::Included(&from), to.as_ref());
                links.retain_in::<&[u8; 37], _>(range, |_, _| false)?;
            }
            rows.iter().try_for_each(|row| row.write(&mut links, number))
        })?;
        let Some(next) = next else { return Ok(()) };
        (rows, from) = (rest, next);
    }
}

/// Makes the nodes, of which there are few, and says what the tables are of.
fn finish(repo: &RepoInner, roots: &Roots) -> Result<(), IndexError> {
    let number = repo.number;
    let mut made = Made::default();
    let links = repo.store.index.begin_read()?.open_table(LINKS)?;
    ark_recon::rebuild(&LinksOf { topic: number, links: &links }, &mut made)?;
    write(repo, move |transaction| clear_nodes(&mut transaction.open_table(NODES)?, number))?;
    let mut made: Vec<(Prefix, Node)> = made.0.into_iter().collect();
    while !made.is_empty() {
        let rest = made.split_off(made.len().min(PART_NODES));
        write(repo, move |transaction| {
            let mut nodes = transaction.open_table(NODES)?;
            made.iter().try_for_each(|(prefix, node)| {
                nodes.insert(&node_key(number, *prefix), node.to_bytes().as_slice()).map(drop)
            })?;
            Ok(())
        })?;
        made = rest;
    }
    let roots = roots.to_bytes();
    write(repo, move |transaction| {
        transaction.open_table(ROOTS)?.insert(number, roots.as_slice())?;
        Ok(())
    })?;
    // Of what was before, which a session may have gone on with meanwhile.
    repo.kept.forget();
    Ok(())
}

/// Nodes in memory: a megabyte for each million links.
#[derive(Default)]
struct Made(BTreeMap<Prefix, Node>);

impl ark_recon::Nodes for Made {
    type Error = IndexError;

    fn node(&self, prefix: Prefix) -> Result<Option<Node>, IndexError> {
        Ok(self.0.get(&prefix).cloned())
    }
}

impl ark_recon::NodesMut for Made {
    fn put(&mut self, prefix: Prefix, node: &Node) -> Result<(), IndexError> {
        self.0.insert(prefix, node.clone());
        Ok(())
    }

    fn remove(&mut self, prefix: Prefix) -> Result<(), IndexError> {
        self.0.remove(&prefix);
        Ok(())
    }
}
