//! How the world of one history behaves: all of it from the seed.

use super::dice::Dice;

/// Least and most, in milliseconds or in what the field says.
type Range = (u64, u64);

/// A fault built into the simulated parts, to see that the oracle finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A batch is recorded without having been synced.
    NotSynced,
    /// A store put back from a copy goes on under its old incarnation.
    SequencesTwice,
    /// What a device publishes claims to have taken in what is only staged there.
    StagedClaimed,
    /// A crash forgets which tree was being applied.
    InterruptionForgotten,
    /// A device tells what it publishes before it is durable: an end may lose it.
    ToldBeforeDurable,
    /// Nobody takes over what one wrote that is dropped.
    NeverTakenOver,
    /// Nobody is told that gossip lagged.
    LagIgnored,
    /// The first device lets readers write.
    ReaderHeard,
    /// What reconciliation compares has inventions in it and leaves things out. Not to be found:
    /// it costs time only.
    LyingReconciliation,
    /// Closures are walked at a snail's pace: the store names one missing object at a time, and
    /// what arrives does not tell what it links. Not to be found: it costs time only.
    SnailsWalk,
    /// The same, and what reconciliation says is not heard.
    SnailsWalkAlone,
}

/// What happens to devices besides what their users do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Troubles {
    /// Devices end, by kill or by power failure, and come back.
    pub(super) crashes: bool,
    /// Stores are put back from copies.
    pub(super) restores: bool,
    /// Links break, and partitions last.
    pub(super) partitions: bool,
}

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    /// One way.
    pub(super) delay_ms: Range,
    /// A transaction of the store.
    pub(super) store_ms: Range,
    /// From a change on disk to the scan of it.
    pub(super) quiet_ms: Range,
    /// From looking at the disk to comparing.
    pub(super) scan_ms: Range,
    /// Between two actions of a batch.
    pub(super) action_ms: Range,
    /// The most actions of a batch.
    pub(super) batch_actions: Range,
    /// Of a hundred announcements, so many are lost, each receiver by itself.
    pub(super) gossip_lost: u64,
    /// Of a hundred losses, so many are noticed.
    pub(super) gossip_lags: u64,
    /// So many come twice.
    pub(super) gossip_twice: u64,
    /// Objects in one piece of an answer.
    pub(super) objects_at_once: u64,
    /// Between two things that happen.
    pub(super) pause_ms: Range,
    /// Of a hundred deeds of users, in so many a conflict is settled, if there is one.
    pub(super) settles: u64,
    pub(super) troubles: Troubles,
    pub(super) fault: Option<Fault>,
}

impl Weather {
    /// Nothing is lost but of a hundred announcements so many, of whose losses nobody knows.
    pub(super) const fn calm(gossip_lost: u64, fault: Option<Fault>) -> Self {
        Self {
            delay_ms: (5, 30),
            store_ms: (1, 10),
            quiet_ms: (50, 50),
            scan_ms: (1, 5),
            action_ms: (0, 1),
            batch_actions: (1_000, 1_000),
            gossip_lost,
            gossip_lags: 0,
            gossip_twice: 0,
            objects_at_once: 64,
            pause_ms: (0, 0),
            settles: 0,
            troubles: Troubles { crashes: false, restores: false, partitions: false },
            fault,
        }
    }

    /// Whether closures are walked at a snail's pace.
    pub(super) fn is_walk_slow(&self) -> bool {
        matches!(self.fault, Some(Fault::SnailsWalk | Fault::SnailsWalkAlone))
    }

    /// The weather of a seed.
    pub(super) fn draw(dice: &mut Dice, fault: Option<Fault>) -> Self {
        let mut most = |of: &[u64]| dice.pick(of).copied().unwrap_or(1);
        let delay_ms = (1, most(&[1, 10, 60, 400]));
        let store_ms = (1, most(&[1, 5, 30, 200]));
        let quiet_ms = (1, most(&[5, 50, 300]));
        let scan_ms = (0, most(&[1, 10, 100]));
        let action_ms = (0, most(&[0, 5, 60]));
        let batch_actions = (1, most(&[2, 8, 1_000]));
        let gossip_lost = most(&[0, 0, 30, 100]);
        let gossip_twice = most(&[0, 10]);
        let objects_at_once = most(&[1, 4, 64]);
        let pause_ms = (0, most(&[20, 200, 2_000]));
        let troubles = Troubles {
            crashes: dice.percent(60),
            restores: dice.percent(25),
            partitions: dice.percent(70),
        };
        Self {
            delay_ms,
            store_ms,
            quiet_ms,
            scan_ms,
            action_ms,
            batch_actions,
            gossip_lost,
            gossip_lags: 10,
            gossip_twice,
            objects_at_once,
            pause_ms,
            settles: 0,
            troubles,
            fault,
        }
    }
}
