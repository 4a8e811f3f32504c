//! The picture that `ark status` shows, put together from what the parts say.

use std::collections::HashMap;
use std::time::SystemTime;

use ark_control::{
    Amount, PeerRepo, PeerStatus, Progress, Reconciliation, RefusedPeer, RepoStatus, Status,
};
use ark_core::{DeviceId, RepoKind, TopicId, Writer};
use ark_folder::{FolderState, FolderStatus, Phase};
use ark_net::{Behind, NetStatus, PathKind};
use tokio::time::Instant;

use super::house::{House, RunningFolder, RunningRepo};
use super::pace::{self, Meter};
use super::wait;

/// The meters of all that moves between devices.
#[derive(Debug, Default)]
pub(super) struct Meters {
    receiving: HashMap<TopicId, Meter>,
    sending: HashMap<(TopicId, DeviceId), Meter>,
}

/// Draws the picture of now.
pub(super) fn status(house: &House, meters: &mut Meters, now: Instant) -> Status {
    let net = house.net.status();
    let repos = house.repos.iter().map(|repo| repo_status(repo, &net, meters, now)).collect();
    let peers = net.peers.iter().map(|peer| PeerStatus {
        name: peer.name.clone(),
        node_id: peer.device.to_string(),
        connected: peer.connected,
        path: match peer.path {
            PathKind::Direct => "direct",
            PathKind::Relay => "relay",
            PathKind::None => "none",
        }
        .to_owned(),
        problem: peer.problem.clone(),
        rtt_ms: peer.rtt_ms,
        last_seen: peer.last_seen.map(time_text),
        rx_bytes: peer.rx_bytes,
        tx_bytes: peer.tx_bytes,
        repos: peer_repos(peer.device, house, &net, meters, now),
    });
    let refused = net.refused.iter().map(|refused| RefusedPeer {
        node_id: refused.device.to_string(),
        last_seen: time_text(refused.last_seen),
        admit: format!("{{ name = \"...\", node_id = \"{}\" }}", refused.device),
    });
    Status {
        device: house.device.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        listening: net.local_addrs.iter().map(ToString::to_string).collect(),
        repos,
        peers: peers.collect(),
        refused: refused.collect(),
    }
}

fn repo_status(
    repo: &RunningRepo,
    net: &NetStatus,
    meters: &mut Meters,
    now: Instant,
) -> RepoStatus {
    let topic = repo.held.topic();
    let shared = net.repos.iter().find(|shared| shared.topic == topic);
    let pending = shared.map_or_else(Amount::default, |shared| amount(shared.behind));
    let meter = meters.receiving.entry(topic).or_default();
    meter.sample(pending, now);
    let receiving = meter.progress("receiving", now);
    let states = repo.held.states();
    let heads = ark_core::heads(states.joined.values().map(ark_core::SignedState::state));
    let folder = repo.running_folder().map(ark_folder::Folder::status);
    let mut problems = shared.map_or_else(Vec::new, |shared| shared.problems.clone());
    if let RunningFolder::Failed(text, _) = &repo.folder {
        problems.push(text.clone());
    }
    if let Some(folder) = &folder {
        if let FolderState::Halted(why) = &folder.state
            && !folder.problems.contains(why)
        {
            problems.push(why.clone());
        }
        problems.extend(folder.problems.iter().cloned());
    }
    let folder = folder.as_ref();
    let state = match repo.folder {
        RunningFolder::Failed(..) => State::Error,
        _ => state(repo, folder, shared),
    };
    RepoStatus {
        id: repo.id.clone(),
        kind: match (&repo.folder, repo.held.kind()) {
            (RunningFolder::None, Some(RepoKind::Jj)) => "jj",
            (RunningFolder::None, _) => "mirror",
            _ => "folder",
        }
        .to_owned(),
        state: state.text().to_owned(),
        heads: heads.iter().map(|head| head.id.to_string()).collect(),
        staged: (states.staged.len() + states.waiting.len()) as u64,
        pending,
        files: folder.map_or(0, |folder| folder.files),
        bytes: folder.map_or(0, |folder| folder.bytes),
        folder: match &repo.folder {
            RunningFolder::Running(_, path) | RunningFolder::Failed(_, path) => {
                Some(path.display().to_string())
            }
            RunningFolder::None => None,
        },
        scanned: folder.is_none_or(|folder| folder.scanned),
        conflicts: folder.map_or_else(Vec::new, |folder| {
            folder.conflicts.iter().map(ToString::to_string).collect()
        }),
        problems,
        progress: folder.and_then(|folder| folder.progress).map(folder_progress),
        receiving,
        reconciliation: shared.map_or_else(Reconciliation::default, |shared| {
            let of = shared.reconciliation;
            Reconciliation {
                sessions: of.sessions,
                round_trips: of.round_trips,
                last_round_trips: of.last_round_trips.into(),
                sent_bytes: of.sent_bytes,
                received_bytes: of.received_bytes,
            }
        }),
    }
}

/// How a repo is, in one word.
#[derive(Clone, Copy)]
enum State {
    InStep,
    Syncing,
    Waiting,
    Error,
}

impl State {
    fn text(self) -> &'static str {
        match self {
            Self::InStep => "in-step",
            Self::Syncing => "syncing",
            Self::Waiting => "waiting",
            Self::Error => "error",
        }
    }
}

