//! docs/metrics.md lists what the services expose, no more and no less.

use harness::{CONSUMERS, EVENTS, Outcome, Result, SOON, World, eventually, http, produce, record};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What the notification service has in addition where it sends webhooks.
const WEBHOOKS: &str = "notification-service with `NOTIFIER=webhook`";

/// What the API has in addition where the keys of its callers' tokens are at a URL.
const KEYS: &str = "task-api with `API_JWKS_URL`";

/// A metric: its type, and the names of its labels.
type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

/// The table of the document: for each service, what it has.
fn documented() -> BTreeMap<&'static str, Metrics> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let services = ["task-api", KEYS, WEBHOOKS].into_iter().chain(CONSUMERS);
    let mut all: BTreeMap<_, Metrics> = services.map(|service| (service, Metrics::new())).collect();
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, of, what] = cells.as_slice() else { panic!("a row of five cells: {row}") };
        assert!(!what.is_empty(), "{row}");
        let labels: BTreeSet<String> = labels
            .split(',')
            .map(|label| label.trim().to_owned())
            .filter(|label| !label.is_empty())
            .collect();
        let of: Vec<&str> = match *of {
            "all" => all.keys().copied().collect(),
            "task-api" => vec!["task-api", KEYS],
            "consumers" => [&CONSUMERS[..], &[WEBHOOKS]].concat(),
            one => vec![one],
        };
        for service in of {
            let metrics = all.get_mut(service).unwrap_or_else(|| panic!("no service {service}: {row}"));
            let earlier =
                metrics.insert(name.trim_matches('`').to_owned(), ((*kind).to_owned(), labels.clone()));
            assert_eq!(earlier, None, "{service} has it twice: {row}");
        }
    }
    all
}

/// What an exposition has, which is well-formed: each series below its own type, with a help that is a sentence.
fn exposed(text: &str) -> Metrics {
    let mut metrics = Metrics::new();
    let (mut family, mut kind) = ("", "");
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(help.ends_with('.') && help.starts_with(char::is_uppercase), "{line}");
            assert!(!metrics.contains_key(name), "twice: {line}");
            family = name;
        } else if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, named_kind) = typed.split_once(' ').unwrap();
            assert_eq!(name, family, "{line}");
            kind = named_kind;
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            metrics.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            value.parse::<f64>().unwrap_or_else(|error| panic!("{error}: {line}"));
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let ends: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(
                ends.iter().any(|end| name.strip_suffix(end) == Some(family)),
                "{line} is not of {family}"
            );
            let names =
                labels.trim_end_matches('}').split(',').filter_map(|label| Some(label.split_once('=')?.0));
            let names = names.filter(|name| *name != "le").map(str::to_owned);
            metrics.get_mut(family).unwrap().1.extend(names);
        }
    }
    metrics
}

async fn scrape(url: &str) -> Result<String> {
    Ok(http()?.get(format!("{url}/metrics")).send().await?.text().await?)
}

#[tokio::test]
async fn the_table_of_metrics_is_what_the_services_expose() -> Outcome {
    let world = World::start().await?;
    let (_api_service, api) = world.start_api().await?;
    let with_health = |name| world.program(name).env("HEALTH_ADDR", "127.0.0.1:0").start();
    let mut consumers = CONSUMERS.into_iter().map(with_health).collect::<Result<Vec<_>>>()?;
    let secrets = world.path("secrets");
    std::fs::write(&secrets, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
    let webhooks = world.program("notification-service").env("HEALTH_ADDR", "127.0.0.1:0");
    let webhooks = webhooks.env("GROUP", "webhooks").env("NOTIFIER", "webhook");
    let webhooks =
        webhooks.env("WEBHOOK_URL", "http://127.0.0.1:1/").env("WEBHOOK_SECRET_FILE", secrets.display());
    consumers.push(webhooks.start()?);
    api.create("one").await?;
    produce(&world.broker.bootstrap(), EVENTS, vec![record(None, Some(b"no event"))]).await?;

    let documented = documented();
    assert_eq!(exposed(&scrape(api.url()).await?), documented["task-api"]);
    let with_keys = world.program("task-api").env("STATE_DIR", world.path("with-keys").display());
    let with_keys = with_keys.env("API_JWKS_URL", "http://127.0.0.1:1/");
    let with_keys =
        with_keys.env("API_JWT_ISSUER", "https://issuer.example.org").env("API_JWT_AUDIENCE", "task-api");
    let (_with_keys, with_keys) = world.start_api_as(with_keys).await?;
    // It has sent nothing, and so has not every label.
    let found = exposed(&scrape(with_keys.url()).await?);
    assert!(found.keys().eq(documented[KEYS].keys()), "{found:?}");
    for (name, service) in CONSUMERS.iter().chain(&[WEBHOOKS]).zip(&mut consumers) {
        let url = service.health_url().await?;
        // Its partitions are there once it has claimed them, and what it counts once it has read the events.
        eventually(name, SOON, async || {
            let found = exposed(&scrape(&url).await?);
            Ok((found == documented[*name]).then_some(()))
        })
        .await?;
    }
    let urls = [consumers[0].health_url().await?, consumers[1].health_url().await?];
    for url in urls {
        let text = eventually("both events are handled", SOON, async || {
            let text = scrape(&url).await?;
            let ends = ["outcome=\"dead_lettered\"} 1\n", "outcome=\"handled\"} 1\n"];
            let has_no_lag = text.lines().any(|line| {
                line.starts_with("kafka_consumergroup_group_lag_seconds{") && line.ends_with("} 0")
            });
            Ok((has_no_lag && ends.iter().all(|end| text.contains(end))).then_some(text))
        })
        .await?;
        let lines = |start: &str, end: &str| {
            text.lines().filter(|line| line.starts_with(start) && line.ends_with(end)).count()
        };
        assert_eq!(lines("messaging_client_consumed_messages_total{", "outcome=\"handled\"} 1"), 1, "{text}");
        assert_eq!(lines("task_events_partition_state{", "state=\"active\"} 1"), 1, "{text}");
        assert_eq!(lines("kafka_consumergroup_group_lag_seconds{", "} 0"), 1, "{text}");
        assert!(
            !text.contains("messaging_process_duration_seconds_sum{messaging_system=\"kafka\"} 0"),
            "{text}"
        );
    }
    Ok(())
}
