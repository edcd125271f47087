//! Logs of instances that do not run: each has a part of the events that the others' logs lack.

use std::collections::{BTreeMap, BTreeSet};

use task_events::offsets::View;
use task_events::operate::members::MemberRow;
use uuid::Uuid;

use super::findings::Findings;

/// Partitions that are listed for an instance.
const MAX_LISTED: usize = 20;

/// By group, topic and instance: how far the part goes, of each partition.
type Parts = BTreeMap<(String, String, Uuid), BTreeMap<i32, i64>>;

pub(super) fn examine(view: &View, members: &[MemberRow], findings: &mut Findings) {
    for ((group, topic, id), partitions) in absent(view, members) {
        let ends = partitions.iter().take(MAX_LISTED);
        let ends: Vec<String> = ends.map(|(partition, end)| format!("{partition} below {end}")).collect();
        findings.warn(
            format!("group {group}"),
            format!(
                "instance {id} does not run, and its own log has a part of the events of {topic}: partition {}",
                ends.join(", ")
            ),
            "keep its log beside the others; where it is lost, see \"Several instances\" in docs/audit-log.md",
        );
    }
}

fn absent(view: &View, members: &[MemberRow]) -> Parts {
    let mut parts = Parts::new();
    for (slot, state) in view.fold.slots() {
        let Some((_, commit)) = state.last_commit() else { continue };
        let of_group =
            members.iter().filter(|member| member.group == slot.group && member.topic == slot.topic);
        let alive: BTreeSet<Uuid> = of_group.map(|member| member.instance_id).collect();
        for (id, end) in commit.done_by().iter().filter(|(id, end)| *end > 0 && !alive.contains(id)) {
            let of_instance = parts.entry((slot.group.clone(), slot.topic.clone(), id)).or_default();
            of_instance.insert(slot.partition, end);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use task_events::offsets::{Claim, Commit, DoneBy, OffsetsRecord, Slot};

    use super::*;

    #[test]
    fn an_instance_that_does_not_run_and_has_a_part_is_named_with_where_that_ends() {
        let [alive, gone, idle] = [1, 2, 3].map(Uuid::from_u128);
        let mut view = View::default();
        for partition in 0..2 {
            let slot = Slot { group: "g".to_owned(), topic: "t".to_owned(), partition };
            let offset = i64::from(partition) * 2;
            let claim = Claim::new(alive, "host", 1_000);
            view.fold.apply(offset, OffsetsRecord::Claim(slot.clone(), Some(claim))).unwrap();
            let mut done_by = DoneBy::default();
            [(alive, 90), (gone, 50 + i64::from(partition)), (idle, 0)]
                .iter()
                .for_each(|(id, end)| done_by.set(*id, *end));
            let commit = Commit::new(90, alive, false).with_done_by(&done_by);
            view.fold.apply(offset + 1, OffsetsRecord::Commit(slot, offset, Some(commit))).unwrap();
        }
        let member = MemberRow {
            group: "g".to_owned(),
            topic: "t".to_owned(),
            host: "host".to_owned(),
            instance_id: alive,
            joined_at: String::new(),
            is_alive: true,
            accepts: true,
            partitions: vec![0, 1],
            targets: vec![0, 1],
        };
        let mut findings = Findings::default();
        examine(&view, &[member], &mut findings);
        let [finding] = findings.0.as_slice() else { panic!("{findings:?}") };
        let text = format!("{finding:?}");
        assert!(text.contains(&gone.to_string()) && text.contains("0 below 50, 1 below 51"), "{text}");
    }
}
