//! The operator's command where something is missing: one clear line with its code, and exit code 1; and the view
//! that is shown again and again.

use harness::{Api, Method, Outcome, Program, Ran, Result, SOON, Signal, World, free_port};
use serde_json::{Value, json};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use uuid::Uuid;

/// What has to be there for a command, and is not.
struct Case {
    /// The command and its arguments; `FILE` and `FOLDER` are ones that this user may not use.
    args: &'static str,
    /// A variable that names what is not there.
    env: Option<&'static str>,
    /// The code of its error.
    code: &'static str,
}

const fn case(args: &'static str, code: &'static str) -> Case {
    Case { args, env: None, code }
}

const fn without(args: &'static str, env: &'static str, code: &'static str) -> Case {
    Case { args, env: Some(env), code }
}

const KAFKA_DOWN: [Case; 14] = [
    // What they cannot see is in its place of the answer.
    case("status", "TE0515"),
    case("doctor", "TE0513"),
    case("topics create", "TE0501"),
    case("topics describe", "TE0501"),
    case("groups list", "TE0501"),
    case("groups describe", "TE0501"),
    case("groups describe audit-service", "TE0501"),
    case("offsets reset audit-service --to earliest", "TE0501"),
    case("dlq list", "TE0501"),
    case("dlq show 0/0", "TE0501"),
    case("dlq redrive --all", "TE0501"),
    case("tail", "TE0501"),
    case("tail --topic task-events-dlq", "TE0501"),
    case("trace 01a216b2-569b-7137-befb-bca62242f665", "TE0501"),
];

const WRONG_TOPIC: [Case; 20] = [
    without("status", "TASK_EVENTS_TOPIC", "TE0515"),
    without("status", "OFFSETS_TOPIC", "TE0515"),
    without("status", "DLQ_TOPIC", "TE0515"),
    without("doctor", "TASK_EVENTS_TOPIC", "TE0513"),
    without("doctor", "OFFSETS_TOPIC", "TE0513"),
    without("doctor", "DLQ_TOPIC", "TE0513"),
    without("topics describe", "DLQ_TOPIC", "TE0502"),
    case("topics describe nothing", "TE0502"),
    without("groups list", "OFFSETS_TOPIC", "TE0502"),
    without("groups describe", "OFFSETS_TOPIC", "TE0502"),
    without("groups describe audit-service", "OFFSETS_TOPIC", "TE0502"),
    without("offsets reset audit-service --to earliest", "OFFSETS_TOPIC", "TE0502"),
    without("dlq list", "DLQ_TOPIC", "TE0502"),
    without("dlq show 0/0", "DLQ_TOPIC", "TE0502"),
    without("dlq redrive --all", "DLQ_TOPIC", "TE0502"),
    without("tail", "TASK_EVENTS_TOPIC", "TE0502"),
    case("tail --topic nothing", "TE0502"),
    without("trace 01a216b2-569b-7137-befb-bca62242f665", "TASK_EVENTS_TOPIC", "TE0502"),
    without("trace 01a216b2-569b-7137-befb-bca62242f665", "OFFSETS_TOPIC", "TE0502"),
    without("trace 01a216b2-569b-7137-befb-bca62242f665", "DLQ_TOPIC", "TE0502"),
];

const UNKNOWN: [Case; 7] = [
    case("groups describe nobody", "TE0507"),
    case("offsets reset nobody --to earliest", "TE0507"),
    case("dlq list --group nobody", "TE0507"),
    case("dlq redrive --group nobody", "TE0507"),
    case("dlq show 0/0", "TE0512"),
    case("dlq redrive 0/0", "TE0512"),
    case("trace 01a216b2-569b-7137-befb-bca62242f665", "TE0512"),
];

const NO_REGISTRY: [Case; 4] = [
    case("schema show", "TE0601"),
    case("schema check SCHEMA", "TE0601"),
    case("schema register", "TE0601"),
    case("schema init", "TE0601"),
];

