//! The simulation: whole devices under one virtual clock, from one seed, the same to the byte
//! each time.
//!
//! Real in it: the engine ([`ark_sync::Engine`]) and its wire encodings; objects, closures,
//! states, heads and the merge ([`ark_core`]); what a local difference means, what the joined
//! tree wants and the plan to get there ([`ark_folder`]'s pure parts). Models of the real things:
//! the store (in memory, with what is durable kept apart), the folder's disk, the actor that
//! drives them, the scan (all of it at one moment) and the apply (each action one step).
//!
//! By chance happen: edits of all kinds, on and off; partitions, broken connections, delays; loss,
//! reordering and duplication of gossip; ends by kill and by power failure, at any step; stores
//! put back from copies; clocks that jump; 2 to 7 devices in lines, stars, meshes and what not,
//! some of them mirrors or readers; one that the others list only in the course of it, and one
//! that they drop in the end. Reconciliation is the real one, over streams that break.
//!
//! In the end, once it is quiet: all folders are the same and show the merge of all heads; what a
//! user wrote, and nobody who saw it replaced or deleted, is there; what was knowingly dropped is
//! not; every device knows that its neighbours have and show all; and nothing is said any more
//! but what keeps it safe. What readers write stays with them. Of a store that was put back
//! exactly that is excused which no other device had.
//!
//! [`crowd`], [`lagging`] and [`reunion`] are histories without troubles in which it is measured what
//! something costs.
//!
//! What only the histories on real folders hold (`folder/tests/histories.rs`): edits between the
//! look at a file and its replacement, the walk of a scan over a tree that changes, stats that
//! look alike; and of the store: transactions that fail, damaged blobs, rebuilding. In no random
//! history there are ignore rules, nor what a file system cannot hold: that is held by tests of
//! their own (`folder/tests/ignoring.rs`, `unsyncable.rs`).

mod batch;
mod course;
mod dice;
mod disk;
mod folder;
mod history;
mod oracle;
mod settled;
mod store;
mod trace;
mod user;
mod weather;
mod world;

use ark_core::ObjectId;

pub use course::{Cost, crowd, lagging, reunion};
pub use weather::Fault;

/// What histories are made of: seeds that once failed are run as they were then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    /// See [`Simulation::early`].
    Early,
    /// See [`Simulation::restarting`].
    Restarting,
    /// As they are now.
    Now,
}

/// One history to be run.
#[derive(Debug, Clone, Copy)]
pub struct Simulation {
    seed: u64,
    fault: Option<Fault>,
    age: Age,
    prints: bool,
    digests: bool,
}

/// What came of a history in which all was as it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Devices, with those that only hold the repo.
    pub devices: usize,
    /// States published.
    pub publications: u64,
    /// Messages on streams.
    pub messages: u64,
    /// Sessions of reconciliation.
    pub reconciliations: u64,
    /// How long it took by the virtual clock.
    pub virtual_ms: u64,
    /// Hash of all that happened, where that was asked for.
    pub digest: Option<ObjectId>,
}

/// Something was not as it must be.
#[derive(Debug, Clone, thiserror::Error)]
#[error("seed {seed}: {what}")]
pub struct Finding {
    /// The seed.
    pub seed: u64,
    /// What, in words.
    pub what: String,
}

impl Simulation {
    /// The history of this seed.
    pub const fn new(seed: u64) -> Self {
        Self { seed, fault: None, age: Age::Now, prints: false, digests: false }
    }

    /// As the seed was before there were roles, and devices that come and go.
    #[must_use]
    pub const fn early(mut self) -> Self {
        self.age = Age::Early;
        self
    }

    /// As the seed was when a device whose config changed was always started anew.
    #[must_use]
    pub const fn restarting(mut self) -> Self {
        self.age = Age::Restarting;
        self
    }

    /// With a fault built in, which is to be found.
    #[must_use]
    pub const fn with(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    /// Prints all that happens.
    #[must_use]
    pub const fn printed(mut self) -> Self {
        self.prints = true;
        self
    }

    /// Hashes all that happens.
    #[must_use]
    pub const fn digested(mut self) -> Self {
        self.digests = true;
        self
    }

    /// Runs it.
    ///
    /// # Errors
    /// The first thing that was not as it must be.
    pub fn run(self) -> Result<Report, Finding> {
        let trace = trace::Trace::new(self.prints, self.digests);
        history::run(self, trace)
    }
}
