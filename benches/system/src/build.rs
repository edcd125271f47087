//! Which binaries are measured.

use std::path::PathBuf;

use harness::{Program, World};

use crate::avro::Avro;

/// One build of the binaries.
pub struct Build {
    /// How it is shown.
    pub label: String,
    /// Their folder; that of this build if `None`.
    pub folder: Option<PathBuf>,
    /// Events are Avro.
    pub avro: Option<Avro>,
}

impl Build {
    /// One of them.
    pub fn program(&self, world: &World, name: &str) -> Program {
        let program = world.program(name);
        let program = match &self.folder {
            Some(folder) => program.in_folder(folder),
            None => program,
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
