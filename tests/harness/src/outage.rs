//! The whole system while Kafka does not answer, and how soon it goes on when Kafka is back.

use crate::api::Api;
use crate::{EVENTS, GROUPS, SOON, Seen, Service, World, eventually, id_of};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use std::time::{Duration, Instant};

/// A new event within this time of Kafka's return, on a machine that has nothing else to do. Tests grant
/// more: they share theirs.
const GRANTED: Duration = Duration::from_secs(5);
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

/// How long after Kafka's return.
#[derive(Debug, Clone, Copy)]
pub struct Recovered {
    /// The outbox was empty.
    pub drained: Duration,
    /// The audit service had written the event of a task that was created after the return.
    pub audited: Duration,
    /// The notification service had told of it.
    pub told: Duration,
}

impl Outage {
    /// Starts the services, and waits until they work.
    pub async fn prepare(world: &World) -> Self {
        let (api, client) = world.start_api().await;
        let notification = world.program("notification-service").start();
        let audit = world.program("audit-service").start();
        let dlq = world.program("dlq-processor").start();
        let mut prepared = Self { api, client, notification, audit, dlq, tasks: 0 };
        prepared.create().await;
        for group in GROUPS {
            world.committed(group, 1).await;
        }
        prepared.dlq.wait_for_line("claimed ", SOON).await;
        prepared
    }

    /// Creates tasks for as long as Kafka is away: the API answers each, and is healthy.
    pub async fn go_on_for(&mut self, time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time {
            let (status, _) = self.client.call(Method::GET, "/healthz", None).await;
            assert_eq!(status, StatusCode::OK);
            self.create().await;
            tokio::time::sleep(PACE).await;
        }
    }

    /// Each service has said what it waits for, with words of the call that was given up.
    pub async fn all_say(&mut self, why: &str) {
        for service in [&mut self.api, &mut self.notification, &mut self.audit, &mut self.dlq] {
            service.wait_for_line(why, SOON).await;
        }
        let (_, ready) = self.client.readiness().await;
        assert!(ready["kafka"]["waiting_for"].is_string(), "{ready}");
        assert!(ready["outbox"]["waiting"].as_u64() > Some(0), "{ready}");
    }

    /// Called when Kafka is back: measures how soon all is handled, and checks that each event stands in the
    /// topic and in the audit log, in order, and in the log once.
    pub async fn recovers(&mut self, world: &World) -> Recovered {
        let back = Instant::now();
        let last = id_of(&self.create().await).to_owned();
        let (client, audit, notification) = (&self.client, &self.audit, &self.notification);
        let (drained, audited, told) = tokio::join!(
            since(back, "the outbox to be empty", async || client.readiness().await.1["outbox"]["waiting"]
                == 0),
            since(back, "an audit line", async || audit
                .count(&format!("AUDIT: task.created - task_id={last}"))
                > 0),
            since(back, "a notification", async || notification.count(&format!("(ID: {last})")) > 0),
        );
        let recovered = Recovered { drained, audited, told };
        for one in [drained, audited, told] {
            assert!(one < GRANTED, "{recovered:?}");
        }
        let mut topic: Vec<_> = world.topic(EVENTS).await.iter().filter_map(Seen::in_topic).map(id).collect();
        topic.dedup();
        let log: Vec<_> = world.audit_log().iter().map(Seen::in_audit_log).map(id).collect();
        assert_eq!((topic.len(), log.len()), (self.tasks, self.tasks));
        assert_eq!(topic, log);
        recovered
    }

    async fn create(&mut self) -> Value {
        self.tasks += 1;
        self.client.create(&format!("task {}", self.tasks)).await
    }
}

fn id(seen: Seen) -> String {
    seen.event_id
}

async fn since(start: Instant, what: &str, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    eventually(what, SOON, async || holds().await.then_some(())).await;
    start.elapsed()
}
