//! The scaled system under load and faults: the short form of `verify run --scaled`, and what its checks find in records
//! that were changed. `E2E_BROKER=kafka` runs it against Apache Kafka. Left out where PostgreSQL is not installed.

use std::time::Duration;

use harness::requests::{Answer, Late, Micros};
use harness::{Kind as BrokerKind, Outcome};
use verify::check::{Report, names};
use verify::evidence::{OffsetsSaid, Told};
use verify::scaled::check::check;
use verify::scaled::evidence::{End, Holder, Hurt, Manner, Part, Release, ScaledEvidence};
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
        stop_margin: MARGIN,
        faults,
    };
    let folder = tempfile::tempdir()?;
    let Some(round) = scaled::run(&plan, BrokerKind::from_env()?, folder.path()).await? else {
        return Ok(());
    };
    let ScaledRound { report, evidence, drained } = round;
    println!("drained in {:.1} s\n{report}", drained.as_secs_f32());
    assert!(report.is_sound(), "kept in {}: {report}", folder.keep().display());
    for name in [
        names::LOST,
        names::UNION,
        names::NOTIFIED_ONCE,
        names::OWNED,
        names::HANDED_OVER,
        names::TAKEN,
        names::REPLICAS,
    ] {
        let check = report.checks.iter().find(|check| check.name == name);
        assert!(check.is_some_and(|check| check.examined > Some(0)), "{name}: {check:?}");
    }
    assert!(
        evidence.strikes.iter().filter(|strike| strike.whom.is_some()).count() == 6,
        "each fault hit somebody: {:?}",
        evidence.strikes
    );
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
    // The client has given up: then there is no answer at all, 503, or one that comes too late.
    let none = || Answer::None { why: harness::TIMEOUT.to_owned() };
    let given_up = |it: &mut ScaledEvidence, after: Micros, answer: Answer| {
        it.hurts.clear();
        let request = it.requests.iter_mut().find(|one| one.done().is_some()).unwrap();
        request.correlation_id = "planted".to_owned();
        request.late = Some(Late { ended: request.sent + after, answer });
        request.answer = none();
    };
    let answered = sound.requests.iter().find(|one| one.done().is_some()).unwrap().answer.clone();
    let is_planted_found = |change: &dyn Fn(&mut ScaledEvidence)| {
        let mut changed = sound.clone();
        change(&mut changed);
        let found = check(&changed);
        found.found(names::UNAVAILABLE).iter().any(|one| one.contains("planted"))
    };
    assert!(is_planted_found(&|it| given_up(it, 11_000_000, none())));
    assert!(is_planted_found(&|it| given_up(it, 9_000_000, Answer::Failed { status: 503 })));
    assert!(is_planted_found(&|it| given_up(it, 100_000_000, answered.clone())));
    assert!(!is_planted_found(&|it| given_up(it, 9_000_000, answered.clone())), "it was answered in time");
    // 409 without a request that may still be running, and long after it.
    let in_conflict = |it: &mut ScaledEvidence, later: Micros| {
        it.hurts.clear();
        let request = it.requests.iter_mut().find(|one| one.done().is_some()).unwrap();
        request.correlation_id = "planted".to_owned();
        request.key = Some("a key".to_owned());
        request.answer = Answer::Refused { status: 409 };
        let mut first = request.clone();
        (first.sent, first.ended) = (first.sent - later, first.sent - later + 1);
        first.correlation_id = "the first".to_owned();
        first.answer = Answer::None { why: "a connection that broke".to_owned() };
        if later > 0 {
            it.requests.push(first);
        }
    };
    assert!(is_planted_found(&|it| in_conflict(it, 0)));
    assert!(is_planted_found(&|it| in_conflict(it, 100_000_000)));
    assert!(!is_planted_found(&|it| in_conflict(it, 5_000_000)), "the first may be running");
    // What a replica has received when it is asked to stop, it answers.
    let stopped = |it: &mut ScaledEvidence, before: Micros| {
        let request = &mut it.requests[0];
        request.correlation_id = "planted".to_owned();
        request.answer = Answer::None { why: "a connection that broke".to_owned() };
        request.ended = request.sent + before + 1;
        let (part, from) = (Part::Stopped(request.replica), request.sent + before);
        it.hurts = vec![Hurt { part, from, until: from + 1_000_000 }];
    };
    assert!(is_planted_found(&|it| stopped(it, 60_000_000)));
    assert!(!is_planted_found(&|it| stopped(it, 50_000)), "it may have come after the signal");
    finds(names::RUNNING, "has ended", &|it| it.troubles.push("one has ended".to_owned()));
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
    finds(names::OWNED, "never taken again", &|it| {
        let (holder, now) = (last_owner(it), harness::requests::now());
        it.ends.push(End { holder, manner: Manner::Paused(now + 3_600_000_000), at: now });
    });
    // The last owner's last commit, and what comes after it.
    let last_commit = |it: &ScaledEvidence| {
        let partition = &it.partitions[place];
        let entries = &mut partition.offsets.iter();
        let last = entries.rfind(|entry| entry.group == partition.audit_group).unwrap().clone();
        let OffsetsSaid::Commit { committed_at, .. } = last.said else { panic!("{last:?}") };
        (last, committed_at)
    };
    finds(names::HANDED_OVER, "was not given back", &|it| {
        let holder = last_owner(it);
        let (_, at) = last_commit(it);
        it.ends.push(End { holder, manner: Manner::Stopped(Some(0)), at });
    });
    // It renews its lease, and another claims at once.
    let claimed = |it: &mut ScaledEvidence, release: Option<&str>| {
        let (mut renewal, at) = last_commit(it);
        let at = at + 60_000_000;
        for place_in_log in [1_000_000, 1_000_001] {
            renewal.at = place_in_log;
            if let OffsetsSaid::Commit { committed_at, .. } = &mut renewal.said {
                *committed_at = at;
            }
            it.partitions[place].offsets.push(renewal.clone());
        }
        let released = release.map(|to| Release { at: renewal.at, to: Some(to.to_owned()) });
        it.released[place].extend(released);
        renewal.at += 1;
        renewal.said = OffsetsSaid::Claim { instance_id: "a thief".to_owned(), claimed_at: at + 1 };
        it.partitions[place].offsets.push(renewal);
    };
    finds(names::TAKEN, "which had last committed 0 ms", &|it| claimed(it, None));
    finds(names::TAKEN, "after it was given to another", &|it| claimed(it, Some("another")));
    finds(names::HANDED_OVER, "until its end and was not given back", &|it| {
        it.hurts.clear();
        it.relay_turns_given.clear();
    });
    finds(names::HANDED_OVER, "when asked to stop", &|it| {
        let end = it.ends.iter_mut().find(|end| matches!(end.manner, Manner::Stopped(_))).unwrap();
        end.manner = Manner::Stopped(Some(1));
    });
    for (name, is_meant) in [
        (names::OWNED, (|end| end.manner == Manner::Killed) as fn(&End) -> bool),
        (names::HANDED_OVER, |end| matches!(end.manner, Manner::Stopped(_))),
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
