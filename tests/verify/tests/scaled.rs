//! The scaled system under load and faults: the short form of `verify run --scaled`, and what its checks find in records
//! that were changed. `E2E_BROKER=kafka` runs it against Apache Kafka. Left out where PostgreSQL is not installed.

use std::time::Duration;

use harness::requests::{Answer, Micros};
use harness::{Kind as BrokerKind, Outcome};
use verify::check::{Report, names};
use verify::evidence::{OffsetsSaid, Told};
use verify::scaled::check::check;
use verify::scaled::evidence::{End, Holder, Manner, Part, ScaledEvidence};
use verify::scaled::group::Group;
use verify::scaled::plan::{ScaledFault, ScaledPlan, ScaledPlanned};
use verify::scaled::{self, ScaledRound};

/// So long that a busy machine does not fail the test; how long it was is printed.
const MARGIN: Duration = Duration::from_secs(40);

fn planned(fault: ScaledFault, at_ms: u64, lasts_ms: u64) -> ScaledPlanned {
    let (at, lasts) = (Duration::from_millis(at_ms), Duration::from_millis(lasts_ms));
    ScaledPlanned { fault, at, lasts }
}

/// The replica that publishes stops and the next one dies, as does an owner of partitions; PostgreSQL restarts, an instance
/// joins and one leaves.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_and_instances_that_die_join_and_leave_lose_and_repeat_nothing_and_each_check_finds_its_fault()
-> Outcome {
    let faults = vec![
        planned(ScaledFault::JoinAudit, 500, 0),
        planned(ScaledFault::StopRelay, 1_000, 1_000),
        planned(ScaledFault::KillAudit, 1_500, 4_000),
        planned(ScaledFault::LeaveNotification, 2_000, 2_500),
        planned(ScaledFault::CrashDatabase, 3_000, 500),
        planned(ScaledFault::KillRelay, 4_500, 2_000),
    ];
    let load = Duration::from_secs(7);
    let plan = ScaledPlan {
        seed: 1,
        load,
        connections: 12,
        rate: Some(150),
        // None is paused: a machine that is busy is waited for.
        answer_limit: harness::ANSWER_LIMIT,
        margin: MARGIN,
        faults,
    };
    let folder = tempfile::tempdir()?;
    let Some(round) = scaled::run(&plan, BrokerKind::from_env()?, folder.path()).await? else {
        return Ok(());
    };
    let ScaledRound { report, evidence, drained } = round;
    println!("drained in {:.1} s\n{report}", drained.as_secs_f32());
    assert!(report.is_sound(), "kept in {}: {report}", folder.keep().display());
    for name in
        [names::LOST, names::UNION, names::NOTIFIED_ONCE, names::OWNED, names::HANDED_OVER, names::REPLICAS]
    {
        let check = report.checks.iter().find(|check| check.name == name);
        assert!(check.is_some_and(|check| check.examined > Some(0)), "{name}: {check:?}");
    }
    assert!(evidence.requests.len() > 200, "{} requests", evidence.requests.len());
    assert!(
        evidence.hurts.iter().any(|hurt| hurt.part == Part::Database)
            && evidence.hurts.iter().any(|hurt| matches!(hurt.part, Part::Down(_))),
        "both were hurt: {:?}",
        evidence.hurts
    );
    let kept = tempfile::tempdir()?;
    evidence.write(kept.path())?;
    let read = ScaledEvidence::read(kept.path())?.expect("a round of the scaled system");
    assert!(check(&read).is_sound() && read.requests == evidence.requests, "what was kept is the same");
    planted(&evidence);
    Ok(())
}

/// The partition with the longest part of an audit log.
fn busiest(evidence: &ScaledEvidence) -> usize {
    let lines = |place: &usize| {
        evidence.partitions[*place].audit_logs.iter().map(|log| log.lines.len()).max().unwrap_or(0)
    };
    (0..evidence.partitions.len()).max_by_key(lines).unwrap()
}

/// Moves all claims, and all turns to publish, after that time by a minute.
fn later(it: &mut ScaledEvidence, at: Micros) {
    const MINUTE: Micros = 60_000_000;
    it.hurts.clear();
    for entry in it.partitions.iter_mut().flat_map(|partition| &mut partition.offsets) {
        if let OffsetsSaid::Claim { claimed_at, .. } = &mut entry.said
            && *claimed_at > at
        {
            *claimed_at += MINUTE;
        }
    }
    it.relay_turns.iter_mut().filter(|turn| turn.at > at).for_each(|turn| turn.at += MINUTE);
}