/// In step: with every remote that is connected, and with one at least unless there is none.
fn state(
    repo: &RunningRepo,
    folder: Option<&FolderStatus>,
    shared: Option<&ark_net::RepoStatus>,
) -> State {
    match folder.map(|folder| &folder.state) {
        Some(FolderState::Halted(_)) => return State::Error,
        Some(FolderState::Busy) => return State::Syncing,
        Some(FolderState::Waiting | FolderState::InStep) | None => {}
    }
    let states = repo.held.states();
    let held = wait::revisions(&states, |writer| repo.counts(writer));
    let is_alone = shared.is_none_or(|shared| shared.remotes.iter().all(|it| !it.connected));
    let is_lacking = shared.is_some_and(|shared| shared.behind != Behind::default());
    // What is staged of who may write no more is about to be dropped.
    let staged = || states.staged.keys().copied().filter(|&writer| repo.counts(writer));
    let is_incomplete = staged().next().is_some() || is_lacking;
    let is_moving = shared.is_some_and(|shared| is_moving(held, staged(), shared));
    let is_unapplied = |folder: &FolderStatus| {
        let applied = |writer| folder.applied.get(writer).copied().unwrap_or(0);
        states.joined.iter().any(|(writer, state)| applied(writer) < state.state().revision)
    };
    if is_moving {
        State::Syncing
    } else if folder.is_some_and(|folder| folder.state == FolderState::Waiting) {
        State::Waiting
    } else if folder.is_some_and(is_unapplied) {
        State::Syncing
    } else if is_incomplete || is_alone && !repo.remotes.is_empty() {
        State::Waiting
    } else {
        State::InStep
    }
}

/// Whether a connected remote owes anything, or can give what is not whole here.
fn is_moving(
    held: wait::Revisions,
    mut staged: impl Iterator<Item = Writer>,
    shared: &ark_net::RepoStatus,
) -> bool {
    let mut connected = shared.remotes.iter().filter(|remote| remote.connected).peekable();
    if connected.peek().is_none() {
        return false;
    }
    let held = wait::attainable(held, shared);
    staged.any(|writer| !shared.stuck.contains(&writer))
        || shared.behind != Behind::default()
        || connected.any(|remote| !wait::owed_by(remote, &held).is_empty())
}

fn peer_repos(
    device: DeviceId,
    house: &House,
    net: &NetStatus,
    meters: &mut Meters,
    now: Instant,
) -> Vec<PeerRepo> {
    let role_here = |topic| {
        let repo = house.repos.iter().find(|repo| repo.held.topic() == topic)?;
        Some(repo.remotes.iter().find(|remote| remote.device == device)?.role)
    };
    let of_repo = |repo: &ark_net::RepoStatus| {
        let remote = repo.remotes.iter().find(|remote| remote.device == device)?;
        let behind = amount(remote.behind);
        let meter = meters.sending.entry((repo.topic, device)).or_default();
        // A device that is away pulls nothing: its lack is shown, but it is no work under way.
        meter.sample(if remote.connected { behind } else { Amount::default() }, now);
        Some(PeerRepo {
            id: repo.id.clone(),
            role: role_here(repo.topic)?.to_string(),
            granted: remote.granted.map(|role| role.to_string()),
            connected: remote.connected,
            refused: remote.refuses_us,
            scanned: remote.scanned,
            behind,
            sending: meter.progress("sending", now),
        })
    };
    net.repos.iter().filter_map(of_repo).collect()
}

fn amount(behind: Behind) -> Amount {
    Amount { objects: behind.objects, bytes: behind.bytes }
}

fn folder_progress(progress: ark_folder::Progress) -> Progress {
    let elapsed = progress.started.elapsed();
    let bytes_per_second = pace::per_second(progress.bytes_done, elapsed);
    let left = progress.bytes_total.saturating_sub(progress.bytes_done);
    let known = progress.bytes_total > 0;
    Progress {
        phase: match progress.phase {
            Phase::Scanning => "scanning",
            Phase::Publishing => "publishing",
            Phase::Applying => "applying",
        }
        .to_owned(),
        items_done: progress.files_done,
        items_total: progress.files_total,
        bytes_done: progress.bytes_done,
        bytes_total: progress.bytes_total,
        elapsed_ms: pace::milliseconds(elapsed),
        bytes_per_second,
        seconds_left: known.then(|| pace::seconds_left(left, bytes_per_second)).flatten(),
    }
}

fn time_text(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use ark_net::RepoStatus;

    use super::super::fixtures;
    use super::*;

    #[test]
    fn what_nobody_connected_can_give_does_not_move() {
        let writer = fixtures::writer(9);
        let at = |revision| fixtures::revisions(&[(9, revision)]);
        let mut shared = RepoStatus {
            remotes: vec![fixtures::remote(&[(9, 5)])],
            durable: at(5),
            applied: at(5),
            staged: 1,
            ..fixtures::shared(&[(9, 9)])
        };
        let is_moving = |shared: &_| is_moving(at(9), [writer].into_iter(), shared);
        assert!(is_moving(&shared), "it is to come");
        shared.stuck.insert(writer);
        assert!(!is_moving(&shared), "nobody has it");
        shared.remotes[0].applied = at(4);
        assert!(is_moving(&shared), "what is here is owed still");
        shared.remotes[0].connected = false;
        assert!(!is_moving(&shared), "nobody is there");
    }
}
