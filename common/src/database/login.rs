//! Who logs in to a database whose address is in a file: as the file says when a connection is made.
//!
//! # Invariants
//!
//! - *A login that was replaced counts for the next connection.* Connections that are there stay: PostgreSQL asks them
//!   for nothing more.
//! - *Nothing but the login is taken over.* Another host, database or option needs a restart: the tasks of one process
//!   would be in two databases.
//! - *What was good stays*: a file that cannot be read, or used, is reported, and the login of before is tried.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_postgres::Config;

use super::address::{DatabaseUrl, Target};
use crate::log_once::LogOnce;

/// Time to read the file, of the time for a connection.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest address, in bytes.
const MAX_ADDRESS: u64 = 64 * 1024;

/// A user and a password.
#[derive(Clone)]
pub(super) struct Login {
    user: Option<String>,
    password: Option<Vec<u8>>,
}

impl Login {
    fn of(config: &Config) -> Self {
        let password = config.get_password().map(<[u8]>::to_vec);
        Self { user: config.get_user().map(str::to_owned), password }
    }

    /// The same address with this login.
    pub(super) fn apply(&self, config: &Config) -> Config {
        let mut config = config.clone();
        if let Some(user) = &self.user {
            config.user(user);
        }
        if let Some(password) = &self.password {
            config.password(password);
        }
        config
    }
}

/// A file with an address, of which the login is read again.
pub(super) struct LoginFile {
    path: PathBuf,
    /// What it named first, without the login.
    target: Target,
    login: Mutex<Login>,
    /// One read at a time, so that a disk that hangs costs one thread.
    reads: Arc<Semaphore>,
    log: Mutex<LogOnce>,
}

impl fmt::Debug for LoginFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoginFile({})", self.path.display())
    }
}

impl LoginFile {
    /// The file that named this address.
    pub(super) fn new(path: PathBuf, target: Target) -> Self {
        let login = Mutex::new(Login::of(&target.0));
        let log = Mutex::new(LogOnce::new(module_path!()));
        Self { path, target: without_login(target), login, reads: Arc::new(Semaphore::new(1)), log }
    }

    /// Who logs in now.
    pub(super) async fn current(&self) -> Login {
        let read = timeout(READ_TIMEOUT, self.read()).await;
        let read =
            read.unwrap_or_else(|_| Err("it is not read in time: look at the disk or mount".to_owned()));
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let mut login = self.login.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(new) => {
                log.over(&format!("DATABASE_URL_FILE {} can be used again", self.path.display()));
                *login = new;
            }
            Err(why) => log.warn(&format!(
                "DATABASE_URL_FILE {} is not used as it is: {why}; the login of before is tried",
                self.path.display()
            )),
        }
        login.clone()
    }

    async fn read(&self) -> Result<Login, String> {
        let permit = Arc::clone(&self.reads).acquire_owned().await.map_err(|error| error.to_string())?;
        let path = self.path.clone();
        let read = spawn_blocking(move || {
            let _permit = permit;
            let mut text = String::new();
            File::open(path)?.take(MAX_ADDRESS).read_to_string(&mut text).map(|_| text)
        });
        let text = read.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let target = DatabaseUrl::new(&text).target().map_err(|error| error.to_string())?;
        let login = Login::of(&target.0);
        if without_login(target) == self.target {
            return Ok(login);
        }
        Err("it names another host, database or option than at the start: restart to use it".to_owned())
    }
}

fn without_login((mut config, files): Target) -> Target {
    config.user("").password("");
    (config, files)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn the_login_of_the_file_counts_and_nothing_else_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("url");
        let write = |text: &str| fs::write(&path, text).unwrap();
        write("postgres://app:one@db:5433/tasks?connect_timeout=2\n");
        let url = DatabaseUrl::in_file(&path).unwrap();
        let file = LoginFile::new(path.clone(), url.target().unwrap());
        let config = url.target().unwrap().0;
        let current = async || {
            let now = file.current().await.apply(&config);
            assert_eq!((now.get_dbname(), now.get_ports()), (Some("tasks"), &[5433][..]));
            let password = String::from_utf8(now.get_password().unwrap().to_vec()).unwrap();
            format!("{}:{password}", now.get_user().unwrap())
        };
        // On a machine that is busy a read may run out of its time.
        let becomes = async |wanted: &str| {
            let mut now = current().await;
            for _ in 0..30 {
                if now == wanted {
                    return;
                }
                now = current().await;
            }
            assert_eq!(now, wanted);
        };
        becomes("app:one").await;
        write("postgres://app:two@db:5433/tasks?connect_timeout=2");
        becomes("app:two").await;
        write("postgres://new:three@db:5433/tasks?connect_timeout=2");
        becomes("new:three").await;
        for other in [
            "postgres://app:x@other:5433/tasks?connect_timeout=2",
            "postgres://app:x@db:5433/other?connect_timeout=2",
            "postgres://app:x@db:5433/tasks?connect_timeout=2&sslmode=verify-full",
            "postgres://app:x@db:5433/tasks",
            "",
        ] {
            write(other);
            assert_eq!(current().await, "new:three", "{other}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(current().await, "new:three");
        write("postgres://app:four@db:5433/tasks?connect_timeout=2");
        becomes("app:four").await;
        assert!(!format!("{file:?}").contains("four"));
    }

    /// Without a name the database has its user's, and keeps it when the user is replaced.
    #[tokio::test]
    async fn another_user_does_not_lead_into_another_database() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("url");
        fs::write(&path, "postgres://app:one@db").unwrap();
        let target = DatabaseUrl::in_file(&path).unwrap().target().unwrap();
        assert_eq!(target.0.get_dbname(), Some("app"));
        let file = LoginFile::new(path.clone(), target.clone());
        fs::write(&path, "postgres://new:two@db").unwrap();
        assert_eq!(file.current().await.user.as_deref(), Some("app"));
        fs::write(&path, "postgres://new:two@db/app").unwrap();
        let mut login = file.current().await;
        for _ in 0..30 {
            if login.user.as_deref() != Some("new") {
                login = file.current().await;
            }
        }
        let now = login.apply(&target.0);
        assert_eq!((now.get_user(), now.get_dbname()), (Some("new"), Some("app")));
    }
}
