//! SC-10 on three Apache Kafka brokers, replication factor 3 and min.insync.replicas 2, one of which always
//! has something: under load no change that was answered is lost, none is in the topic twice, and each task
//! keeps its order.
//!
//! Only with `E2E_BROKER=kafka`: the dev broker is always alone.

use chrono::{DateTime, Utc};
use harness::{
    Answers, Api, Change, Cluster, EVENTS, Load, OFFSETS, Outcome, Result, SOON, Seen, Service, World, alone,
    eventually,
};
use serde_json::Value;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::sleep;

/// Creations a second: about 170 events with the changes that [`Load`] makes.
const RATE: u32 = 125;
const CLIENTS: usize = 8;
/// A broker is taken for dead after this long without a heartbeat: `broker.session.timeout.ms`.
const SESSION: Duration = Duration::from_secs(9);
/// What a failover may take beyond that, on a machine that three brokers and a load share.
const FAILOVER: Duration = Duration::from_secs(6);

/// The services on a cluster whose three topics are led by broker 1.
struct System {
    world: World<Cluster>,
    api: Service,
    client: Api,
    audit: Service,
    answered: Vec<Change>,
    _notification: Service,
}

impl System {
    async fn start(cluster: Cluster) -> Result<Self> {
        let all: &[&[i32]] = &[&[1, 2, 3]];
        cluster.create_topic(EVENTS, all, &[]).await?;
        cluster.create_topic(OFFSETS, all, &[("cleanup.policy", "compact")]).await?;
        Self::on(World::on(cluster).await?).await
    }

    async fn on(world: World<Cluster>) -> Result<Self> {
        let (api, client) = world.start_api().await?;
        let audit = world.program("audit-service").start()?;
        let notification = world.program("notification-service").start()?;
        let first = client.create("the first").await?;
        let answered = vec![Change::new("task.created", &first)?];
        eventually("the first event in the audit log", SOON, async || {
            Ok((!world.audit_log()?.is_empty()).then_some(()))
        })
        .await?;
        Ok(Self { world, api, client, audit, answered, _notification: notification })
    }

    fn load(&self, time: Duration) -> Result<Load> {
        let tasks = RATE * u32::try_from(time.as_secs()).unwrap();
        Load::at_rate(self.client.url(), CLIENTS, usize::try_from(tasks).unwrap(), RATE)
    }

    /// Waits for the answers of a load, then compares all that was ever answered with topic and audit log.
    async fn check(&mut self, mut load: Load) -> Result<()> {
        let answers = load.finish().await?;
        assert_eq!((answers.failures, answers.unanswered), (0, 0), "the API answers whatever Kafka does");
        self.answered.extend(answers.changes);
        let changes = self.answered.clone();
        self.world.check_history(&self.client, Answers { changes, ..Answers::default() }).await?;
        Ok(())
    }

