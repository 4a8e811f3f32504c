//! When a repo is in step, and waiting for it.
//!
//! Everything is as of the call: first the folder takes up what was written before it; then the
//! states held or heard of here, and those that each connected remote has announced when it is
//! first seen, are the ones to be durable and applied everywhere, here too. Later ones do not
//! prolong the wait. What is known is asked of the network side itself, never of the picture that
//! it drew last for `ark status`.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use ark_control::WaitOutcome;
use ark_core::{DeviceId, Writer};
use ark_folder::{FenceError, FolderStatus};
use ark_net::{PeerStatus, RemoteStatus};
use ark_store::States;
use tokio::time::{Instant, sleep, timeout_at};

use super::house::{House, RunningFolder, RunningRepo};

/// How long a fence that failed is left alone: a folder is opened, and maybe scanned, for each try.
const FENCE_PAUSE: Duration = Duration::from_millis(500);

/// Newest revisions of writers.
pub(super) type Revisions = BTreeMap<Writer, u64>;

/// Waits until `repo`, or every repo, is in step, or the deadline is over.
pub(super) async fn wait(house: &House, repo: Option<&str>, deadline: Instant) -> WaitOutcome {
    let asked: Vec<&RunningRepo> =
        house.repos.iter().filter(|known| repo.is_none_or(|id| known.id == id)).collect();
    if asked.is_empty() && repo.is_some() {
        return WaitOutcome::UnknownRepo;
    }
    // All fences are passed at once: one slow folder must not move the others' "as of the call".
    let waits = asked.into_iter().map(|repo| wait_for(house, repo, deadline));
    let missing = n0_future::join_all(waits).await.concat();
    if missing.is_empty() { WaitOutcome::InStep } else { WaitOutcome::Missing(missing) }
}

/// What is missing at the deadline, a line each; nothing as soon as the repo is in step.
async fn wait_for(house: &House, repo: &RunningRepo, deadline: Instant) -> Vec<String> {
    let named = |text: String| format!("{}: {text}", repo.id);
    if repo.remotes.is_empty() {
        return vec![named("has no remotes to be in step with".to_owned())];
    }
    if let Err(text) = pass_fence(repo, deadline).await {
        return vec![named(text)];
    }
    let mut changes = house.watch();
    let (mut call, mut missing) = (None, Vec::new());
    loop {
        changes.mark_unchanged();
        let news = async { house.net.repo_status(repo.held.topic()).await };
        match timeout_at(deadline, news).await {
            Ok(Some(shared)) => {
                let counts = |writer| repo.counts(writer);
                let call =
                    call.get_or_insert_with(|| Call::new(&repo.held.states(), &shared, counts));
                missing = call.missing(house, repo, &shared);
                if missing.is_empty() {
                    return missing;
                }
            }
            Ok(None) => return vec![named("it is not kept in step any more".to_owned())],
            Err(_) if missing.is_empty() => {
                missing.push("it does not say how it stands".to_owned());
            }
            Err(_) => {}
        }
        if !matches!(timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
            return missing.into_iter().map(named).collect();
        }
    }
}

/// Returns when everything written to the folder before the call is published.
async fn pass_fence(repo: &RunningRepo, deadline: Instant) -> Result<(), String> {
    let folder = match &repo.folder {
        RunningFolder::None => return Ok(()),
        RunningFolder::Failed(text, _) => return Err(text.clone()),
        RunningFolder::Running(folder, _) => folder,
    };
    loop {
        let mut changes = folder.watch();
        let failed = match timeout_at(deadline, folder.fence()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error @ FenceError::Stopped)) => return Err(error.to_string()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => return Err(unfenced(&folder.status())),
        };
        // It is halted, or a try failed and will be repeated: a change of status may mend it. The
        // failure itself may have been such a change, so a pause comes first.
        let mended = async {
            sleep(FENCE_PAUSE).await;
            changes.changed().await
        };
        if timeout_at(deadline, mended).await.is_err() {
            return Err(failed);
        }
    }
}

/// Why not everything written before the call is taken up, as far as the folder knows.
fn unfenced(status: &FolderStatus) -> String {
    if !status.scanned {
        return "the first scan of the folder is not done yet".to_owned();
    }
    let held_up: Vec<_> = status.held_up.iter().map(ToString::to_string).collect();
    if held_up.is_empty() {
        return "changes in the folder are not all taken up yet".to_owned();
    }
    format!("not taken up yet, because they are being written to: {}", held_up.join(", "))
}

