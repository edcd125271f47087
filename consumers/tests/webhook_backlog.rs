//! The webhook notifier with more tasks than it has connections: what the receiver asks for holds for those that wait, too.

mod world;

use std::num::NonZero;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use actix_web::{App, HttpResponse, HttpServer, web};
use consumers::webhook::{self, Config};
use task_events::networks::Networks;
use task_events::schemas::EventReader;
use world::{DLQ, Running, World, created, value, wait_for};

/// Deliveries at one time, as `consumers/src/webhook/shared.rs` bounds them.
const CONNECTIONS: usize = 32;
/// Each of a task of its own.
const EVENTS: usize = 64;

/// Answers the first requests with that status, and the others with 204.
struct Receiver {
    first: usize,
    status: StatusCode,
    came: Mutex<Vec<Instant>>,
}

impl Receiver {
    async fn start(first: usize, status: StatusCode) -> (Arc<Self>, String) {
        let receiver = Arc::new(Self { first, status, came: Mutex::default() });
        let shared = web::Data::from(Arc::clone(&receiver));
        let server = HttpServer::new(move || {
            App::new().app_data(shared.clone()).default_service(web::to(async |own: web::Data<Self>| {
                let number = {
                    let mut came = own.came.lock().unwrap();
                    came.push(Instant::now());
                    came.len()
                };
                match number <= own.first {
                    true => HttpResponse::build(own.status).insert_header(("retry-after", "3")).finish(),
                    false => HttpResponse::NoContent().finish(),
                }
            }))
        });
        let server = server.workers(1).disable_signals().bind(("127.0.0.1", 0)).unwrap();
        let url = format!("http://{}/hook", server.addrs()[0]);
        tokio::spawn(server.run());
        (receiver, url)
    }

    fn came(&self) -> Vec<Instant> {
        self.came.lock().unwrap().clone()
    }
}

/// A notifier that has taken events of many tasks, of which none was sent before.
async fn backlog(world: &World, group: &str, url: &str) -> Running {
    let state = world.state(group);
    let secrets = state.join("secrets");
    std::fs::write(&secrets, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
    world.produce(0, (0..EVENTS).map(|n| value(&created(&n.to_string()))).collect()).await;
    let config = Config {
        url: url.parse().unwrap(),
        ca: None,
        allowed: Networks::parse("127.0.0.0/8").unwrap(),
        tries: NonZero::new(9).unwrap(),
    };
    let open = move || webhook::open(&state, config, &secrets, EventReader::json());
    world.run(group, tokio::task::spawn_blocking(open).await.unwrap().unwrap().service)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_for_events_that_wait_for_a_connection() {
    let world = World::start(1).await;
    let (receiver, url) = Receiver::start(CONNECTIONS, StatusCode::TOO_MANY_REQUESTS).await;
    let running = backlog(&world, "paused-backlog", &url).await;
    wait_for("the position at the end", || world.position("paused-backlog", 0) == Some(EVENTS as i64)).await;
    let came = receiver.came();
    assert_eq!(came.len(), EVENTS + CONNECTIONS, "who was not refused is sent once");
    // What came later than the first pause begins was sent before it, or after it.
    let early = came.iter().filter(|at| at.duration_since(came[0]) < Duration::from_millis(2_900)).count();
    assert!(early <= CONNECTIONS, "{early} came, of which {CONNECTIONS} were on their way at the first 429");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_gone_is_not_called_for_events_that_wait_for_a_connection() {
    let world = World::start(1).await;
    let (receiver, url) = Receiver::start(usize::MAX, StatusCode::GONE).await;
    let running = backlog(&world, "gone-backlog", &url).await;
    wait_for("the dead letters", || world.position("gone-backlog", 0) == Some(EVENTS as i64)).await;
    let came = receiver.came().len();
    assert!(came <= CONNECTIONS, "{came} came, of which {CONNECTIONS} were on their way at the first 410");
    for letter in world.read(DLQ, 0, EVENTS).await {
        let letter: serde_json::Value = serde_json::from_slice(letter.value.as_deref().unwrap()).unwrap();
        assert_eq!(letter["error"]["kind"], "webhook_gone");
    }
    running.stop().await;
}
