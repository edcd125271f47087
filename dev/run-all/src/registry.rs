//! The Schema Registry of `--avro`: the one that SCHEMA_REGISTRY_URL names, or Apicurio where it was fetched.

use std::env;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use task_events::registry::{Address, Registry};
use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::children::{Children, Program};
use crate::port::free;
use crate::screen::Screen;
use crate::services::REGISTRY;

/// Where Apicurio listens.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 30081);
/// Below which it has Confluent's API.
const PATH: &str = "/apis/ccompat/v7";
/// Where `cargo xtask registry` puts it.
const FOLDER: &str = "target/registry";
/// Time for a JVM to start.
const START_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(200);

/// Its address, once it answers.
pub async fn start(children: &mut Children, screen: &Screen) -> Result<String, Failure> {
    let url = match env::var("SCHEMA_REGISTRY_URL") {
        Ok(url) if !url.is_empty() => url,
        _ => {
            start_apicurio(children).await?;
            format!("http://{ADDRESS}{PATH}")
        }
    };
    let addresses: Result<Vec<Address>, String> = url.split(',').map(str::parse).collect();
    let registry = Registry::new(addresses.map_err(Failure)?, None);
    let start = Instant::now();
    let mut is_said = false;
    loop {
        // Any answer will do, also that nothing is registered or that somebody has to log in.
        match registry.versions("task-events-value").await {
            Err(error) if error.is_temporary() && start.elapsed() >= START_LIMIT => {
                return Err(Failure(format!(
                    "no Schema Registry after {} s: {error}",
                    START_LIMIT.as_secs()
                )));
            }
            Err(error) if error.is_temporary() => {
                if !std::mem::replace(&mut is_said, true) {
                    screen.log("run-all", 90, format!("waiting for the Schema Registry at {url}"));
                }
                sleep(POLL).await;
            }
            _ => return Ok(url),
        }
    }
}

async fn start_apicurio(children: &mut Children) -> Result<(), Failure> {
    let jar = jar(Path::new(FOLDER)).ok_or_else(|| {
        Failure(format!(
            "no Schema Registry is in ./{FOLDER}: fetch Apicurio with `cargo xtask registry` (142 MB), or set SCHEMA_REGISTRY_URL to one that runs"
        ))
    })?;
    let java = java().ok_or_else(|| {
        Failure("the Schema Registry needs Java 17 or newer, and there is no java in PATH: install it, or set SCHEMA_REGISTRY_URL to a registry that runs".to_owned())
    })?;
    free(ADDRESS, "the Schema Registry", "SCHEMA_REGISTRY_URL").await?;
    children.start(Program {
        name: REGISTRY,
        colour: 90,
        path: &java,
        args: vec![
            "-Xmx256m".to_owned(),
            "-Dquarkus.log.console.level=WARN".to_owned(),
            "-Dquarkus.banner.enabled=false".to_owned(),
            format!("-Dquarkus.http.host={}", ADDRESS.ip()),
            format!("-Dquarkus.http.port={}", ADDRESS.port()),
            "-jar".to_owned(),
            jar.display().to_string(),
        ],
        env: Vec::new(),
        stop_limit: Duration::from_secs(5),
        stop_rank: 2,
    })
}

fn jar(folder: &Path) -> Option<PathBuf> {
    let files = folder.read_dir().ok()?.flatten().map(|file| file.path());
    files.into_iter().find(|path| path.to_string_lossy().ends_with("-runner.jar"))
}

fn java() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join("java")).find(|java| java.is_file())
}
