//! States from peers: staged, pulled, joined whole or not at all.

use std::collections::BTreeMap;

use ark_core::{
    Dot, Entry, Head, Incarnation, Link, Mtime, Name, Node, Object, ObjectId, ObjectKind, Overlay,
    Permissions, RepoKind, SignedState, Snapshot, State, TopicId, Vector, Version, Writer,
};
use ark_store::{Change, Join, PublishError, Repo, Staged, Store};
use ed25519_dalek::SigningKey;

use crate::support::{
    Machine, contents, fetch, files, own_head, publish, pull, put_files, repo, topic,
};

/// Two devices with the repo open.
async fn two() -> ((Machine, Store, Repo), (Machine, Store, Repo)) {
    let (a, b) = (Machine::new(1), Machine::new(2));
    let (store_a, store_b) = (a.open().await, b.open().await);
    let (repo_a, repo_b) = (repo(&store_a).await, repo(&store_b).await);
    ((a, store_a, repo_a), (b, store_b, repo_b))
}

/// A state of a device's that no store published.
fn forge(key: &SigningKey, incarnation: u64, revision: u64, heads: Vec<Head>) -> SignedState {
    let writer = Writer {
        device: ark_core::DeviceId::from_bytes(key.verifying_key().to_bytes()),
        incarnation: Incarnation::new(incarnation),
    };
    let mut vector = Vector::empty();
    for head in &heads {
        vector.take_in(Dot { writer, sequence: head.sequence });
    }
    let kind = RepoKind::Folder;
    let held = vec![];
    let state = State { topic: topic(), kind, writer, revision, heads, vector, held };
    SignedState::sign(state, key).unwrap()
}

fn head_at(sequence: u64) -> Vec<Head> {
    vec![Head { id: ObjectId::of(&sequence.to_le_bytes()), sequence }]
}

#[tokio::test]
async fn a_state_is_pulled_and_joined() {
    let ((_ma, _sa, a), (mb, sb, b)) = two().await;
    let big = vec![9; 60_000];
    let state = publish(&a, &[("x", b"one"), ("y", &big)]).await;
    let mut changes = b.subscribe();
    assert!(matches!(pull(&a, &b, &state).await, Join::Joined(joined) if joined == state));
    assert_eq!(files(&b).await, contents(&[("x", b"one"), ("y", &big)]));
    let writer = a.writer();
    assert!(matches!(changes.recv().await.unwrap(), Change::Staged { writer: w } if w == writer));
    assert!(matches!(changes.recv().await.unwrap(), Change::Joined { writer: w } if w == writer));
    assert!(b.states().staged.is_empty());

    // What it has is kept, and what was pulled is no longer pending.
    drop(b);
    sb.close().await.unwrap();
    let sb = mb.open().await;
    let b = repo(&sb).await;
    assert_eq!(b.states().joined[&writer], state);
    assert_eq!(files(&b).await.len(), 2);

    // The next one costs little: only what is new is asked for.
    let next = publish(&a, &[("x", b"two")]).await;
    let Staged::Staged { missing } = b.stage(next.clone()).await.unwrap() else { panic!() };
    assert_eq!(missing, next.state().head_links());
    fetch(&a, &b, missing).await;
    assert!(matches!(b.join(writer).await.unwrap(), Join::Joined(_)));
    assert_eq!(sb.counters().imports, 4, "snapshot, directory, content, state");
}

#[tokio::test]
async fn an_incomplete_state_is_not_joined_and_survives_a_restart() {
    let ((_ma, _sa, a), (mb, sb, b)) = two().await;
    let state = publish(&a, &[("x", &[1; 4000]), ("y", &[2; 4000])]).await;
    let writer = a.writer();
    let Staged::Staged { missing } = b.stage(state.clone()).await.unwrap() else { panic!() };
    let snapshot = missing[0];
    let bytes = a.read(snapshot).await.unwrap();
    let received = b.receive(vec![Object::new(snapshot.kind, bytes)]).await.unwrap();
    let [root] = received.next[..] else { panic!("{:?}", received.next) };
    assert_eq!(b.indexed(&[snapshot]).await.unwrap(), [false]);
    // Pending counts as here for reads of this repo, not as indexed.
    b.read(snapshot).await.unwrap();
    assert!(matches!(b.join(writer).await.unwrap(), Join::Missing(links) if links == [root]));
    assert!(b.states().joined.is_empty());
    assert_eq!(files(&b).await.len(), 0);
    drop(b);
    sb.close().await.unwrap();

    let sb = mb.open().await;
    let b = repo(&sb).await;
    assert_eq!(b.states().staged[&writer], state);
    assert_eq!(b.staged_missing(writer, 10).await.unwrap(), Some(vec![root]));
    fetch(&a, &b, vec![root]).await;
    assert_eq!(b.staged_missing(writer, 10).await.unwrap(), Some(vec![]));
    assert!(matches!(b.join(writer).await.unwrap(), Join::Joined(_)));
    assert!(matches!(b.join(writer).await.unwrap(), Join::NothingStaged));
    assert_eq!(files(&b).await.len(), 2);
}

