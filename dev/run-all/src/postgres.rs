//! The PostgreSQL of `--scaled`: the one that DATABASE_URL names, or one of its own by the programs that are installed.
//!
//! Its superuser has a random password, in a file that nobody else may read: whoever is PostgreSQL's superuser runs
//! programs as its user. PostgreSQL refuses to run as root. There its data is in a folder of the user `postgres`
//! outside of a folder that this one may not reach, and a link leads there.

use std::env;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use rustix::process::geteuid;
use tokio::process::Command;
use uuid::Uuid;

use crate::Failure;
use crate::children::{Children, Program};
use crate::port::free;
use crate::services::{POSTGRES, scaled_folder};

/// Where Debian has the programs of each version.
const DEBIAN: &str = "/usr/lib/postgresql";
/// As whom root starts it.
const USER: &str = "postgres";
/// Where its data is if root starts it: it outlives a restart of the machine, as the rest of the state does.
pub const FOLDERS_OF_ROOT: &str = "/var/tmp";
/// What to do without one.
const HOW_TO_GET_ONE: &str = "--scaled needs PostgreSQL: install it (Debian: apt-get install postgresql), name its programs with --postgres-programs, or set DATABASE_URL to one that runs";

/// Starts one, and returns what the services have to know of it. They wait until it answers.
pub async fn start(
    programs: Option<&Path>,
    port: u16,
    children: &mut Children,
) -> Result<(&'static str, String), Failure> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    free(address, "PostgreSQL", "--postgres-port").await?;
    let programs = find(programs)?;
    let user = if geteuid().is_root() { Some(user().await?) } else { None };
    let folder = folder(user)?;
    let (data, url) = (folder.join("data"), folder.join("url"));
    if !data.exists() {
        create(&programs, &folder, user, port).await?;
    }
    let mut words = user.map_or_else(Vec::new, |_| as_user());
    words.push(programs.join("postgres").display().to_string());
    words.extend(["-D".to_owned(), data.display().to_string(), "-p".to_owned(), port.to_string()]);
    for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=100"] {
        words.extend(["-c".to_owned(), setting.to_owned()]);
    }
    let (path, args) = words.split_first().ok_or_else(|| Failure(HOW_TO_GET_ONE.to_owned()))?;
    children.start(Program {
        name: POSTGRES,
        colour: 90,
        path: Path::new(path),
        args: args.to_vec(),
        env: Vec::new(),
        stop_limit: Duration::from_secs(10),
        // The services commit until their end.
        stop_rank: 2,
    })?;
    let password = read(&folder.join("password"))?;
    write_secret(&url, &format!("postgres://{USER}:{password}@127.0.0.1:{port}/postgres"))?;
    Ok(("DATABASE_URL_FILE", url.display().to_string()))
}

/// Whether the environment names one.
pub fn is_named() -> bool {
    ["DATABASE_URL", "DATABASE_URL_FILE"]
        .into_iter()
        .any(|name| env::var_os(name).is_some_and(|it| !it.is_empty()))
}

/// The folder of its programs; where there are none, says how to get them.
pub fn find(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = match named {
        Some(folder) => vec![folder.to_owned()],
        None => env::split_paths(&path).chain(newest_first(Path::new(DEBIAN))).collect(),
    };
    let is_complete =
        |folder: &PathBuf| ["initdb", "postgres"].iter().all(|name| folder.join(name).is_file());
    let found = folders.into_iter().find(is_complete);
    // `initdb` looks for its server beside itself, and a link in PATH leads to it.
    let found = found.map(|folder| fs::canonicalize(folder.join("initdb")).unwrap_or(folder.join("initdb")));
    let folder = found.as_deref().and_then(Path::parent);
    folder.map(Path::to_owned).ok_or_else(|| Failure(HOW_TO_GET_ONE.to_owned()))
}

fn newest_first(versions: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(versions).into_iter().flatten().flatten();
    let version =
        |entry: fs::DirEntry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")));
    let mut found: Vec<(u32, PathBuf)> = entries.filter_map(version).collect();
    found.sort();
    found.into_iter().rev().map(|(_, folder)| folder).collect()
}

/// A user by its numbers.
#[derive(Debug, Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

