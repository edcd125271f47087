//! What has to hold of [`World`](super::World), and the planted bugs that it has to find.

use proptest::prelude::*;

use super::ops::Op;
use super::{Bug, LEASE, PARTITIONS, SETTLE_TIME, TICK, World};

fn op() -> impl Strategy<Value = Op> {
    let who = 0..6usize;
    prop_oneof![
        3 => Just(Op::Join),
        1 => Just(Op::JoinOld),
        1 => Just(Op::Recreate),
        2 => who.clone().prop_map(Op::Leave),
        1 => who.clone().prop_map(Op::Kill),
        1 => who.clone().prop_map(Op::Pause),
        1 => who.clone().prop_map(Op::Resume),
        1 => (who.clone(), any::<bool>()).prop_map(|(who, is)| Op::Block(who, is)),
        1 => (who, any::<bool>()).prop_map(|(who, is)| Op::Break(who, is)),
        1 => any::<u8>().prop_map(Op::Compact),
        4 => (1..60u8).prop_map(Op::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_interleaving_ends_with_one_owner_each_and_even_shares(
        dice in any::<u64>(),
        ops in proptest::collection::vec(op(), 1..30),
    ) {
        let mut world = World::new(Bug::None, dice);
        for op in &ops {
            world.take(op);
        }
        world.come_to_rest();
        prop_assert_eq!(world.wrong(), None);
    }

    #[test]
    fn without_faults_the_moves_are_the_fewest(dice in any::<u64>(), joins in proptest::collection::vec(1..4usize, 1..4)) {
        let mut world = World::new(Bug::None, dice);
        world.join();
        world.come_to_rest();
        prop_assert_eq!(world.claims, PARTITIONS, "alone it claims each once");
        for join in joins {
            prop_assert_eq!(moves_of_joining(&mut world, join), fewest(&world, join));
            prop_assert_eq!(world.wrong(), None);
            // One leaves in order: what it had is claimed once, by the others.
            if world.instances.len() > 1 {
                let (claims, had) = (world.claims, world.counts()[0]);
                world.leave(0);
                world.run(LEASE);
                prop_assert_eq!(world.claims - claims, had);
                prop_assert_eq!(world.wrong(), None);
            }
        }
    }
}

/// The claims that follow when so many join within the time to settle.
fn moves_of_joining(world: &mut World, join: usize) -> usize {
    let claims = world.claims;
    for _ in 0..join {
        world.join();
        world.run(3 * TICK);
    }
    world.run(SETTLE_TIME + LEASE);
    world.claims - claims
}

/// What the instances have that joined last: they had nothing before.
fn fewest(world: &World, join: usize) -> usize {
    let counts = world.counts();
    counts[counts.len() - join..].iter().sum()
}

fn shared_by_three(bug: Bug) -> (World, usize) {
    let mut world = World::new(bug, 7);
    world.join();
    world.run(LEASE);
    let moves = moves_of_joining(&mut world, 2);
    (world, moves)
}

#[test]
fn planted_bugs_are_found() {
    let (mut world, moves) = shared_by_three(Bug::None);
    assert_eq!((moves, world.wrong()), (4, None));
    let (mut world, _) = shared_by_three(Bug::Thief);
    let wrong = world.wrong().expect("a thief is found");
    assert!(wrong.contains("living owner"), "{wrong}");
    let (mut world, _) = shared_by_three(Bug::Invisible);
    let wrong = world.wrong().expect("an invisible newcomer is found");
    assert!(wrong.contains("the instances have"), "{wrong}");
    let (_, moves) = shared_by_three(Bug::Hasty);
    assert!(moves > 4, "who gives in haste moves more: {moves}");
}

#[test]
fn what_is_given_to_one_that_does_not_claim_comes_back_and_is_not_given_at_once_again() {
    let mut world = World::new(Bug::None, 3);
    world.join();
    world.run(LEASE);
    world.join();
    world.instances[1].is_broken = true;
    world.run(SETTLE_TIME + 2 * LEASE);
    assert_eq!(world.counts(), [PARTITIONS, 0], "it came back");
    let claims = world.claims;
    world.run(2 * LEASE);
    assert_eq!(world.claims, claims, "and stays");
    world.come_to_rest();
    assert_eq!(world.wrong(), None);
}

#[test]
fn one_that_is_blocked_is_given_nothing_and_keeps_what_it_has() {
    let mut world = World::new(Bug::None, 5);
    world.join();
    world.run(LEASE);
    world.join();
    world.instances[1].is_blocked = true;
    world.run(SETTLE_TIME + 2 * LEASE);
    assert_eq!(world.counts(), [PARTITIONS, 0]);
    world.come_to_rest();
    assert_eq!((world.counts(), world.wrong()), (vec![3, 3], None));
    world.instances[1].is_blocked = true;
    world.run(5 * LEASE);
    assert_eq!(world.counts(), [3, 3]);
}

#[test]
fn after_the_offsets_topic_was_recreated_each_owner_has_what_it_had() {
    let (mut world, _) = shared_by_three(Bug::None);
    let (had, claims) = (world.counts(), world.claims);
    world.take(&Op::Recreate);
    world.run(2 * LEASE);
    assert_eq!((world.counts(), world.claims - claims), (had, PARTITIONS));
    assert_eq!(world.wrong(), None);
}

/// It takes what is given to others, and is left with it.
#[test]
fn beside_instances_of_an_older_version_the_others_come_to_rest() {
    let mut world = World::new(Bug::None, 11);
    world.join();
    world.run(LEASE);
    world.take(&Op::JoinOld);
    world.join();
    world.come_to_rest();
    assert_eq!(world.wrong(), None);
    assert_eq!(world.counts().iter().sum::<usize>(), PARTITIONS);
}
