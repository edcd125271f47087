//! `verify load` and `verify check` as they are run against a running system: a sound one, and one that
//! was hurt by hand.

use std::fs;
use std::path::Path;

use harness::{EVENTS, Outcome, Result, Service, World};
use verify::check::names;

/// What a command left.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

async fn verify(args: &[&str]) -> Ran {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_verify"));
    let output = command.args(args).kill_on_drop(true).output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl Ran {
    /// What is in the row of a check: how much it examined, and found.
    fn row(&self, name: &str) -> Result<(&str, usize)> {
        let row = self.stdout.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let mut columns = row.unwrap_or_else(|| panic!("no row {name}: {self:?}")).split_whitespace();
        Ok((columns.next().unwrap(), columns.next().unwrap().parse().unwrap()))
    }

    #[track_caller]
    fn assert_found(&self, name: &str) -> Result<()> {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert!(self.row(name)?.1 > 0, "{name} has found nothing:\n{}", self.stdout);
        Ok(())
    }
}

/// Written once it has that many lines of what was done, which come a little later than what they tell of.
async fn write_log(service: &Service, path: &Path, part: &str, least: usize) -> Result<String> {
    service.counted(part, least).await?;
    fs::write(path, service.history().join("\n")).unwrap();
    Ok(path.display().to_string())
}

/// How many of these events are notified.
fn told_in(events: &[harness::TopicRecord]) -> Result<usize> {
    let types = events.iter().map(|event| Ok(event.json()?["event_type"].clone()));
    let types = types.collect::<Result<Vec<_>>>()?;
    Ok(types.iter().filter(|one| *one == "task.created" || *one == "task.completed").count())
}

#[tokio::test(flavor = "multi_thread")]
async fn load_and_check_find_what_was_done_to_a_system_by_hand_and_nothing_in_a_sound_one() -> Outcome {
    let world = World::start().await?;
    let (service, api) = world.start_api().await?;
    let _audit = world.program("audit-service").start()?;
    let notification = world.program("notification-service").start()?;
    let path = |name: &str| world.path(name).display().to_string();
    let history = path("history.jsonl");

    let load = ["load", "--api", api.url(), "--seconds", "5", "--rate", "200", "--connections", "4"];
    let ran = verify(&[load.as_slice(), &["--history", &history]].concat()).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let requests = fs::read_to_string(&history).unwrap().lines().count();
    assert!(requests > 50 && ran.stdout.contains(&format!("{requests} requests")), "{ran:?}");
    api.delivered().await?;
    let events = world.topic(EVENTS).await?;
    let (end, told) = (events.last().unwrap().offset + 1, told_in(&events)?);
    for group in ["audit-service", "notification-service"] {
        world.committed(group, end).await?;
    }

    let audit_log = world.audit_log_path().display().to_string();
    let api_log = write_log(&service, &world.path("api.log"), "Event delivered: ", 1).await?;
    let notification_log =
        write_log(&notification, &world.path("notification.log"), "NOTIFICATION: ", told).await?;
    let bootstrap = world.broker.bootstrap();
    let kafka = ["--bootstrap", &bootstrap];
    let logs = ["--api-log", &api_log, "--notification-log", &notification_log];
    let of = |history, audit_log| ["check", "--history", history, "--audit-log", audit_log];
    let all =
        |history, audit_log| [&of(history, audit_log)[..], &kafka, &logs, &["--api", api.url()]].concat();

    // All of it, and each check has something to look at.
    let sound = verify(&all(&history, &audit_log)).await;
    assert_eq!(sound.code, Some(0), "{sound:?}");
    let checks = [
        names::LOST,
        names::LOST_STATE,
        names::UNEXPECTED,
        names::ALTERED,
        names::REFUSED,
        names::NOT_TOLD,
        names::NOT_DRAINED,
        names::TWICE_AUDITED,
        names::TWICE_IN_TOPIC,
        names::ORDER,
        names::TOPIC_ORDER,
        names::AHEAD,
        names::OWNERS,
    ];
    for name in checks {
        let (examined, found) = sound.row(name)?;
        assert!(examined.parse::<usize>().is_ok_and(|examined| examined > 0) && found == 0, "{sound:?}");
    }
    // Less of it: what cannot be known is said, and no finding.
    for (args, unknown) in [
        (of(&history, &audit_log).to_vec(), [names::OWNERS, names::NOT_DRAINED, names::AHEAD]),
        (
            [&["check", "--history", &history], &kafka[..]].concat(),
            [names::TWICE_AUDITED, names::TOPIC_ORDER, names::AHEAD],
        ),
    ] {
        let ran = verify(&args).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        for name in unknown {
            assert_eq!(ran.row(name)?, ("-", 0), "{ran:?}");
        }
    }

    // What a hand can do to an audit log.
    let hurt = path("hurt.log");
    type Hand = fn(&mut Vec<&str>);
    let hands: [(&str, Hand); 3] = [
        (names::LOST, |lines| lines.truncate(lines.len() - 1)),
        (names::TWICE_AUDITED, |lines| lines.insert(7, lines[7])),
        (names::TOPIC_ORDER, |lines| lines.swap(7, 8)),
    ];
    for (name, hand) in hands {
        let text = fs::read_to_string(&audit_log).unwrap();
        let mut lines: Vec<_> = text.lines().collect();
        hand(&mut lines);
        fs::write(&hurt, lines.join("\n") + "\n").unwrap();
        verify(&of(&history, &hurt)).await.assert_found(name)?;
        verify(&all(&history, &hurt)).await.assert_found(name)?;
    }

    // Another's events: reported, unless others are said to be there.
    api.create("by hand").await?;
    api.delivered().await?;
    for group in ["audit-service", "notification-service"] {
        world.committed(group, end + 1).await?;
    }
    write_log(&notification, &world.path("notification.log"), "NOTIFICATION: ", told + 1).await?;
    verify(&all(&history, &audit_log)).await.assert_found(names::UNEXPECTED)?;
    let shared = verify(&[all(&history, &audit_log), vec!["--shared"]].concat()).await;
    assert_eq!(shared.code, Some(0), "{shared:?}");

    // What proves nothing is not taken for a proof.
    let empty = path("empty");
    fs::write(&empty, "").unwrap();
    verify(&all(&empty, &audit_log)).await.assert_found(names::REFUSED)?;
    verify(&of(&history, &empty)).await.assert_found(names::TWICE_AUDITED)?;
    let group = [all(&history, &audit_log), vec!["--audit-group", "audit-servise"]].concat();
    let misspelt = verify(&group).await;
    misspelt.assert_found(names::AHEAD)?;
    misspelt.assert_found(names::NOT_DRAINED)?;
    let absent = path("absent.log");
    for (args, part) in [
        (of(&history, &absent).to_vec(), absent.as_str()),
        (vec!["check", "--history", &history], "--bootstrap or --audit-log"),
    ] {
        let ran = verify(&args).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
        assert!(ran.stderr.starts_with("error: ") && ran.stderr.contains(part), "{ran:?}");
    }
    Ok(())
}