#[tokio::test]
async fn old_replayed_and_reordered_states_change_nothing() {
    let ((_ma, _sa, a), (_mb, _sb, b)) = two().await;
    let first = publish(&a, &[("x", b"one")]).await;
    let second = publish(&a, &[("x", b"two")]).await;
    pull(&a, &b, &second).await;
    for state in [&first, &second, &first] {
        assert!(matches!(b.stage(state.clone()).await.unwrap(), Staged::Old));
    }
    assert_eq!(b.states().joined[&a.writer()], second);
    // Its own state comes back to its writer.
    assert!(matches!(a.stage(second).await.unwrap(), Staged::Old));
    assert!(matches!(a.stage(first).await.unwrap(), Staged::Old));
}

#[tokio::test]
async fn states_of_other_repos_and_kinds_are_told_apart() {
    let ((ma, _sa, a), (_mb, _sb, b)) = two().await;
    let state = publish(&a, &[("x", b"one")]).await;
    let mut other = state.state().clone();
    other.topic = TopicId::derive("another", None);
    let other = SignedState::sign(other, &ma.key).unwrap();
    assert!(matches!(b.stage(other).await.unwrap(), Staged::WrongTopic));
    let mut other = state.state().clone();
    other.kind = RepoKind::Jj;
    let other = SignedState::sign(other, &ma.key).unwrap();
    let staged = b.stage(other).await.unwrap();
    assert!(matches!(staged, Staged::WrongKind { found: RepoKind::Jj }));
    assert!(b.states().staged.is_empty());
}

#[tokio::test]
async fn a_newer_state_waits_for_the_one_being_pulled() {
    let ((_ma, _sa, a), (_mb, _sb, b)) = two().await;
    let writer = a.writer();
    let first = publish(&a, &[("x", &[1; 3000])]).await;
    let Staged::Staged { missing } = b.stage(first.clone()).await.unwrap() else { panic!() };
    let second = publish(&a, &[("x", &[2; 3000])]).await;
    let third = publish(&a, &[("x", &[3; 3000])]).await;
    assert!(matches!(b.stage(second.clone()).await.unwrap(), Staged::Waiting));
    assert!(matches!(b.stage(third.clone()).await.unwrap(), Staged::Waiting));
    assert!(matches!(b.stage(second).await.unwrap(), Staged::Old));
    assert_eq!(b.states().staged[&writer], first);

    let mut changes = b.subscribe();
    fetch(&a, &b, missing).await;
    assert!(matches!(b.join(writer).await.unwrap(), Join::Joined(state) if state == first));
    assert!(matches!(changes.recv().await.unwrap(), Change::Joined { .. }));
    assert!(matches!(changes.recv().await.unwrap(), Change::Staged { .. }));
    assert_eq!(b.states().staged[&writer], third);
    assert!(b.states().waiting.is_empty());
    let missing = b.staged_missing(writer, 10).await.unwrap().unwrap();
    fetch(&a, &b, missing).await;
    assert!(matches!(b.join(writer).await.unwrap(), Join::Joined(state) if state == third));
}

#[tokio::test]
async fn an_abandoned_state_gives_way() {
    let ((_ma, _sa, a), (_mb, _sb, b)) = two().await;
    let writer = a.writer();
    let first = publish(&a, &[("x", &[1; 3000])]).await;
    b.stage(first.clone()).await.unwrap();
    let second = publish(&a, &[("x", &[2; 3000])]).await;
    b.stage(second.clone()).await.unwrap();
    let staged = b.abandon(writer).await.unwrap();
    assert!(matches!(staged, Some(Staged::Staged { .. })), "{staged:?}");
    assert_eq!(b.states().staged[&writer], second);
    assert!(b.abandon(writer).await.unwrap().is_none());
    assert!(b.states().staged.is_empty());
    // It may come again.
    assert!(matches!(b.stage(first).await.unwrap(), Staged::Staged { .. }));
}