/// The newest revision that is held of every writer that counts: joined or to be.
pub(super) fn revisions(states: &States, counts: impl Fn(Writer) -> bool) -> Revisions {
    let mut revisions = Revisions::new();
    for held in [&states.joined, &states.staged, &states.waiting] {
        for (&writer, state) in held {
            let newest = revisions.entry(writer).or_insert(0);
            *newest = (*newest).max(state.state().revision);
        }
    }
    revisions.retain(|&writer, _| counts(writer));
    revisions
}

/// What of `held` the remote still owes, in words; and its first scan.
pub(super) fn owed_by(remote: &RemoteStatus, held: &Revisions) -> Vec<String> {
    let name = &remote.name;
    let lacks = |has: &Revisions| {
        let listed = held.iter().filter(|(writer, _)| remote.lists(**writer));
        listed.filter(|(writer, revision)| has.get(writer).is_none_or(|has| has < revision)).count()
    };
    let mut owed = Vec::new();
    if !remote.in_touch {
        owed.push(format!("{name} has not said yet what it has"));
    } else if !remote.scanned {
        owed.push(format!("{name} has not said that its first scan is done"));
    }
    match lacks(&remote.durable) {
        0 => {}
        count => owed.push(format!("{name} has not stored {count} of {} states", held.len())),
    }
    if remote.has_folder {
        match lacks(&remote.applied) {
            0 => {}
            count => owed.push(format!("{name} has not applied {count} of {} states", held.len())),
        }
    }
    owed
}

/// What is waited for: as of the call.
struct Call {
    /// The newest revisions held here or heard of.
    held: Revisions,
    /// What each remote had announced when it was first seen connected.
    announced: HashMap<DeviceId, Revisions>,
}

impl Call {
    fn new(states: &States, shared: &ark_net::RepoStatus, counts: impl Fn(Writer) -> bool) -> Self {
        let mut held = revisions(states, &counts);
        // A state that came may be on its way into the store.
        for (&writer, &revision) in shared.known.iter().filter(|(writer, _)| counts(**writer)) {
            let newest = held.entry(writer).or_insert(0);
            *newest = (*newest).max(revision);
        }
        Self { held, announced: HashMap::new() }
    }

    /// What keeps `repo` from being in step, a line each.
    fn missing(
        &mut self,
        house: &House,
        repo: &RunningRepo,
        shared: &ark_net::RepoStatus,
    ) -> Vec<String> {
        let remotes = &shared.remotes;
        let mut missing = Vec::new();
        if remotes.iter().any(|remote| remote.connected) {
            let applied = match repo.running_folder() {
                Some(folder) => folder.status().applied,
                None => revisions_joined(repo),
            };
            missing.extend(self.behind(shared, &applied, |writer| repo.counts(writer)));
        } else {
            let names: Vec<&str> = repo.remotes.iter().map(|remote| remote.name.as_str()).collect();
            missing.push(format!("no remote is connected ({})", names.join(", ")));
        }
        if !missing.is_empty() {
            missing.extend(refusals(remotes, &house.net.status().peers));
        }
        missing
    }

    /// What is not here or not there, where any remote is connected.
    fn behind(
        &mut self,
        shared: &ark_net::RepoStatus,
        applied: &Revisions,
        listed: impl Fn(Writer) -> bool,
    ) -> Vec<String> {
        let mut missing = Vec::new();
        let held = attainable(self.held.clone(), shared);
        // A remote's newest state may be here, by gossip, before its `Have` says that it announced
        // it: what is held counts whoever brought it.
        match unapplied(&held, applied, &listed) {
            0 => {}
            count => {
                missing.push(format!("{count} of {} states are not applied here", held.len()));
            }
        }
        for remote in shared.remotes.iter().filter(|remote| remote.connected) {
            missing.extend(owed_by(remote, &held));
            if !remote.in_touch || !remote.scanned {
                continue;
            }
            let announced = self.announced.entry(remote.device);
            let announced = announced.or_insert_with(|| remote.durable.clone());
            match unapplied(announced, applied, &listed) {
                0 => {}
                count => missing.push(format!(
                    "{count} of {} states announced by {} are not applied here",
                    announced.len(),
                    remote.name
                )),
            }
        }
        missing
    }
}

