//! The fetcher by itself.

use super::peer::{FIRST_PAUSE_MS, LONGEST_PAUSE_MS, MAX_REQUESTS_PER_PEER};
use super::schedule::{BYTES_PER_REQUEST, Dispatch, LINKS_PER_REQUEST};
use super::*;

const COLD: Mode = Mode { cold: true, structured_only: false };

fn peer(n: u8) -> DeviceId {
    DeviceId::from_bytes([n; 32])
}

fn raw(count: usize) -> Vec<Link> {
    (0..count).map(|n| Link::raw(ObjectId::of(&n.to_le_bytes()))).collect()
}

fn directories(count: usize) -> Vec<Link> {
    raw(count).into_iter().map(|link| Link::directory(link.id)).collect()
}

/// A fetcher with a lane that these peers provide.
fn fetcher(peers: &[u8]) -> (Fetcher, LaneId, Providers) {
    let mut fetcher = Fetcher::new();
    let lane = fetcher.open().unwrap();
    for &n in peers {
        fetcher.connected(peer(n));
    }
    let providers = [(lane, peers.iter().map(|&n| peer(n)).collect())].into();
    (fetcher, lane, providers)
}

fn arrive(fetcher: &mut Fetcher, dispatch: &Dispatch, next: &[Link]) {
    let received: Vec<_> = dispatch.links.iter().map(|&link| (link, 100)).collect();
    fetcher.stored(dispatch.id, &received, next, &[]);
    fetcher.ended(dispatch.id, &[]);
}

#[test]
fn structured_objects_go_first_and_in_order() {
    let (mut fetcher, lane, providers) = fetcher(&[1]);
    fetcher.want(lane, &raw(5), Need::Linked);
    fetcher.want(lane, &directories(3), Need::Linked);
    let made = fetcher.schedule(&providers, Mode::default(), 0);
    assert_eq!(made.len(), 1, "few are asked for together");
    assert_eq!(made[0].links, [directories(3), raw(5)].concat());
}

#[test]
fn many_are_spread_over_peers_and_requests_within_bounds() {
    let (mut fetcher, lane, providers) = fetcher(&[1, 2]);
    fetcher.want(lane, &raw(100_000), Need::Linked);
    let made = fetcher.schedule(&providers, Mode::default(), 0);
    for n in [1, 2] {
        let of: Vec<_> = made.iter().filter(|it| it.peer == peer(n)).collect();
        // The last slot is free for what unfolds a closure.
        assert_eq!(of.len(), MAX_REQUESTS_PER_PEER - 1);
        let bytes = usize::try_from(BYTES_PER_REQUEST / RAW_ESTIMATE).unwrap();
        assert!(of.iter().all(|it| it.links.len() == bytes.min(LINKS_PER_REQUEST)));
    }
    fetcher.want(lane, &directories(2), Need::Linked);
    let made = fetcher.schedule(&providers, Mode::default(), 0);
    assert_eq!(made.len(), 1);
    assert_eq!(made[0].links, directories(2));
    assert!(fetcher.schedule(&providers, Mode::default(), 0).is_empty());
}

#[test]
fn the_size_of_requests_follows_the_size_of_objects() {
    let (mut fetcher, lane, providers) = fetcher(&[1]);
    fetcher.want(lane, &raw(100_000), Need::Linked);
    let first = fetcher.schedule(&providers, Mode::default(), 0);
    let large: Vec<_> = first[0].links.iter().map(|&link| (link, 1 << 20)).collect();
    fetcher.stored(first[0].id, &large, &[], &[]);
    fetcher.ended(first[0].id, &[]);
    let next = fetcher.schedule(&providers, Mode::default(), 0);
    assert!(next[0].links.len() <= 16, "{} objects of a megabyte", next[0].links.len());
}

#[test]
fn another_lane_gets_a_slot_beside_a_bulk_transfer() {
    let (mut fetcher, bulk, mut providers) = fetcher(&[1]);
    fetcher.want(bulk, &raw(100_000), Need::Linked);
    fetcher.schedule(&providers, Mode::default(), 0);
    let edit = fetcher.open().unwrap();
    providers.insert(edit, vec![peer(1)]);
    let content = Link::raw(ObjectId::of(b"edit"));
    fetcher.want(edit, &[content], Need::Linked);
    let made = fetcher.schedule(&providers, Mode::default(), 0);
    assert_eq!(made.len(), 1);
    assert_eq!((made[0].lane, &made[0].links[..]), (edit, &[content][..]));
}

