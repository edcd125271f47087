//! The system under load and faults, with fixed seeds: the short form of `verify run` and `verify outage`.
//! `E2E_BROKER=kafka` runs them against Apache Kafka.

use std::collections::HashSet;
use std::time::Duration;

use harness::{Kind as BrokerKind, Outcome, alone};
use verify::evidence::{Evidence, OffsetsSaid};
use verify::plan::{Fault, Plan, Planned};
use verify::round::{self, Round};

/// How long the broker is unreachable; `verify outage` does it for a minute.
const OUTAGE: Duration = Duration::from_secs(15);
const LOAD: Duration = Duration::from_secs(6);

async fn sound(plan: &Plan) -> Round {
    let folder = tempfile::tempdir().unwrap();
    println!("seed {}: {}", plan.seed, plan.describe());
    let round = round::run(plan, BrokerKind::from_env().unwrap(), folder.path()).await.unwrap();
    assert!(
        round.report.is_sound(),
        "seed {}: {}: {}\nkept in {}; run this test again, its plan is its seed's",
        plan.seed,
        plan.describe(),
        round.report,
        folder.keep().display()
    );
    println!("{} requests", round.evidence.requests.len());
    assert!(round.evidence.requests.len() > 50, "{} requests", round.evidence.requests.len());
    round
}

fn planned(fault: Fault, at_ms: u64, lasts_ms: u64) -> Planned {
    let (at, lasts) = (Duration::from_millis(at_ms), Duration::from_millis(lasts_ms));
    Planned { fault, at, lasts, percent: 100 }
}

fn plan(seed: u64, load: Duration, rate: u32, faults: Vec<Planned>) -> Plan {
    Plan { seed, load, connections: 32, rate: Some(rate), faults }
}

/// One round of each seed; together they plan each of the faults.
async fn rounds(seeds: &[u64], faults: &[Fault]) {
    let _alone = alone().await;
    let plans: Vec<_> = seeds.iter().map(|seed| Plan::of(*seed, faults, LOAD, Some(400))).collect();
    for fault in faults {
        assert!(plans.iter().any(|plan| plan.has(*fault)), "no seed has {fault:?}");
    }
    for plan in plans {
        sound(&plan).await;
    }
}

/// The instances of a group that committed.
fn owners(evidence: &Evidence, group: &str) -> HashSet<String> {
    let commits = evidence.offsets.iter().filter(|entry| entry.group == group);
    let instances = commits.filter_map(|entry| match &entry.said {
        OffsetsSaid::Commit { instance_id, .. } => Some(instance_id.clone()),
        OffsetsSaid::Claim { .. } => None,
    });
    instances.collect()
}

/// SC-5
#[tokio::test(flavor = "multi_thread")]
async fn with_kafka_unreachable_no_request_fails_and_nothing_is_lost() -> Outcome {
    let _alone = alone().await;
    let away = planned(Fault::KillBroker, 2_000, OUTAGE.as_millis() as u64);
    let plan = plan(5, OUTAGE + Duration::from_secs(5), 500, vec![away]);
    let round = sound(&plan).await;
    let requests = &round.evidence.requests;
    assert!(requests.iter().all(|request| request.done().is_some()), "each is answered 2xx");
    assert!(requests.len() > 1_000, "the API goes on: {} requests", requests.len());
    Ok(())
}

/// SC-6
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_each_process_at_random_moments_loses_nothing() -> Outcome {
    let kills =
        [Fault::KillApi, Fault::KillNotification, Fault::KillAudit, Fault::KillDlq, Fault::KillBroker];
    rounds(&[2, 5, 6, 12], &kills).await;
    Ok(())
}