#[tokio::test]
async fn an_older_state_is_joined_where_a_newer_one_is_given_up() {
    let ((_ma, _sa, a), (mb, sb, b)) = two().await;
    let writer = a.writer();
    let first = publish(&a, &[("x", &[1; 3000])]).await;
    assert!(matches!(pull(&a, &b, &first).await, Join::Joined(_)));
    let second = publish(&a, &[("x", &[2; 3000])]).await;
    let third = publish(&a, &[("x", &[3; 3000])]).await;
    assert!(matches!(b.stage(third.clone()).await.unwrap(), Staged::Staged { .. }));
    assert!(matches!(b.stage(second.clone()).await.unwrap(), Staged::Old));
    b.abandon(writer).await.unwrap();
    assert!(matches!(pull(&a, &b, &second).await, Join::Joined(_)));
    // The newer one comes again, and nothing goes back to before.
    assert!(matches!(b.stage(third.clone()).await.unwrap(), Staged::Staged { .. }));
    for state in [&first, &second] {
        assert!(matches!(b.stage(state.clone()).await.unwrap(), Staged::Old));
    }
    drop(b);
    sb.close().await.unwrap();
    let sb = mb.open().await;
    let b = repo(&sb).await;
    assert_eq!((&b.states().joined[&writer], &b.states().staged[&writer]), (&second, &third));
    b.abandon(writer).await.unwrap();
    for state in [&first, &second] {
        assert!(matches!(b.stage(state.clone()).await.unwrap(), Staged::Old));
    }
    assert!(matches!(pull(&a, &b, &third).await, Join::Joined(_)));
    assert_eq!(b.states().joined[&writer], third);
}

#[tokio::test]
async fn after_a_restart_a_newer_state_replaces_what_was_staged() {
    let ((_ma, _sa, a), (mb, sb, b)) = two().await;
    let first = publish(&a, &[("x", &[1; 3000])]).await;
    b.stage(first).await.unwrap();
    drop(b);
    sb.close().await.unwrap();
    let sb = mb.open().await;
    let b = repo(&sb).await;
    let second = publish(&a, &[("x", &[2; 3000])]).await;
    assert!(matches!(b.stage(second.clone()).await.unwrap(), Staged::Staged { .. }));
    assert_eq!(b.states().staged[&a.writer()], second);
}

#[tokio::test]
async fn of_two_states_of_one_revision_the_greater_stands_and_it_is_recorded() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let repo = repo(&store).await;
    let key = SigningKey::from_bytes(&[7; 32]);
    let mut states = [forge(&key, 5, 3, head_at(1)), forge(&key, 5, 3, head_at(2))];
    states.sort_by_key(SignedState::hash);
    let [lesser, greater] = states;
    assert!(matches!(repo.stage(lesser.clone()).await.unwrap(), Staged::Staged { .. }));
    let staged = repo.stage(greater.clone()).await.unwrap();
    let Staged::Equivocation { seen, stands } = staged else { panic!("{staged:?}") };
    assert_eq!((seen.stands, seen.dropped), (greater.hash(), lesser.hash()));
    // Its pull had begun: the greater one waits.
    assert!(matches!(*stands, Staged::Waiting));
    repo.abandon(lesser.state().writer).await.unwrap();
    assert_eq!(repo.states().staged[&seen.writer], greater);
    let staged = repo.stage(lesser).await.unwrap();
    let Staged::Equivocation { stands, .. } = staged else { panic!("{staged:?}") };
    assert!(matches!(*stands, Staged::Old));
    drop(repo);
    store.close().await.unwrap();
    let repo = crate::support::repo(&machine.open().await).await;
    assert_eq!(repo.equivocations().await.unwrap(), [seen]);
}

