//! The whole system while Kafka does not answer, and how soon it continues when Kafka is reachable again.

use crate::api::Api;
use crate::{EVENTS, Error, GROUPS, Result, SOON, Seen, Service, World, eventually, id_of};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use std::time::{Duration, Instant};

/// A new event is handled within this time after Kafka is reachable again. It takes a second or two, which callers print;
/// the rest is for a machine that is busy.
const GRANTED: Duration = Duration::from_secs(20);
/// Between two requests.
const PACE: Duration = Duration::from_millis(250);

/// The services of a world, through one outage after another.
pub struct Outage {
    api: Service,
    client: Api,
    notification: Service,
    audit: Service,
    dlq: Service,
    tasks: usize,
}

/// How long after Kafka was reachable again.
#[derive(Debug, Clone, Copy)]
pub struct Recovered {
    /// The outbox was empty.
    pub drained: Duration,
    /// The audit service had written the event of a task that was created then.
    pub audited: Duration,
    /// The notification service had written its notification.
    pub notified: Duration,
}

impl Outage {
    /// Starts the services, and waits until they work.
    pub async fn prepare(world: &World) -> Result<Self> {
        let (api, client) = world.start_api().await?;
        let notification = world.program("notification-service").start()?;
        let audit = world.program("audit-service").start()?;
        let dlq = world.program("dlq-processor").start()?;
        let mut prepared = Self { api, client, notification, audit, dlq, tasks: 0 };
        prepared.create().await?;
        for group in GROUPS {
            world.committed(group, 1).await?;
        }
        prepared.dlq.wait_for_line("claimed ", SOON).await?;
        Ok(prepared)
    }

    /// Creates tasks while Kafka is unreachable: the API answers each, and is healthy.
    pub async fn go_on_for(&mut self, time: Duration) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < time {
            let (status, _) = self.client.call(Method::GET, "/healthz", None).await?;
            if status != StatusCode::OK {
                return Err(Error::failed(format!("GET /healthz: {status}")));
            }
            self.create().await?;
            tokio::time::sleep(PACE).await;
        }
        Ok(())
    }

    /// Each service has logged what it waits for, with words of the call that was given up.
    pub async fn all_log(&mut self, why: &str) -> Result<()> {
        for service in [&mut self.api, &mut self.notification, &mut self.audit, &mut self.dlq] {
            service.wait_for_line(why, SOON).await?;
        }
        eventually("/readyz to say that events wait, and for what", SOON, async || {
            let (_, ready) = self.client.readiness().await?;
            let is_explained = ready.pointer("/kafka/waiting_for").is_some_and(Value::is_string);
            Ok((is_explained && self.client.waiting_events().await? > Some(0)).then_some(()))
        })
        .await
    }

    /// Called when Kafka is reachable again: measures how soon all is handled, and checks that each event is in
    /// the topic and in the audit log, in order, and in the log once.
    pub async fn recovers(&mut self, world: &World) -> Result<Recovered> {
        let back = Instant::now();
        let last = id_of(&self.create().await?)?.to_owned();
        let audit_line = format!("AUDIT: task.created - task_id={last}");
        let notification_end = format!("(ID: {last})");
        let (client, audit, notification) = (&self.client, &self.audit, &self.notification);
        let (drained, audited, notified) = tokio::try_join!(
            since(back, "the outbox to be empty", async || Ok(client.waiting_events().await? == Some(0))),
            since(back, "an audit line", async || Ok(audit.count(&audit_line) > 0)),
            since(back, "a notification", async || Ok(notification.count(&notification_end) > 0)),
        )?;
        let recovered = Recovered { drained, audited, notified };
        if [drained, audited, notified].iter().any(|time| *time >= GRANTED) {
            return Err(Error::failed(format!("recovery took longer than {GRANTED:?}: {recovered:?}")));
        }
        let ids = |seen: Vec<Seen>| seen.into_iter().map(|seen| seen.event_id).collect::<Vec<_>>();
        let mut topic = ids(Seen::all_in_topic(&world.topic(EVENTS).await?)?);
        topic.dedup();
        let log = ids(Seen::all_in_audit_log(&world.audit_log()?)?);
        if topic != log || log.len() != self.tasks {
            let tasks = self.tasks;
            return Err(Error::failed(format!(
                "of {tasks} events {topic:?} are in the topic and {log:?} in the audit log"
            )));
        }
        Ok(recovered)
    }

    async fn create(&mut self) -> Result<Value> {
        self.tasks += 1;
        self.client.create(&format!("task {}", self.tasks)).await
    }
}

async fn since(start: Instant, what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<Duration> {
    eventually(what, SOON, async || Ok(holds().await?.then_some(()))).await?;
    Ok(start.elapsed())
}