/// What is held, but for states that nobody connected can give: of their writers what is durable
/// here.
pub(super) fn attainable(mut held: Revisions, shared: &ark_net::RepoStatus) -> Revisions {
    for writer in &shared.stuck {
        held.remove(writer);
        if let Some(&durable) = shared.durable.get(writer) {
            held.insert(*writer, durable);
        }
    }
    held
}

/// The remotes that will not talk to this device, and why.
fn refusals(remotes: &[RemoteStatus], peers: &[PeerStatus]) -> Vec<String> {
    let refusal = |remote: &RemoteStatus| {
        if remote.refuses_us {
            return Some(format!("{} does not list this device for this repo", remote.name));
        }
        let peer = peers.iter().find(|peer| peer.device == remote.device)?;
        Some(format!("{}: {}", remote.name, peer.problem.as_ref()?))
    };
    remotes.iter().filter(|remote| !remote.connected).filter_map(refusal).collect()
}

/// How many of `wanted`, of listed writers, are newer than what is `applied` here.
fn unapplied(wanted: &Revisions, applied: &Revisions, listed: &impl Fn(Writer) -> bool) -> usize {
    let absent = |(writer, revision): &(&Writer, &u64)| {
        listed(**writer) && applied.get(writer).is_none_or(|applied| applied < revision)
    };
    wanted.iter().filter(absent).count()
}