#[test]
fn nothing_is_asked_for_twice_and_both_lanes_get_it() {
    let (mut fetcher, first, mut providers) = fetcher(&[1]);
    let second = fetcher.open().unwrap();
    providers.insert(second, vec![peer(1)]);
    fetcher.want(first, &raw(4), Need::Linked);
    assert_eq!(fetcher.want(second, &raw(4), Need::Linked).awaited, 4);
    let made = fetcher.schedule(&providers, Mode::default(), 0);
    assert_eq!(made.len(), 1);
    arrive(&mut fetcher, &made[0], &[]);
    for lane in [first, second] {
        assert_eq!(fetcher.status(lane, &[peer(1)]), LaneStatus::Drained);
        // Stored since whoever says that they are needed looked.
        assert_eq!(fetcher.want(lane, &raw(4), Need::Linked), Wished { awaited: 0, stored: 4 });
        assert_eq!(fetcher.want(lane, &raw(4), Need::Missing(Moment(0))).awaited, 0);
    }
    // Missing although it was stored before the store was asked: needed again.
    let moment = fetcher.moment();
    assert_eq!(fetcher.want(first, &raw(4), Need::Missing(moment)).awaited, 4);
}

#[test]
fn what_a_closed_lane_asked_for_is_not_asked_for_again_while_it_flies() {
    let (mut fetcher, first, _) = fetcher(&[1]);
    fetcher.want(first, &raw(2), Need::Linked);
    let made = fetcher.schedule(&[(first, vec![peer(1)])].into(), Mode::default(), 0);
    fetcher.close(first);
    let second = fetcher.open().unwrap();
    let providers: Providers = [(second, vec![peer(1)])].into();
    fetcher.want(second, &raw(2), Need::Linked);
    assert!(fetcher.schedule(&providers, Mode::default(), 0).is_empty());
    fetcher.failed(made[0].id, 0);
    let again = fetcher.schedule(&providers, Mode::default(), 10_000);
    assert_eq!(again[0].links, raw(2));
}

#[test]
fn what_fails_is_asked_for_again_first_and_of_others() {
    let (mut fetcher, lane, providers) = fetcher(&[1, 2]);
    fetcher.want(lane, &raw(3), Need::Linked);
    let made = fetcher.schedule(&providers, Mode::default(), 0);
    let (of, other) = if made[0].peer == peer(1) { (1, 2) } else { (2, 1) };
    fetcher.failed(made[0].id, 0);
    let again = fetcher.schedule(&providers, Mode::default(), 0);
    assert_eq!((again[0].peer, &again[0].links), (peer(other), &raw(3)), "it is left alone");
    fetcher.disconnected(peer(other));
    assert!(fetcher.schedule(&providers, Mode::default(), 0).is_empty());
    let wake_ms = fetcher.wake_at(0).unwrap();
    let last = fetcher.schedule(&providers, Mode::default(), wake_ms);
    assert_eq!((last[0].peer, &last[0].links), (peer(of), &raw(3)));
}

#[test]
fn a_peer_that_fails_again_is_left_alone_for_longer() {
    let (mut fetcher, lane, providers) = fetcher(&[1]);
    fetcher.want(lane, &raw(3), Need::Linked);
    let (mut now_ms, mut pauses) = (0, Vec::new());
    for _ in 0..12 {
        let made = fetcher.schedule(&providers, Mode::default(), now_ms);
        fetcher.failed(made[0].id, now_ms);
        let wake_ms = fetcher.wake_at(now_ms).unwrap();
        pauses.push(wake_ms - now_ms);
        now_ms = wake_ms;
    }
    assert_eq!(pauses[..3], [FIRST_PAUSE_MS, 2 * FIRST_PAUSE_MS, 4 * FIRST_PAUSE_MS]);
    assert_eq!(pauses.last(), Some(&LONGEST_PAUSE_MS));
    let made = fetcher.schedule(&providers, Mode::default(), now_ms);
    fetcher.stored(made[0].id, &[(raw(1)[0], 1)], &[], &[]);
    fetcher.failed(made[0].id, now_ms);
    assert_eq!(fetcher.wake_at(now_ms), Some(now_ms + FIRST_PAUSE_MS), "what worked counts");
}

