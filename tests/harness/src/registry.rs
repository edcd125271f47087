//! A Schema Registry: Apicurio, where `E2E_REGISTRY` names the folder that `tests/e2e/registry/fetch` filled, or a small
//! one in this process that knows no rules of compatibility. Either is reached through a fault proxy.

use crate::{Error, Mode, Process, Proxy, Result, eventually, free_port, http};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A JVM that starts in four seconds on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(90);
/// Below which Apicurio has Confluent's API.
const APICURIO_PATH: &str = "/apis/ccompat/v7";
/// Longest request that the small one reads, in bytes.
const MAX_REQUEST: usize = 1 << 20;

/// A registry of its own for one test, empty at its start.
pub struct Registry {
    proxy: Proxy,
    path: &'static str,
    /// How the small one answers, if it is that.
    small: Option<Arc<Mutex<Small>>>,
    _server: Server,
}

enum Server {
    #[allow(dead_code, reason = "it ends with this value")]
    Apicurio(Process),
    Small(JoinHandle<()>),
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Self::Small(task) = self {
            task.abort();
        }
    }
}

/// What the small one answers in place of what it was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Misbehaviour {
    /// None.
    #[default]
    None,
    /// 500.
    ServerError,
    /// 200, and a page.
    Garbage,
    /// 404 of a proxy that knows no such path.
    NoSuchPath,
    /// Bytes without an end.
    Endless,
    /// It takes the request and never answers.
    Silent,
}

#[derive(Default)]
struct Small {
    schemas: Vec<String>,
    /// By subject: ids, in the order of their versions.
    subjects: BTreeMap<String, Vec<usize>>,
    levels: BTreeMap<String, String>,
    misbehaviour: Misbehaviour,
    requests: u64,
}

impl Registry {
    /// Apicurio where it is there, else the small one.
    pub async fn start() -> Result<Self> {
        match std::env::var_os("E2E_REGISTRY").filter(|folder| !folder.is_empty()) {
            Some(folder) => Self::apicurio(folder.into()).await,
            None => Self::small().await,
        }
    }

    /// The small one, which can be made to misbehave.
    pub async fn small() -> Result<Self> {
        let failed = |error| Error::failed(format!("the small registry cannot listen: {error}"));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let small = Arc::<Mutex<Small>>::default();
        let server = tokio::spawn(serve(listener, Arc::clone(&small)));
        Self::behind_proxy(port, "", Some(small), Server::Small(server)).await
    }

    async fn apicurio(folder: PathBuf) -> Result<Self> {
        let port = free_port()?;
        let mut java = Command::new("java");
        java.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]);
        java.arg("-Dquarkus.http.host=127.0.0.1").arg(format!("-Dquarkus.http.port={port}"));
        java.arg("-jar").arg(folder.join("apicurio-registry-app-2.6.13.Final-runner.jar"));
        let process = Process::spawn("apicurio", &mut java)?;
        let registry = Self::behind_proxy(port, APICURIO_PATH, None, Server::Apicurio(process)).await?;
        let up = async || Ok(registry.call(Method::GET, "/subjects", None).await.ok().map(drop));
        eventually("the registry to answer", START_LIMIT, up).await?;
        Ok(registry)
    }

    async fn behind_proxy(
        port: u16,
        path: &'static str,
        small: Option<Arc<Mutex<Small>>>,
        server: Server,
    ) -> Result<Self> {
        let proxy = Proxy::start(free_port()?, port, 1).await;
        let proxy = proxy.map_err(|error| Error::failed(format!("the registry's proxy: {error}")))?;
        Ok(Self { proxy, path, small, _server: server })
    }

    /// As `SCHEMA_REGISTRY_URL`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}{}", self.proxy.port(), self.path)
    }

    /// Breaks its connections from now on, as one that was stopped.
    pub fn stop(&self) {
        self.proxy.set(Mode::Cut, 100);
    }

    /// Answers again.
    pub fn go_on(&self) {
        self.proxy.set(Mode::Pass, 100);
    }

    /// What the small one does from now on. Nothing where it is another.
    pub fn misbehave(&self, how: Misbehaviour) {
        if let Some(small) = &self.small {
            lock(small).misbehaviour = how;
        }
    }

    /// How often the small one was asked.
    pub fn requests(&self) -> Option<u64> {
        self.small.as_ref().map(|small| lock(small).requests)
    }

    /// Registers a schema, and returns its id.
    pub async fn register(&self, subject: &str, schema: &str) -> Result<u32> {
        let path = format!("/subjects/{subject}/versions");
        let (status, answer) = self.call(Method::POST, &path, Some(json!({"schema": schema}))).await?;
        let id = answer.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| {
            Error::failed(format!("the schema of {subject} is not registered: {status} {answer}"))
        })
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<(StatusCode, Value)> {
        let mut request = http()?.request(method, format!("{}{path}", self.url()));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        Ok((answer.status(), answer.json().await?))
    }
}

