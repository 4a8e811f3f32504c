//! A status in words, for people.

use std::fmt::Write as _;

use ark_control::{Amount, PeerRepo, PeerStatus, Progress, RepoStatus, Status};

/// Columns of a bar.
const BAR_WIDTH: u64 = 24;
/// Conflicts and problems shown of each repo; `--json` has more.
const MAX_LINES: usize = 10;

/// The whole status.
pub fn text(status: &Status) -> String {
    let mut text = format!("ark {}, device {}\n", status.version, status.device);
    if !status.listening.is_empty() {
        line(&mut text, &format!("listening on {}", status.listening.join(", ")));
    }
    for repo in &status.repos {
        text.push('\n');
        push_repo(&mut text, repo);
    }
    if !status.peers.is_empty() {
        text.push('\n');
    }
    for peer in &status.peers {
        push_peer(&mut text, peer);
    }
    for refused in &status.refused {
        text.push('\n');
        line(&mut text, &format!("refused {}, last at {}", refused.node_id, refused.last_seen));
        line(&mut text, &format!("  to admit it, list it under remotes: {}", refused.admit));
    }
    text
}

/// Everything under way, with the repo's id.
pub fn moving(status: &Status) -> impl Iterator<Item = (&str, &Progress)> {
    let repos = status.repos.iter().flat_map(|repo| {
        let both = [&repo.progress, &repo.receiving];
        both.into_iter().flatten().map(|progress| (repo.id.as_str(), progress))
    });
    let peers = status.peers.iter().flat_map(|peer| &peer.repos);
    repos.chain(peers.filter_map(|repo| Some((repo.id.as_str(), repo.sending.as_ref()?))))
}

