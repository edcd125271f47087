//! A call that was made while Kafka was unreachable is answered soon after it is reachable again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use task_events::kafka::{CONNECT_TIMEOUT, Kafka, KafkaError};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// Connections to the broker, but that those made while it is `away` stay silent for good.
async fn gate(broker: SocketAddr, away: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut silent = Vec::new();
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            if away.load(Ordering::Relaxed) {
                silent.push(client);
                continue;
            }
            let mut server = TcpStream::connect(broker).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
        }
    });
    addr
}

#[tokio::test]
async fn what_was_lost_is_sent_again_when_kafka_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let config = devbroker::Config::new(SocketAddr::from(([127, 0, 0, 1], 0)), folder.path());
    let broker = devbroker::Broker::start(config).await.unwrap();
    let away = Arc::new(AtomicBool::new(true));
    let kafka = Kafka::new(vec![gate(broker.addr(), Arc::clone(&away)).await.to_string()], "presence");

    let asking = tokio::spawn({
        let kafka = kafka.clone();
        async move { kafka.topics().await }
    });
    sleep(Duration::from_secs(1)).await;
    assert!(!asking.is_finished(), "nothing is given up while Kafka is unreachable");
    away.store(false, Ordering::Relaxed);
    assert!(asking.await.unwrap().unwrap().is_empty());
    broker.shutdown().await;
}

#[tokio::test]
async fn while_kafka_is_unreachable_the_time_out_counts() {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
    let kafka =
        Kafka::new(vec![gate(nowhere, Arc::new(AtomicBool::new(true))).await.to_string()], "presence");
    let start = Instant::now();
    let error = kafka.topic("task-events").await.unwrap_err();
    assert!(matches!(error, KafkaError::Timeout { after, .. } if after == CONNECT_TIMEOUT), "{error}");
    assert!(start.elapsed() >= CONNECT_TIMEOUT);
}
