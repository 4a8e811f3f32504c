//! The heads of several machines become one.

use ark_core::{Object, ObjectId, ObjectKind};
use ark_jj::{ResolveError, resolve_heads};
use jj_lib::backend::Signature;
use jj_lib::object_id::ObjectId as _;
use jj_lib::op_store::{OperationId, RefTarget};
use jj_lib::repo::Repo as _;
use pollster::FutureExt as _;

use crate::machine::{Machine, exchange, pair};

#[test]
fn two_machines_that_commit_apart_make_the_same_merge() {
    let (alice, bob) = pair();
    let main = alice.repo().view().get_local_bookmark("main".as_ref()).as_normal().unwrap().clone();
    let by_alice = alice.commit(std::slice::from_ref(&main), "by alice", "a");
    let by_bob = bob.commit(&[main], "by bob", "b");
    exchange(&alice, &bob);
    assert_eq!(alice.heads().len(), 2);
    let head = alice.resolve();
    assert_eq!(bob.resolve(), head);
    for machine in [&alice, &bob] {
        // It is at rest: nothing is made anew, whoever asks how often, and what jj loads is it.
        exchange(&alice, &bob);
        assert_eq!(machine.resolve(), head);
        let repo = machine.repo();
        assert_eq!(repo.op_id().as_bytes(), head.as_bytes());
        assert_eq!(repo.operation().metadata().hostname, "ark");
        for commit in [&by_alice, &by_bob] {
            assert!(repo.view().heads().contains(commit.id()));
        }
        assert_eq!(repo.view().heads().len(), 2);
    }
}

#[test]
fn a_bookmark_that_both_moved_is_in_conflict_and_a_change_that_both_rewrote_is_divergent() {
    let (alice, bob) = pair();
    let repo = alice.repo();
    let main = repo.view().get_local_bookmark("main".as_ref()).as_normal().unwrap().clone();
    let first = repo.store().get_commit(&main).unwrap();
    // Something stands on it that has to be rebased onto one of the rewritten commits.
    alice.commit(std::slice::from_ref(&main), "above", "above");
    bob.memory.pull(&alice.memory);
    assert_eq!(bob.resolve(), alice.resolve());
    alice.describe(&first, "alice says");
    bob.describe(&first, "bob says");
    exchange(&alice, &bob);
    let head = alice.resolve();
    assert_eq!(bob.resolve(), head);
    let repo = bob.repo();
    assert!(repo.view().get_local_bookmark("main".as_ref()).has_conflict());
    let ids = repo.resolve_change_id(first.change_id()).block_on().unwrap().unwrap();
    assert_eq!(ids.into_visible().unwrap().len(), 2);
}

/// The merge makes commits of its own there, each with a change id that is new.
#[test]
fn working_copies_whose_commits_another_abandoned_are_the_same_new_ones_everywhere() {
    let (alice, bob) = pair();
    let names = ["one", "two", "three", "four", "five", "six"];
    let root = [alice.root()];
    let doomed = names.map(|name| alice.commit(&root, name, name));
    bob.memory.pull(&alice.memory);
    bob.resolve();
    alice.change("abandon", |repo| {
        for commit in &doomed {
            repo.record_abandoned_commit(commit);
        }
    });
    bob.change("edit", |repo| {
        for (name, commit) in names.into_iter().zip(&doomed) {
            repo.set_wc_commit(name.into(), commit.id().clone()).unwrap();
        }
    });
    exchange(&alice, &bob);
    let head = alice.resolve();
    assert_eq!(bob.resolve(), head);
    let repo = bob.repo();
    for (name, commit) in names.into_iter().zip(&doomed) {
        let new = repo.view().get_wc_commit_id(name.as_ref()).unwrap();
        let new = repo.store().get_commit(new).unwrap();
        assert_ne!(new.change_id(), commit.change_id());
    }
}

/// Name and address.
fn of(signature: &Signature) -> (&str, &str) {
    (&signature.name, &signature.email)
}

