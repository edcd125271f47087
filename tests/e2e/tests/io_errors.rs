//! A disk that fails: nothing is answered, committed or reported as done that is not on it, and all goes on by
//! itself once it is good again. A failed sync may leave pages that the system calls clean and that are on no
//! disk, so a second sync of them proves nothing; what a power cut leaves of the disk does.

use harness::{
    Api, EVENTS, FailingDisk, Method, Outcome, Result, SOON, Service, StatusCode, World, audited_offsets,
    eventually, id_of, keys,
};
use serde_json::{Value, json};
use std::time::Duration;

const KIB: u32 = 64 * 1024;
/// As the system says EIO.
const EIO: &str = "Input/output error";

/// Returns when `/readyz` answers with this status.
async fn reports(service: &mut Service, wanted: StatusCode) -> Result<Value> {
    let health = Api::new(&service.health_url().await?)?;
    let ask = async || Ok(Some(health.readiness().await?).filter(|(status, _)| *status == wanted));
    Ok(eventually(&format!("{wanted} from /readyz"), SOON, ask).await?.1)
}

#[tokio::test]
async fn an_audit_log_whose_disk_fails_commits_nothing_and_is_written_again_whole() -> Outcome {
    let Some(disk) = FailingDisk::mount(KIB) else { return Ok(()) };
    let world = World::start().await?;
    let log = disk.path().join("audit.log");
    let program = world.program("audit-service").env("HEALTH_ADDR", "127.0.0.1:0");
    let mut audit = program.env("AUDIT_LOG_PATH", log.display()).start()?;
    world.produce_events(100).await?;
    world.committed("audit-service", 100).await?;

    let mut end = 100;
    for times in 1..=2 {
        disk.fail()?;
        world.produce_events(1_000).await?;
        let said = async || {
            Ok((audit.count(&format!("cannot write audit log {}: ", log.display())) == times).then_some(()))
        };
        eventually("the failure to be said", SOON, said).await?;
        assert_eq!(audit.count(EIO), times, "once, not at every try: {:?}", audit.lines());
        let report = reports(&mut audit, StatusCode::SERVICE_UNAVAILABLE).await?;
        assert!(report.to_string().contains(EIO), "{report}");
        // Time for a second try, and a third.
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(world.offsets("audit-service").await?.position(), Some(end), "nothing is committed");

        disk.mend()?;
        end += 1_000;
        world.committed("audit-service", end).await?;
        reports(&mut audit, StatusCode::OK).await?;
    }
    let all: Vec<_> = (0..end).collect();
    assert_eq!(audited_offsets(&log)?, all);
    assert_eq!(
        audited_offsets(&disk.after_power_cut()?.path().join("audit.log"))?,
        all,
        "what is committed is on disk"
    );
    Ok(())
}

#[tokio::test]
async fn a_task_store_whose_disk_fails_refuses_changes_until_it_is_good_again_and_loses_nothing() -> Outcome {
    let Some(disk) = FailingDisk::mount(KIB) else { return Ok(()) };
    let world = World::start().await?;
    let program = world.program("task-api");
    let (mut service, api) =
        world.start_api_as(program.clone().env("STATE_DIR", disk.path().display())).await?;
    let post = async |title: &str| {
        api.request(Method::POST, "/tasks").json(&json!({"title": title})).send().await.unwrap()
    };
    let mut taken = Vec::new();
    for times in 1..=3 {
        for _ in 0..20 {
            taken.push(id_of(&api.create("on a good disk").await?)?.to_owned());
        }
        disk.fail()?;
        for _ in 0..20 {
            let refused = post("on a bad disk").await;
            assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(refused.headers().contains_key("retry-after"));
        }
        // A line is read a moment after the answer that goes with it.
        let said = async || Ok((service.count("the store cannot be written") >= times).then_some(()));
        eventually("a line that tells of it", SOON, said).await?;
        let said = service.count("the store cannot be written");
        assert_eq!(said, times, "once, not at every try: {:?}", service.lines());
        let (status, report) = api.readiness().await?;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(report["store_failure"].as_str().unwrap().contains(EIO), "{report}");

        disk.mend()?;
        let made = async || {
            let answer = post("on a disk that is good again").await;
            Ok((answer.status() == StatusCode::CREATED).then_some(answer))
        };
        let made: Value = eventually("a task to be made", SOON, made).await?.json().await.unwrap();
        taken.push(id_of(&made)?.to_owned());
    }

    service.kill9();
    let kept = disk.after_power_cut()?;
    let (_service, api) = world.start_api_as(program.env("STATE_DIR", kept.path().display())).await?;
    api.delivered().await?;
    let events = world.topic(EVENTS).await?;
    let told = keys(&events)?;
    // The change under way when the disk failed may be stored: it was neither done nor refused.
    let unclear = told.iter().filter(|id| !taken.contains(id)).count();
    assert!(unclear <= 3, "{unclear} tasks that nobody was answered");
    let answered: Vec<_> = told.into_iter().filter(|id| taken.contains(id)).collect();
    assert_eq!(answered, taken, "each event once, in order");
    for id in &taken {
        assert_eq!(api.call(Method::GET, &format!("/tasks/{id}"), None).await?.0, StatusCode::OK, "{id}");
    }
    Ok(())
}

#[tokio::test]
async fn a_notifier_whose_state_is_on_a_disk_that_fails_commits_nothing_that_it_cannot_remember() -> Outcome {
    let Some(disk) = FailingDisk::mount(KIB) else { return Ok(()) };
    let world = World::start().await?;
    let program = world.program("notification-service").env("HEALTH_ADDR", "127.0.0.1:0");
    let mut notification = program.env("STATE_DIR", disk.path().display()).start()?;
    world.produce_events(100).await?;
    world.committed("notification-service", 100).await?;

    disk.fail()?;
    world.produce_events(1_000).await?;
    let line = notification.wait_for_line("is blocked, will try again: dedup", SOON).await?;
    assert!(line.contains(EIO), "{line}");
    reports(&mut notification, StatusCode::SERVICE_UNAVAILABLE).await?;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(world.offsets("notification-service").await?.position(), Some(100), "nothing is committed");
    assert_eq!(notification.count(EIO), 1, "once, not at every try: {:?}", notification.lines());

    disk.mend()?;
    world.committed("notification-service", 1_100).await?;
    reports(&mut notification, StatusCode::OK).await?;
    assert_eq!(
        notification.counted("NOTIFICATION: ", 1_100).await?,
        1_100,
        "none is notified twice: the process remembers"
    );

    // What is committed is remembered after a power cut, too: the events again notify nobody.
    notification.kill9();
    let kept = disk.after_power_cut()?;
    let reset = ["offsets", "reset", "notification-service", "--to", "earliest", "--execute"];
    // Refused while the dead owner's lease lasts.
    let moved = async || Ok((world.taskctl(&reset).await?.code == Some(0)).then_some(()));
    eventually("the group to be moved back", SOON, moved).await?;
    let program = world.program("notification-service").env("STATE_DIR", kept.path().display());
    let notification = program.start()?;
    world.produce_events(1).await?;
    world.committed("notification-service", 1_101).await?;
    assert_eq!(notification.counted("NOTIFICATION: ", 1).await?, 1, "{:?}", notification.lines());
    Ok(())
}
