//! `taskctl explain`: what an error line's code means, and what to do.

use clap::Args;
use serde::Serialize;
use task_events::error_code::Code;

use crate::output::{self, table};
use crate::{Error, Format};

/// Which code.
#[derive(Debug, Args)]
pub struct Explain {
    /// The code at the end of an error line, such as TE0502 [default: list all]
    #[arg(value_name = "CODE", value_parser = code)]
    code: Option<Code>,
}

#[derive(Debug, Serialize)]
struct Explained {
    code: &'static str,
    title: &'static str,
    /// Markdown.
    page: &'static str,
}

fn code(text: &str) -> Result<Code, String> {
    let name = text.trim_start_matches('[').trim_end_matches(']');
    Code::from_name(name).ok_or_else(|| format!("there is no code '{text}': `taskctl explain` lists them"))
}

/// Runs the command.
pub fn run(format: Format, args: &Explain) -> Result<(), Error> {
    let explained = |code: Code| Explained { code: code.as_str(), title: code.title(), page: code.page() };
    match args.code {
        Some(code) => output::write(format, &explained(code), |explained| explained.page.to_owned())?,
        None => {
            let all: Vec<_> = Code::ALL.iter().copied().map(explained).collect();
            output::write(format, &all, |all| {
                table(["CODE", "MEANS"], all.iter().map(|each| [each.code.to_owned(), each.title.to_owned()]))
            })?;
        }
    }
    Ok(())
}