#[test]
fn a_merge_puts_no_name_into_commits_but_those_they_had() {
    let (alice, bob) = pair();
    let first = alice.at_bookmark("main");
    let doomed = alice.commit(&[alice.root()], "doomed", "doomed");
    bob.memory.pull(&alice.memory);
    bob.resolve();
    // What bob has on it is rebased, and where he works is made anew.
    alice.describe(&first, "otherwise");
    alice.change("abandon", |repo| repo.record_abandoned_commit(&doomed));
    bob.commit(&[first.id().clone()], "by bob", "b");
    bob.change("edit", |repo| repo.set_wc_commit("w".into(), doomed.id().clone()).unwrap());
    exchange(&alice, &bob);
    assert_eq!(bob.resolve(), alice.resolve());
    let by_bob = ("bob", "bob@example.org");
    let rebased = bob.at_bookmark("b");
    assert_eq!(rebased.parent_ids(), [alice.at_bookmark("main").id().clone()]);
    assert_eq!((of(rebased.author()), of(rebased.committer())), (by_bob, by_bob));
    let repo = bob.repo();
    let new = repo.view().get_wc_commit_id("w".as_ref()).unwrap();
    let new = repo.store().get_commit(new).unwrap();
    assert_eq!((of(new.author()), of(new.committer())), (("", ""), ("", "")));
    // jj fills in who goes on there.
    bob.describe(&new, "mine");
    let repo = bob.repo();
    let mine =
        repo.store().get_commit(repo.view().get_wc_commit_id("w".as_ref()).unwrap()).unwrap();
    assert_eq!((of(mine.author()), of(mine.committer())), (by_bob, by_bob));
}

/// alice and bob have what both rewrote in the order of their operations, carol by time.
#[test]
fn machines_that_got_the_same_commits_in_another_order_make_the_same_merge() {
    let (alice, bob) = pair();
    let carol = Machine::new("carol");
    carol.memory.pull(&alice.memory);
    let first = alice.at_bookmark("main");
    alice.at(10_000).describe(&first, "alice says");
    bob.at(30_000).describe(&first, "bob says");
    carol.at(40_000).change("mark", |repo| {
        repo.set_local_bookmark_target("x".as_ref(), RefTarget::normal(first.id().clone()));
        repo.set_wc_commit("w".into(), first.id().clone()).unwrap();
    });
    alice.at(50_000).commit(&[alice.root()], "aside", "aside");
    exchange(&alice, &bob);
    let head = alice.resolve();
    assert_eq!(bob.resolve(), head);
    // Each looks at it, with an index of its own.
    let looked = alice.repo();
    assert_eq!(bob.repo().op_id(), looked.op_id());
    exchange(&alice, &carol);
    exchange(&bob, &carol);
    assert_eq!(alice.heads().len(), 2);
    let machines = [alice, bob, carol];
    let heads = machines.each_ref().map(Machine::resolve);
    assert!(heads.iter().all(|head| *head == heads[0]), "{heads:?}");
    let repo = machines[2].repo();
    assert!(repo.view().get_local_bookmark("x".as_ref()).has_conflict());
    exchange(&machines[0], &machines[2]);
    assert_eq!(machines.each_ref().map(Machine::resolve), heads);
}

#[test]
fn three_heads_and_merges_of_two_of_them_become_one() {
    let (alice, bob) = pair();
    let carol = Machine::new("carol");
    carol.memory.pull(&alice.memory);
    let first = alice.at_bookmark("main");
    let machines = [alice, bob, carol];
    for (n, machine) in machines.iter().enumerate() {
        // All at the same time.
        machine.at(20_000).describe(&first, &n.to_string());
    }
    let heads = machines.each_ref().map(|machine| machine.heads()[0]);
    for (one, other) in [(0, 1), (1, 2), (2, 0)] {
        exchange(&machines[one], &machines[other]);
    }
    let at_once = machines.each_ref().map(|machine| {
        machine.memory.set_heads(heads);
        machine.resolve()
    });
    assert!(at_once.iter().all(|head| *head == at_once[0]), "{at_once:?}");
    // Each merges another two of them: merged again, they have several common ancestors.
    for (n, machine) in machines.iter().enumerate() {
        machine.memory.set_heads([heads[n], heads[(n + 1) % 3]]);
        machine.resolve();
    }
    for (one, other) in [(0, 1), (1, 2), (2, 0)] {
        exchange(&machines[one], &machines[other]);
    }
    assert!(machines.iter().all(|machine| machine.heads().len() == 3));
    let last = machines.each_ref().map(Machine::resolve);
    assert!(last.iter().all(|head| *head == last[0]), "{last:?}");
}

