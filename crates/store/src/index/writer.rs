//! The one thread that writes the index. Changes that wait together share a transaction, since
//! each commit costs the disk's syncs whatever is in it.

use std::sync::Arc;

use redb::{Database, Durability, WriteTransaction};
use tokio::sync::{mpsc, oneshot};

use crate::counters::{Counts, count};
use crate::error::IndexError;
use crate::failpoint::Failpoints;

use super::Handle;

/// Changes that may wait for the thread: more make their callers wait.
const QUEUE: usize = 256;
/// The most changes in one transaction: bounds what one failed commit takes with it.
const MAX_GROUP: usize = 128;

/// A change of the index, run inside a transaction.
pub(crate) type Apply = Box<dyn FnOnce(&WriteTransaction) -> Result<(), IndexError> + Send>;

struct Job {
    apply: Apply,
    done: oneshot::Sender<Result<(), IndexError>>,
}

/// Changes that must be in one transaction, each with its own caller: what one barrier made
/// durable together.
#[derive(Default)]
pub(crate) struct Group {
    jobs: Vec<Job>,
    held: Option<Box<dyn Send>>,
}

impl Group {
    /// No changes yet; `held` is dropped once they are durable, or failed.
    pub(crate) fn holding(held: impl Send + 'static) -> Self {
        Self { jobs: Vec::new(), held: Some(Box::new(held)) }
    }

    /// Adds a change; the receiver hears when it is durable.
    pub(crate) fn push(&mut self, apply: Apply, done: oneshot::Sender<Result<(), IndexError>>) {
        self.jobs.push(Job { apply, done });
    }
}

enum Command {
    Group(Group),
    /// Opens the file again if it failed.
    Mend(oneshot::Sender<Result<(), IndexError>>),
    Close(oneshot::Sender<()>),
}

/// The way to the writing thread. Cheap to clone; the thread ends with its last clone.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    commands: mpsc::Sender<Command>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(handle: Arc<Handle>, counts: Arc<Counts>) -> std::io::Result<Self> {
        let (commands, receiver) = mpsc::channel(QUEUE);
        std::thread::Builder::new().name("ark-index".into()).spawn(move || {
            run(&handle, &counts, receiver);
            handle.close();
        })?;
        Ok(Self { commands })
    }

    /// Hands a group over; each caller hears for itself.
    pub(crate) async fn submit(&self, group: Group) {
        // When the thread has ended the jobs are dropped, and their callers hear `Closed`.
        drop(self.commands.send(Command::Group(group)).await);
    }

    /// Runs a change and waits until it is durable.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, IndexError> {
        let (apply, result) = with_result(change);
        let (done, heard) = oneshot::channel();
        let mut group = Group::default();
        group.push(apply, done);
        self.submit(group).await;
        heard.await.map_err(|_| IndexError::Closed)??;
        result.await.map_err(|_| IndexError::Closed)
    }

    /// Has the file opened again if it failed.
    ///
    /// # Errors
    /// It could not be, or the store is closed.
    pub(crate) async fn mend(&self) -> Result<(), IndexError> {
        let (done, mended) = oneshot::channel();
        // When the thread has ended this is dropped, too.
        drop(self.commands.send(Command::Mend(done)).await);
        mended.await.map_err(|_| IndexError::Closed)?
    }

    /// A handle that does not keep the thread going.
    pub(crate) fn downgrade(&self) -> WeakWriter {
        WeakWriter { commands: self.commands.downgrade() }
    }

    /// Ends the thread after what was handed over before, and closes the file.
    pub(crate) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Close(done)).await.is_ok() {
            drop(closed.await);
        }
    }
}

/// A [`Writer`] that does not keep the thread going.
pub(crate) struct WeakWriter {
    commands: mpsc::WeakSender<Command>,
}

impl WeakWriter {
    /// The way to the thread, if it has not ended.
    pub(crate) fn upgrade(&self) -> Option<Writer> {
        self.commands.upgrade().map(|commands| Writer { commands })
    }
}