/// Adds a line. Names come from files and from other devices: what would move the cursor or
/// change colours is shown escaped.
fn line(text: &mut String, line: &str) {
    for character in line.chars() {
        if character.is_control() {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    text.push('\n');
}

fn push_repo(text: &mut String, repo: &RepoStatus) {
    let place = match &repo.folder {
        Some(folder) => format!("{} in {}   {folder}", files(repo.files), bytes(repo.bytes)),
        None if repo.kind == "jj" => "a jj repository".to_owned(),
        None => "held for others".to_owned(),
    };
    line(text, &format!("{}: {}   {place}", repo.id, repo.state.replace('-', " ")));
    for progress in [&repo.progress, &repo.receiving].into_iter().flatten() {
        line(text, &format!("  {}", with_bar(progress)));
    }
    push_list(text, "conflict", &repo.conflicts);
    push_list(text, "problem", &repo.problems);
}

fn push_list(text: &mut String, what: &str, items: &[String]) {
    for item in items.iter().take(MAX_LINES) {
        line(text, &format!("  {what}: {item}"));
    }
    if items.len() > MAX_LINES {
        line(text, &format!("  and {} more", items.len() - MAX_LINES));
    }
}

fn push_peer(text: &mut String, peer: &PeerStatus) {
    let how = match (peer.connected, &peer.last_seen) {
        (true, _) => {
            let rtt = peer.rtt_ms.map_or_else(String::new, |rtt| format!(", {rtt:.1} ms"));
            format!("connected ({}{rtt})", peer.path)
        }
        (false, Some(time)) => format!("not connected, last seen at {time}"),
        (false, None) => "not connected".to_owned(),
    };
    let (received, sent) = (bytes(peer.rx_bytes), bytes(peer.tx_bytes));
    line(text, &format!("{}: {how}   received {received}, sent {sent}", peer.name));
    if let Some(problem) = &peer.problem {
        line(text, &format!("  {problem}"));
    }
    for repo in &peer.repos {
        push_roles(text, repo);
        if repo.refused {
            line(text, &format!("  {}: it does not list this device for it", repo.id));
        } else if let Some(sending) = &repo.sending {
            line(text, &format!("  {}: {}", repo.id, with_bar(sending)));
        } else if repo.behind != Amount::default() {
            let Amount { objects, bytes: lacking } = repo.behind;
            line(text, &format!("  {}: lacks {objects} objects, {}", repo.id, bytes(lacking)));
        } else if repo.connected && !repo.scanned {
            line(text, &format!("  {}: its first scan is not done", repo.id));
        }
    }
}

/// What either side does not let the other do, where it is not all.
fn push_roles(text: &mut String, repo: &PeerRepo) {
    let here = match repo.role.as_str() {
        "reader" => Some("a reader: what is written there stays there"),
        "mirror" => Some("a mirror: it holds the repo for others"),
        _ => None,
    };
    if let Some(here) = here {
        line(text, &format!("  {}: {here}", repo.id));
    }
    if let Some(granted) = repo.granted.as_ref().filter(|granted| *granted != "peer") {
        line(text, &format!("  {}: it lists this device as a {granted}", repo.id));
    }
}

fn with_bar(progress: &Progress) -> String {
    let share = |whole| share(progress).map(|(done, total)| done.saturating_mul(whole) / total);
    let bar = share(BAR_WIDTH).map_or_else(String::new, |filled| {
        let filled = usize::try_from(filled.min(BAR_WIDTH)).unwrap_or_default();
        format!(
            "[{:<width$}] ",
            "#".repeat(filled),
            width = usize::try_from(BAR_WIDTH).unwrap_or_default()
        )
    });
    format!("{bar}{}", self::progress(progress))
}

/// What is done, of what, where that is known: bytes, or else items.
fn share(progress: &Progress) -> Option<(u64, u64)> {
    let of_bytes = (progress.bytes_done, progress.bytes_total);
    let of_items = (progress.items_done, progress.items_total);
    [of_bytes, of_items].into_iter().find(|(_, total)| *total > 0)
}

/// A piece of work in one line: `receiving 45 %, 115.2 MiB of 256.0 MiB, 3.2 MiB/s, 44s left`.
pub fn progress(progress: &Progress) -> String {
    let mut text = progress.phase.clone();
    let mut push = |part: String| {
        let comma = if text == progress.phase { " " } else { ", " };
        // Writing to a string does not fail.
        let _ = write!(text, "{comma}{part}");
    };
    if let Some((done, total)) = share(progress) {
        let percent = u128::from(done) * 100 / u128::from(total);
        push(format!("{} %", percent.min(100)));
    }
    let (done, total) = (progress.items_done, progress.items_total);
    match (total, progress.bytes_total) {
        (0, 0) => push(format!("{done} items, {}", bytes(progress.bytes_done))),
        (0, all) => push(format!("{} of {}", bytes(progress.bytes_done), bytes(all))),
        (total, 0) => push(format!("{done} of {total} items")),
        (total, all) => push(format!(
            "{done} of {total} items, {} of {}",
            bytes(progress.bytes_done),
            bytes(all)
        )),
    }
    if progress.bytes_per_second > 0 {
        push(format!("{}/s", bytes(progress.bytes_per_second)));
    }
    if let Some(seconds) = progress.seconds_left {
        let left = humantime::format_duration(std::time::Duration::from_secs(seconds));
        push(format!("{left} left"));
    }
    text
}

fn files(count: u64) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

/// A byte count in the largest unit that leaves a digit before the point.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let unit = ((count.ilog2() / 10) as usize).clamp(1, UNITS.len());
    let shift = 10 * (unit - 1);
    // Tenths by integers: a byte count need not fit a float.
    let tenths = u128::from(count >> shift) * 10 / 1024;
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts() {
        for (count, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1023.9 KiB"),
            (268_435_456, "256.0 MiB"),
            (1_610_612_736, "1.5 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
    }

    fn receiving() -> Progress {
        Progress {
            phase: "receiving".to_owned(),
            items_done: 45,
            items_total: 100,
            bytes_done: 45 << 20,
            bytes_total: 100 << 20,
            elapsed_ms: 9_000,
            bytes_per_second: 5 << 20,
            seconds_left: Some(11),
        }
    }

    #[test]
    fn progress_has_bar_rate_and_time_left() {
        assert_eq!(
            with_bar(&receiving()),
            "[##########              ] receiving 45 %, 45 of 100 items, 45.0 MiB of 100.0 MiB, \
             5.0 MiB/s, 11s left"
        );
        let unknown = Progress {
            items_total: 0,
            bytes_total: 0,
            bytes_per_second: 0,
            seconds_left: None,
            ..receiving()
        };
        assert_eq!(with_bar(&unknown), "receiving 45 items, 45.0 MiB");
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        let mut text = String::new();
        line(&mut text, "a\x1b[2Jb\nc");
        assert_eq!(text, "a\\u{1b}[2Jb\\nc\n");
    }
}