#[tokio::test]
async fn a_state_that_contradicts_its_snapshot_is_dropped_for_good() {
    let ((_ma, _sa, a), (_mb, _sb, b)) = two().await;
    let state = publish(&a, &[("x", b"one")]).await;
    // Another device claims the snapshot under a vector that it has not.
    let key = SigningKey::from_bytes(&[7; 32]);
    let head = state.state().heads[0].id;
    let bad = forge(&key, 5, 1, vec![Head { id: head, sequence: 1 }]);
    let writer = bad.state().writer;
    let Join::Invalid { link, .. } = pull(&a, &b, &bad).await else { panic!() };
    assert_eq!(link, Link::snapshot(head));
    assert!(b.states().staged.is_empty());
    assert!(b.states().joined.is_empty());
    assert!(matches!(b.stage(bad).await.unwrap(), Staged::Invalid));
    // The writer may mend its ways.
    assert!(matches!(b.stage(forge(&key, 5, 2, vec![])).await.unwrap(), Staged::Complete));
    assert!(matches!(b.join(writer).await.unwrap(), Join::Joined(_)));
}

#[tokio::test]
async fn garbage_is_rejected_and_not_kept() {
    let ((_ma, _sa, _a), (_mb, sb, b)) = two().await;
    let objects = vec![
        Object::new(ObjectKind::Directory, vec![1; 100]),
        Object::new(ObjectKind::Snapshot, vec![]),
        Object::new(ObjectKind::Raw, vec![0; ark_core::MAX_OBJECT_BYTES + 1]),
    ];
    let before = sb.counters().imports;
    let links: Vec<Link> = objects.iter().map(Object::link).collect();
    let received = b.receive(objects).await.unwrap();
    assert_eq!(received.rejected.len(), 3);
    assert_eq!(received.next, []);
    assert_eq!(sb.counters().imports, before);
    assert_eq!(b.indexed(&links).await.unwrap(), [false; 3]);
}

#[tokio::test]
async fn a_head_that_others_took_in_is_not_pulled_until_it_comes_back_to_life() {
    let ((_ma, _sa, a), (mb, _sb, b)) = two().await;
    let from_a = publish(&a, &[("x", b"of a")]).await;
    pull(&a, &b, &from_a).await;
    let from_b = publish(&b, &[("y", b"of b")]).await;

    let c = Machine::new(3);
    let store = c.open().await;
    let c = repo(&store).await;
    pull(&b, &c, &from_b).await;
    assert!(matches!(c.stage(from_a.clone()).await.unwrap(), Staged::Complete));
    assert!(matches!(c.join(a.writer()).await.unwrap(), Join::Joined(_)));
    assert_eq!(c.indexed(&from_a.state().head_links()).await.unwrap(), [false]);
    assert_eq!(files(&c).await, contents(&[("y", b"of b")]));

    // A broken writer forgets what it took in: then the head must be here after all.
    let mut broken = from_b.state().clone();
    broken.revision += 1;
    let mut vector = Vector::empty();
    vector.take_in(Dot { writer: broken.writer, sequence: 1 });
    broken.vector = vector;
    let broken = SignedState::sign(broken, &mb.key).unwrap();
    let staged = c.stage(broken).await.unwrap();
    let Staged::Staged { missing } = staged else { panic!("{staged:?}") };
    assert_eq!(missing, from_a.state().head_links());
    assert_eq!(files(&c).await, contents(&[("y", b"of b")]));
}

#[tokio::test]
async fn a_deep_tree_is_closed_without_recursion() {
    let ((_ma, _sa, a), (_mb, sb, b)) = two().await;
    let publisher = a.publisher().await;
    let dot = publisher.dot();
    let mut batch = a.batch();
    let mut overlay = Overlay::new(a.reader());
    let mut root = overlay.put(ark_core::empty_directory());
    let mut totals = ark_core::Totals::default();
    for _ in 0..ark_core::MAX_PATH_DEPTH - 1 {
        let name = Name::new(b"d").unwrap();
        let version = Version {
            node: Node::Directory { root, totals },
            dots: vec![dot],
            permissions: Permissions::from_mode(0o755),
            permissions_dot: dot,
            mtime: Mtime::default(),
            aside: false,
        };
        let entry = Entry { name: name.clone(), versions: vec![version] };
        let edits = BTreeMap::from([(name, Some(entry))]);
        let (made, overlaid, sum) = tokio::task::spawn_blocking(move || {
            let empty = overlay.put(ark_core::empty_directory());
            let (made, sum) = ark_core::edit(&mut overlay, empty, edits).unwrap();
            (made, overlay, sum)
        })
        .await
        .unwrap();
        (root, overlay, totals) = (made, overlaid, sum);
    }
    let mut vector = Vector::empty();
    vector.take_in(dot);
    let snapshot = Snapshot { root, vector: vector.clone(), wall_time_ms: 0 }.encode();
    let head = Head { id: snapshot.id(), sequence: dot.sequence };
    for object in overlay.into_made().into_iter().chain([snapshot]) {
        batch.add(object).await.unwrap();
    }
    let state = publisher.publish(batch, vec![head], vector, vec![]).await.unwrap();
    assert!(matches!(pull(&a, &b, &state).await, Join::Joined(_)));
    assert!(sb.counters().pending >= ark_core::MAX_PATH_DEPTH as u64);
}