/// The one that root starts it as.
async fn user() -> Result<User, Failure> {
    let id = async |flag: &str| {
        let output = Command::new("id").args([flag, USER]).stdin(Stdio::null()).output().await.ok()?;
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    };
    let (uid, gid) = (id("-u").await, id("-g").await);
    let missing = "PostgreSQL does not run as root, and there is no user postgres: run this as another user, or set DATABASE_URL";
    let user = uid.zip(gid).map(|(uid, gid)| User { uid, gid });
    user.ok_or_else(|| Failure(missing.to_owned()))
}

/// In front of a command of that user's. The signal of a parent's end would be lost with the change of user.
fn as_user() -> Vec<String> {
    let user = [format!("--reuid={USER}"), format!("--regid={USER}")];
    let words = ["setpriv", "--init-groups", "--pdeathsig=TERM"].map(str::to_owned);
    words.into_iter().chain(user).chain(["--".to_owned()]).collect()
}

/// The folder of all that belongs to it; made where there is none.
fn folder(user: Option<User>) -> Result<PathBuf, Failure> {
    let path = PathBuf::from(format!("{}/{POSTGRES}", scaled_folder()));
    let failed = |error: io::Error| Failure(format!("cannot use {}: {error}", path.display()));
    if !path.exists() {
        let real = match user {
            Some(_) => PathBuf::from(FOLDERS_OF_ROOT).join(format!("task-events-{}", Uuid::new_v4())),
            None => path.clone(),
        };
        fs::create_dir_all(scaled_folder()).map_err(failed)?;
        DirBuilder::new().mode(0o700).create(&real).map_err(failed)?;
        if let Some(User { uid, gid }) = user {
            chown(&real, Some(uid), Some(gid)).map_err(failed)?;
            // A link whose end is gone.
            if path.is_symlink() {
                fs::remove_file(&path).map_err(failed)?;
            }
            symlink(&real, &path).map_err(failed)?;
        }
    }
    fs::canonicalize(&path).map_err(failed)
}

/// Makes a cluster: it gets its name when it is whole.
async fn create(programs: &Path, folder: &Path, user: Option<User>, port: u16) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure(format!("cannot use {}: {error}", folder.display()));
    let (new, password) = (folder.join("new"), folder.join("password"));
    if new.exists() {
        fs::remove_dir_all(&new).map_err(failed)?;
    }
    write_secret(&password, &Uuid::new_v4().simple().to_string())?;
    if let Some(User { uid, gid }) = user {
        chown(&password, Some(uid), Some(gid)).map_err(failed)?;
    }
    let mut words = user.map_or_else(Vec::new, |_| as_user());
    words.push(programs.join("initdb").display().to_string());
    words.extend(["-D".to_owned(), new.display().to_string(), format!("--pwfile={}", password.display())]);
    words.extend([format!("--username={USER}")]);
    words.extend(["--auth=scram-sha-256", "--locale=C", "--encoding=UTF8"].map(str::to_owned));
    let output =
        output(&words, folder).await.map_err(|error| Failure(format!("initdb does not start: {error}")))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        let why = why.trim().lines().last().unwrap_or_default();
        return Err(Failure(format!(
            "initdb failed ({}), for PostgreSQL on port {port}: {why}",
            output.status
        )));
    }
    fs::rename(&new, folder.join("data")).map_err(failed)
}

async fn output(words: &[String], folder: &Path) -> io::Result<Output> {
    let Some((program, args)) = words.split_first() else { return Err(io::ErrorKind::InvalidInput.into()) };
    let mut command = Command::new(program);
    command.args(args).current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    command.output().await
}

fn write_secret(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure(format!("cannot write {}: {error}", path.display()));
    fs::write(path, "").map_err(failed)?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
    fs::write(path, text).map_err(failed)
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path)
        .map_err(|error| Failure(format!("cannot read {}: {error}; --fresh starts anew", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_comes_first() {
        let root = tempfile::tempdir().unwrap();
        for version in ["9", "15", "tools", "17"] {
            fs::create_dir(root.path().join(version)).unwrap();
        }
        let found = newest_first(root.path());
        let wanted = ["17", "15", "9"].map(|version| root.path().join(version).join("bin"));
        assert_eq!(found, wanted);
    }

    #[test]
    fn without_its_programs_one_line_says_how_to_get_it() {
        let empty = tempfile::tempdir().unwrap();
        let failure = find(Some(empty.path())).unwrap_err().to_string();
        assert!(
            failure.contains("apt-get install postgresql") && failure.contains("DATABASE_URL"),
            "{failure}"
        );
        assert_eq!(failure.lines().count(), 1);
    }
}
