//! Flags and environment variables of the database.

use std::convert::Infallible;
use std::path::Path;

use clap::Args;

use super::address::DatabaseUrl;

/// Where the database is.
#[derive(Debug, Clone, Default, Args)]
pub struct DatabaseArgs {
    /// PostgreSQL that keeps the tasks, for API replicas: postgres://user:password@host:5432/database. Without it, the
    /// API keeps them in a store of its own below STATE_DIR
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL", value_parser = url)]
    pub database_url: Option<DatabaseUrl>,
    /// File that holds that address. Its user and password are read again for each connection
    #[arg(long, env = "DATABASE_URL_FILE", value_name = "FILE", conflicts_with = "database_url", value_parser = url_in_file)]
    pub database_url_file: Option<DatabaseUrl>,
}

impl DatabaseArgs {
    /// The address, if one is given.
    pub fn url(&self) -> Option<&DatabaseUrl> {
        self.database_url.as_ref().or(self.database_url_file.as_ref())
    }
}

/// A parser's error would show the text, which holds a password: `DatabaseUrl::config` says what is wrong with it.
fn url(text: &str) -> Result<DatabaseUrl, Infallible> {
    Ok(DatabaseUrl::new(text))
}

fn url_in_file(path: &str) -> Result<DatabaseUrl, String> {
    DatabaseUrl::in_file(Path::new(path)).map_err(|error| format!("the file cannot be read: {error}"))
}
