//! A stop of the process, whatever is under way: it ends, in time.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Process, Signal, eventually};
use rustix::fs::OFlags;
use task_events::registry::{SchemaCache, subject_of};

use crate::process::command;
use crate::support::{SOON, TOPIC};

/// Nothing listens there.
const REGISTRY: &str = "http://127.0.0.1:1";

/// The file in which the service keeps the id of its schema.
async fn registration(state_dir: &Path) -> PathBuf {
    let service = state_dir.join("task-api");
    SchemaCache::new(&service, &[REGISTRY.parse().unwrap()])
        .keep_registration(&subject_of(TOPIC), "{}", 1)
        .await;
    let folder = fs::read_dir(service.join("schemas")).unwrap().next().unwrap().unwrap().path();
    fs::read_dir(folder).unwrap().next().unwrap().unwrap().path()
}

/// As where the disk that it is on hangs: the read is on a thread that nothing can end.
#[tokio::test]
async fn a_read_that_does_not_end_holds_up_no_stop() {
    let dir = tempfile::tempdir().unwrap();
    let file = registration(dir.path()).await;
    fs::remove_file(&file).unwrap();
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    let mut command = command(dir.path());
    command.env("EVENT_FORMAT", "avro").env("SCHEMA_REGISTRY_URL", REGISTRY);
    let mut service = Process::spawn("task-api", &mut command).unwrap();
    // A pipe can be opened so once somebody reads it; who reads waits for as long as this is open.
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let open = || OpenOptions::new().write(true).custom_flags(nonblocking).open(&file);
    let _open = eventually("the file to be read", SOON, async || Ok(open().ok())).await.unwrap();
    service.signal(Signal::TERM).unwrap();
    let ended = service.wait_exit(SOON).await.unwrap();
    assert_eq!(ended.code(), Some(0), "{:?}", service.lines());
}
