//! What it costs that there is much in the store: one change alone, and the start after kill -9.

use std::time::{Duration, Instant};

use harness::Result;

use crate::build::Build;
use crate::figures::{Figures, quantile};
use crate::post::start_api;
use crate::{http, usage};

/// Changes that are measured, one at a time.
const CHANGES: usize = 500;
const STARTS: usize = 5;

pub async fn run(build: &Build, tasks: usize) -> Result<Figures> {
    let world = build.world().await?;
    let (mut api, address) = start_api(build, &world).await?;
    let until = Instant::now() + Duration::from_secs(3_600);
    http::closed_loop(address, 64, until, tasks, false);
    // What was begun in the background ends.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = (usage::cpu_us(api.id()), usage::written(api.id()));
    let mut took = http::closed_loop(address, 1, until, CHANGES, false);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (cpu, written) = (usage::cpu_us(api.id()) - before.0, usage::written(api.id()) - before.1);
    let memory = usage::memory(api.id()).0;
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        // With something that is not yet where it is to stay.
        http::closed_loop(address, 64, until, 5_000, false);
        api.kill9();
        let start = Instant::now();
        api.restart()?;
        while std::net::TcpStream::connect(address).is_err() {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        let (mut connection, title) = (http::Connection::open(address).await, "after the start");
        connection.create(title, false).await;
        starts.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(vec![
        ("one change p50 ms", quantile(&mut took, 0.5)),
        ("µs a change", cpu / CHANGES as f64),
        ("KiB written a change", written / 1024.0 / CHANGES as f64),
        ("first answer after kill -9 ms", quantile(&mut starts, 0.5)),
        ("MiB", memory),
    ])
}