/// As other versions of ark would make them.
#[test]
fn of_merges_of_the_same_operations_that_differ_one_is_kept() {
    let (alice, bob) = pair();
    let carol = Machine::new("carol");
    carol.memory.pull(&alice.memory);
    let main = [alice.at_bookmark("main").id().clone()];
    alice.commit(&main, "by alice", "a");
    bob.commit(&main, "by bob", "b");
    let other = carol.commit(&main, "by carol", "c");
    exchange(&alice, &bob);
    let merge = alice.resolve();
    let later = |n| alice.write_like(merge, |merge| merge.metadata.time.end.timestamp.0 += n);
    let turned = alice.write_like(merge, |merge| merge.parents.reverse());
    let mut merges = [merge, later(1), later(2), later(3), turned];
    merges.sort_unstable();
    let least = merges[0];
    alice.memory.set_heads(merges);
    assert_eq!(alice.resolve(), least);
    // Beside another head, too.
    alice.memory.pull(&carol.memory);
    alice.memory.set_heads([merges.to_vec(), carol.heads()].concat());
    let with_all = alice.resolve();
    alice.memory.set_heads([vec![least], carol.heads()].concat());
    assert_eq!(alice.resolve(), with_all);
    assert!(alice.repo().view().heads().contains(other.id()));
    // What somebody did is never taken for one.
    let done = alice.write_like(merge, |merge| merge.metadata.description = "undo".into());
    alice.memory.set_heads([merge, done]);
    assert!(![merge, done].contains(&alice.resolve()));
}

#[test]
fn heads_of_any_time_are_merged() {
    let (alice, bob) = pair();
    alice.commit(&[alice.root()], "more", "more");
    let head = alice.heads()[0];
    let mut times = Vec::new();
    for end in [i64::MIN, -5, 253_402_300_799_998, 253_402_300_799_999, i64::MAX] {
        let ended = |description: &str| {
            alice.write_like(head, |operation| {
                operation.metadata.time.end.timestamp.0 = end;
                operation.metadata.description = description.into();
            })
        };
        let heads = [ended("one"), ended("other")];
        alice.memory.set_heads(heads);
        bob.memory.pull(&alice.memory);
        bob.memory.set_heads(heads);
        assert_eq!(alice.resolve(), bob.resolve());
        times.push(alice.repo().operation().metadata().time.end.timestamp.0);
    }
    assert_eq!(times[..3], [1, 1, 253_402_300_799_999]);
    assert!(
        times[3..].iter().all(|time| (253_000_000_000_000..253_402_300_799_999).contains(time))
    );
    assert_ne!(times[3], times[4]);
}

#[test]
fn a_head_that_another_comes_after_is_only_dropped() {
    let (alice, bob) = pair();
    let before = bob.heads();
    alice.commit(&[alice.root()], "second", "second");
    bob.memory.pull(&alice.memory);
    let after = alice.heads();
    bob.memory.set_heads([before.as_slice(), &after].concat());
    assert_eq!(vec![bob.resolve()], after);
}

/// Heads that two processes merge at once, of which one goes on before the other is done.
#[test]
fn who_is_late_brings_nothing_back_that_was_dropped() {
    let (alice, bob) = pair();
    let first = alice.heads()[0];
    alice.commit(&[alice.root()], "by alice", "a");
    bob.commit(&[bob.root()], "by bob", "b");
    exchange(&alice, &bob);
    let both = alice.heads();
    assert_eq!(both.len(), 2);
    // Nothing of the two is in its ancestors, as after `jj op abandon`.
    let abandoned = alice.write_like(first, |it| it.metadata.description = "abandon".into());
    alice.memory.set_heads_meanwhile([abandoned]);
    assert_eq!(alice.resolve(), abandoned);

    // One of the two is enough, and so is it where the other is only dropped.
    for late in [both.clone(), vec![first, both[0]]] {
        alice.memory.set_heads(late);
        alice.memory.set_heads_meanwhile([abandoned, both[1]]);
        let merge = alice.resolve();
        let parents = alice.repo().operation().parent_ids().len();
        assert_eq!((parents, merge), (2, bob_merges(&bob, &alice, [abandoned, both[1]])));
    }
}

