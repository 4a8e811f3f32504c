//! jj repos: the heads that jj processes make, how they come to other devices, and of which kind a
//! repo is.

use std::collections::BTreeSet;

use ark_core::jj::{Commit, Operation, Person, Predecessors, Time, VIRTUAL, ViewRow, view};
use ark_core::{Head, Link, Object, ObjectId, ObjectKind, RepoKind, SignedState, State, links};
use ark_recon::{Links as _, Prefix};
use ark_store::{
    JjRepo, Join, Lease, PullError, PutError, Recovery, Repo, RepoError, Staged, Store, UpdateError,
};

use crate::support::{Faults, Machine, fetch, publish, pull, topic};

const TIME: Time = Time { millis: 0, offset_minutes: 0 };

/// A commit of nothing, a view with it for a head, and an operation that shows that: children
/// first.
pub fn step(text: &str, commit: ObjectId, operations: &[ObjectId]) -> [Object; 3] {
    let person = || Person { name: "n".into(), email: "n@example.org".into(), time: TIME };
    let commit = Commit {
        parents: vec![commit],
        predecessors: Vec::new(),
        trees: vec![VIRTUAL],
        labels: Vec::new(),
        change: [1; 16],
        description: text.into(),
        author: person(),
        committer: person(),
        signing: None,
    };
    let commit = commit.encode().unwrap();
    let (shown, mut nodes) = view(vec![ViewRow::Head(commit.id())]).unwrap();
    let operation = Operation {
        view: shown,
        parents: operations.to_vec(),
        start: TIME,
        end: TIME,
        description: text.into(),
        hostname: String::new(),
        username: String::new(),
        is_snapshot: false,
        workspace: None,
        attributes: Vec::new(),
        predecessors: Predecessors::Unknown,
    };
    assert_eq!(nodes.len(), 1);
    [commit, nodes.remove(0), operation.encode().unwrap()]
}

/// A device with its jj repo.
pub struct Device {
    pub machine: Machine,
    pub store: Store,
    pub repo: Repo,
}

impl Device {
    pub async fn new(number: u8) -> Self {
        let machine = Machine::new(number);
        let store = machine.open().await;
        let repo = store.held(topic()).await.unwrap();
        Self { machine, store, repo }
    }

    pub fn jj(&self) -> JjRepo {
        self.repo.jj().unwrap()
    }

    pub fn heads(&self) -> Vec<ObjectId> {
        self.jj().heads()
    }

    fn own(&self) -> SignedState {
        self.repo.states().joined[&self.repo.writer()].clone()
    }

    /// That what the repo is compared by is what its heads reach.
    async fn check_trie(&self) {
        let heads = self.heads();
        let mut stack: Vec<Link> = heads.into_iter().map(operation).collect();
        let mut reached = BTreeSet::new();
        while let Some(link) = stack.pop() {
            if reached.insert(link) {
                stack.extend(links(link, &self.repo.read(link).await.unwrap()).unwrap());
            }
        }
        let trie = self.repo.trie().unwrap().expect("little changed");
        let found = trie.links(Prefix::ROOT).unwrap().map(Result::unwrap);
        assert_eq!(found.collect::<BTreeSet<_>>(), reached);
    }

    /// Does something on the heads that there are.
    async fn act(&self, text: &str) -> ObjectId {
        let heads = self.heads();
        let parents = if heads.is_empty() { vec![VIRTUAL] } else { heads.clone() };
        let lease = self.jj().lease();
        let objects = step(text, VIRTUAL, &parents);
        let operation = put(&lease, objects).await;
        lease.update_heads(&heads, Some(operation)).await.unwrap();
        operation
    }

    async fn take(&self, other: &Self) {
        let state = other.own();
        if self.repo.states().joined.get(&other.repo.writer()) != Some(&state) {
            let joined = pull(&other.repo, &self.repo, &state).await;
            assert!(matches!(joined, Join::Joined(_)), "{joined:?}");
        }
    }

    pub async fn reopen(self) -> Self {
        let Self { machine, store, repo } = self;
        drop(repo);
        store.close().await.unwrap();
        let store = machine.open().await;
        let repo = store.held(topic()).await.unwrap();
        Self { machine, store, repo }
    }
}