#[tokio::test]
async fn a_state_of_the_living_incarnation_that_was_never_issued_makes_a_new_one() {
    let ((ma, sa, a), (_mb, _sb, b)) = two().await;
    let own = publish(&a, &[("x", b"one")]).await;
    let old = a.writer();
    let publisher = a.publisher().await;
    let mut changes = a.subscribe();
    let forked = forge(&ma.key, old.incarnation.get(), 9, head_at(9));
    let staged = a.stage(forked.clone()).await.unwrap();
    let Staged::OwnFork { then } = staged else { panic!("{staged:?}") };
    // The old incarnation is one more writer, with news.
    assert!(matches!(*then, Staged::Staged { .. }));
    assert_eq!(a.states().staged[&old], forked);
    assert_eq!(a.states().joined[&old], own);
    let new = a.writer();
    assert_ne!(new, old);
    let Change::Incarnation { old: told_old, new: told_new } = changes.recv().await.unwrap() else {
        panic!()
    };
    assert_eq!((told_old, told_new), (old, new));

    // Who was about to publish under the old one must do it again.
    let mut batch = a.batch();
    let dot = publisher.dot();
    assert_eq!(dot.writer, old);
    let (head, vector) = put_files(&a, &mut batch, dot, &[("x", b"two")], None).await.unwrap();
    let head = Head { id: head.id, sequence: dot.sequence };
    let refused = publisher.publish(batch, vec![head], vector, vec![]).await;
    assert!(matches!(refused, Err(PublishError::Incarnation)));
    assert!(own_head(&a).is_none());
    let state = publish(&a, &[("x", b"two")]).await;
    assert_eq!((state.state().writer, state.state().revision), (new, 1));
    // The old one's newest state is taken for another writer's, so it is no fork again.
    assert!(matches!(a.stage(forked).await.unwrap(), Staged::Old));
    drop(b);
    drop(a);
    sa.close().await.unwrap();
    let sa = ma.open().await;
    assert_eq!(sa.recovered(), ark_store::Recovery::Same);
    assert_eq!(repo(&sa).await.writer(), new);
}

#[tokio::test]
async fn a_sequence_of_ours_in_anothers_vector_that_was_never_issued_makes_a_new_incarnation() {
    let ((_ma, _sa, a), (mb, _sb, _b)) = two().await;
    publish(&a, &[("x", b"one")]).await;
    let old = a.writer();
    let plain = forge(&mb.key, 5, 1, head_at(1));
    let claim = |sequence| {
        let mut state = plain.state().clone();
        state.vector.take_in(Dot { writer: old, sequence });
        SignedState::sign(state, &mb.key).unwrap()
    };
    assert!(matches!(a.stage(claim(1)).await.unwrap(), Staged::Staged { .. }));
    assert_eq!(a.writer(), old);
    let staged = a.stage(claim(2)).await.unwrap();
    assert!(matches!(staged, Staged::OwnFork { .. }), "{staged:?}");
    assert_ne!(a.writer(), old);
}

#[tokio::test]
async fn a_key_that_goes_on_elsewhere_stops_the_publisher() {
    let ((ma, sa, a), _b) = two().await;
    publish(&a, &[("x", b"one")]).await;
    for revision in 1..100 {
        let state = forge(&ma.key, 77, revision, head_at(revision));
        a.stage(state.clone()).await.unwrap();
        a.abandon(state.state().writer).await.unwrap();
    }
    assert!(sa.key_in_use_elsewhere());
    let refused = crate::support::try_publish(&a, &[("x", b"two")]).await;
    assert!(matches!(refused, Err(PublishError::KeyInUseElsewhere)));
}
