//! The command as an operator runs it, against a broker in this process.

mod world;

use std::time::Duration;

use serde_json::Value;
use task_events::kafka::{Compression, NewTopic, Position, ProducerRecord};
use task_events::offsets::{Claim, Commit, Slot};
use tokio::process::Command;
use uuid::Uuid;
use world::{World, cells, now, text};

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_created_once_and_what_differs_is_said() {
    let world = World::without_topics().await;
    let made = world.answers("topics create --partitions 3").await;
    assert_eq!(
        cells(&made),
        [
            ["task-events", "3", "created", "-"],
            ["task-events-offsets", "1", "created", "-"],
            ["task-events-dlq", "1", "created", "-"]
        ]
    );
    for (topic, config, value) in [
        ("task-events", "retention.ms", "604800000"),
        ("task-events", "message.timestamp.type", "LogAppendTime"),
        ("task-events", "compression.type", "producer"),
        ("task-events-offsets", "compression.type", "producer"),
        ("task-events-dlq", "message.timestamp.type", "LogAppendTime"),
        ("task-events-offsets", "cleanup.policy", "compact"),
        ("task-events-dlq", "retention.ms", "2592000000"),
        ("task-events-dlq", "max.message.bytes", "4194304"),
    ] {
        let set = world.kafka.admin().topic_config(topic, config).await.unwrap();
        assert_eq!(set.as_deref(), Some(value), "{config} of {topic}");
    }
    let again = world.answers_json("topics create").await;
    assert_eq!(again[0]["outcome"], "exists");
    assert_eq!(again[0]["differences"][0]["what"], "partitions");
    assert_eq!((&again[0]["differences"][0]["is"], &again[0]["partitions"]), (&"3".into(), &3.into()));
    assert_eq!(again[1]["differences"], Value::Array(vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_described_with_their_partitions_and_configs() {
    let world = World::start().await;
    let all = world.answers_json("topics describe").await;
    let names: Vec<_> = all.as_array().unwrap().iter().map(|topic| topic["topic"].clone()).collect();
    assert_eq!(names, ["task-events", "task-events-offsets", "task-events-dlq"]);
    assert_eq!(
        (&all[0]["partitions"][0]["log_end_offset"], &all[0]["partitions"][0]["log_start_offset"]),
        (&10.into(), &0.into())
    );
    assert_eq!(all[0]["differences"], Value::Array(vec![]));
    let events = world.answers("topics describe task-events").await;
    assert!(events.starts_with("task-events  cleanup.policy=delete retention.ms=604800000 "), "{events}");
    assert_eq!(cells(&events)[1], ["0", "1", "1", "1", "0", "10", "10"], "{events}");
    let error = world.refuses("topics describe nothing").await;
    assert!(error.contains("nothing"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_one_screen_and_says_what_cannot_be_seen() {
    let world = World::start().await;
    let owner = world.owner("g", Duration::from_secs(60)).await;
    owner.commit(4, true).await;
    // Nothing listens there.
    let screen = world.answers("status --api 127.0.0.1:1").await;
    for part in [
        "Task API 127.0.0.1:1: cannot be seen",
        "task-events          1           10",
        "g      released  task-events  1           6",
        "DLQ: 0 open dead letters, 0 redriven",
    ] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    let output =
        world.taskctl("status --format json --kafka-bootstrap-servers 127.0.0.1:1 --api 127.0.0.1:1").await;
    assert_eq!(output.status.code(), Some(1));
    let screen: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(screen["topics"]["error"].is_string(), "{screen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_shows_the_records_of_another_topic() {
    let world = World::start().await;
    world.owner("g", Duration::from_secs(60)).await;
    let shown = world.answers("tail --topic task-events-offsets --from-beginning --count 1").await;
    assert!(shown.starts_with("0/0  ") && shown.contains("g/task-events/0/claim  {"), "{shown}");
    let shown =
        world.answers("tail --topic task-events-offsets --from-beginning --count 1 --format json").await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["key"], &shown["error"]), (&"g/task-events/0/claim".into(), &Value::Null));
    let error = world.refuses("tail --topic nothing --count 1").await;
    assert!(error.contains("topic nothing does not exist"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_line_ends_with_a_code_that_is_explained() {
    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("none").display().to_string();
    for (args, code) in [
        ("groups list --kafka-bootstrap-servers 127.0.0.1:1".to_owned(), "TE0501"),
        ("topics describe nothing".to_owned(), "TE0502"),
        ("groups describe nobody".to_owned(), "TE0507"),
        ("dlq redrive".to_owned(), "TE0517"),
        ("dlq show 9".to_owned(), "TE0512"),
        (format!("audit verify {absent}"), "TE0511"),
        (format!("man --dir {absent}"), "TE0511"),
    ] {
        let error = world.refuses(&args).await;
        assert!(error.ends_with(&format!(" [{code}]")), "{error}");
        let page = world.answers(&format!("explain {code}")).await;
        assert!(page.starts_with(&format!("# {code}: ")) && page.contains("## Remedy"), "{page}");
    }
    let all = world.answers("explain").await;
    assert!(all.contains("TE0502  a topic does not exist"), "{all}");
    assert_eq!(world.answers_json("explain te0502").await["code"], "TE0502");
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_and_manual_come_from_the_commands() {
    let world = World::without_topics().await;
    for (shell, start) in
        [("bash", "_taskctl()"), ("zsh", "#compdef taskctl"), ("fish", "# Print an optspec")]
    {
        let script = world.answers(&format!("completions {shell}")).await;
        assert!(script.starts_with(start) && script.contains("redrive"), "{shell}: {script}");
    }
    let page = world.answers("man").await;
    assert!(page.contains(".TH taskctl 1"), "{page}");
    let folder = tempfile::tempdir().unwrap();
    world.answers(&format!("man --dir {}", folder.path().display())).await;
    assert!(folder.path().join("taskctl-dlq-redrive.1").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offsets_topic_that_forgets_is_refused_before_anything_is_made() {
    let world = World::without_topics().await;
    let forgets = NewTopic {
        name: "task-events-offsets".to_owned(),
        partitions: 1,
        replication_factor: -1,
        configs: vec![("cleanup.policy".to_owned(), "delete".to_owned())],
    };
    world.kafka.admin().create_topic(&forgets).await.unwrap();
    let error = world.refuses("topics create").await;
    assert!(error.contains("task-events-offsets") && error.contains("cleanup.policy=delete"), "{error}");
    assert_eq!(world.kafka.topics().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_show_who_is_active_who_released_and_who_fell_silent() {
    let world = World::start().await;
    assert_eq!(world.answers_json("groups list").await, Value::Array(vec![]));

    let active = world.owner("active-group", Duration::from_secs(60)).await;
    let active_name = active.short();
    active.commit(4, false).await;
    let idle = active.idles_at(4);
    let released = world.owner("released-group", Duration::from_secs(60)).await;
    released.commit(10, true).await;
    let silent = world.owner("silent-group", Duration::from_secs(1)).await;

    let silent_name = silent.short();
    let list = world.answers("groups list").await;
    assert_eq!(
        cells(&list),
        [
            ["active-group", "active", "task-events", "1", "6", active_name.as_str()],
            ["released-group", "released", "task-events", "1", "0", "-"],
            ["silent-group", "silent", "task-events", "1", "10", silent_name.as_str()],
        ]
    );
    let all = world.answers("groups describe").await;
    let all = cells(&all);
    assert_eq!(
        all.iter().map(|row| row[0]).collect::<Vec<_>>(),
        ["active-group", "released-group", "silent-group"]
    );
    assert_eq!(all[1][1..7], ["task-events", "0", "10", "0", "10", "0"]);
    let describe = world.answers("groups describe active-group").await;
    let line = &cells(&describe)[0];
    assert_eq!(line[..7], ["task-events", "0", "4", "0", "10", "6", active_name.as_str()], "{describe}");
    assert_eq!(line[8], "s", "{describe}");
    let describe = world.answers("groups describe released-group").await;
    assert_eq!(cells(&describe), [["task-events", "0", "10", "0", "10", "0", "released", "-"]]);
    let describe = world.answers_json("groups describe silent-group").await;
    assert_eq!((&describe[0]["current_offset"], &describe[0]["lag"]), (&Value::Null, &10.into()));
    assert_eq!((&describe[0]["state"], &describe[0]["lease_left_ms"]), (&"silent".into(), &0.into()));
    let not_watched = world.answers("groups describe active-group --wait 0").await;
    assert_eq!(cells(&not_watched)[0][7], "unknown");

    let error = world.refuses("groups describe nobody").await;
    assert!(error.contains("nobody"), "{error}");
    idle.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_of_a_live_group_are_not_reset_and_of_a_stopped_one_only_with_execute() {
    let world = World::start().await;
    let error = world.refuses("offsets reset new-group --to latest").await;
    assert!(error.contains("--topic"), "{error}");

    let owner = world.owner("g", Duration::from_secs(60)).await;
    let owner_name = owner.short();
    owner.commit(4, false).await;
    let idle = owner.idles_at(4);
    // A live group, dry run.
    let plan = world.answers_json("offsets reset g --to earliest").await;
    assert_eq!(plan["executed"], false);
    assert_eq!((&plan["partitions"][0]["from"], &plan["partitions"][0]["to"]), (&4.into(), &0.into()));
    let error = world.refuses("offsets reset g --to earliest --execute").await;
    assert!(error.contains("live") && error.contains(&owner_name), "{error}");

    // Its owner is gone, and so is the next, without a word.
    idle.abort();
    world.owner("g", Duration::from_secs(2)).await;
    let error = world.refuses("offsets reset g --to 11 --execute").await;
    assert!(error.contains("0 to 10"), "{error}");
    let answer = world.answers("offsets reset g --to 7 --execute").await;
    assert_eq!(cells(&answer), [["task-events", "0", "4", "7"]]);
    let describe = world.answers("groups describe g").await;
    assert_eq!(cells(&describe), [["task-events", "0", "7", "0", "10", "3", "released", "-"]]);

    // Released: at once. The next owner starts there, and the commits of older owners are gone.
    for (to, offset) in
        [("earliest", 0), ("latest", 10), ("2000-01-01T00:00:00Z", 0), ("2100-01-01T00:00:00Z", 10)]
    {
        let reset = world.taskctl(&format!("offsets reset g --to {to} --execute")).await;
        let said = text(&reset.stderr);
        assert_eq!(reset.status.code(), Some(0), "{said}");
        assert!(!said.contains("has not released: watching"), "it had released: {said}");
        let next = world.owner("g", Duration::from_secs(1)).await;
        let view = next.offsets.view();
        let state = view.borrow().slot(&next.slot).unwrap().clone();
        assert_eq!(state.position(), Some(offset), "{to}");
        assert_eq!(state.stale_tokens(next.claimed.token).len(), 1, "{to}");
        next.commit(5, true).await;
    }

    // A group that has not run yet.
    world.answers("offsets reset new-group --topic task-events --to latest --execute").await;
    let describe = world.answers("groups describe new-group").await;
    assert_eq!(cells(&describe), [["task-events", "0", "10", "0", "10", "0", "released", "-"]]);
    let error = world.refuses("offsets reset new-group --partition 1 --to latest").await;
    assert!(error.contains("partition"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_forgets_trees_stays_where_it_is_in_each_topic() {
    let world = World::start().await;
    let owner = world.owner("g", Duration::from_secs(60)).await;
    let position = Position { offset: 6, leader_epoch: Some(3), topic_id: Some(Uuid::from_u128(9)) };
    let meta = serde_json::json!({
        "trees": {"o": {"size": 5, "root": "00"}}, "done_by": {(owner.instance_id.to_string()): 5}, "moved_from": 2
    });
    let commit = Commit::at(position, owner.instance_id, true).with_meta(meta.as_object().unwrap().clone());
    let gone = Slot { partition: 7, ..owner.slot.clone() };
    let claim = Claim::new(owner.instance_id, "test-host", 60_000);
    let of_gone = owner.offsets.claim(&gone, &claim).await.unwrap().token;
    for (slot, token) in [(&owner.slot, owner.claimed.token), (&gone, of_gone)] {
        owner.offsets.commit(slot, token, &commit, Duration::from_secs(30)).await.unwrap();
    }
    let dry = world.answers("offsets reset g --forget-trees").await;
    assert!(dry.contains("forgets the tree o") && dry.contains("Nothing was changed"), "{dry}");
    let error = world.refuses("offsets reset g --forget-trees --partition 1").await;
    assert!(error.contains("no position there"), "{error}");
    let answer = world.answers_json("offsets reset g --forget-trees --execute").await;
    let rows: Vec<_> = answer["partitions"].as_array().unwrap().iter().collect();
    assert_eq!(rows.len(), 2, "{answer}");
    assert!(rows.iter().all(|row| row["from"] == 6 && row["to"] == 6), "{answer}");
    owner.offsets.catch_up().await.unwrap();
    let view = owner.offsets.view();
    for (slot, token) in [(&owner.slot, owner.claimed.token), (&gone, of_gone)] {
        let (by, kept) =
            view.borrow().slot(slot).unwrap().last_commit().map(|(by, kept)| (by, kept.clone())).unwrap();
        assert!(by > token, "{slot}");
        let mut expected = commit.clone();
        expected.meta.remove("trees");
        expected.committed_at = kept.committed_at;
        assert_eq!(kept, expected, "{slot}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_usage_is_2_and_a_failure_1_in_one_line_each() {
    let world = World::without_topics().await;
    let output = Command::new(env!("CARGO_BIN_EXE_taskctl")).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let help = text(&output.stderr);
    assert!(help.contains("Usage: taskctl") && help.contains("  dlq "), "{help}");
    for usage in [
        "topics",
        "explain TE9999",
        "topics create --partitions 0",
        "offsets reset g",
        "offsets reset g --to soon",
        "groups describe a/b",
    ] {
        let output = world.taskctl(usage).await;
        assert_eq!(output.status.code(), Some(2), "{usage}");
        assert_eq!(text(&output.stderr).lines().count(), 1, "{usage}: {}", text(&output.stderr));
    }
    let error = world.refuses("groups list").await;
    assert!(error.contains("task-events-offsets") && error.contains("topics create"), "{error}");
    let output = world.taskctl("groups list --kafka-bootstrap-servers 127.0.0.1:1").await;
    assert_eq!((output.status.code(), text(&output.stderr).lines().count()), (Some(1), 1));
    for question in ["--help", "--version", "offsets reset --help"] {
        world.answers(question).await;
    }
}

#[tokio::test]
async fn tail_shows_each_record_once_and_says_what_is_no_event() {
    let world = World::start().await;
    let shown = world.answers("tail --from-beginning --count 10 --format json").await;
    let lines: Vec<Value> = shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let offsets: Vec<i64> = lines.iter().map(|line| line["offset"].as_i64().unwrap()).collect();
    assert_eq!(offsets, (0..10).collect::<Vec<_>>());
    assert!(lines[0]["error"].as_str().unwrap().contains("event_id"), "{}", lines[0]);

    let data = task_events::event::TaskData {
        task_id: Uuid::now_v7(),
        title: "a\u{1b}b".to_owned(),
        status: "pending".to_owned(),
        owner_id: None,
    };
    let event = task_events::event::TaskEvent::task_created(data, Uuid::new_v4());
    let value = Some(serde_json::to_vec(&event).unwrap());
    let record = ProducerRecord { key: None, value, headers: Default::default(), timestamp: now() };
    world.kafka.producer("task-events", 0).produce(&[record], Compression::NoCompression).await.unwrap();
    let shown = world.answers("tail --from-beginning --count 11").await;
    let last = shown.lines().last().unwrap();
    assert!(last.starts_with("0/10  ") && last.contains("task.created"), "{last}");
    assert!(last.ends_with("pending  a\\u{1b}b"), "{last}");
}

/// `taskctl tail | head -3`, and no event comes after the third.
#[tokio::test(flavor = "multi_thread")]
async fn tail_ends_with_its_reader() {
    use tokio::io::AsyncReadExt;
    let world = World::start().await;
    let mut tail = Command::new(env!("CARGO_BIN_EXE_taskctl"))
        .args(["tail", "--from-beginning"])
        .env_clear()
        .env("KAFKA_BOOTSTRAP_SERVERS", world.broker.addr().to_string())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdout = tail.stdout.take().unwrap();
    let mut line = [0; 10];
    stdout.read_exact(&mut line).await.unwrap();
    // All ten are written before the reader goes.
    tokio::time::sleep(Duration::from_millis(500)).await;
    drop(stdout);
    let ended = tokio::time::timeout(Duration::from_secs(30), tail.wait()).await;
    assert_eq!(ended.expect("it ends without another event").unwrap().code(), Some(0));
}
