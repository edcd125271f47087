//! `taskctl token`: the tokens of the API's callers.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use serde::Serialize;
use task_events::access::{MAX_FILE, Scopes, TOKEN_PREFIX, TokenLine, caller_name, hash_of, parse_file};
use task_events::error_code::Code;

use crate::output;
use crate::{Error, Format};

/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a token, print it once, and add its line to the file that API_TOKENS_FILE names
    Create(Create),
}

/// Whose token, and what for.
#[derive(Debug, Args)]
pub struct Create {
    /// Who will have it: the `actor` of events and audit lines
    #[arg(value_name = "NAME", value_parser = caller_name)]
    name: String,
    /// What it is good for: read, write or read,write
    #[arg(long, value_name = "SCOPES", default_value = "read")]
    scope: Scopes,
    /// Add the line to this file, which is made if it does not exist, and print the token alone [default: print both]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// A token that was made.
#[derive(Serialize)]
struct Created {
    name: String,
    scopes: String,
    token: String,
    /// The line of the token file.
    line: String,
    /// Where the line was added.
    file: Option<PathBuf>,
}

/// Runs the command.
pub fn run(format: Format, command: Command) -> Result<(), Error> {
    let Command::Create(Create { name, scope, file }) = command;
    let mut random = [0; TOKEN_BYTES];
    getrandom::fill(&mut random).map_err(|error| {
        Error::Refused(Code::System, format!("the system gives no random bytes: {error}"))
    })?;
    let token = format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
    let line = TokenLine { name, scopes: scope, hash: hash_of(&token) };
    if let Some(file) = &file {
        append(file, &line)?;
        log::info!(
            "{} can use it for {} as soon as the API has read {}",
            line.name,
            line.scopes,
            file.display()
        );
    }
    let created =
        Created { scopes: line.scopes.to_string(), line: line.to_string(), name: line.name, token, file };
    Ok(output::write(format, &created, text)?)
}

fn text(created: &Created) -> String {
    if created.file.is_some() {
        return format!("{}\n", created.token);
    }
    format!(
        "{}\n\nThe token is shown this once. Add its line to the file that API_TOKENS_FILE names:\n\n{}\n",
        created.token, created.line
    )
}

/// Adds the line, if the file is a token file or new.
fn append(path: &Path, line: &TokenLine) -> Result<(), Error> {
    let failed = |why: String| Error::Refused(Code::AccessFile, format!("{}: {why}", path.display()));
    let before = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        before => before.map_err(|error| failed(error.to_string()))?,
    };
    let separator = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    let after = format!("{before}{separator}{line}\n");
    parse_file(&after).map_err(failed)?;
    if after.len() > MAX_FILE {
        return Err(failed(format!("with another line it would be larger than {MAX_FILE} bytes")));
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    file.and_then(|mut file| {
        file.write_all(format!("{separator}{line}\n").as_bytes())?;
        file.sync_all()
    })
    .map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_added_to_a_token_file_and_to_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let line = |name: &str| TokenLine {
            name: name.to_owned(),
            scopes: "read".parse().unwrap(),
            hash: hash_of(name),
        };
        append(&path, &line("alice")).unwrap();
        // An editor took the end of the last line.
        fs::write(&path, fs::read_to_string(&path).unwrap().trim_end()).unwrap();
        append(&path, &line("bob")).unwrap();
        assert_eq!(parse_file(&fs::read_to_string(&path).unwrap()).unwrap(), [line("alice"), line("bob")]);
        fs::write(&path, "root:x:0:0\n").unwrap();
        assert!(append(&path, &line("eve")).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "root:x:0:0\n");
    }
}