fn bob_merges(bob: &Machine, alice: &Machine, heads: [ObjectId; 2]) -> ObjectId {
    bob.memory.pull(&alice.memory);
    bob.memory.set_heads(heads);
    bob.resolve()
}

#[test]
fn a_head_that_comes_while_others_are_merged_stays() {
    let (alice, bob) = pair();
    alice.commit(&[alice.root()], "by alice", "a");
    bob.commit(&[bob.root()], "by bob", "b");
    exchange(&alice, &bob);
    let both = alice.heads();
    let third = alice.write_like(both[0], |it| it.metadata.description = "third".into());
    alice.memory.set_heads_meanwhile([both[0], both[1], third]);
    let merge = resolve_heads(alice.memory.clone()).block_on().unwrap().unwrap();
    let mut left = vec![merge, third];
    left.sort_unstable();
    assert_eq!(alice.heads(), left);
    alice.resolve();
}

#[test]
fn heads_that_do_not_stand_still_are_an_error() {
    let (alice, _) = pair();
    let head = alice.heads()[0];
    // One that another comes after, which is quickly seen.
    let pair = |round: usize| {
        let first = alice.write_like(head, |it| it.metadata.description = round.to_string());
        let parent = OperationId::from_bytes(first.as_bytes());
        [first, alice.write_like(first, |it| it.parents = vec![parent])]
    };
    alice.memory.set_heads(pair(0));
    for round in 1..500 {
        alice.memory.set_heads_meanwhile(pair(round));
    }
    let error = resolve_heads(alice.memory.clone()).block_on().unwrap_err();
    assert!(matches!(error, ResolveError::Changing), "{error}");
}

/// Three machines, histories from a seed, exchanged at random: each resolves what it has.
#[test]
fn machines_that_resolve_at_random_come_to_one_head_and_to_rest() {
    for seed in 0..24_u8 {
        let machines = ["alice", "bob", "carol"].map(|user| Machine::seeded(user, seed));
        machines[0].commit(&[machines[0].root()], "first", "main");
        machines[1].memory.pull(&machines[0].memory);
        machines[2].memory.pull(&machines[0].memory);
        for step in 0..10_u8 {
            // A choice that is the same in every run.
            let chosen = *Object::new(ObjectKind::Raw, vec![seed, step]).id().as_bytes();
            let machine = &machines[usize::from(chosen[0]) % 3];
            let other = &machines[usize::from(chosen[1]) % 3];
            machine.resolve();
            let repo = machine.repo();
            let main = repo.view().get_local_bookmark("main".as_ref()).clone();
            let at = main.added_ids().next().unwrap().clone();
            match chosen[2] % 5 {
                0 => drop(machine.commit(&[at], "more", "main")),
                1 => drop(machine.commit(&[at], "aside", &format!("b{}", chosen[3] % 3))),
                2 => machine.describe(&repo.store().get_commit(&at).unwrap(), "otherwise"),
                3 => machine.change("edit", |repo| repo.set_wc_commit("w".into(), at).unwrap()),
                _ if std::ptr::eq(machine, other) => {}
                _ => machine.memory.pull(&other.memory),
            }
        }
        for round in 0.. {
            assert!(round < 5, "seed {seed}: they do not come to rest");
            for (one, other) in [(0, 1), (1, 2), (2, 0), (0, 1), (1, 2)] {
                exchange(&machines[one], &machines[other]);
            }
            let heads: Vec<ObjectId> = machines.iter().map(Machine::resolve).collect();
            assert!(heads.iter().all(|head| *head == heads[0]), "seed {seed}: {heads:?}");
            if round > 0 && machines.iter().all(|machine| machine.heads() == [heads[0]]) {
                break;
            }
        }
    }
}
