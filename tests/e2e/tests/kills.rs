//! kill -9 of any one process in the middle of 10,000 creates at full speed: what was answered is in
//! the topic and in the audit log, once and in order.

use harness::{
    Answers, Api, DLQ, EVENTS, GROUPS, History, Kind, Load, Outcome, Result, SOON, Seen, Service, World,
    alone, eventually,
};
use std::collections::{BTreeMap, HashMap};

const TASKS: usize = 10_000;

/// The whole system.
struct System {
    world: World,
    api: Service,
    client: Api,
    notification: Service,
    audit: Service,
    dlq: Service,
}

impl System {
    async fn start() -> Result<Self> {
        let world = World::start().await?;
        let (api, client) = world.start_api().await?;
        let notification = world.program("notification-service").start()?;
        let audit = world.program("audit-service").start()?;
        let dlq = world.program("dlq-processor").start()?;
        Ok(Self { world, api, client, notification, audit, dlq })
    }

    fn load(&self, connections: usize) -> Result<Load> {
        Load::at_full_speed(self.client.url(), connections, TASKS)
    }

    /// What holds whatever was killed. Every event that the notifier wants was notified.
    async fn check(&mut self, answers: Answers) -> Result<History> {
        assert_eq!(answers.failures, 0, "no answer is a 5xx");
        let rate = answers.changes.len() as f64 / answers.took.as_secs_f64();
        println!("{} changes, {rate:.0} a second, {} unanswered", answers.changes.len(), answers.unanswered);
        let history = self.world.check_history(&self.client, answers).await?;
        assert_eq!(history.answered.len(), TASKS / 10 * 15);

        let end = history.topic.last().expect("events").offset + 1;
        for group in GROUPS {
            self.world.committed(group, end).await?;
        }
        self.notification.settled().await?;
        let told = told(&self.notification.history());
        for seen in history.topic.iter().filter(|seen| is_told(seen)) {
            assert!(told.contains_key(&told_as(seen)), "not notified: {seen:?}");
        }
        let repeats: usize = told.values().map(|times| times - 1).sum();
        println!("{repeats} notifications repeated");
        // Those of the batch in flight when the service was killed: a megabyte of events.
        let kills = self.notification.runs() - 1;
        assert!(repeats <= 2_500 * kills, "{repeats} repeats");
        Ok(history)
    }
}

fn is_told(seen: &Seen) -> bool {
    ["task.created", "task.completed"].contains(&seen.change.event_type.as_str())
}

fn told_as(seen: &Seen) -> (bool, String) {
    (seen.change.event_type == "task.completed", seen.change.task_id.clone())
}

/// How often each notification was logged: completed or not, and the task.
fn told(lines: &[String]) -> HashMap<(bool, String), usize> {
    let mut told = HashMap::new();
    for line in lines.iter().filter(|line| line.contains("NOTIFICATION: ")) {
        let (_, id) = line.rsplit_once("(ID: ").expect("an id");
        *told.entry((line.contains("Task completed"), id.trim_end_matches(')').to_owned())).or_insert(0) += 1;
    }
    told
}

