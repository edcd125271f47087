//! `taskctl audit verify`: whether every line of a log is a whole event, each event there once, in its topic's order.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use task_events::error_code::Code;
use task_events::services::AUDIT;

use super::anchors;
use super::beside::tree_beside;
use super::findings::{ALL, SHOWN};
use super::keygen;
use super::lines::verify;
use super::report::text;
use super::union;
use crate::log_files::files;
use crate::output;
use crate::{Error, Format, Setup};

/// Which logs to check.
#[derive(Debug, Args)]
pub struct Verify {
    /// The audit log, or one for each instance. It may be in use; what is written meanwhile is not looked at
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Of several logs: they may have any events in common, as a copy, or the log of a standby that was completed
    #[arg(long)]
    allow_overlap: bool,
    /// The public key of the log, in PEM: the tree's checkpoint has to be signed by it
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
    /// The public key of the log's witness, NAME+ID+KEY: the log has to have the root that it has cosigned
    #[arg(long, value_name = "FILE")]
    witness_key: Option<PathBuf>,
    /// Compare the tree with what Kafka has of it, in the commits of this group
    #[arg(long, value_name = "GROUP", num_args = 0..=1, require_equals = true, default_missing_value = AUDIT)]
    kafka: Option<String>,
    /// A tree of another instance's log, or one that was set aside for a reason that is known: what Kafka has of it need not fit
    #[arg(long, value_name = "ORIGIN", requires = "kafka")]
    accept_origin: Vec<String>,
    /// Show all findings, and not only the first 20 of each kind
    #[arg(long)]
    all: bool,
}

/// Runs the command.
pub async fn run(setup: &Setup, args: &Verify) -> Result<(), Error> {
    let [path] = args.paths.as_slice() else { return run_union(setup.format, args) };
    let verifier = args.public_key.as_deref().map(keygen::read).transpose()?;
    let witness = args.witness_key.as_deref().map(keygen::read_witness).transpose()?;
    // Before the log: whatever is committed is in it.
    let anchors = match &args.kafka {
        Some(group) => Some(anchors::read(&setup.context()?, group).await?),
        None => None,
    };
    let anchors = anchors.map(|mut anchors| {
        anchors.retain(|anchor| !args.accept_origin.contains(&anchor.origin));
        anchors
    });
    let shown = if args.all { ALL } else { SHOWN };
    let (tree, not_checked) = tree_beside(path, verifier.as_ref(), anchors, witness.as_ref(), shown)
        .map_err(|error| cannot_read(path, &error))?;
    let verified = files(path).and_then(|mut files| {
        if let Some(tree) = &tree {
            tree.sort(&mut files)?;
        }
        verify(&files, tree, shown)
    });
    let mut report = verified.map_err(|error| cannot_read(path, &error))?;
    report.not_checked = not_checked;
    output::write(setup.format, &report, text)?;
    match report.wrong() {
        0 => Ok(()),
        wrong => Err(Error::Refused(
            Code::ChecksFailed,
            format!("{}: {wrong} things are wrong in {} lines", path.display(), report.lines),
        )),
    }
}

/// Several logs. Each may have a tree, which is verified with that log alone.
fn run_union(
    format: Format,
    Verify { paths, allow_overlap, public_key, witness_key, kafka, all, .. }: &Verify,
) -> Result<(), Error> {
    if public_key.is_some() || witness_key.is_some() || kafka.is_some() {
        let why = "--public-key, --witness-key and --kafka are of one log: verify each log with them, and then all of them without";
        return Err(Error::Refused(Code::Selection, why.to_owned()));
    }
    let shown = if *all { ALL } else { SHOWN };
    if let Some(same) = union::same_file(paths) {
        return Err(Error::Refused(Code::Selection, format!("{same}: name each log once")));
    }
    let report = union::verify(paths, shown).map_err(|(path, error)| cannot_read(&path, &error))?;
    output::write(format, &report, union::text)?;
    match report.wrong(*allow_overlap) {
        0 => Ok(()),
        wrong => {
            let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            Err(Error::Refused(
                Code::ChecksFailed,
                format!("{}: {wrong} of {} lines are wrong", names.join(", "), report.lines),
            ))
        }
    }
}

fn cannot_read(path: &Path, error: &io::Error) -> Error {
    Error::Refused(Code::File, format!("audit log {} cannot be read: {error}", path.display()))
}