/// Splits a change into one without a result, and the way to its result.
pub(crate) fn with_result<T: Send + 'static>(
    change: impl FnOnce(&WriteTransaction) -> Result<T, IndexError> + Send + 'static,
) -> (Apply, oneshot::Receiver<T>) {
    let (send, receive) = oneshot::channel();
    let apply: Apply = Box::new(move |transaction| {
        // Sent before the commit, read only after its success was heard.
        drop(send.send(change(transaction)?));
        Ok(())
    });
    (apply, receive)
}

fn run(handle: &Handle, counts: &Counts, mut commands: mpsc::Receiver<Command>) {
    let mut mender = Mender::default();
    while let Some(first) = commands.blocking_recv() {
        let mut jobs = Vec::new();
        let mut held = Vec::new();
        let mut mends = Vec::new();
        let mut close = None;
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Group(group) => {
                    jobs.extend(group.jobs);
                    held.extend(group.held);
                }
                Command::Mend(done) => mends.push(done),
                Command::Close(done) => close = Some(done),
            }
            next = (close.is_none() && jobs.len() < MAX_GROUP)
                .then(|| commands.try_recv().ok())
                .flatten();
        }
        if !jobs.is_empty() {
            serve(handle, counts, jobs, &mut mender);
        }
        drop(held);
        for done in mends {
            let outcome = mender.guard(handle, |opened_at| handle.mend(opened_at));
            drop(done.send(outcome));
        }
        if let Some(done) = close {
            handle.close();
            let _ = done.send(());
            return;
        }
    }
}

/// Commits `jobs` together.
fn serve(handle: &Handle, counts: &Counts, jobs: Vec<Job>, mender: &mut Mender) {
    let (applies, dones): (Vec<_>, Vec<_>) =
        jobs.into_iter().map(|job| (job.apply, job.done)).unzip();
    let outcome = mender.guard(handle, |opened_at| {
        handle.mend(opened_at)?;
        handle.check_space()?;
        handle.with(|database| commit(database, &handle.failpoints, applies))
    });
    if outcome.is_ok() {
        mender.panicked = false;
    }
    count(&counts.commits, usize::from(outcome.is_ok()));
    for done in dones {
        drop(done.send(outcome.clone()));
    }
}

/// What the thread knows of the database's failures.
#[derive(Default)]
struct Mender {
    /// How many failures there had been when the file was opened.
    opened_at: u64,
    /// Whether the database panicked since the last commit that worked.
    panicked: bool,
}

impl Mender {
    /// Does something with the database, and sees to it that what fails is opened again. redb has
    /// panicked on files that a full disk cut short (its issue 620): this thread lives on.
    fn guard(
        &mut self,
        handle: &Handle,
        act: impl FnOnce(&mut u64) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let act = std::panic::AssertUnwindSafe(|| act(&mut self.opened_at));
        let outcome = std::panic::catch_unwind(act).unwrap_or_else(|_| {
            if std::mem::replace(&mut self.panicked, true) {
                handle.alarm.give_up("the database panics again and again".into());
            }
            Err(super::database_error(redb::Error::Corrupted("the database panicked".into())))
        });
        if let Err(error) = &outcome {
            let source = std::error::Error::source(error);
            tracing::error!(%error, ?source, "the index failed");
            if matches!(error, IndexError::Database(_)) {
                handle.alarm.raise();
            }
        }
        outcome
    }
}

fn commit(
    database: &Database,
    failpoints: &Failpoints,
    applies: Vec<Apply>,
) -> Result<(), IndexError> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    // The store must open at once after a crash, whatever its size.
    transaction.set_quick_repair(true);
    for apply in applies {
        apply(&transaction)?;
    }
    failpoints.hit("index-commit").map_err(redb::Error::from)?;
    transaction.commit()?;
    failpoints.hit("index-durable").map_err(redb::Error::from)?;
    Ok(())
}