#[test]
fn a_hint_that_nobody_has_is_forgotten() {
    let (mut fetcher, lane, providers) = fetcher(&[1]);
    fetcher.want(lane, &raw(2), Need::Hinted);
    fetcher.want(lane, &raw(1), Need::Linked);
    let made = fetcher.schedule(&providers, Mode::default(), 0);
    fetcher.ended(made[0].id, &raw(2));
    assert_eq!(fetcher.missing().objects, 1);
    let status = fetcher.status(lane, &[peer(1)]);
    assert_eq!(status, LaneStatus::Unavailable(raw(1)[0].id));
    // Somebody else may have it; and the same one later.
    assert_eq!(fetcher.status(lane, &[peer(1), peer(2)]), LaneStatus::Working);
    assert!(fetcher.schedule(&providers, Mode::default(), 0).is_empty());
    fetcher.forgive_all();
    assert_eq!(fetcher.schedule(&providers, Mode::default(), 0).len(), 1);
}

#[test]
fn a_stream_of_a_closure_is_left_to_bring_its_structure() {
    let (mut fetcher, lane, providers) = fetcher(&[1, 2]);
    let root = Link::snapshot(ObjectId::of(b"root"));
    fetcher.want(lane, &[root], Need::Linked);
    let made = fetcher.schedule(&providers, COLD, 0);
    assert!(made.len() == 1 && made[0].ahead);
    let next = [directories(3), raw(3)].concat();
    fetcher.stored(made[0].id, &[(root, 9)], &next, &[]);
    let more = fetcher.schedule(&providers, Mode::default(), 0);
    assert_eq!(more.len(), 1);
    assert_eq!(more[0].links, raw(3), "the directories follow by themselves");
    fetcher.stored(made[0].id, &[(directories(1)[0], 9)], &[], &[]);
    fetcher.ended(made[0].id, &[]);
    // What the stream did not bring is asked for, of anybody.
    let rest = fetcher.schedule(&providers, Mode::default(), 0);
    assert_eq!(rest[0].links, directories(3)[1..]);
    assert!(!rest[0].ahead);
}

#[test]
fn what_is_wanted_is_bounded_and_every_lane_gets_on() {
    let (mut fetcher, lane, providers) = fetcher(&[1]);
    let links = raw(MAX_WANTED + 500);
    assert_eq!(fetcher.want(lane, &links, Need::Linked).awaited, MAX_WANTED);
    assert_eq!(fetcher.missing().objects, MAX_WANTED as u64);
    let other = fetcher.open().unwrap();
    assert!(fetcher.want(other, &directories(100), Need::Linked).awaited >= 64);
    assert!(!fetcher.schedule(&providers, Mode::default(), 0).is_empty());
}

#[test]
fn lanes_are_bounded() {
    let mut fetcher = Fetcher::new();
    let lanes: Vec<_> = std::iter::from_fn(|| fetcher.open()).take(1_000).collect();
    assert_eq!(lanes.len(), lane::MAX_LANES);
    assert!(!fetcher.has_room());
    fetcher.close(lanes[3]);
    assert!(fetcher.has_room() && fetcher.open().is_some());
}

#[test]
fn content_waits_while_only_structured_objects_may_be_asked_for() {
    let (mut fetcher, lane, providers) = fetcher(&[1]);
    fetcher.want(lane, &[raw(3), directories(2)].concat(), Need::Linked);
    let structure = Mode { structured_only: true, ..Mode::default() };
    let made = fetcher.schedule(&providers, structure, 0);
    assert_eq!(made.len(), 1);
    assert_eq!(made[0].links, directories(2));
    arrive(&mut fetcher, &made[0], &[]);
    assert!(fetcher.schedule(&providers, structure, 0).is_empty());
    // What turns out to be here is not asked for.
    fetcher.found(&raw(2));
    let made = fetcher.schedule(&providers, Mode::default(), 0);
    assert_eq!(made[0].links, raw(3)[2..]);
    arrive(&mut fetcher, &made[0], &[]);
    assert_eq!(fetcher.status(lane, &[]), LaneStatus::Drained);
}

#[test]
fn what_there_is_no_room_for_is_not_asked_for_again_and_again() {
    let (mut fetcher, first, _) = fetcher(&[1]);
    let second = fetcher.open().unwrap();
    let links = raw(MAX_WANTED + 100);
    let (all, few) = links.split_at(MAX_WANTED);
    fetcher.want(first, all, Need::Linked);
    assert_eq!(fetcher.want(second, few, Need::Linked).awaited, 64);
    assert!(!fetcher.ask_more(second));
    fetcher.found(&all[..8_000]);
    assert!(!fetcher.ask_more(second));
    fetcher.found(&all[8_000..9_000]);
    assert!(fetcher.ask_more(second));
    assert!(!fetcher.ask_more(second), "it is asked");
}
