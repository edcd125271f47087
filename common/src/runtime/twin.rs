//! A twin: another instance with this one's id, as where a state folder was copied.

use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::state_dir::Identity;

/// Time to write a new instance id, which may fail: the next start then finds its twin again.
const PERSIST_TIMEOUT: Duration = Duration::from_secs(2);

/// Another instance claims with this instance's id.
pub(super) async fn take_new_id(identity: &Identity) {
    let identity = identity.clone();
    let twin = identity.id();
    let new = identity.replace(twin);
    log::warn!(
        "another instance uses this instance's id {twin}: is one state folder a copy of the other? This one is {new} from now on, and waits like any other instance"
    );
    let persisted = timeout(PERSIST_TIMEOUT, spawn_blocking(move || identity.persist())).await;
    let failure = match persisted {
        Ok(Ok(Ok(()))) => return,
        Ok(Ok(Err(error))) => error.to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("not done within {} s", PERSIST_TIMEOUT.as_secs_f32()),
    };
    log::warn!("the new id {new} is not kept in the state folder, and is lost with this process: {failure}");
}
