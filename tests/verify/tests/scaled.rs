//! The scaled system under load and faults: the short form of `verify run --scaled`. `E2E_BROKER=kafka` runs it against
//! Apache Kafka. Left out where PostgreSQL is not installed.

use std::time::Duration;

use harness::{Kind as BrokerKind, Outcome};
use verify::check::names;
use verify::scaled::{
    self,
    plan::{ScaledFault, ScaledPlan, ScaledPlanned},
};

/// So long that a busy machine does not fail the test; how long it was is printed.
const MARGIN: Duration = Duration::from_secs(40);

fn planned(fault: ScaledFault, at_ms: u64, lasts_ms: u64) -> ScaledPlanned {
    let (at, lasts) = (Duration::from_millis(at_ms), Duration::from_millis(lasts_ms));
    ScaledPlanned { fault, at, lasts }
}

/// The replica that publishes and an owner of partitions die, PostgreSQL restarts, an instance joins and one leaves.
#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_and_three_instances_of_each_consumer_lose_and_repeat_nothing() -> Outcome {
    let faults = vec![
        planned(ScaledFault::JoinAudit, 500, 0),
        planned(ScaledFault::KillRelay, 1_000, 2_000),
        planned(ScaledFault::KillAudit, 1_500, 4_000),
        planned(ScaledFault::LeaveNotification, 2_000, 2_500),
        planned(ScaledFault::CrashDatabase, 4_000, 500),
    ];
    let load = Duration::from_secs(7);
    let plan = ScaledPlan { seed: 1, load, connections: 12, rate: Some(150), margin: MARGIN, faults };
    let folder = tempfile::tempdir()?;
    let Some(round) = scaled::run(&plan, BrokerKind::from_env()?, folder.path()).await? else {
        return Ok(());
    };
    println!("drained in {:.1} s\n{}", round.drained.as_secs_f32(), round.report);
    assert!(round.report.is_sound(), "kept in {}: {}", folder.keep().display(), round.report);
    for name in [names::LOST, names::UNION, names::NOTIFIED_ONCE, names::OWNED, names::REPLICAS] {
        let check = round.report.checks.iter().find(|check| check.name == name);
        assert!(check.is_some_and(|check| check.examined > Some(0)), "{name}: {check:?}");
    }
    assert!(round.evidence.requests.len() > 200, "{} requests", round.evidence.requests.len());
    Ok(())
}