    /// The longest time in which nothing was audited, from the line of that number on.
    fn longest_gap(&self, from: usize) -> Result<Duration> {
        let audited_at =
            |line: &Value| line["audited_at"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
        let times: Vec<_> = self.world.audit_log()?.iter().skip(from).map(audited_at).collect();
        let gaps = times.windows(2).map(|pair| (pair[1] - pair[0]).to_std().unwrap_or_default());
        Ok(gaps.max().unwrap_or_default())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_restart_die_and_freeze_lose_nothing_and_leave_no_copies() -> Outcome {
    let _alone = alone().await;
    let Some(cluster) = Cluster::start().await? else { return Ok(()) };
    let mut system = System::start(cluster).await?;

    // A rolling restart, as an update does it.
    let load = system.load(Duration::from_secs(40))?;
    for id in [1, 2, 3] {
        system.world.broker.stop(id).await?;
        system.world.broker.restart(id).await?;
        system.world.broker.in_sync(EVENTS).await?;
        system.world.broker.in_sync(OFFSETS).await?;
    }
    system.check(load).await?;

    // The leader is killed.
    let load = system.load(Duration::from_secs(25))?;
    sleep(Duration::from_secs(3)).await;
    let leader = system.world.broker.leader(EVENTS, 0).await?;
    let from = system.world.audit_log()?.len();
    system.world.broker.kill9(leader)?;
    sleep(Duration::from_secs(15)).await;
    let gap = system.longest_gap(from)?;
    assert!(gap < SESSION + FAILOVER, "nothing was audited for {gap:?} after the leader was killed");
    system.world.broker.restart(leader).await?;
    system.world.broker.in_sync(EVENTS).await?;
    system.check(load).await?;

    // The leader freezes: its connections stay open.
    let load = system.load(Duration::from_secs(30))?;
    sleep(Duration::from_secs(3)).await;
    let leader = system.world.broker.leader(EVENTS, 0).await?;
    let from = system.world.audit_log()?.len();
    system.world.broker.pause(leader)?;
    sleep(Duration::from_secs(25)).await;
    let gap = system.longest_gap(from)?;
    system.world.broker.resume(leader)?;
    assert!(gap < SESSION + FAILOVER, "nothing was audited for {gap:?} while the leader was frozen");
    system.check(load).await?;
    assert!(!system.api.has_ended()? && !system.audit.has_ended()?);
    Ok(())
}

/// Its heartbeats count, so that it stays in sync for 30 s: appended is not acknowledged for longer than any
/// time-out of the relay.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_hangs_leaves_no_copies() -> Outcome {
    let _alone = alone().await;
    let Some(cluster) = Cluster::start_with(&[("broker.session.timeout.ms", "60000")]).await? else {
        return Ok(());
    };
    let mut system = System::start(cluster).await?;
    let load = system.load(Duration::from_secs(50))?;
    sleep(Duration::from_secs(3)).await;
    system.world.broker.pause(3)?;
    sleep(Duration::from_secs(40)).await;
    system.world.broker.resume(3)?;
    system.check(load).await?;
    Ok(())
}

/// Six partitions without replicas, two on each broker: one broker takes only its own with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_down_takes_only_its_own_partitions_with_it() -> Outcome {
    let _alone = alone().await;
    let Some(cluster) = Cluster::start().await? else { return Ok(()) };
    cluster
        .create_topic(EVENTS, &[&[1], &[2], &[3], &[1], &[2], &[3]], &[("min.insync.replicas", "1")])
        .await?;
    let mut system = System::on(World::on(cluster).await?).await?;
    // In the first of the addresses that the services know, too.
    system.world.broker.kill9(1)?;
    let before = system.world.audit_log()?.len();
    let load = system.load(Duration::from_secs(20))?;
    sleep(Duration::from_secs(20)).await;
    let audited = system.world.audit_log()?;
    let partitions: HashSet<_> =
        audited.iter().skip(before).map(|line| line["kafka"]["partition"].as_i64().unwrap()).collect();
    assert_eq!(partitions, HashSet::from([1, 2, 4, 5]), "the healthy partitions, and only they, went on");
    // Four of six; a half of that, as the machine is shared.
    let least = load.created() / 3;
    let lines = audited.len() - before;
    assert!(lines >= least, "{lines} events were audited while {} tasks were created", load.created());
    system.world.broker.restart(1).await?;
    system.check(load).await?;
    Ok(())
}

/// The services know one broker. It is gone for good; the leaders are elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn the_address_that_was_configured_may_become_unreachable() -> Outcome {
    let _alone = alone().await;
    let Some(cluster) = Cluster::start().await? else { return Ok(()) };
    cluster.create_topic(EVENTS, &[&[2, 3]], &[]).await?;
    cluster.create_topic(OFFSETS, &[&[3, 2]], &[("cleanup.policy", "compact")]).await?;
    let mut world = World::on(cluster).await?;
    let one = world.broker.address(1)?;
    let (_api, client) =
        world.start_api_as(world.program("task-api").env("KAFKA_BOOTSTRAP_SERVERS", &one)).await?;
    let _audit = world.program("audit-service").env("KAFKA_BOOTSTRAP_SERVERS", &one).start()?;
    audited(&world, &client, "before").await?;
    world.broker.kill9(1)?;
    // Longer than anything that was asked before may be remembered.
    for n in 0..15 {
        audited(&world, &client, &format!("after {n}")).await?;
        sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// Creates a task, and waits for its audit line.
async fn audited(world: &World<Cluster>, client: &Api, title: &str) -> Result<()> {
    client.create(title).await?;
    let there =
        async || Ok(world.audit_log()?.iter().any(|line| line["data"]["title"] == title).then_some(()));
    eventually(&format!("{title} in the audit log"), Duration::from_secs(20), there).await?;
    Ok(())
}

/// An unclean election cuts the log below what was read; it then grows past the old position.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_cut_and_has_grown_again_is_read_from_the_cut() -> Outcome {
    let _alone = alone().await;
    for audit_runs in [false, true] {
        let Some(cluster) = Cluster::start().await? else { return Ok(()) };
        let unclean = [("min.insync.replicas", "1"), ("unclean.leader.election.enable", "true")];
        cluster.create_topic(EVENTS, &[&[1, 2]], &unclean).await?;
        let mut system = System::on(World::on(cluster).await?).await?;
        create(&system.client, "kept", 50).await?;
        system.audited(51).await?;
        system.world.broker.in_sync(EVENTS).await?;

        system.world.broker.kill9(2)?;
        create(&system.client, "cut off", 50).await?;
        system.audited(101).await?;
        if !audit_runs {
            system.audit.terminate(SOON).await?;
        }
        system.client.delivered().await?;
        system.world.broker.kill9(1)?;
        system.world.broker.restart(2).await?;
        create(&system.client, "after the cut", 100).await?;
        system.client.delivered().await?;
        system.world.broker.restart(1).await?;
        if !audit_runs {
            system.audit.restart()?;
        }
        // 51 kept, 50 cut off after they were audited, 100 new.
        system.audited(201).await?;
        let topic = system.world.topic(EVENTS).await?;
        let in_topic: HashSet<_> =
            Seen::all_in_topic(&topic)?.into_iter().map(|seen| seen.event_id).collect();
        assert_eq!(in_topic.len(), 151, "what was acknowledged by the cut broker alone is gone");
        let audited = Seen::all_in_audit_log(&system.world.audit_log()?)?;
        let ids: HashSet<_> = audited.iter().map(|seen| seen.event_id.clone()).collect();
        assert_eq!(ids.len(), audited.len(), "nothing is audited twice");
        assert!(ids.is_superset(&in_topic), "every event of the topic is audited");
        let said = system.audit.history();
        assert!(said.iter().any(|line| line.contains("truncated")), "the cut is reported: {said:#?}");
    }
    Ok(())
}

/// Every partition moves to other brokers, and back, under load.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_are_moved_lose_nothing_and_leave_no_copies() -> Outcome {
    let _alone = alone().await;
    let Some(cluster) = Cluster::start().await? else { return Ok(()) };
    cluster.create_topic(EVENTS, &[&[1, 2], &[2, 3]], &[]).await?;
    cluster.create_topic(OFFSETS, &[&[1, 2]], &[("cleanup.policy", "compact")]).await?;
    let mut system = System::on(World::on(cluster).await?).await?;
    let load = system.load(Duration::from_secs(40))?;
    for (first, second) in [([3, 1], [1, 2]), ([2, 3], [3, 1])] {
        move_replicas(&system.world, &[(EVENTS, 0, first), (EVENTS, 1, second), (OFFSETS, 0, first)]).await?;
    }
    system.check(load).await?;
    Ok(())
}

