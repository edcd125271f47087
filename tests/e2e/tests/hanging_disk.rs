//! A disk that hangs, as a network disk does whose server is unreachable: whatever writes or syncs on it never returns.
//! The owner stops renewing its lease, and the standby takes over. Needs root; elsewhere it is said and passed.

use harness::{
    FailingDisk, Outcome, Result, SOON, Service, StatusCode, World, eventually, http, read_audit_log,
};
use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

const KIB: u32 = 64 * 1024;
/// Longer than that of other tests, so that an owner on a busy machine does not seem dead.
const LEASE: Duration = Duration::from_secs(4);

/// A service and the disk that its state and its log are on. The disk goes first: a process that hangs in the
/// kernel cannot even be killed.
struct OnDisk {
    disk: FailingDisk,
    service: Service,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_writes_what_waits_where_a_disk_hangs() -> Outcome {
    let Some(disk) = FailingDisk::mount(KIB) else { return Ok(()) };
    let world = World::start().await?;
    let (_api, client) = world.start_api().await?;
    let log = disk.path().join("audit.log");
    let program = world
        .program("audit-service")
        .env("LEASE_MS", LEASE.as_millis())
        .env("HEALTH_ADDR", "127.0.0.1:0")
        .env("STATE_DIR", disk.path().join("state").display())
        .env("AUDIT_LOG_PATH", log.display());
    let mut first = OnDisk { disk, service: program.start()? };
    let health = first.service.health_url().await?;
    first.service.wait_for_line("claimed audit-service/", SOON).await?;
    let second = world.instance("audit-service", "second").env("LEASE_MS", LEASE.as_millis());
    let mut second = second.start()?;
    second.wait_for_line("standby for audit-service/", SOON).await?;
    client.create("before").await?;
    world.committed("audit-service", 1).await?;

    first.disk.hang()?;
    let start = Instant::now();
    client.create("waiting").await?;
    let second_log = world.instance_audit_log("second");
    let written = async || Ok(has(&second_log, "waiting")?.then_some(()));
    eventually("the waiting event in the standby's log", SOON, written).await?;
    println!("the standby took {:?}, the lease is {LEASE:?}", start.elapsed());

    let http = http()?;
    // The one that hangs is alive, not ready, and says why.
    let get = async |path: &str| http.get(format!("{health}{path}")).send().await;
    assert_eq!(get("/healthz").await?.status(), StatusCode::OK);
    let ready = get("/readyz").await?;
    let (status, text) = (ready.status(), ready.text().await?);
    assert!(status == StatusCode::SERVICE_UNAVAILABLE || text.contains("standby"), "{status} {text}");
    let metrics = get("/metrics").await?.text().await?;
    assert!(metrics.contains("kafka_consumergroup_group_lag{"), "{metrics}");
    let position = world.offsets("audit-service").await?.position();

    first.disk.release()?;
    client.create("after").await?;
    eventually("the next event in the new owner's log", SOON, async || {
        Ok(has(&second_log, "after")?.then_some(()))
    })
    .await?;
    assert!(world.offsets("audit-service").await?.position() >= position, "nothing moved back");
    assert!(first.service.terminate(SOON).await?.success());
    for log in [&log, &second_log] {
        let lines = read_audit_log(log)?;
        let ids: HashSet<_> = lines.iter().map(|line| line["event_id"].to_string()).collect();
        assert_eq!(ids.len(), lines.len(), "each event once in {}", log.display());
    }
    Ok(())
}

fn has(log: &Path, title: &str) -> Result<bool> {
    Ok(read_audit_log(log)?.iter().any(|line| line["data"]["title"] == title))
}
