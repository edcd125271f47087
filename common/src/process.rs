//! What every process needs, from its command line to its end.

pub mod api_token;
pub mod command_line;
pub mod config;
pub mod deferred;
pub mod exit;
mod fault;
mod log_fields;
mod log_levels;
mod log_line;
pub mod logging;
pub mod metrics;
pub mod output;
pub mod registry_args;
pub mod security_args;
pub mod shutdown;
pub mod state_dir;
pub mod stderr;
pub mod terminal;
pub mod url_arg;
pub mod version;
pub mod watched_file;
