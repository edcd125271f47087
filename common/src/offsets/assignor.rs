//! Which instance is to own which partition, as a pure function: all who have read the offsets topic to the same
//! record compute the same.
//!
//! # Invariants
//!
//! - *Even*: the partitions that can be shared are shared so that nobody has two more than another.
//! - *Sticky*: an instance keeps what it has, up to its share, and the larger shares go to those that have most. So
//!   no other distribution that is as even takes fewer moves, and an even one takes none.
//! - *Nobody is given more who does not accept it*, and nothing moves from an owner that does not share by these
//!   rules.

use std::collections::BTreeMap;

use uuid::Uuid;

/// Who has a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Nobody.
    Nobody,
    /// A member.
    Member(Uuid),
    /// A living owner that does not share: an instance of an older version, or an operator's command.
    Other,
}

/// Who is to own each partition, by its number; `None`: not for anybody of the members to say. `members` says of
/// each whether it accepts more than it has.
pub fn targets(holders: &[Holder], members: &BTreeMap<Uuid, bool>) -> Vec<Option<Uuid>> {
    let mut had: BTreeMap<Uuid, Vec<usize>> = members.keys().map(|id| (*id, Vec::new())).collect();
    let mut spare = Vec::new();
    for (partition, holder) in holders.iter().enumerate() {
        match holder {
            Holder::Other => {}
            Holder::Member(id) if had.contains_key(id) => had.entry(*id).or_default().push(partition),
            Holder::Member(_) | Holder::Nobody => spare.push(partition),
        }
    }
    let mut targets = vec![None; holders.len()];
    let mut assign = |partition: usize, to: Uuid| {
        if let Some(target) = targets.get_mut(partition) {
            *target = Some(to);
        }
    };
    let shares = shares(&had, members, spare.len());
    let mut wanting = Vec::new();
    for (id, partitions) in had {
        let share = shares.get(&id).copied().unwrap_or(0);
        partitions.iter().take(share).for_each(|partition| assign(*partition, id));
        spare.extend(partitions.iter().skip(share));
        wanting.push((share.saturating_sub(partitions.len()), id));
    }
    spare.sort_unstable();
    // To whom lacks most, so that what comes together is spread.
    for partition in spare {
        let most = wanting.iter_mut().max_by_key(|(lacks, id)| (*lacks, std::cmp::Reverse(*id)));
        let Some((lacks, id)) = most.filter(|(lacks, _)| *lacks > 0) else { break };
        assign(partition, *id);
        *lacks -= 1;
    }
    targets
}