async fn move_replicas(world: &World<Cluster>, moves: &[(&str, i32, [i32; 2])]) -> Result<()> {
    let partition = |(topic, partition, replicas): &(&str, i32, [i32; 2])| serde_json::json!({"topic": topic, "partition": partition, "replicas": replicas});
    let plan =
        serde_json::json!({"version": 1, "partitions": moves.iter().map(partition).collect::<Vec<_>>()});
    let file = world.path("reassignment.json");
    std::fs::write(&file, plan.to_string()).unwrap();
    let file = file.display().to_string();
    let tool = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand";
    let tools = world.broker.tools()?;
    tools.run(tool, &["--reassignment-json-file", &file, "--execute"]).await?;
    for (topic, number, replicas) in moves {
        let moved = async || {
            let rows = world.broker.describe(topic).await?;
            let Some(row) = rows.into_iter().find(|row| row.partition == *number) else { return Ok(None) };
            // Old replicas stay in the list until the new ones are in sync.
            Ok((row.replicas == replicas && row.isr.len() == replicas.len()).then_some(()))
        };
        eventually(&format!("{topic}/{number} on {replicas:?}"), SOON * 2, moved).await?;
    }
    // By now the preferred leaders are others; the cluster would take minutes to see to it.
    tools
        .run(
            "org.apache.kafka.tools.LeaderElectionCommand",
            &["--election-type", "preferred", "--all-topic-partitions"],
        )
        .await?;
    Ok(())
}