/// Records of a sound run, changed so that a check has to find something.
fn planted(sound: &ScaledEvidence) {
    let finds = |name: &str, text: &str, change: &dyn Fn(&mut ScaledEvidence)| {
        let mut changed = sound.clone();
        change(&mut changed);
        let report: Report = check(&changed);
        let found = report.found(name);
        assert!(found.iter().any(|one| one.contains(text)), "{name}: {text} is not in\n{report}");
    };
    let place = busiest(sound);
    // The log with the most lines of that partition, and another.
    let longest = |it: &ScaledEvidence| {
        let logs = &it.partitions[place].audit_logs;
        (0..logs.len()).max_by_key(|log| logs[*log].lines.len()).unwrap()
    };
    finds(names::LOST, "not in the audit log", &|it| {
        let log = longest(it);
        drop(it.partitions[place].audit_logs[log].lines.pop());
    });
    finds(names::LOST_STATE, "does not have it", &|it| it.tasks.iter_mut().for_each(|list| drop(list.pop())));
    finds(names::REPLICAS, "replica 3 lists", &|it| drop(it.tasks[2].pop()));
    finds(names::UNION, "claimed nothing", &|it| {
        let log = longest(it);
        let line = it.partitions[place].audit_logs[log].lines[0].clone();
        let other = (log + 1) % it.partitions[place].audit_logs.len();
        let other = &mut it.partitions[place].audit_logs[other];
        other.instance_id = Some("one that never owned".to_owned());
        other.lines.push(line);
    });
    finds(names::UNION, "did it again, and started at", &|it| {
        // Another claims when all is done, and does the first event again.
        let partition = &mut it.partitions[place];
        let group = partition.audit_group.clone();
        let last = partition.offsets.iter().rfind(|entry| entry.group == group).unwrap().clone();
        let OffsetsSaid::Commit { committed_at, .. } = last.said else { panic!("{last:?}") };
        let mut claim = last;
        claim.at = 1_000_000;
        claim.said = OffsetsSaid::Claim { instance_id: "another".to_owned(), claimed_at: committed_at + 1 };
        partition.offsets.push(claim);
        let logs = &partition.audit_logs;
        let mut log = logs.iter().max_by_key(|log| log.lines.len()).unwrap().clone();
        log.instance_id = Some("another".to_owned());
        log.lines.truncate(1);
        log.lines[0].at = committed_at + 2;
        partition.audit_logs.push(log);
    });
    finds(names::NOTIFIED_ONCE, "the same owner did it again", &|it| {
        let told = it.partitions[place].told.as_mut().unwrap();
        let again: Told = told[0].clone();
        told.push(again);
    });
    finds(names::UNAVAILABLE, "which was well", &|it| {
        it.hurts.clear();
        it.requests[0].answer = Answer::Failed { status: 503 };
    });
    finds(names::UNAVAILABLE, "which was well", &|it| {
        it.requests[0].answer = Answer::Refused { status: 404 };
    });
    // A replica that answers nobody any more, and is asked again.
    finds(names::UNAVAILABLE, "which was well", &|it| {
        it.hurts.clear();
        let mut asked: Vec<_> = it.requests.iter_mut().filter(|request| request.replica == 1).collect();
        for request in &mut asked {
            request.answer = Answer::None { why: harness::TIMEOUT.to_owned() };
        }
        let first = asked[0].sent;
        let again = asked.last_mut().unwrap();
        (again.sent, again.ended) = (first + 6_000_000, first + 9_000_000);
    });
    finds(names::UNAVAILABLE, "which was well", &|it| {
        // A kill excuses no 5xx.
        it.hurts.retain(|hurt| matches!(hurt.part, Part::Down(_)));
        let Part::Down(replica) = it.hurts[0].part else { return };
        let down = it.hurts[0];
        let request = it.requests.iter_mut().find(|one| one.replica == replica).unwrap();
        (request.sent, request.ended) = (down.from, down.until);
        request.answer = Answer::Failed { status: 503 };
    });
    let last_owner = |it: &ScaledEvidence| {
        let partition = &it.partitions[place];
        let claims = partition.offsets.iter().filter(|entry| entry.group == partition.audit_group);
        let mut owners = claims.filter_map(|entry| match &entry.said {
            OffsetsSaid::Claim { instance_id, .. } => Some(instance_id.clone()),
            OffsetsSaid::Commit { .. } => None,
        });
        Holder::Instance { group: Group::Audit, id: owners.next_back().unwrap() }
    };
    finds(names::OWNED, "never taken again", &|it| {
        let holder = last_owner(it);
        it.ends.push(End { holder, manner: Manner::Killed, at: harness::requests::now() });
    });
    finds(names::HANDED_OVER, "never taken again", &|it| {
        let holder = last_owner(it);
        it.ends.push(End { holder, manner: Manner::Stopped(Some(0)), at: harness::requests::now() });
    });
    finds(names::HANDED_OVER, "when asked to stop", &|it| {
        let end = it.ends.iter_mut().find(|end| matches!(end.manner, Manner::Stopped(_))).unwrap();
        end.manner = Manner::Stopped(Some(1));
    });
    for (name, is_meant) in [
        (names::OWNED, (|end| end.manner == Manner::Killed) as fn(&End) -> bool),
        (names::HANDED_OVER, |end| end.manner != Manner::Killed),
    ] {
        for is_replica in [false, true] {
            // All who came after it came a minute later.
            finds(name, "in place of", &|it| {
                let ends = it.ends.iter().filter(|end| is_meant(end));
                let mut ends = ends.filter(|end| matches!(end.holder, Holder::Replica(_)) == is_replica);
                let at = ends.next().unwrap().at;
                later(it, at);
            });
        }
    }
    finds(names::ORDER, "is before", &|it| {
        let topic = it.partitions[place].topic.as_mut().unwrap();
        let task = topic.iter().find(|seen| seen.event_type == "task.completed").unwrap().task_id.clone();
        let of_task: Vec<usize> = (0..topic.len()).filter(|at| topic[*at].task_id == task).collect();
        let (first, last) = (of_task[0], *of_task.last().unwrap());
        let (before, after) = (topic[first].offset, topic[last].offset);
        (topic[first].offset, topic[last].offset) = (after, before);
        topic.swap(first, last);
    });
    finds(names::TOPIC_ORDER, "after", &|it| {
        let log = longest(it);
        it.partitions[place].audit_logs[log].lines.swap(1, 2);
    });
}