/// Without a database's address.
const NO_DATABASE: [Case; 4] = [
    case("db status", "TE0208"),
    case("db migrate", "TE0208"),
    case("db import", "TE0208"),
    case("db export", "TE0208"),
];

const NO_FILE: [Case; 10] = [
    case("audit verify NONE", "TE0511"),
    case("audit verify FOLDER", "TE0511"),
    case("audit prove NONE 01a216b2-569b-7137-befb-bca62242f665", "TE0511"),
    case("audit check NONE --public-key NONE", "TE0410"),
    case("audit export NONE", "TE0511"),
    case("audit export FOLDER", "TE0511"),
    case("audit keygen NONE/key", "TE0511"),
    case("man --dir NONE", "TE0511"),
    case("schema check NONE", "TE0511"),
    case("schema register NONE", "TE0511"),
];

const NO_PERMISSION: [Case; 10] = [
    case("audit verify FILE", "TE0511"),
    case("audit prove FILE 01a216b2-569b-7137-befb-bca62242f665", "TE0511"),
    case("audit check FILE --public-key FILE", "TE0410"),
    case("audit export FILE", "TE0511"),
    case("audit keygen FOLDER/key", "TE0511"),
    case("man --dir FOLDER", "TE0511"),
    case("schema check FILE", "TE0511"),
    case("schema register FILE", "TE0511"),
    // A task that is known, so that there is an answer.
    case("trace TASK --audit-log-path FILE", "TE0511"),
    case("doctor --audit-log-path FILE", "TE0513"),
];

/// Commands that neither Kafka, nor a registry, nor a file that they need can be away from.
const ALWAYS: [&str; 3] = ["completions", "explain", "token create"];

/// Runs the command, which has to fail with that code in one line.
async fn fails(program: Program, args: &str, code: &str) -> Result<()> {
    let ran = program.args(&args.split(' ').collect::<Vec<_>>()).run(SOON).await?;
    assert_eq!(ran.code, Some(1), "{args}: {ran:?}");
    let errors: Vec<&str> = ran.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    let [error] = errors.as_slice() else { panic!("{args}: one line, not {ran:?}") };
    assert!(error.ends_with(&format!(" [{code}]")), "{args}: {error}");
    assert_eq!(ran.stderr.lines().last(), Some(*error), "{args}: {ran:?}");
    Ok(())
}

async fn all_fail(program: impl Fn() -> Program, cases: &[Case]) -> Result<()> {
    for Case { args, env, code } in cases {
        let program = env.map_or_else(&program, |name| program().env(name, "nothing"));
        fails(program, args, code).await?;
    }
    Ok(())
}

