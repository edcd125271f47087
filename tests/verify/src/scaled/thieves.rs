//! Nobody takes from the living.
//!
//! - A partition that was not given back is claimed by another instance only after a lease without a record of its owner.
//!   The last record may have been on its way when the claim was sent; the one before it was in the log by then.
//! - What was given to one instance is claimed by others only after a third of a lease.
//!
//! A claim over one's own, after a restart, takes from nobody. Nor does one that was sent when the owner had only just
//! claimed: both had seen the partition free.

use super::evidence::ScaledEvidence;
use super::group::Group;
use super::succession::{lease, turns_of};
use super::turns::Turn;
use crate::check::{Check, names};
use harness::requests::Micros;

/// Between a record's time and its sending, and for clocks that are adjusted.
const SLACK: Micros = 50_000;

/// All changes of owners.
pub(super) fn check(evidence: &ScaledEvidence) -> Check {
    let (mut examined, mut violations) = (0, Vec::new());
    for group in Group::ALL {
        for (partition, turns) in turns_of(evidence, group).iter().enumerate() {
            for (before, next) in turns.iter().zip(turns.iter().skip(1)) {
                if before.instance == next.instance {
                    continue;
                }
                examined += 1;
                violations.extend(
                    theft(before, next)
                        .map(|why| format!("partition {partition} of {}: {why}", group.name())),
                );
            }
        }
    }
    // A round without a fault has no change of owners.
    if examined == 0 {
        Check::without_evidence(names::TAKEN)
    } else {
        Check::new(names::TAKEN, examined, violations)
    }
}

fn theft(before: &Turn<'_>, next: &Turn<'_>) -> Option<String> {
    let Turn { instance, token, at, .. } = next;
    if let Some(released) = before.released_at {
        let to = before.to.filter(|to| to != instance)?;
        let waited = at - released;
        return (waited + SLACK < lease() / 3).then(|| {
            format!("{instance} claimed (token {token}) {} ms after it was given to {to}", waited / 1_000)
        });
    }
    let silence = at - before.earlier_sign?;
    let is_new = *at < before.at + lease();
    (!is_new && silence + SLACK < lease()).then(|| {
        format!(
            "{instance} claimed (token {token}) from {}, which had last committed {} ms and {} ms before",
            before.instance,
            (at - before.last_sign) / 1_000,
            silence / 1_000
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Turn<'_> = Turn {
        token: 1,
        instance: "owner",
        at: 0,
        start: 0,
        in_order: false,
        released_at: None,
        to: None,
        last_sign: 20_000_000,
        earlier_sign: Some(19_300_000),
    };

    fn claim(instance: &str, at: i64) -> Turn<'_> {
        Turn { token: 9, instance, at, last_sign: at, earlier_sign: None, ..OWNER }
    }

    #[test]
    fn who_renews_its_lease_is_not_taken_from() {
        assert!(theft(&OWNER, &claim("thief", 20_100_000)).is_some());
        assert!(theft(&OWNER, &claim("standby", 22_000_000)).is_none(), "a lease later");
        // The last renewal was on its way when the lease was over.
        let late = Turn { earlier_sign: Some(17_900_000), ..OWNER };
        assert!(theft(&late, &claim("standby", 20_100_000)).is_none());
        // Both claimed what was free.
        let new = Turn { at: 19_000_000, ..OWNER };
        assert!(theft(&new, &claim("other", 20_100_000)).is_none());
    }

    #[test]
    fn what_was_given_to_one_is_not_taken_by_another_at_once() {
        let given = Turn { released_at: Some(20_000_000), to: Some("named"), ..OWNER };
        assert!(theft(&given, &claim("named", 20_000_100)).is_none());
        assert!(theft(&given, &claim("thief", 20_000_100)).is_some());
        assert!(theft(&given, &claim("standby", 20_670_000)).is_none(), "a third of a lease later");
        let free = Turn { to: None, ..given };
        assert!(theft(&free, &claim("anybody", 20_000_100)).is_none());
    }
}