fn revisions_joined(repo: &RunningRepo) -> Revisions {
    let states = repo.held.states();
    states.joined.iter().map(|(&writer, state)| (writer, state.state().revision)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{device, remote, revisions, shared, writer};
    use super::*;

    #[test]
    fn files_that_hold_up_the_fence_are_named() {
        let mut status = FolderStatus {
            state: ark_folder::FolderState::Waiting,
            files: 0,
            bytes: 0,
            conflicts: Vec::new(),
            problems: Vec::new(),
            scanned: false,
            progress: None,
            applied: Revisions::new(),
            held_up: Vec::new(),
        };
        assert!(unfenced(&status).contains("first scan"));
        status.scanned = true;
        assert!(unfenced(&status).contains("not all taken up"));
        status.held_up = ["a.log", "d/b"]
            .map(|path| ark_core::RelPath::parse(path.as_bytes()).expect("a path"))
            .to_vec();
        assert!(unfenced(&status).ends_with("being written to: a.log, d/b"));
    }

    #[test]
    fn a_remote_owes_every_state_at_least_as_new() {
        let held = revisions(&[(1, 5), (2, 1)]);
        assert_eq!(owed_by(&remote(&[(1, 5), (2, 7), (3, 1)]), &held), [""; 0]);
        assert_eq!(
            owed_by(&remote(&[(1, 4)]), &held),
            ["nine has not stored 2 of 2 states", "nine has not applied 2 of 2 states"]
        );
        let mut slow = remote(&[(1, 5), (2, 1)]);
        slow.applied = revisions(&[(1, 5)]);
        assert_eq!(owed_by(&slow, &held), ["nine has not applied 1 of 2 states"]);
    }

    #[test]
    fn a_remote_without_a_folder_owes_durability_alone() {
        let mut mirror = remote(&[(1, 5)]);
        mirror.has_folder = false;
        mirror.applied.clear();
        assert_eq!(owed_by(&mirror, &revisions(&[(1, 5)])), [""; 0]);
    }

    #[test]
    fn nothing_is_owed_for_a_writer_that_is_not_listed() {
        let mut remote = remote(&[(1, 5)]);
        remote.listed = Some([device(1), device(9)].into());
        assert_eq!(owed_by(&remote, &revisions(&[(1, 5), (2, 1)])), [""; 0]);
    }

    #[test]
    fn what_is_held_and_newer_than_applied_is_missing_here() {
        let held = revisions(&[(1, 5), (2, 1), (3, 2)]);
        let all = |_| true;
        assert_eq!(unapplied(&held, &held, &all), 0);
        assert_eq!(unapplied(&held, &revisions(&[(1, 6), (2, 1), (3, 2), (4, 1)]), &all), 0);
        assert_eq!(unapplied(&held, &revisions(&[(1, 4), (3, 2)]), &all), 2);
        let listed = |writer: Writer| writer.device == device(1);
        assert_eq!(unapplied(&held, &revisions(&[(1, 5)]), &listed), 0);
        assert_eq!(unapplied(&held, &revisions(&[(1, 4)]), &listed), 1);
    }

    /// A repo with these remotes.
    fn with(remotes: &[RemoteStatus]) -> ark_net::RepoStatus {
        ark_net::RepoStatus { remotes: remotes.to_vec(), ..shared(&[]) }
    }

    #[test]
    fn what_nobody_connected_can_give_is_not_waited_for() {
        let mut call = Call::new(&States::default(), &shared(&[(2, 9), (3, 1)]), |_| true);
        let mut now = with(&[remote(&[(2, 5)])]);
        now.durable = revisions(&[(2, 5)]);
        let applied = revisions(&[(2, 5)]);
        assert_eq!(call.behind(&now, &applied, |_| true).len(), 3);
        now.stuck = [writer(2), writer(3)].into();
        assert_eq!(call.behind(&now, &applied, |_| true), [""; 0]);
        // But for what a remote that is connected says it has.
        now.remotes = vec![remote(&[(2, 9)])];
        let mut call = Call::new(&States::default(), &shared(&[(2, 9)]), |_| true);
        assert_eq!(call.behind(&now, &applied, |_| true).len(), 1);
    }

    #[test]
    fn a_state_that_came_and_is_not_stored_yet_is_waited_for() {
        let mut call = Call::new(&States::default(), &shared(&[(9, 6)]), |_| true);
        // The remote has not said that it has what it announced by gossip.
        let behind = call.behind(&with(&[remote(&[(9, 5)])]), &revisions(&[(9, 5)]), |_| true);
        assert_eq!(
            behind,
            [
                "1 of 1 states are not applied here",
                "nine has not stored 1 of 1 states",
                "nine has not applied 1 of 1 states"
            ]
        );
        assert_eq!(
            call.behind(&with(&[remote(&[(9, 6)])]), &revisions(&[(9, 6)]), |_| true),
            [""; 0]
        );
    }

    /// It was dropped from the config here and not there: what it wrote is told under this device's
    /// own name now.
    #[test]
    fn nobody_owes_the_states_of_a_writer_that_is_not_listed_here() {
        let counts = |writer: Writer| writer.device == device(1);
        let mut call = Call::new(&States::default(), &shared(&[(1, 5), (2, 7)]), counts);
        let applied = revisions(&[(1, 5)]);
        assert_eq!(call.behind(&with(&[remote(&[(1, 5)])]), &applied, counts), [""; 0]);
    }

    #[test]
    fn what_a_remote_announces_later_does_not_prolong_the_wait() {
        let mut call = Call::new(&States::default(), &shared(&[]), |_| true);
        let applied = revisions(&[(9, 5)]);
        let nothing = Revisions::new();
        let lacking = ["1 of 1 states announced by nine are not applied here"];
        assert_eq!(call.behind(&with(&[remote(&[(9, 5)])]), &nothing, |_| true), lacking);
        assert_eq!(call.behind(&with(&[remote(&[(9, 7)])]), &applied, |_| true), [""; 0]);
    }

    #[test]
    fn a_remote_that_refuses_is_named() {
        let mut refusing = remote(&[]);
        (refusing.connected, refusing.refuses_us) = (false, true);
        let expected = ["nine does not list this device for this repo"];
        assert_eq!(refusals(&[refusing.clone(), remote(&[])], &[]), expected);
        refusing.refuses_us = false;
        let peer = PeerStatus {
            device: device(9),
            name: "nine".to_owned(),
            connected: false,
            path: ark_net::PathKind::None,
            rtt_ms: None,
            last_seen: None,
            rx_bytes: 0,
            tx_bytes: 0,
            connections: 0,
            problem: Some("it does not list this device".to_owned()),
        };
        assert_eq!(refusals(&[refusing], &[peer]), ["nine: it does not list this device"]);
    }

    #[test]
    fn a_remote_owes_its_first_scan_and_what_it_has() {
        let mut remote = remote(&[]);
        remote.scanned = false;
        let nothing = Revisions::new();
        assert_eq!(owed_by(&remote, &nothing), ["nine has not said that its first scan is done"]);
        remote.in_touch = false;
        assert_eq!(owed_by(&remote, &nothing), ["nine has not said yet what it has"]);
    }
}