fn lock(small: &Mutex<Small>) -> MutexGuard<'_, Small> {
    small.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, small: Arc<Mutex<Small>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let small = Arc::clone(&small);
        // A connection that breaks is its client's to notice.
        tokio::spawn(async move { answer(stream, &small).await });
    }
}

async fn answer(mut stream: TcpStream, small: &Mutex<Small>) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let (head, body) = loop {
        if bytes.len() > MAX_REQUEST || stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        if body.len() >= length.unwrap_or(0) {
            break (head.to_owned(), body.to_owned());
        }
    };
    let misbehaviour = {
        let mut small = lock(small);
        small.requests += 1;
        small.misbehaviour
    };
    let (status, text) = match misbehaviour {
        Misbehaviour::None => {
            let mut words = head.split(' ');
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let body = serde_json::from_str(&body).unwrap_or_default();
            let (status, answer) = lock(small).call(method, path, &body);
            (status, answer.to_string())
        }
        Misbehaviour::ServerError => (500, json!({"error_code": 50001, "message": "no storage"}).to_string()),
        Misbehaviour::Garbage => (200, "<html>Welcome!</html>".to_owned()),
        Misbehaviour::NoSuchPath => (404, "<html>Not found</html>".to_owned()),
        Misbehaviour::Silent => {
            std::future::pending::<()>().await;
            return Ok(());
        }
        Misbehaviour::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            loop {
                stream.write_all(&[b' '; 8_192]).await?;
            }
        }
    };
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", text.len());
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(text.as_bytes()).await
}

impl Small {
    /// The part of Confluent's API that is used.
    fn call(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let unknown = |code: u32| (404, json!({"error_code": code, "message": "not found"}));
        let path = path.split('?').next().unwrap_or_default();
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let schema = body.get("schema").and_then(Value::as_str).unwrap_or_default();
        match (method, parts.as_slice()) {
            ("GET", ["subjects"]) => (200, json!(self.subjects.keys().collect::<Vec<_>>())),
            ("GET", ["schemas", "ids", id]) => {
                let schema = id.parse::<usize>().ok().and_then(|id| self.schemas.get(id.checked_sub(1)?));
                schema.map_or(unknown(40403), |schema| (200, json!({"schema": schema})))
            }
            ("POST", ["subjects", subject, "versions"]) => {
                let id = self.schemas.iter().position(|one| one == schema).unwrap_or_else(|| {
                    self.schemas.push(schema.to_owned());
                    self.schemas.len() - 1
                });
                let versions = self.subjects.entry((*subject).to_owned()).or_default();
                if !versions.contains(&id) {
                    versions.push(id);
                }
                (200, json!({"id": id + 1}))
            }
            ("GET", ["config", subject]) => {
                let level = self.levels.get(*subject);
                level.map_or(unknown(40408), |level| (200, json!({"compatibilityLevel": level})))
            }
            ("PUT", ["config", subject]) => {
                let level = body.get("compatibility").and_then(Value::as_str).unwrap_or_default();
                self.levels.insert((*subject).to_owned(), level.to_owned());
                (200, json!({"compatibility": level}))
            }
            (_, ["subjects", subject, rest @ ..]) => {
                let Some(versions) = self.subjects.get(*subject) else { return unknown(40401) };
                let registered = |at: usize| {
                    let id = versions.get(at)?;
                    let schema = self.schemas.get(*id)?;
                    Some((
                        200,
                        json!({"subject": subject, "id": id + 1, "version": at + 1, "schema": schema}),
                    ))
                };
                match (method, rest) {
                    ("POST", []) => {
                        let at = versions
                            .iter()
                            .position(|id| self.schemas.get(*id).is_some_and(|one| one == schema));
                        at.and_then(registered).unwrap_or(unknown(40403))
                    }
                    ("GET", ["versions"]) => (200, json!((1..=versions.len()).collect::<Vec<_>>())),
                    ("GET", ["versions", version]) => {
                        let at = version.parse::<usize>().ok().and_then(|version| version.checked_sub(1));
                        at.and_then(registered).unwrap_or(unknown(40402))
                    }
                    _ => unknown(404),
                }
            }
            ("POST", ["compatibility", "subjects", subject, "versions"]) => match self.subjects.get(*subject)
            {
                Some(_) => (200, json!({"is_compatible": true, "messages": []})),
                None => unknown(40401),
            },
            _ => unknown(404),
        }
    }
}
