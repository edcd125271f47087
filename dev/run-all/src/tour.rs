//! The tour: one task through its life, and what each service made of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use task_events::api_token::ApiToken;
use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::layout::Layout;
use crate::screen::Screen;
use crate::services::{CONSUMERS, DLQ_PROCESSOR};
use crate::taskctl::taskctl;

/// Time for the services to see the events of the tour.
const LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
/// Width of what is shown.
const WIDTH: usize = 100;

/// What the tour needs.
#[derive(Debug)]
pub struct Tour<'a> {
    /// Where it is shown, and where the logs are.
    pub screen: &'a Screen,
    /// What there is of what.
    pub layout: &'a Layout,
    /// The token of its calls, where the API asks for one.
    pub token: Option<&'a ApiToken>,
    /// The operator's command.
    pub taskctl: &'a Path,
    /// Its environment.
    pub env: &'a [(&'static str, String)],
}

impl Tour<'_> {
    /// Gives the tour. Logs are kept back meanwhile.
    pub async fn run(&self) -> Result<(), Failure> {
        self.screen.hold();
        let client = http_client()?;
        self.screen.heading("1. A task is created, started and completed");
        let created =
            self.call(&client, 0, Method::POST, "/tasks", Some(json!({"title": "Try task-events"})));
        let created = created.await?;
        let id = created.get("id").and_then(Value::as_str).unwrap_or_default();
        let task = format!("/tasks/{id}");
        self.call(&client, 1, Method::PATCH, &task, Some(json!({"status": "in_progress"}))).await?;
        self.call(&client, 2, Method::POST, &format!("{task}/complete"), None).await?;

        self.screen.heading("2. The notification service, a consumer group, has logged");
        for line in self.wait_for("NOTIFICATION lines", 2, async || Ok(self.notifications(id))).await? {
            self.screen.say(&format!("  {line}"));
        }

        let logs = self.layout.audit_logs.iter();
        let logs: Vec<String> = logs.map(|path| path.display().to_string()).collect();
        self.screen
            .heading(&format!("3. The audit service, another group, has written to {}", logs.join(", or ")));
        let audited = async || {
            let mut lines = Vec::new();
            for path in &self.layout.audit_logs {
                lines.extend(audit_lines(path, id).await?);
            }
            Ok(lines)
        };
        let lines = self.wait_for("audit lines", 3, audited).await?;
        for (number, line) in lines.iter().enumerate() {
            match number {
                0 => self.show_json(line),
                _ => self.screen.say(&format!("  {}…", line.chars().take(WIDTH).collect::<String>())),
            }
        }

        self.screen.heading("4. The groups keep their offsets in a compacted topic");
        let [notification, audit, dlq] = CONSUMERS;
        let answers = tokio::join!(self.describe(notification), self.describe(audit), self.describe(dlq));
        for (group, answer) in CONSUMERS.into_iter().zip([answers.0, answers.1, answers.2]) {
            self.screen.say(&format!("  $ taskctl groups describe {group}"));
            for line in answer?.lines() {
                self.screen.say(&format!("  {line}"));
            }
        }

        self.screen.heading("5. What the services logged meanwhile");
        self.screen.release();
        Ok(())
    }

    /// Calls the API, whose replicas take turns by that number, and shows the call as a line for a shell, and the answer.
    async fn call(
        &self,
        client: &reqwest::Client,
        number: usize,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, Failure> {
        let replica =
            number.checked_rem(self.layout.apis.len()).and_then(|place| self.layout.apis.get(place));
        let url = format!("{}{path}", replica.map_or("", String::as_str));
        let mut line = format!("  $ curl -X {method} {url}");
        let mut request = client.request(method, &url);
        if let Some(token) = self.token {
            line.push_str(r#" -H "Authorization: Bearer $API_TOKEN""#);
            request = request.header("authorization", token.authorization());
        }
        if let Some(body) = &body {
            line.push_str(&format!(" -d '{body}'"));
            request = request.json(body);
        }
        self.screen.say(&line);
        let failed = |error: reqwest::Error| Failure(format!("the tour's call of {url} failed: {error}"));
        let answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        let text = answer.text().await.map_err(failed)?;
        let task = serde_json::from_str(&text).ok().filter(|_| status.is_success());
        let Some(task) = task else {
            return Err(Failure(format!("the API answered the tour's call of {url} with {status}: {text}")));
        };
        self.screen.say(&format!("  {status}"));
        self.show_json(&text);
        Ok(task)
    }

    fn show_json(&self, json: &str) {
        for line in wrapped(json) {
            self.screen.say(&format!("  {line}"));
        }
    }

    fn notifications(&self, id: &str) -> Vec<String> {
        let lines = self.layout.notifiers().flat_map(|name| self.screen.held_lines(name)).collect::<Vec<_>>();
        let about = lines.iter().filter(|line| line.contains(id));
        about.filter_map(|line| Some(line.split_at(line.find("NOTIFICATION: ")?).1.to_owned())).collect()
    }

    /// What taskctl says of a group, once its instances share the partitions.
    async fn describe(&self, group: &str) -> Result<String, Failure> {
        let sharers = if group == DLQ_PROCESSOR { 1 } else { self.layout.sharers };
        let start = Instant::now();
        loop {
            let is_shared = match self.ask(&["groups", "describe", group, "--format", "json"]).await {
                Ok(json) => is_shared(&json, sharers),
                Err(_) => false,
            };
            if is_shared || start.elapsed() >= LIMIT {
                return self.ask(&["groups", "describe", group]).await;
            }
            sleep(POLL).await;
        }
    }

    async fn ask(&self, words: &[&str]) -> Result<String, Failure> {
        taskctl(self.taskctl, self.env, words).await
    }

    async fn wait_for<T>(
        &self,
        what: &str,
        count: usize,
        look: impl AsyncFn() -> Result<Vec<T>, Failure>,
    ) -> Result<Vec<T>, Failure> {
        let start = Instant::now();
        loop {
            let found = look().await?;
            if found.len() >= count {
                return Ok(found);
            }
            if start.elapsed() > LIMIT {
                let limit = LIMIT.as_secs();
                let found = found.len();
                return Err(Failure(format!(
                    "the tour saw {found} of {count} {what} within {limit} s; see the logs below; does another instance own the groups?"
                )));
            }
            sleep(POLL).await;
        }
    }
}

/// Whether that many instances, or more where others are elsewhere, share all partitions evenly, as taskctl describes a
/// group in JSON.
fn is_shared(json: &str, sharers: usize) -> bool {
    let rows: Vec<Value> = serde_json::from_str(json).unwrap_or_default();
    let mut shares: BTreeMap<&str, usize> = BTreeMap::new();
    for row in &rows {
        let Some(owner) = row.pointer("/owner/instance_id").and_then(Value::as_str) else { return false };
        *shares.entry(owner).or_default() += 1;
    }
    let (least, most) = (shares.values().min(), shares.values().max());
    shares.len() >= sharers && least.zip(most).is_some_and(|(least, most)| most - least <= 1)
}

/// An HTTP client that gives up on a call after 10 s and asks no proxy.
pub fn http_client() -> Result<reqwest::Client, Failure> {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build();
    client.map_err(|error| Failure(format!("cannot make an HTTP client: {error}")))
}

/// The lines of the audit log about a task; a line that is being written does not count.
async fn audit_lines(path: &Path, id: &str) -> Result<Vec<String>, Failure> {
    let file = path.to_owned();
    let read = tokio::task::spawn_blocking(|| std::fs::read_to_string(file)).await;
    let text = match read.map_err(std::io::Error::other).flatten() {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure(format!("cannot read {}: {error}", path.display()))),
    };
    let whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    Ok(whole.filter(|line| line.contains(id)).map(str::to_owned).collect())
}