/// Below min.insync.replicas nothing can be written, for as long as it lasts: that is said once in a while, the
/// same in /readyz all the time, and then everything goes on.
#[tokio::test(flavor = "multi_thread")]
async fn too_few_replicas_are_reported_calmly() -> Outcome {
    let _alone = alone().await;
    let Some(cluster) = Cluster::start().await? else { return Ok(()) };
    cluster.create_topic(EVENTS, &[&[1, 2]], &[]).await?;
    cluster.create_topic(OFFSETS, &[&[1, 2]], &[("cleanup.policy", "compact")]).await?;
    let mut system = System::on(World::on(cluster).await?).await?;
    let standby =
        system.world.instance("audit-service", "standby").env("HEALTH_ADDR", "127.0.0.1:0").start()?;
    system.world.broker.kill9(2)?;
    let load = system.load(Duration::from_secs(30))?;
    let lines = [system.api.lines().len(), system.audit.lines().len(), standby.lines().len()];
    let waits = async || {
        let (_, ready) = system.client.readiness().await?;
        Ok(ready["kafka"]["waiting_for"]
            .as_str()
            .is_some_and(|why| why.contains("min.insync.replicas"))
            .then_some(()))
    };
    eventually("the reason in /readyz", SOON, waits).await?;
    for _ in 0..100 {
        assert!(waits().await?.is_some(), "/readyz flaps: {:?}", system.client.readiness().await?);
        sleep(Duration::from_millis(100)).await;
    }
    let noise = |before: usize, lines: Vec<String>| {
        let new: Vec<_> = lines[before..]
            .iter()
            // The access log.
            .filter(|line| !line.contains("task_api::http::context"))
            .cloned()
            .collect();
        // The outage of the leader that was killed is one more cause.
        assert!(new.len() <= 12, "{} lines in half a minute: {new:#?}", new.len());
    };
    noise(lines[0], system.api.lines());
    noise(lines[1], system.audit.lines());
    noise(lines[2], standby.lines());
    // The lease cannot be renewed: it would take over with a log of its own.
    drop(standby);
    system.world.broker.restart(2).await?;
    system.check(load).await?;
    Ok(())
}

impl System {
    async fn audited(&self, lines: usize) -> Result<()> {
        let there = async || Ok((self.world.audit_log()?.len() >= lines).then_some(()));
        eventually(&format!("{lines} lines in the audit log"), SOON * 2, there).await?;
        Ok(())
    }
}

async fn create(client: &Api, what: &str, count: usize) -> Result<()> {
    for n in 0..count {
        client.create(&format!("{what} {n}")).await?;
    }
    Ok(())
}
