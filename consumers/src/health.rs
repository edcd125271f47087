//! What a consumer says of itself over HTTP: /healthz, /readyz and /metrics.
//!
//! None of them asks Kafka: they tell what the consumer knows.

use std::io;
use std::net::SocketAddr;

use actix_web::http::header::ContentType;
use actix_web::{App, HttpResponse, HttpServer, web};
use serde::Serialize;
use task_events::error_code::Code;
use task_events::metrics::CONTENT_TYPE;
use task_events::runtime::StatusReport;
use task_events::version::version;

use crate::metrics::{Subject, render};

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

/// What `/readyz` answers.
#[derive(Serialize)]
struct Readiness {
    #[serde(flatten)]
    report: StatusReport,
    /// What is wrong though the service goes on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

async fn healthz(subject: web::Data<Subject>) -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::plaintext()).body(format!(
        "ok\n{} {}\n",
        subject.service,
        version()
    ))
}

async fn readyz(subject: web::Data<Subject>) -> HttpResponse {
    let mut answer =
        if subject.status.is_ready() { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    let warnings = subject.own.get().map(|own| (own.warnings)()).unwrap_or_default();
    answer.json(Readiness { report: subject.status.report(), warnings })
}

async fn metrics(subject: web::Data<Subject>) -> HttpResponse {
    match web::block(move || render(&subject)).await {
        Ok(text) => HttpResponse::Ok().content_type(CONTENT_TYPE).body(text),
        Err(error) => HttpResponse::ServiceUnavailable().body(format!("no thread for it: {error}\n")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use task_events::runtime::Status;

    use super::*;

    fn subject() -> Subject {
        let (group, topic) = ("g".to_owned(), "t".to_owned());
        Subject { service: "s", group, topic, status: Status::default(), own: Arc::default() }
    }

    #[actix_web::test]
    async fn head_is_answered_as_get_without_a_body() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let addr = start(([127, 0, 0, 1], 0).into(), subject()).unwrap();
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
        let line = start(taken.local_addr().unwrap(), subject()).unwrap_err().to_string();
        assert!(line.contains("HEALTH_ADDR") && !line.contains('\n'), "{line}");
    }
}
