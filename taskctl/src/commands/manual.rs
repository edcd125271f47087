//! `taskctl completions` and `taskctl man`: made from the same definition as `--help`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;
use task_events::error_code::Code;

use crate::Error;

/// For which shell.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

/// Which page, and where to.
#[derive(Debug, Args)]
pub struct Man {
    /// Write the pages of all commands to this folder [default: the page of taskctl, to stdout]
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

/// Writes the completions of a command line to stdout.
pub fn completions(args: &Completions, mut command: Command) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "taskctl", &mut script);
    io::stdout().write_all(&script)?;
    Ok(())
}

/// Writes the manual of a command line.
pub fn man(args: &Man, command: Command) -> Result<(), Error> {
    match &args.dir {
        Some(folder) => {
            clap_mangen::generate_to(command, folder).map_err(|error| cannot_write(folder, &error))
        }
        None => Ok(clap_mangen::Man::new(command).render(&mut io::stdout())?),
    }
}

fn cannot_write(folder: &Path, error: &io::Error) -> Error {
    Error::Refused(Code::File, format!("the manual cannot be written to {}: {error}", folder.display()))
}