/// The last one's id.
pub async fn put(lease: &Lease, objects: impl IntoIterator<Item = Object>) -> ObjectId {
    let mut last = VIRTUAL;
    for object in objects {
        last = object.id();
        lease.put(object).await.unwrap();
    }
    last
}

pub fn sorted<const N: usize>(mut ids: [ObjectId; N]) -> Vec<ObjectId> {
    ids.sort_unstable();
    ids.to_vec()
}

pub fn operation(id: ObjectId) -> Link {
    Link { kind: ObjectKind::Operation, id }
}

#[tokio::test]
async fn heads_come_to_another_device_whole_or_not_at_all() {
    let (a, b) = (Device::new(1).await, Device::new(2).await);
    assert_eq!((a.heads(), a.repo.kind()), (vec![], None));
    let first = a.act("first").await;
    assert_eq!((a.heads(), a.repo.kind()), (vec![first], Some(RepoKind::Jj)));
    b.take(&a).await;
    assert_eq!((b.heads(), b.repo.kind()), (vec![first], Some(RepoKind::Jj)));

    let second = a.act("second").await;
    let state = a.own();
    let Staged::Staged { missing } = b.repo.stage(state).await.unwrap() else { panic!() };
    assert_eq!(missing, [operation(second)]);
    // The operation, not what it shows.
    let bytes = a.repo.read(missing[0]).await.unwrap();
    let half = b.repo.receive(vec![Object::new(ObjectKind::Operation, bytes)]).await.unwrap();
    assert!(matches!(b.repo.join(a.repo.writer()).await.unwrap(), Join::Missing(_)));
    assert_eq!(b.heads(), [first]);
    fetch(&a.repo, &b.repo, half.next).await;
    assert_eq!(b.heads(), [first]);
    assert!(matches!(b.repo.join(a.repo.writer()).await.unwrap(), Join::Joined(_)));
    assert_eq!(b.heads(), [second]);
    let reached = b.repo.lengths(&[operation(first), operation(second)]).await.unwrap();
    assert!(reached.iter().all(Option::is_some));

    let b = b.reopen().await;
    assert_eq!((b.heads(), b.repo.kind()), (vec![second], Some(RepoKind::Jj)));
}

#[tokio::test]
async fn what_three_do_apart_are_three_heads_until_somebody_merges_them() {
    let devices = [Device::new(1).await, Device::new(2).await, Device::new(3).await];
    let [a, b, c] = &devices;
    a.act("first").await;
    b.take(a).await;
    c.take(a).await;
    let apart = [a.act("by a").await, b.act("by b").await, c.act("by c").await];
    for (one, other) in [(a, b), (a, c), (b, c), (b, a), (c, a), (c, b)] {
        one.take(other).await;
    }
    for device in &devices {
        assert_eq!(device.heads(), sorted(apart));
    }
    // Two merge, in the same way; the third goes on from what it sees of one of them.
    let merge = a.act("merge").await;
    assert_eq!(b.act("merge").await, merge);
    c.take(a).await;
    assert_eq!(c.heads(), [merge]);
    let on = c.act("on").await;
    for device in [a, b] {
        device.take(c).await;
    }
    a.take(b).await;
    c.take(b).await;
    b.take(a).await;
    // The second's own merge is not dropped by who did not have it: it is resolved by its lineage.
    for device in &devices {
        assert_eq!(device.heads(), sorted([merge, on]));
    }
    let lease = b.jj().lease();
    assert!(lease.replace_heads(&sorted([merge, on]), on).await.unwrap());
    a.take(b).await;
    assert_eq!(a.heads(), [on]);
    for device in &devices {
        device.check_trie().await;
    }
}