/// The events of the topic, by offset.
async fn events(world: &World) -> Result<BTreeMap<i64, Seen>> {
    let events = Seen::all_in_topic(&world.topic(EVENTS).await?)?;
    Ok(events.into_iter().map(|seen| (seen.offset, seen)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_without_a_kill() -> Outcome {
    let _alone = alone().await;
    let mut system = System::start().await?;
    let answers = system.load(64)?.finish().await?;
    assert_eq!(answers.unanswered, 0);
    system.check(answers).await?;
    system.notification.settled().await?;
    let repeated = told(&system.notification.lines()).into_values().any(|times| times > 1);
    assert!(!repeated, "a notification was repeated");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_the_api_loses_and_doubles_nothing() -> Outcome {
    let _alone = alone().await;
    let mut system = System::start().await?;
    let mut load = system.load(64)?;
    for tasks in [TASKS / 4, TASKS / 2, TASKS * 3 / 4] {
        load.reached(tasks).await?;
        system.api.kill9();
        system.api.restart()?;
    }
    let answers = load.finish().await?;
    assert!(answers.unanswered > 0, "it was killed while it worked");
    system.check(answers).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_the_broker_loses_and_doubles_nothing() -> Outcome {
    let _alone = alone().await;
    let mut system = System::start().await?;
    // Apache Kafka takes long to recover: by then the load would be over.
    let kills = match system.world.broker.kind() {
        Kind::Dev => vec![TASKS / 4, TASKS / 2, TASKS * 3 / 4],
        Kind::Kafka => vec![TASKS / 2],
    };
    let mut load = system.load(32)?;
    for tasks in kills {
        load.reached(tasks).await?;
        system.world.broker.kill9();
        // The API goes on without it.
        load.reached(tasks + TASKS / 20).await?;
        system.world.broker.restart().await?;
    }
    let answers = load.finish().await?;
    assert_eq!(answers.unanswered, 0, "the API answers while Kafka is unreachable");
    system.check(answers).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_the_audit_service_loses_and_doubles_nothing() -> Outcome {
    let _alone = alone().await;
    let mut system = System::start().await?;
    let mut load = system.load(32)?;
    for tasks in [TASKS / 4, TASKS / 2, TASKS * 3 / 4] {
        load.reached(tasks).await?;
        system.audit.kill9();
        // What it committed is in its log: it never commits ahead of its work.
        let position = system.world.offsets("audit-service").await?.position().unwrap_or(0);
        let lines = i64::try_from(system.world.audit_log()?.len()).unwrap();
        assert!(lines >= position, "{lines} lines, committed {position}");
        system.audit.restart()?;
    }
    let answers = load.finish().await?;
    assert_eq!(answers.unanswered, 0);
    system.check(answers).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_the_notification_service_loses_nothing() -> Outcome {
    let _alone = alone().await;
    let mut system = System::start().await?;
    let mut load = system.load(32)?;
    for tasks in [TASKS / 4, TASKS / 2, TASKS * 3 / 4] {
        load.reached(tasks).await?;
        system.notification.kill9();
        // What it committed was notified: it never commits ahead of its work.
        let position = system.world.offsets("notification-service").await?.position().unwrap_or(0);
        system.notification.has_ended()?;
        let told = told(&system.notification.history());
        for (_, seen) in events(&system.world).await?.range(..position).filter(|(_, seen)| is_told(seen)) {
            assert!(told.contains_key(&told_as(seen)), "committed {position}, not notified: {seen:?}");
        }
        system.notification.restart()?;
    }
    let answers = load.finish().await?;
    assert_eq!(answers.unanswered, 0);
    system.check(answers).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_the_dlq_processor_loses_nothing() -> Outcome {
    const POISON: usize = 60;
    let _alone = alone().await;
    let mut system = System::start().await?;
    let mut load = system.load(32)?;
    let mut poisoned = Vec::new();
    for round in 1..=3 {
        load.reached(TASKS * round / 4).await?;
        let values: Vec<_> = (0..POISON).map(|n| format!("poison {round}/{n}")).collect();
        let values: Vec<_> = values.iter().map(|value| Some(value.as_bytes())).collect();
        poisoned.extend(system.world.produce_values(&values).await?);
        // Killed while it has work.
        let dead_letters = async || {
            let records = system.world.topic(DLQ).await?.len();
            Ok((records > 2 * POISON * (round - 1) + POISON / 2).then_some(()))
        };
        eventually("dead letters", SOON, dead_letters).await?;
        system.dlq.kill9();
        system.dlq.restart()?;
    }
    let answers = load.finish().await?;
    system.check(answers).await?;

    // Each poison is there once for each group, and was logged at least once.
    let dead = system.world.topic(DLQ).await?;
    assert_eq!(dead.len(), 2 * poisoned.len());
    let end = dead.last().unwrap().offset + 1;
    system.world.committed_in("dlq-processor", DLQ, end).await?;
    system.dlq.settled().await?;
    let lines = system.dlq.history();
    for offset in poisoned {
        for group in GROUPS {
            let told = format!("DLQ: group={group} kind=invalid_json source={EVENTS}/0/{offset} ");
            assert!(lines.iter().any(|line| line.contains(&told)), "not notified: {told}");
        }
    }
    Ok(())
}
