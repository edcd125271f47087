//! Debian's Prometheus with the alert rules, and what it is asked.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use harness::{Process, Result, SOON, eventually, free_port, http};
use serde_json::{Value, json};

/// What is scraped from later on: the name, and the file that names it.
const LATE: &str = "late";
pub const LATE_FILE: &str = "late.json";

/// A Prometheus of the test's own, which scrapes and evaluates every second.
pub struct Prometheus {
    url: String,
    http: reqwest::Client,
    _process: Process,
}

impl Prometheus {
    /// `targets`: the name and the address of each.
    pub fn start(folder: &Path, data: &Path, targets: &[(String, String)]) -> Result<Self> {
        let mut jobs: Vec<Value> = targets
            .iter()
            .map(|(job, url)| json!({"job_name": job, "static_configs": [{"targets": [url.trim_start_matches("http://")]}]}))
            .collect();
        jobs.push(json!({"job_name": LATE, "file_sd_configs": [{"files": [data.join(LATE_FILE)], "refresh_interval": "1s"}]}));
        let rules = std::fs::canonicalize(folder.join("live.yaml")).unwrap();
        // JSON is YAML.
        let config = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [rules],
            "scrape_configs": jobs,
        });
        let config_path = data.join("prometheus.yml");
        std::fs::write(&config_path, config.to_string()).unwrap();
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new(folder.join("prometheus"));
        command.arg(format!("--config.file={}", config_path.display()));
        command.arg(format!("--storage.tsdb.path={}", data.join("tsdb").display()));
        command.arg(format!("--web.listen-address={address}"));
        Ok(Self {
            url: format!("http://{address}"),
            http: http()?,
            _process: Process::spawn("prometheus", &mut command)?,
        })
    }

    pub async fn get(&self, path: &str) -> Option<Value> {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await.ok()?;
        let answer: Value = answer.json().await.ok()?;
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        Some(answer["data"].clone())
    }

    /// The series of a query, now.
    pub async fn query(&self, query: &str) -> Vec<Value> {
        let encoded = |byte: u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        };
        let query: String = query.bytes().map(encoded).collect();
        let data = self.get(&format!("/api/v1/query?query={query}")).await.expect("Prometheus answers");
        data["result"].as_array().expect("a list").clone()
    }

    /// The alerts that fire.
    pub async fn firing(&self) -> BTreeSet<String> {
        let data = self.get("/api/v1/alerts").await.unwrap_or_default();
        let alerts = data["alerts"].as_array().cloned().unwrap_or_default();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        firing.map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_owned()).collect()
    }

    /// The alerts that have fired since then.
    pub async fn have_fired(&self, since: Instant) -> BTreeSet<String> {
        let firing = format!("ALERTS{{alertstate=\"firing\"}}[{}s]", since.elapsed().as_secs());
        let series = self.query(&format!("max by (alertname) (max_over_time({firing}))")).await;
        series.iter().map(|one| one["metric"]["alertname"].as_str().unwrap().to_owned()).collect()
    }

    pub async fn fires(&self, alerts: &[&str]) -> Result<()> {
        for alert in alerts {
            eventually(alert, SOON, async || Ok(self.firing().await.contains(*alert).then_some(()))).await?;
        }
        Ok(())
    }
}

/// The queries of the dashboard's panels, with what Grafana fills in.
pub fn dashboard_queries() -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests/monitoring/dashboard.json");
    let dashboard: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let filled = |query: &str| query.replace("$__rate_interval", "15s").replace("$namespace", ".*");
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| {
        let title = panel["title"].as_str().unwrap();
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(move |target| (title.to_owned(), target["expr"].as_str().unwrap().to_owned()))
    });
    targets.map(|(title, query)| (title, filled(&query))).collect()
}

/// What `promtool check metrics` says of an exposition.
pub fn lint(promtool: &Path, text: &str) {
    let mut command = Command::new(promtool);
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}
