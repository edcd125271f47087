//! What a consumer says of itself over HTTP: /healthz, /readyz and /metrics.
//!
//! None of them asks Kafka: they tell what the consumer knows.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use actix_web::http::header::ContentType;
use actix_web::{App, HttpResponse, HttpServer, web};
use task_events::error_code::Code;
use task_events::logging;
use task_events::metrics::{CONTENT_TYPE, Text};
use task_events::runtime::{PartitionReport, PartitionState, Status};

/// The consumer that is told about.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Its group.
    pub group: String,
    /// The topic that it reads.
    pub topic: String,
    /// What it is doing.
    pub status: Status,
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on HEALTH_ADDR {addr}: {source}; choose another address")]
pub struct HealthError {
    addr: SocketAddr,
    source: io::Error,
}

/// Listens on the address and answers for as long as the process lives. Returns the address with its real
/// port.
pub fn start(addr: SocketAddr, subject: Subject) -> Result<SocketAddr, HealthError> {
    let subject = web::Data::new(subject);
    let app = move || {
        App::new()
            .app_data(subject.clone())
            // HEAD is answered as GET, by the server without the body.
            .route("/healthz", web::get().to(healthz))
            .route("/healthz", web::head().to(healthz))
            .route("/readyz", web::get().to(readyz))
            .route("/readyz", web::head().to(readyz))
            .route("/metrics", web::get().to(metrics))
            .route("/metrics", web::head().to(metrics))
    };
    let server = HttpServer::new(app).workers(1).disable_signals().bind(addr);
    let server = server.map_err(|source| HealthError { addr, source })?;
    let bound = server.addrs().first().copied().unwrap_or(addr);
    log::info!("health on http://{bound}");
    let serving = server.run();
    tokio::spawn(async move {
        if let Err(error) = serving.await {
            log::error!("health on http://{bound} has ended: {error} {}", Code::HealthEnded);
        }
    });
    Ok(bound)
}

async fn healthz() -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::plaintext()).body("ok\n")
}

async fn readyz(subject: web::Data<Subject>) -> HttpResponse {
    let mut answer =
        if subject.status.is_ready() { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    answer.json(subject.status.report())
}

async fn metrics(subject: web::Data<Subject>) -> HttpResponse {
    HttpResponse::Ok().content_type(CONTENT_TYPE).body(render(&subject))
}

/// The metrics in Prometheus's text format, under kafka-lag-exporter's names where it has them and under
/// OpenTelemetry's messaging names where not.
fn render(subject: &Subject) -> String {
    let (group, topic) = (subject.group.as_str(), subject.topic.as_str());
    let mut text = Text::default();
    let report = subject.status.report();
    let mut partitions =
        |name: &str, help: &str, value: &dyn Fn(&PartitionReport) -> Option<i64>, grouped: bool| {
            text.family(name, "gauge", help);
            for (number, partition) in &report.partitions {
                let number = number.to_string();
                let labels = [("group", group), ("topic", topic), ("partition", number.as_str())];
                let labels = if grouped { labels.as_slice() } else { labels.get(1..).unwrap_or_default() };
                if let Some(value) = value(partition) {
                    text.series(name, labels, value);
                }
            }
        };
    partitions(
        "kafka_consumergroup_group_lag",
        "Events that the group has yet to handle: the end of the log as last fetched less the position",
        &PartitionReport::lag,
        true,
    );
    partitions(
        "kafka_consumergroup_group_offset",
        "The offset that the group reads next",
        &|partition| partition.position,
        true,
    );
    partitions(
        "kafka_partition_latest_offset",
        "The offset of the next event to come",
        &|partition| partition.high_watermark,
        false,
    );
    partitions(
        "task_events_partition_active",
        "Whether this instance owns the partition and handles its events",
        &|partition| Some(i64::from(matches!(partition.state, PartitionState::Active { .. }))),
        true,
    );

    let stats = subject.status.stats();
    let common = [
        ("messaging_system", "kafka"),
        ("messaging_consumer_group_name", group),
        ("messaging_destination_name", topic),
    ];
    let name = "messaging_client_consumed_messages_total";
    text.family(name, "counter", "Events by how they ended, since the process started");
    for (outcome, counter) in [
        ("handled", &stats.handled),
        ("duplicate", &stats.duplicates),
        ("not_of_interest", &stats.not_of_interest),
        ("dead_lettered", &stats.dead_lettered),
    ] {
        let labels = [common.as_slice(), &[("outcome", outcome)]].concat();
        text.series(name, &labels, counter.load(Ordering::Relaxed));
    }
    let name = "messaging_process_retries_total";
    text.family(name, "counter", "Tries to handle an event after its first");
    text.series(name, &common, stats.retries.load(Ordering::Relaxed));
    logging::render_metrics(&mut text);
    text.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_under_its_type() {
        let subject =
            Subject { group: "a\"b".to_owned(), topic: "task-events".to_owned(), status: Status::default() };
        subject.status.stats().handled.store(3, Ordering::Relaxed);
        let text = render(&subject);
        assert!(text.contains("outcome=\"handled\"} 3\n"), "{text}");
        assert!(text.contains("messaging_consumer_group_name=\"a\\\"b\""), "{text}");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(text.contains(&format!("# TYPE {name} ")), "{line}");
        }
    }

    #[actix_web::test]
    async fn head_is_answered_as_get_without_a_body() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let subject = Subject { group: "g".to_owned(), topic: "t".to_owned(), status: Status::default() };
        let addr = start(([127, 0, 0, 1], 0).into(), subject).unwrap();
        for (path, status) in [("/healthz", "200"), ("/readyz", "503"), ("/metrics", "200")] {
            let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
            let request = format!("HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
            assert!(answer.contains("content-length: ") && answer.ends_with("\r\n\r\n"), "{path}: {answer}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_address_in_use_is_one_clear_line() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let subject = Subject { group: "g".to_owned(), topic: "t".to_owned(), status: Status::default() };
        let line = start(taken.local_addr().unwrap(), subject).unwrap_err().to_string();
        assert!(line.contains("HEALTH_ADDR") && !line.contains('\n'), "{line}");
    }
}