/// JSON in lines of [`WIDTH`] where that is possible, broken only between the fields of the outermost
/// object, and otherwise as it came.
fn wrapped(json: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for field in fields(json) {
        if !line.is_empty() && line.len() + field.len() > WIDTH {
            lines.push(std::mem::replace(&mut line, " ".to_owned()));
        }
        line.push_str(field);
    }
    lines.push(line);
    lines
}

/// The text after each comma between fields of the outermost object.
fn fields(json: &str) -> impl Iterator<Item = &str> {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    json.split_inclusive(move |c| {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            '{' | '[' if !quoted => depth += 1,
            '}' | ']' if !quoted => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 1 && !quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_shared_once_each_has_an_owner_and_nobody_has_two_more_than_another() {
        let rows = |owners: &[&str]| {
            let row = |owner: &&str| match *owner {
                "" => json!({"owner": null}),
                owner => json!({"owner": {"instance_id": owner}}),
            };
            Value::from(owners.iter().map(row).collect::<Vec<_>>()).to_string()
        };
        assert!(is_shared(&rows(&["a", "b", "a", "b"]), 2) && is_shared(&rows(&["a"]), 1));
        for owners in [&["a", "b", "a", ""][..], &["a", "a", "a", "b"], &["a", "a"], &[]] {
            assert!(!is_shared(&rows(owners), 2), "{owners:?}");
        }
    }

    #[test]
    fn wrapped_json_is_broken_between_its_fields_only() {
        let when = "y".repeat(60);
        let text = format!(r#"{{"title":"\"a,b","data":{{"a":1,"b":[2,3]}},"version":1,"when":"{when}"}}"#);
        assert_eq!(
            wrapped(&text),
            [r#"{"title":"\"a,b","data":{"a":1,"b":[2,3]},"version":1,"#, &format!(r#" "when":"{when}"}}"#)]
        );
    }
}