#[tokio::test]
async fn each_command_says_what_is_missing_in_one_line_with_its_code() -> Outcome {
    let world = World::start().await?;
    let dead = format!("127.0.0.1:{}", free_port()?);
    all_fail(|| world.program("taskctl").env("KAFKA_BOOTSTRAP_SERVERS", &dead), &KAFKA_DOWN).await?;
    all_fail(|| world.program("taskctl"), &WRONG_TOPIC).await?;
    all_fail(|| world.program("taskctl"), &UNKNOWN).await?;
    all_fail(|| world.program("taskctl"), &NO_DATABASE).await?;
    let address = format!("postgres://somebody@{dead}/tasks");
    for Case { args, .. } in &NO_DATABASE {
        // An import looks for the store first, which is not there either.
        let code = if *args == "db import" { "TE0211" } else { "TE0207" };
        fails(world.program("taskctl").env("DATABASE_URL", &address), args, code).await?;
    }
    let schema = world.path("schema.avsc");
    std::fs::write(&schema, r#"{"type": "record", "name": "Task", "fields": []}"#).unwrap();
    for registry in [None, Some(format!("http://127.0.0.1:{}", free_port()?))] {
        for Case { args, code, .. } in &NO_REGISTRY {
            let program = world.program("taskctl");
            let program = match &registry {
                Some(registry) => program.env("SCHEMA_REGISTRY_URL", registry),
                None => program,
            };
            fails(program, &args.replace("SCHEMA", &schema.display().to_string()), code).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn each_command_says_which_file_it_may_not_use() -> Outcome {
    let world = World::start().await?;
    let (_service, api) = world.start_api().await?;
    let address = api.url().trim_start_matches("http://").to_owned();
    let task = harness::id_of(&api.create("known").await?)?.to_owned();
    api.delivered().await?;
    let (file, folder) = (world.path("secret.log"), world.path("secret"));
    std::fs::write(&file, "").unwrap();
    std::fs::create_dir(&folder).unwrap();
    for (path, mode) in [(&file, 0), (&folder, 0o555)] {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    let registry = format!("http://127.0.0.1:{}", free_port()?);
    let taskctl = || world.program("taskctl").env("SCHEMA_REGISTRY_URL", &registry).unprivileged();
    let fill = |args: &str| {
        let paths = [("FILE", &file), ("FOLDER", &folder), ("NONE", &world.path("none"))];
        let filled = paths
            .iter()
            .fold(args.to_owned(), |args, (name, path)| args.replace(name, &path.display().to_string()));
        filled.replace("TASK", &task)
    };
    for Case { args, code, .. } in &NO_FILE {
        fails(taskctl(), &fill(args), code).await?;
    }
    let works = taskctl().args(&["explain"]).run(SOON).await;
    if !works.is_ok_and(|ran| ran.code == Some(0)) {
        eprintln!("setpriv cannot take root's rights away here, so files without permission are not tried");
        return Ok(());
    }
    for Case { args, code, .. } in &NO_PERMISSION {
        fails(taskctl().env("PORT", address.rsplit(':').next().unwrap()), &fill(args), code).await?;
    }
    // What else is known of it is shown all the same.
    let trace = fill("trace TASK --audit-log-path FILE --api ") + &address;
    let traced = taskctl().args(&trace.split(' ').collect::<Vec<_>>()).run(SOON).await?;
    assert!(
        traced.stdout.contains("task.created") && traced.stdout.contains("Permission denied"),
        "{traced:?}"
    );
    Ok(())
}

#[tokio::test]
async fn the_tables_have_every_command() -> Outcome {
    let world = Program::new("taskctl");
    let folder = tempfile::tempdir().unwrap();
    let made = world.args(&["man", "--dir", &folder.path().display().to_string()]).run(SOON).await?;
    assert_eq!(made.code, Some(0), "{made:?}");
    let pages = std::fs::read_dir(folder.path()).unwrap().map(|page| page.unwrap().file_name());
    let pages: Vec<String> = pages.map(|name| name.into_string().unwrap().replace(".1", "")).collect();
    let is_command = |page: &&String| !pages.iter().any(|other| other.starts_with(&format!("{page}-")));
    let has = |cases: &[Case], command: &str| cases.iter().any(|case| case.args.starts_with(command));
    for page in pages.iter().filter(is_command) {
        let command = page.trim_start_matches("taskctl-").replace('-', " ");
        let is_of_files = has(&NO_FILE, &command) && has(&NO_PERMISSION, &command);
        let is_of_registry = has(&NO_REGISTRY, &command);
        let is_of_database = has(&NO_DATABASE, &command);
        let is_of_kafka = has(&KAFKA_DOWN, &command)
            // It creates the topic that is not there.
            && (has(&WRONG_TOPIC, &command) || command == "topics create");
        assert!(
            is_of_files
                || is_of_registry
                || is_of_database
                || is_of_kafka
                || ALWAYS.contains(&command.as_str()),
            "{command}"
        );
    }
    Ok(())
}

async fn trace(world: &World, api: &Api, id: &str) -> Result<(Ran, Value)> {
    let address = api.url().trim_start_matches("http://").to_owned();
    let ran = world.taskctl(&["trace", id, "--api", &address, "--format", "json"]).await?;
    let report: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"));
    Ok((ran, report))
}

#[tokio::test]
async fn an_event_that_waits_in_the_outbox_is_traced_with_what_is_not_known_of_it() -> Outcome {
    let mut world = World::start().await?;
    // An API that does not reach Kafka, and one that does not know yet that it is down.
    let dead = format!("127.0.0.1:{}", free_port()?);
    let behind = world.program("task-api").env("KAFKA_BOOTSTRAP_SERVERS", dead);
    let (_service, behind) =
        world.start_api_as(behind.env("STATE_DIR", world.path("behind").display())).await?;
    let (_service, api) = world.start_api().await?;
    api.create("delivered").await?;
    api.delivered().await?;

    // The task itself is written just before its event or after it.
    let stages = |report: &Value| -> Vec<String> {
        let stages =
            report["timeline"].as_array().unwrap().iter().map(|entry| entry["stage"].as_str().unwrap());
        stages.filter(|stage| *stage != "task").map(str::to_owned).collect()
    };
    let missing = |report: &Value| report["missing"].to_string();

    // The relay is behind: Kafka is there, and does not have it.
    let waits = behind.create("waits").await?;
    let id = harness::id_of(&waits)?;
    let (ran, report) = trace(&world, &behind, id).await?;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(stages(&report), ["task.created", "outbox"], "{report}");
    let waiting =
        "is not in the topic: it is one of 1 events in the API's outbox; Kafka is unreachable from there";
    assert!(missing(&report).contains(waiting), "{report}");

    // Kafka is down: what the API has is known, what the topics have is not. By each of the event's ids.
    world.broker.kill9();
    let request = Uuid::new_v4().to_string();
    let created = api.request(Method::POST, "/tasks").header("X-Correlation-ID", &request);
    let created =
        created.json(&json!({"title": "down"})).send().await.unwrap().json::<Value>().await.unwrap();
    let (_, report) = trace(&world, &api, harness::id_of(&created)?).await?;
    let mut events =
        report["timeline"].as_array().unwrap().iter().filter_map(|entry| entry["event"].as_str());
    let event = events.next().unwrap().to_owned();
    for id in [harness::id_of(&created)?, &request, &event] {
        let (ran, report) = trace(&world, &api, id).await?;
        assert_eq!(stages(&report), ["task.created", "outbox"], "{report}");
        assert!(report["timeline"].to_string().contains(&format!("by request {request}")), "{report}");
        for known in [
            "it is one of 1 events in the API's outbox",
            "what the topics have (events, groups, dead letters) is not known: ",
        ] {
            assert!(missing(&report).contains(known), "{known}: {report}");
        }
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let [error] = ran.stderr.lines().collect::<Vec<_>>()[..] else { panic!("one line: {ran:?}") };
        assert!(error.starts_with("error: ") && error.ends_with("[TE0501]"), "{error}");
    }
    world.broker.restart().await?;
    api.delivered().await?;
    let (ran, report) = trace(&world, &api, &event).await?;
    assert_eq!(
        (ran.code, stages(&report)),
        (Some(0), vec!["task.created".into(), "topic".into()]),
        "{report}"
    );
    Ok(())
}

#[tokio::test]
async fn a_status_that_is_watched_is_shown_again_and_ends_with_a_signal() -> Outcome {
    let mut world = World::start().await?;
    let (_service, api) = world.start_api().await?;
    let address = api.url().trim_start_matches("http://").to_owned();
    let mut watching = world.program("taskctl").args(&["status", "--watch", "--api", &address]).start()?;
    let line = format!("Task API {address}: ready, Kafka reachable");
    watching.wait_for_line(&line, SOON).await?;
    // A part that cannot be seen for a while ends nothing.
    world.broker.kill9();
    watching.wait_for_line("cannot be seen: ", SOON).await?;
    world.broker.restart().await?;
    let before = watching.count(&line);
    let shown_again = async || Ok((watching.count(&line) > before).then_some(()));
    harness::eventually("the status once more", SOON, shown_again).await?;
    watching.signal(Signal::INT)?;
    assert!(watching.wait_exit(SOON).await?.success());
    Ok(())
}
