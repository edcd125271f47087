//! The command line of a process. A bad value ends it with one line that names the value.

use clap::Parser;
use clap::error::ErrorKind;

use super::exit::exit_saying;
use crate::escape::escape_control;

/// Reads flags and environment. `--help` and `--version` print and end the process; a bad value is one
/// line on stderr that names it, and exit code 2; a file that cannot be used, which may be whole a moment later, is
/// exit code 1, after which a supervisor starts the process again.
pub fn parse<T: Parser>() -> T {
    match T::try_parse() {
        Ok(args) => args,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            error.exit()
        }
        Err(error) => {
            let code = if error.kind() == ErrorKind::Io { 1 } else { 2 };
            exit_saying(&one_line(&error, &T::command()), code)
        }
    }
}

/// Clap's message without its hints, in one line, with the variable's name where the flag has one.
pub(crate) fn one_line(error: &clap::Error, command: &clap::Command) -> String {
    let text = error.to_string();
    let message: Vec<_> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let message = escape_control(&message.join(" ")).into_owned();
    let arg = error.get(clap::error::ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
    let flag = arg.split([' ', '=']).next().unwrap_or_default();
    match flag.strip_prefix("--").and_then(|name| variable(command, name)) {
        Some(variable) => format!("{message} (flag {flag} or environment variable {variable}; see --help)"),
        None => format!("{message} (see --help)"),
    }
}

/// The environment variable of the flag `--name`, here or in a subcommand.
fn variable(command: &clap::Command, name: &str) -> Option<String> {
    let arg = command.get_arguments().find(|arg| arg.get_long() == Some(name));
    match arg.and_then(clap::Arg::get_env) {
        Some(variable) => Some(variable.to_string_lossy().into_owned()),
        None => command.get_subcommands().find_map(|subcommand| variable(subcommand, name)),
    }
}