#[tokio::test]
async fn who_replaces_heads_late_changes_nothing_and_who_did_something_is_heard() {
    let a = Device::new(1).await;
    let lease = a.jj().lease();
    let one = put(&lease, step("one", VIRTUAL, &[VIRTUAL])).await;
    let two = put(&lease, step("two", VIRTUAL, &[VIRTUAL])).await;
    lease.update_heads(&[], Some(one)).await.unwrap();
    lease.update_heads(&[], Some(two)).await.unwrap();
    assert_eq!(a.heads(), sorted([one, two]));
    let merge = put(&lease, step("merge", VIRTUAL, &[one, two])).await;
    // Another process replaces one of them first.
    let other = a.jj().lease();
    let abandoned = put(&other, step("abandon", VIRTUAL, &[VIRTUAL])).await;
    other.update_heads(&[one], Some(abandoned)).await.unwrap();
    let before = a.own();
    assert!(!lease.replace_heads(&[one, two], merge).await.unwrap());
    assert!(!lease.replace_heads(&[one, two], two).await.unwrap());
    assert_eq!((a.heads(), a.own()), (sorted([abandoned, two]), before));
    assert!(lease.replace_heads(&a.heads(), two).await.unwrap());
    assert_eq!(a.heads(), [two]);
    // What somebody did on a head that was replaced is a head all the same.
    let on = put(&lease, step("on", VIRTUAL, &[one])).await;
    lease.update_heads(&[one], Some(on)).await.unwrap();
    assert_eq!(a.heads(), sorted([two, on]));
    // What changes nothing is not said.
    let before = a.own();
    lease.update_heads(&[one], Some(on)).await.unwrap();
    lease.update_heads(&[one], None).await.unwrap();
    assert_eq!(a.own(), before);
    // A new one that is a head already only drops.
    lease.update_heads(&[two], Some(on)).await.unwrap();
    assert_eq!((a.heads(), a.own().state().heads.len()), (vec![on], 1));
    // One that nobody put is none.
    let unknown = lease.update_heads(&[on], Some(ObjectId::of(b"unknown"))).await;
    assert!(matches!(unknown, Err(UpdateError::Publish(_))));
    assert_eq!(a.heads(), [on]);
}

#[tokio::test]
async fn a_repo_is_of_one_kind() {
    let (a, b) = (Device::new(1).await, Device::new(2).await);
    let folder = a.store.repo(topic(), RepoKind::Folder).await.unwrap();
    assert!(matches!(a.repo.jj(), Err(RepoError::OtherKind { .. })));
    // What jj has is refused in it, wherever it comes from.
    let [commit, shown, done] = step("one", VIRTUAL, &[VIRTUAL]);
    for object in [commit.clone(), shown.clone(), done.clone()] {
        assert!(folder.batch().add(object.clone()).await.is_err());
        let received = folder.receive(vec![object.clone()]).await.unwrap();
        assert_eq!(received.rejected.len(), 1);
        assert_eq!(received.next, []);
        assert!(!folder.indexed(&[object.link()]).await.unwrap()[0]);
    }
    b.act("one").await;
    let staged = folder.stage(b.own()).await.unwrap();
    assert!(matches!(staged, Staged::WrongKind { found: RepoKind::Jj }));

    // And the other way round.
    let snapshot = publish(&folder, &[("x", b"of a folder")]).await;
    let staged = b.repo.stage(snapshot.clone()).await.unwrap();
    assert!(matches!(staged, Staged::WrongKind { found: RepoKind::Folder }));
    let link = snapshot.state().head_links()[0];
    let bytes = folder.read(link).await.unwrap();
    let object = Object::new(link.kind, bytes);
    assert_eq!(b.repo.receive(vec![object.clone()]).await.unwrap().rejected.len(), 1);
    let refused = b.jj().lease().put(object).await;
    assert!(matches!(refused, Err(PutError::OtherKind { .. })));
    let asked = b.store.repo(topic(), RepoKind::Folder).await;
    assert!(matches!(asked, Err(RepoError::OtherKind { .. })));
    drop((asked, folder));
    // What was joined says so after a restart, too.
    let a = a.reopen().await;
    assert_eq!(a.repo.kind(), Some(RepoKind::Folder));
    let b = b.reopen().await;
    assert_eq!(b.repo.kind(), Some(RepoKind::Jj));
}

