//! What becomes of one writer's newer state until it is joined.

use std::collections::BTreeSet;

use ark_core::{DeviceId, Dot, Link, ObjectId, SignedState};

use crate::fetcher::{LaneId, Moment, STALL_MS};
use crate::view::Amount;

/// A state that came.
#[derive(Clone, Debug)]
pub(crate) struct Arrived {
    /// The state.
    pub(crate) state: SignedState,
    /// Objects that its announcement calls new.
    pub(crate) hints: Vec<Link>,
    /// Peers that should have all of it: who sent it, or made it.
    pub(crate) senders: BTreeSet<DeviceId>,
    /// Those of them that sent it on their streams while a reconciliation with them was due.
    pub(crate) due: BTreeSet<DeviceId>,
}

/// A store's step that failed and is tried again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Staging.
    Stage,
    /// Joining.
    Join,
}

/// Where a pull stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// The store is staging the state.
    Staging {
        /// Whether it abandons an older one first.
        replacing: bool,
    },
    /// Staged; whether anything is missing is to be asked by joining.
    Unchecked,
    /// Staged and not complete; nobody can be asked for it, or another state makes it needless,
    /// or there are too many. What is missing, while that is fresh.
    Waiting(Option<Vec<Link>>),
    /// Objects are being fetched.
    Pulling,
    /// The store is joining.
    Joining,
    /// The store failed; tried again when it is given another chance.
    Failed(Step),
    /// An object of its closure is invalid: it is never joined.
    Broken,
}

/// What happens to a newer state of the same writer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Succession {
    /// It takes the place of this one, which is abandoned.
    Replaces,
    /// It waits until this one is finished.
    Waits,
}

/// For which object of a state somebody was asked in vain, and who.
pub(crate) type Vain = (ObjectId, BTreeSet<DeviceId>);

/// A state on its way to be joined, and the one that comes after it.
#[derive(Debug)]
pub(crate) struct Pull {
    /// The state.
    pub(crate) current: Arrived,
    /// Where it stands.
    pub(crate) phase: Phase,
    /// Its lane, while objects are fetched.
    pub(crate) lane: Option<LaneId>,
    /// Whether an object of it was asked for: then it is finished before a newer one.
    pub(crate) begun: bool,
    /// When the store was last asked what is missing.
    pub(crate) asked: Moment,
    /// Who was asked in vain: nothing more is asked until there is somebody else.
    pub(crate) vain: Option<Vain>,
    /// An object that was missing when the store was last asked, where one is known: until it comes,
    /// whatever for, there is no use in asking again.
    pub(crate) lacking: Option<ObjectId>,
    /// Something was joined, since the store was last asked, that makes heads of it needless: what
    /// is missing is asked anew.
    pub(crate) uncovered: bool,
    /// Something came, since the store was last asked, that it may have lacked: what is missing is
    /// asked anew where nobody can be asked for it.
    pub(crate) outdated: bool,
    /// The newest state that came since.
    pub(crate) next: Option<Arrived>,
    /// A newer state that could not be finished, and in the place of which this one was taken: it
    /// is staged again when this one is joined.
    pub(crate) shelved: Option<Arrived>,
    /// What was received for it.
    pub(crate) received: Amount,
    /// When it was begun, or something was last received for it.
    pub(crate) progressed_ms: u64,
}

impl Pull {
    /// A state that is to be staged.
    pub(crate) fn new(current: Arrived) -> Self {
        Self {
            current,
            phase: Phase::Staging { replacing: false },
            lane: None,
            begun: false,
            asked: Moment::default(),
            vain: None,
            lacking: None,
            uncovered: false,
            outdated: false,
            next: None,
            shelved: None,
            received: Amount::default(),
            progressed_ms: 0,
        }
    }

