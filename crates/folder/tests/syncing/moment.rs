//! A moment in what a folder does to its files, met exactly: the folder waits in it until the test
//! has done what is to happen just then.

use std::panic::resume_unwind;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use ark_core::RelPath;
use ark_folder::fs::Gate;

use super::PATIENCE;

type IsIt = Box<dyn Fn(&str, &RelPath, &[u8]) -> bool + Send>;

/// Moments of one folder, one after the other. Cheap to clone.
#[derive(Clone, Default)]
pub struct Moment(Arc<Shared>);

#[derive(Default)]
struct Shared {
    stage: Mutex<Stage>,
    changed: Condvar,
}

#[derive(Default)]
enum Stage {
    /// All goes on.
    #[default]
    None,
    /// So many more of what is waited for.
    Awaited(usize, IsIt),
    /// Whatever is to be done to the files waits.
    Met,
    /// Nothing is done any more.
    Ended,
}

impl Moment {
    /// What a folder is to be started behind.
    pub fn gate(&self) -> Gate {
        let shared = Arc::clone(&self.0);
        Gate::new(move |operation, directory, name| {
            shared.pass(operation, directory, name);
            Ok(())
        })
    }

    /// The moment is right before the `count`th operation that `is_it` of those to come. What
    /// waits in the last moment goes on. The arguments are a [`Gate`]'s.
    pub fn expect<F>(&self, count: usize, is_it: F)
    where
        F: Fn(&str, &RelPath, &[u8]) -> bool + Send + 'static,
    {
        self.0.set(Stage::Awaited(count, Box::new(is_it)));
    }

    /// Waits for the moment.
    pub async fn met(&self) {
        let shared = Arc::clone(&self.0);
        let is_met = tokio::task::spawn_blocking(move || {
            let is_to_come = |stage: &mut Stage| matches!(stage, Stage::Awaited(..));
            let stage = shared.stage();
            let (stage, _) = shared
                .changed
                .wait_timeout_while(stage, PATIENCE, is_to_come)
                .unwrap_or_else(PoisonError::into_inner);
            matches!(*stage, Stage::Met)
        });
        assert!(is_met.await.unwrap(), "the moment never came");
    }

    /// The folder goes on.
    pub fn over(&self) {
        self.0.set(Stage::None);
    }

    /// Nothing more is done to the files, as if the process had ended in this moment.
    pub fn end(&self) {
        self.0.set(Stage::Ended);
    }
}

impl Shared {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, stage: Stage) {
        *self.stage() = stage;
        self.changed.notify_all();
    }

    fn pass(&self, operation: &str, directory: &RelPath, name: &[u8]) {
        let mut stage = self.stage();
        if let Stage::Awaited(left, is_it) = &mut *stage
            && is_it(operation, directory, name)
        {
            *left -= 1;
            if *left == 0 {
                *stage = Stage::Met;
                self.changed.notify_all();
            }
        }
        let waits = |stage: &mut Stage| matches!(stage, Stage::Met);
        let stage = self.changed.wait_while(stage, waits).unwrap_or_else(PoisonError::into_inner);
        if matches!(*stage, Stage::Ended) {
            drop(stage);
            // Whatever thread this is, it is to do nothing more; and to say nothing.
            resume_unwind(Box::new("the process ended"));
        }
    }
}