#[tokio::test]
async fn a_repo_that_is_held_is_of_the_kind_that_it_joins_first() {
    let (a, b, c) = (Device::new(1).await, Device::new(2).await, Device::new(3).await);
    let folder = a.store.repo(topic(), RepoKind::Folder).await.unwrap();
    let snapshot = publish(&folder, &[("x", b"of a folder")]).await;
    let done = b.act("one").await;
    // Both are staged while nothing is decided; what both link comes.
    let mut missing = Vec::new();
    for state in [snapshot, b.own()] {
        match c.repo.stage(state).await.unwrap() {
            Staged::Staged { missing: more } => missing.push(more),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(c.repo.kind(), None);
    fetch(&folder, &c.repo, missing.remove(0)).await;
    fetch(&b.repo, &c.repo, missing.remove(0)).await;
    assert!(matches!(c.repo.join(b.repo.writer()).await.unwrap(), Join::Joined(_)));
    assert_eq!((c.repo.kind(), c.heads()), (Some(RepoKind::Jj), vec![done]));
    assert!(matches!(c.repo.join(a.repo.writer()).await.unwrap(), Join::NothingStaged));
    assert!(c.repo.states().staged.is_empty());
    let c = c.reopen().await;
    assert_eq!((c.repo.kind(), c.heads()), (Some(RepoKind::Jj), vec![done]));
}

/// The image of a machine is put back while it runs, or its key runs twice.
#[tokio::test]
async fn what_was_done_as_a_writer_that_runs_twice_stays_a_head() {
    let faults = Faults::default();
    let machine = Machine::new(1);
    let store = machine.open_with(faults.hook()).await;
    let repo = store.held(topic()).await.unwrap();
    let (a, b) = (Device { machine, store, repo }, Device::new(2).await);
    let mine = a.act("mine").await;
    let before = a.repo.writer();
    // What the other one did: under the same dot, and later.
    let lease = b.jj().lease();
    let theirs = put(&lease, step("theirs", VIRTUAL, &[VIRTUAL])).await;
    lease.barrier().await.unwrap();
    let twice = State {
        revision: 5,
        heads: vec![Head { id: theirs, sequence: 1 }],
        ..a.own().state().clone()
    };
    let twice = SignedState::sign(twice, &a.machine.key).unwrap();
    let Staged::OwnFork { then } = a.repo.stage(twice.clone()).await.unwrap() else { panic!() };
    let Staged::Staged { missing } = *then else { panic!("{then:?}") };
    assert_ne!(a.repo.writer(), before);
    fetch(&b.repo, &a.repo, missing).await;
    // It is not joined in the place of what was done here before that is told again.
    faults.set(&["publish"]);
    assert!(matches!(a.repo.join(before).await, Err(PullError::Own { .. })));
    assert_eq!(a.heads(), [mine]);
    faults.set(&[]);
    // Nor in another run.
    let a = a.reopen().await;
    assert_eq!(a.store.recovered(), Recovery::Same);
    assert!(matches!(a.repo.join(before).await.unwrap(), Join::Joined(_)));
    assert_eq!(a.heads(), sorted([mine, theirs]));
    // Nobody else ever saw what it said first.
    b.take(&a).await;
    assert!(matches!(pull(&a.repo, &b.repo, &twice).await, Join::Joined(_)));
    assert_eq!(b.heads(), sorted([mine, theirs]));
    let merge = b.act("merge").await;
    a.take(&b).await;
    assert_eq!((a.heads(), b.heads()), (vec![merge], vec![merge]));
}

/// Both did one act under the same dot, and the user goes on before the other's is here.
#[tokio::test]
async fn what_another_did_under_the_same_dot_is_not_dropped_by_who_never_had_it() {
    let (a, b) = (Device::new(1).await, Device::new(2).await);
    a.act("mine").await;
    let before = a.repo.writer();
    let lease = b.jj().lease();
    let theirs = put(&lease, step("theirs", VIRTUAL, &[VIRTUAL])).await;
    lease.barrier().await.unwrap();
    let heads = vec![Head { id: theirs, sequence: 1 }];
    let twice = State { revision: 5, heads, ..a.own().state().clone() };
    let twice = SignedState::sign(twice, &a.machine.key).unwrap();
    let Staged::OwnFork { then } = a.repo.stage(twice).await.unwrap() else { panic!() };
    let next = a.act("next").await;
    assert!(a.heads().contains(&next));
    let Staged::Staged { .. } = *then else { panic!("{then:?}") };
    let missing = a.repo.staged_missing(before, 10).await.unwrap().unwrap();
    fetch(&b.repo, &a.repo, missing).await;
    assert!(matches!(a.repo.join(before).await.unwrap(), Join::Joined(_)));
    let heads = a.heads();
    assert!(heads.contains(&next) && heads.contains(&theirs), "{heads:?}");
    // From now on its heads are dropped as any.
    let merge = a.act("merge").await;
    assert_eq!(a.heads(), [merge]);
}

#[tokio::test]
async fn heads_of_a_device_that_is_gone_are_taken_over() {
    let (a, b, c) = (Device::new(1).await, Device::new(2).await, Device::new(3).await);
    let lease = a.jj().lease();
    let one = put(&lease, step("one", VIRTUAL, &[VIRTUAL])).await;
    let two = put(&lease, step("two", VIRTUAL, &[VIRTUAL])).await;
    lease.update_heads(&[], Some(one)).await.unwrap();
    lease.update_heads(&[], Some(two)).await.unwrap();
    b.take(&a).await;
    let lost = a.store.device();
    b.jj().take_over(|device| device == lost).await.unwrap();
    assert_eq!(b.heads(), sorted([one, two]));
    // Who never had the first one's states has them, and they are taken over once.
    c.take(&b).await;
    assert_eq!(c.heads(), sorted([one, two]));
    let before = b.own();
    assert_eq!(before.state().heads.len(), 2);
    b.jj().take_over(|device| device == lost).await.unwrap();
    assert_eq!(b.own(), before);
    // With its state there, too, they are the same heads, and the new dots alone count.
    assert!(matches!(pull(&a.repo, &c.repo, &a.own()).await, Join::Joined(_)));
    let merge = c.act("merge").await;
    assert_eq!(c.heads(), [merge]);
}

#[tokio::test]
async fn a_lost_index_is_made_anew_from_the_operations() {
    let (a, b) = (Device::new(1).await, Device::new(2).await);
    a.act("first").await;
    b.take(&a).await;
    let both = sorted([a.act("by a").await, b.act("by b").await]);
    b.take(&a).await;
    assert_eq!(b.heads(), both);
    let Device { machine, store, repo } = b;
    drop(repo);
    store.close().await.unwrap();
    std::fs::remove_file(machine.store_path().join("index.redb")).unwrap();
    let store = machine.open().await;
    let Recovery::Rebuilt { joined, staged, objects } = store.recovered() else { panic!() };
    assert_eq!((joined, staged, objects), (2, 0, 9));
    let repo = store.held(topic()).await.unwrap();
    assert_eq!(repo.jj().unwrap().heads(), both);
    // It is another writer now, and what it did before is dropped as another's is.
    let b = Device { machine, store, repo };
    let merge = b.act("merge").await;
    assert_eq!(b.heads(), [merge]);
    a.take(&b).await;
    assert_eq!(a.heads(), [merge]);
}

/// Of two kinds that were staged one was joined, and the other was not let go durably.
#[tokio::test]
async fn a_rebuilt_repo_is_of_the_kind_that_this_device_wrote() {
    let (a, b) = (Device::new(1).await, Device::new(2).await);
    let folder = a.store.repo(topic(), RepoKind::Folder).await.unwrap();
    let snapshot = publish(&folder, &[("x", b"of a folder")]).await;
    let staged = b.repo.stage(snapshot).await.unwrap();
    let Staged::Staged { missing } = staged else { panic!("{staged:?}") };
    fetch(&folder, &b.repo, missing).await;
    let done = b.act("of jj").await;
    let Device { machine, store, repo } = b;
    drop(repo);
    store.close().await.unwrap();
    std::fs::remove_file(machine.store_path().join("index.redb")).unwrap();
    let store = machine.open().await;
    assert!(matches!(store.recovered(), Recovery::Rebuilt { joined: 1, .. }));
    let repo = store.held(topic()).await.unwrap();
    assert_eq!((repo.kind(), repo.jj().unwrap().heads()), (Some(RepoKind::Jj), vec![done]));
}
