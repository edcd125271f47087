//! Which binaries are measured.

use std::path::PathBuf;

use harness::{Program, World};

/// One build of the binaries.
pub struct Build {
    /// How it is shown.
    pub label: String,
    /// Their folder; that of this build if `None`.
    pub folder: Option<PathBuf>,
}

impl Build {
    /// One of them.
    pub fn program(&self, world: &World, name: &str) -> Program {
        let program = world.program(name);
        match &self.folder {
            Some(folder) => program.in_folder(folder),
            None => program,
        }
    }
}
