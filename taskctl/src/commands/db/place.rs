//! Which database.

use clap::Args;
use task_events::database::{DatabaseArgs, DatabaseUrl, Session, connect};
use task_events::error_code::{Code, Coded as _};

use crate::Error;

/// Which database.
#[derive(Debug, Args)]
pub struct Database {
    #[command(flatten)]
    database: DatabaseArgs,
}

impl Database {
    /// Its address, which has to be given.
    pub(super) fn url(&self) -> Result<&DatabaseUrl, Error> {
        self.database.url().ok_or_else(|| {
            let why =
                "no database is named: set DATABASE_URL, as in postgres://user:password@host:5432/database";
            Error::Refused(Code::DatabaseAddress, why.to_owned())
        })
    }

    pub(super) async fn connect(&self) -> Result<Session, Error> {
        let url = self.url()?;
        let connected = async { connect(&url.endpoint().await?, None).await }.await;
        connected.map_err(|error| {
            let why = format!(
                "the {} cannot be used: {error}; look at DATABASE_URL, and at the server",
                url.place()
            );
            Error::Refused(error.code(), why)
        })
    }
}