/// SC-7
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_was_paused_past_its_lease_changes_nothing() -> Outcome {
    let _alone = alone().await;
    let pauses =
        vec![planned(Fault::PauseNotification, 1_500, 4_000), planned(Fault::PauseAudit, 1_500, 4_500)];
    let round = sound(&plan(7, Duration::from_secs(9), 400, pauses)).await;
    for group in harness::GROUPS {
        assert_eq!(owners(&round.evidence, group).len(), 2, "another {group} took over");
    }
    let lines = round.evidence.audit_logs.iter().map(|log| log.lines.len());
    assert!(lines.clone().all(|lines| lines > 0), "both wrote: {:?}", lines.collect::<Vec<_>>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_network_loses_nothing() -> Outcome {
    let network = [
        Fault::NetDelay,
        Fault::NetStall,
        Fault::NetCut,
        Fault::NetHalfOpen,
        Fault::NetTrickle,
        Fault::NetDropReplies,
    ];
    rounds(&[4, 7, 8, 11, 13, 15], &network).await;
    Ok(())
}

/// The requests of a produce come through, its replies do not: the relay finds what is in the topic.
#[tokio::test(flavor = "multi_thread")]
async fn lost_replies_double_nothing() -> Outcome {
    let _alone = alone().await;
    let lost = planned(Fault::NetDropReplies, 1_000, 500);
    let round = sound(&plan(8, LOAD, 400, vec![lost])).await;
    let topic = round.evidence.topic.unwrap();
    let ids: HashSet<_> = topic.iter().map(|seen| &seen.event_id).collect();
    assert_eq!(ids.len(), topic.len(), "each event is once in the topic");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_broker_or_api_and_a_full_disk_lose_nothing() -> Outcome {
    rounds(&[5, 14], &[Fault::PauseApi, Fault::PauseBroker, Fault::FullAudit, Fault::FullStore]).await;
    Ok(())
}

/// Real I/O errors under the audit log, the API's store and the notification services' state.
#[tokio::test(flavor = "multi_thread")]
async fn disks_that_fail_lose_nothing() -> Outcome {
    rounds(&[5], &[Fault::EioAudit, Fault::EioStore, Fault::EioState]).await;
    Ok(())
}

/// The wall clock of all services is two hours slow for a while, then two hours fast.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_stepped_back_and_forward_loses_nothing() -> Outcome {
    let _alone = alone().await;
    for clock in [Fault::ClockBack, Fault::ClockForward] {
        let faults = vec![planned(clock, 1_500, 2_000), planned(Fault::KillNotification, 2_000, 500)];
        let round = sound(&plan(9, LOAD, 400, faults)).await;
        if !round.evidence.clock_stepped {
            return Ok(());
        }
        let times = round.evidence.audit_logs.iter().flat_map(|log| &log.lines).map(|line| line.at);
        let apart = times.clone().max().zip(times.min()).map(|(last, first)| (last - first) / 1_000_000);
        assert!(apart > Some(3_600), "the clock was stepped under the audit service: {apart:?} s apart");
    }
    Ok(())
}

/// SC-10: other producers, administrators and backup tools.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_do_to_topics_and_audit_logs_loses_nothing() -> Outcome {
    let _alone = alone().await;
    let others = [
        (Fault::ForeignTransaction, 3_000),
        (Fault::ForeignBatches, 2_000),
        (Fault::RecreateTopic, 1_000),
        (Fault::RestoreAudit, 2_000),
        (Fault::RotateAudit, 0),
    ];
    // Two seeds, as each decides between a commit and an abort, and how a log is rotated or restored.
    for seed in [1, 2] {
        for (fault, lasts_ms) in others {
            sound(&plan(seed, LOAD, 300, vec![planned(fault, 1_500, lasts_ms)])).await;
        }
    }
    Ok(())
}

/// The disk of the audit service that owns hangs: the standby takes over.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_hands_the_audit_over() -> Outcome {
    let _alone = alone().await;
    let hangs = planned(Fault::HangAudit, 1_500, 6_000);
    let round = sound(&plan(3, Duration::from_secs(9), 300, vec![hangs])).await;
    if harness::FailingDisk::mount(1024).is_some() {
        assert_eq!(owners(&round.evidence, "audit-service").len(), 2, "the standby took over");
    }
    Ok(())
}

/// A log collector that stalls: requests are answered meanwhile, and each notification is written.
#[tokio::test(flavor = "multi_thread")]
async fn outputs_that_nobody_reads_lose_nothing() -> Outcome {
    let _alone = alone().await;
    let stalls =
        vec![planned(Fault::StallApiLog, 1_500, 4_000), planned(Fault::StallNotificationLog, 1_500, 4_000)];
    let round = sound(&plan(4, Duration::from_secs(8), 400, stalls)).await;
    assert!(round.evidence.requests.iter().all(|one| one.done().is_some()), "each request is answered 2xx");
    Ok(())
}
