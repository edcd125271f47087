//! Which binaries are measured.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use harness::{Postgres, Program, Result, World};
use tempfile::TempDir;

use crate::avro::Avro;
use crate::tls::Tls;

/// One build of the binaries.
#[derive(Default)]
pub struct Build {
    /// How it is shown.
    pub label: String,
    /// Their folder; that of this build if `None`.
    pub folder: Option<PathBuf>,
    /// Events are Avro.
    pub avro: Option<Avro>,
    /// Connections to Kafka use TLS.
    pub tls: Option<Tls>,
    /// Tasks are in PostgreSQL, in a new database for each start.
    pub postgres: Option<Postgres>,
    /// The audit log has a tree, signed with this key.
    pub audit_key: Option<AuditKey>,
}

/// A key for audit logs.
pub struct AuditKey {
    pub file: PathBuf,
    /// The logs stay to the end: ext4 passes over each file that was deleted in the last minute when it makes one,
    /// and a tree has a file for 256 lines.
    pub logs: TempDir,
}

/// Databases and logs that were made.
static MADE: AtomicU64 = AtomicU64::new(0);

impl Build {
    /// A fresh broker with the topics, to which its programs connect as it does.
    pub async fn world(&self) -> Result<World> {
        match &self.tls {
            Some(tls) => tls.world().await,
            None => World::start().await,
        }
    }

    /// One of them.
    pub fn program(&self, world: &World, name: &str) -> Program {
        let program = world.program(name);
        let program = match &self.folder {
            Some(folder) => program.in_folder(folder),
            None => program,
        };
        let program = match &self.tls {
            Some(tls) => tls.program(program),
            None => program,
        };
        let program = match &self.postgres {
            Some(server) if name == "task-api" => {
                let database = format!("bench{}", MADE.fetch_add(1, Ordering::Relaxed));
                server.create_database(&database).expect("a database");
                program.env("DATABASE_URL", server.url(&database))
            }
            _ => program,
        };
        let program = match &self.audit_key {
            Some(key) if name == "audit-service" => {
                let log = key.logs.path().join(format!("{}.log", MADE.fetch_add(1, Ordering::Relaxed)));
                program.env("AUDIT_KEY_FILE", key.file.display()).env("AUDIT_LOG_PATH", log.display())
            }
            _ => program,
        };
        match &self.avro {
            Some(avro) if name == "task-api" => {
                program.env("SCHEMA_REGISTRY_URL", avro.url()).env("EVENT_FORMAT", "avro")
            }
            Some(avro) => program.env("SCHEMA_REGISTRY_URL", avro.url()),
            None => program,
        }
    }

    /// The value of a record, of the event as JSON.
    pub fn encoded(&self, json: Vec<u8>) -> Vec<u8> {
        self.avro.as_ref().map(|avro| avro.encode(&json)).unwrap_or(json)
    }
}