/// How many partitions each member is to have.
fn shares(
    had: &BTreeMap<Uuid, Vec<usize>>,
    members: &BTreeMap<Uuid, bool>,
    spare: usize,
) -> BTreeMap<Uuid, usize> {
    let mut left = spare + had.values().map(Vec::len).sum::<usize>();
    let mut open: Vec<(usize, Uuid)> = had.iter().map(|(id, has)| (has.len(), *id)).collect();
    open.sort_by_key(|(has, id)| (std::cmp::Reverse(*has), *id));
    let mut shares = BTreeMap::new();
    while !open.is_empty() {
        let (each, larger) = (left / open.len(), left % open.len());
        let mut rest = Vec::new();
        let mut capped = 0;
        for (place, (has, id)) in open.iter().copied().enumerate() {
            let share = each + usize::from(place < larger);
            let accepts = members.get(&id).copied().unwrap_or(false);
            let is_capped = !accepts && has < share;
            shares.insert(id, if is_capped { has } else { share });
            if is_capped {
                capped += has;
            } else {
                rest.push((has, id));
            }
        }
        if rest.len() == open.len() {
            break;
        }
        // What those do not take that accept no more is for the others.
        left -= capped;
        open = rest;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: usize) -> Uuid {
        Uuid::from_u128(n as u128 + 1)
    }

    fn counts(targets: &[Option<Uuid>], members: &BTreeMap<Uuid, bool>) -> Vec<usize> {
        members.keys().map(|id| targets.iter().filter(|target| **target == Some(*id)).count()).collect()
    }

    fn members(accept: &[bool]) -> BTreeMap<Uuid, bool> {
        accept.iter().enumerate().map(|(n, accepts)| (id(n), *accepts)).collect()
    }

    #[test]
    fn one_instance_has_all_and_three_have_two_each() {
        let alone = targets(&[Holder::Nobody; 6], &members(&[true]));
        assert_eq!(alone, vec![Some(id(0)); 6]);
        let holders = alone.iter().map(|target| Holder::Member(target.unwrap())).collect::<Vec<_>>();
        let three = members(&[true; 3]);
        let shared = targets(&holders, &three);
        assert_eq!(counts(&shared, &three), [2, 2, 2]);
        assert_eq!(shared[..2], [Some(id(0)); 2], "it keeps what it has");
        assert_eq!(targets(&holders, &members(&[])), vec![None; 6]);
    }

    #[test]
    fn who_does_not_accept_keeps_its_own_and_gets_no_more() {
        let holders = [0, 0, 0, 1, 1, 1].map(|n| Holder::Member(id(n)));
        let blocked = members(&[true, false]);
        assert_eq!(counts(&targets(&holders, &blocked), &blocked), [3, 3], "nothing moves");
        let holders = [Holder::Nobody, Holder::Nobody, Holder::Member(id(1))];
        assert_eq!(targets(&holders, &blocked), [Some(id(0)), Some(id(0)), Some(id(1))]);
        let holders = [0; 6].map(|n| Holder::Member(id(n)));
        let blocked = members(&[false, true]);
        assert_eq!(counts(&targets(&holders, &blocked), &blocked), [3, 3], "it gives");
        assert_eq!(targets(&[Holder::Nobody], &members(&[false])), [None]);
    }

    #[test]
    fn what_an_older_version_owns_is_left_alone() {
        let holders = [Holder::Other, Holder::Nobody, Holder::Other, Holder::Nobody];
        assert_eq!(targets(&holders, &members(&[true, true])), [None, Some(id(0)), None, Some(id(1))]);
    }

    proptest! {
        #[test]
        fn shares_are_even_and_moves_are_the_fewest(
            holders in proptest::collection::vec(0..8usize, 0..40),
            accept in proptest::collection::vec(any::<bool>(), 1..6),
        ) {
            let members = members(&accept);
            // 6: nobody, 7: an older version; a number above the members: one that is dead.
            let holders: Vec<Holder> = holders.into_iter().map(|n| match n {
                6 => Holder::Nobody,
                7 => Holder::Other,
                n => Holder::Member(id(n)),
            }).collect();
            let targets = targets(&holders, &members);
            let has = |id: &Uuid| holders.iter().filter(|holder| **holder == Holder::Member(*id)).count();
            let counts = counts(&targets, &members);
            let shared = holders.iter().filter(|holder| **holder != Holder::Other).count();
            if accept.iter().all(|accepts| *accepts) {
                prop_assert_eq!(counts.iter().sum::<usize>(), shared, "all are assigned");
                prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
                // The fewest moves: the largest shares to those that have most.
                let mut have: Vec<usize> = members.keys().map(has).collect();
                have.sort_unstable_by(|a, b| b.cmp(a));
                let (each, larger) = (shared / members.len(), shared % members.len());
                let share = |place: usize| each + usize::from(place < larger);
                let fewest: usize = have.iter().enumerate().map(|(n, has)| has.saturating_sub(share(n))).sum();
                let moved = holders.iter().zip(&targets).filter(|(holder, target)| match holder {
                    Holder::Member(id) if members.contains_key(id) => **target != Some(*id),
                    _ => false,
                }).count();
                prop_assert_eq!(moved, fewest);
            }
            for (partition, (holder, target)) in holders.iter().zip(&targets).enumerate() {
                if *holder == Holder::Other {
                    prop_assert_eq!(*target, None, "partition {}", partition);
                }
            }
            for ((id, accepts), count) in members.iter().zip(&counts) {
                prop_assert!(*accepts || *count <= has(id), "{} got more", id);
            }
            // At its target nothing moves.
            let at_rest: Vec<Holder> = holders.iter().zip(&targets).map(|(holder, target)| {
                target.map_or(*holder, Holder::Member)
            }).collect();
            if accept.iter().any(|accepts| *accepts) {
                prop_assert_eq!(super::targets(&at_rest, &members), targets);
            }
        }
    }
}