    /// A state that the store has staged since before the start: its pull may have begun.
    pub(crate) fn resumed(state: SignedState) -> Self {
        let (senders, due) = (BTreeSet::new(), BTreeSet::new());
        let current = Arrived { state, hints: Vec::new(), senders, due };
        Self { phase: Phase::Unchecked, begun: true, ..Self::new(current) }
    }

    /// The newest of its states.
    pub(crate) fn newest(&self) -> &SignedState {
        &self.next.as_ref().unwrap_or(&self.current).state
    }

    /// Takes in a state that replaces the newest.
    pub(crate) fn succeed(&mut self, arrived: Arrived) {
        self.next = Some(arrived);
    }

    /// Whether the next state, if there is one, takes the place of the current.
    pub(crate) fn succession(&self, is_unavailable: bool) -> Succession {
        match self.phase {
            Phase::Broken | Phase::Failed(Step::Stage) => Succession::Replaces,
            Phase::Unchecked | Phase::Waiting(_) | Phase::Pulling | Phase::Failed(Step::Join)
                if !self.begun || is_unavailable =>
            {
                Succession::Replaces
            }
            _ => Succession::Waits,
        }
    }

    /// Whether objects that may be of its closure are to be fetched for it.
    pub(crate) fn takes_hints(&self) -> bool {
        matches!(
            self.phase,
            Phase::Staging { .. } | Phase::Unchecked | Phase::Pulling | Phase::Joining
        )
    }

    /// Whether it is known that something is missing for it.
    pub(crate) fn lacks(&self) -> bool {
        matches!(self.phase, Phase::Waiting(_) | Phase::Pulling)
    }

    /// Notes what the store says is missing.
    pub(crate) fn wait(&mut self, missing: Vec<Link>) {
        self.lacking = missing.first().map(|link| link.id);
        self.phase = Phase::Waiting(Some(missing));
    }

    /// Whether it waits, while what it lacks may be among what came for another: objects that
    /// `came` says yes to.
    pub(crate) fn may_have_got(&self, came: impl FnOnce(ObjectId) -> bool) -> bool {
        self.lane.is_none()
            && matches!(self.phase, Phase::Waiting(_))
            && self.lacking.is_none_or(came)
    }

    /// Whether its store, or somebody, is being asked for what is missing.
    pub(crate) fn is_asking(&self) -> bool {
        matches!(self.phase, Phase::Staging { .. } | Phase::Joining | Phase::Pulling)
    }

    /// Whether nothing comes for it: by its lane, or because somebody was asked in vain. What waits
    /// for a lane, or for another pull, gets on with that.
    pub(crate) fn is_stalled(&self, now_ms: u64) -> bool {
        match self.lane {
            Some(_) => now_ms >= self.progressed_ms.saturating_add(STALL_MS),
            None => self.vain.is_some(),
        }
    }

    /// How much its writer has taken in, to compare it with others by.
    pub(crate) fn extent(&self) -> u64 {
        let vector = &self.current.state.state().vector;
        vector.iter().fold(0_u64, |sum, (_, it)| sum.saturating_add(it))
    }

    /// Whether there are `providers`, and all of them were asked in vain.
    pub(crate) fn is_vain(&self, providers: &[DeviceId]) -> bool {
        let all = |(_, asked): &Vain| providers.iter().all(|it| asked.contains(it));
        !providers.is_empty() && self.vain.as_ref().is_some_and(all)
    }

    /// Whether joining this state makes `other`'s heads needless: it has taken all of them in
    /// and holds none.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let heads = || other.current.state.state().head_dots();
        heads().next().is_some() && heads().all(|dot| self.covers_head(dot))
    }

    /// Whether joining this state makes heads of `other` needless.
    pub(crate) fn covers_some(&self, other: &Self) -> bool {
        other.current.state.state().head_dots().any(|dot| self.covers_head(dot))
    }

    fn covers_head(&self, dot: Dot) -> bool {
        let state = self.current.state.state();
        state.vector.has(dot) && !state.held.contains(&dot)
    }
}
