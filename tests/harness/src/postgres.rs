//! PostgreSQL, as Debian installs it: a server of its own in a temporary folder, which ends with this process.

use crate::{Certificate, Error, Result, free_port};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Makes a cluster and says so; obeys orders, a line each; ends the server and removes the folder when there are no more
/// orders, that is also when the process that it was started by is gone. Arguments: folder, programs, settings.
const KEEPER: &str = r#"
dir=$1 bin=$2 settings=$3
trap '' INT TERM HUP
if [ "$(id -u)" = 0 ]; then
    chown postgres "$dir"
    as() { setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }
else
    as() { "$@"; }
fi
cd "$dir"
start() { port=$1; as "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w -t 60 -o "-p $port -k $dir -c listen_addresses=127.0.0.1 $settings" start >"$dir/ctl" 2>&1 </dev/null; }
as "$bin/initdb" -D "$dir/data" -U postgres -A trust --no-sync --locale=C -E UTF8 >"$dir/ctl" 2>&1 </dev/null && echo ready || { cat "$dir/ctl" "$dir/log" 2>/dev/null; echo failed; }
while read -r order port; do
    case $order in
        crash) as "$bin/pg_ctl" -D "$dir/data" -m immediate -w stop >"$dir/ctl" 2>&1 </dev/null && echo ready || echo failed ;;
        start) start "$port" && echo ready || { cat "$dir/ctl" "$dir/log" 2>/dev/null; echo failed; } ;;
    esac
done
as "$bin/pg_ctl" -D "$dir/data" -m immediate -w stop >/dev/null 2>&1 </dev/null
# Nobody waits for it: a disk that is told of each block that is free takes minutes for thousands of files.
rm -rf "$dir" </dev/null >/dev/null 2>&1 &
"#;

/// Ports that are tried.
const MAX_STARTS: usize = 5;
/// How often a server is asked whether it has loaded its settings: each time is a process of its own.
const MAX_LOOKS: usize = 1000;
/// Longest path of a folder in which a socket's name still fits into the system's limit.
const MAX_SOCKET_FOLDER: usize = 70;

/// A temporary folder for a server: root starts it as another user, who may not reach what is below TMPDIR.
pub fn server_folder(prefix: &str) -> Result<tempfile::TempDir> {
    let usual = std::env::temp_dir();
    let is_usable = !rustix::process::geteuid().is_root() && usual.as_os_str().len() <= MAX_SOCKET_FOLDER;
    let parent = if is_usable { usual } else { PathBuf::from("/tmp") };
    let mut folder = tempfile::Builder::new();
    folder.prefix(prefix).permissions(PermissionsExt::from_mode(0o755));
    folder.tempdir_in(&parent).map_err(|error| Error::failed(format!("{}: {error}", parent.display())))
}

/// A server. It ends with the value, or with this process.
pub struct Postgres {
    programs: PathBuf,
    port: u16,
    keeper: Mutex<Keeper>,
}

struct Keeper {
    child: Child,
    orders: Option<std::process::ChildStdin>,
    answers: BufReader<std::process::ChildStdout>,
}

impl Keeper {
    fn wait(&mut self) -> Result<()> {
        let mut text = String::new();
        while !text.ends_with("ready\n") {
            let before = text.len();
            self.answers
                .read_line(&mut text)
                .map_err(|error| Error::failed(format!("PostgreSQL: {error}")))?;
            if text.len() == before || text.ends_with("failed\n") {
                return Err(Error::failed(format!("PostgreSQL does not start: {text}")));
            }
        }
        Ok(())
    }

    fn order(&mut self, order: &str) -> Result<()> {
        let failed = |error| Error::failed(format!("PostgreSQL's keeper: {error}"));
        if let Some(orders) = &mut self.orders {
            writeln!(orders, "{order}").map_err(failed)?;
        }
        self.wait()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        keeper.orders = None;
        let _ = keeper.answers.read_to_end(&mut Vec::new());
        let _ = keeper.child.wait();
    }
}

/// Where Debian has the programs of the newest version.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<(u32, PathBuf)> = versions
        .flatten()
        .filter_map(|version| Some((version.file_name().to_str()?.parse().ok()?, version.path().join("bin"))))
        .filter(|(_, programs)| programs.join("initdb").exists())
        .collect();
    found.sort();
    Some(found.pop()?.1)
}

impl Postgres {
    /// A server of its own. `None`, with a line that says so, where PostgreSQL is not installed; in CI that is an
    /// error.
    pub fn start(settings: &str) -> Result<Option<Self>> {
        let Some(programs) = programs() else {
            let missing = "PostgreSQL is not installed (Debian: apt-get install postgresql pgbouncer)";
            if std::env::var_os("CI").is_some() {
                return Err(Error::failed(missing));
            }
            eprintln!("left out: {missing}");
            return Ok(None);
        };
        let failed = |error: std::io::Error| Error::failed(format!("PostgreSQL's keeper: {error}"));
        let folder = server_folder("postgres-")?.keep();
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER, "keeper"]).arg(&folder).arg(&programs).arg(settings);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let orders = child.stdin.take();
        let Some(answers) = child.stdout.take() else { return Err(Error::failed("no output")) };
        let mut keeper = Keeper { child, orders, answers: BufReader::new(answers) };
        keeper.wait()?;
        // Somebody else may take a port before the server does.
        let mut port = free_port()?;
        for _ in 1..MAX_STARTS {
            match keeper.order(&format!("start {port}")) {
                Ok(()) => return Ok(Some(Self { programs, port, keeper: Mutex::new(keeper) })),
                Err(error) => eprintln!("PostgreSQL is started on another port: {error}"),
            }
            port = free_port()?;
        }
        keeper.order(&format!("start {port}"))?;
        Ok(Some(Self { programs, port, keeper: Mutex::new(keeper) }))
    }

    /// One for all tests of this process, without fsync: they kill processes, not machines. Each replica has some 10
    /// connections, and there are as many tests at a time as processors.
    pub fn shared() -> Result<Option<&'static Self>> {
        static SHARED: OnceLock<std::result::Result<Option<Postgres>, String>> = OnceLock::new();
        let start = || Self::start("-c fsync=off -c max_connections=1500").map_err(|error| error.to_string());
        SHARED.get_or_init(start).as_ref().map(Option::as_ref).map_err(|error| Error::failed(error.clone()))
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address of a database.
    pub fn url(&self, database: &str) -> String {
        self.url_at(self.port, database)
    }

    /// The same by way of another port: of a proxy, or of several hosts.
    pub fn url_at(&self, port: u16, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{port}/{database}")
    }

    /// Makes a database, unless it is there.
    pub fn create_database(&self, name: &str) -> Result<()> {
        let there = self.sql("postgres", &format!("SELECT 1 FROM pg_database WHERE datname = '{name}'"))?;
        if there.is_empty() {
            self.sql("postgres", &format!("CREATE DATABASE {name}"))?;
        }
        Ok(())
    }

    /// Runs statements, and returns the rows, a line each.
    pub fn sql(&self, database: &str, statements: &str) -> Result<String> {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statements])
            .arg(self.url(database));
        let ran = psql.output().map_err(|error| Error::failed(format!("psql: {error}")))?;
        if ran.status.success() {
            return Ok(String::from_utf8_lossy(&ran.stdout).trim().to_owned());
        }
        Err(Error::failed(format!("psql: {}", String::from_utf8_lossy(&ran.stderr))))
    }

    /// Speaks TLS from now on, also beside plain text, with this certificate, and accepts clients' that this CA signed.
    pub fn serve_tls(&self, certificate: &Certificate, client_ca: &str) -> Result<()> {
        for (file, text) in [
            ("server.crt", &*certificate.certificate),
            ("server.key", &certificate.key),
            ("ca.crt", client_ca),
        ] {
            self.write_file(file, text)?;
        }
        let settings = ["ssl = on", "ssl_cert_file = 'server.crt'", "ssl_key_file = 'server.key'"];
        for setting in settings.into_iter().chain(["ssl_ca_file = 'ca.crt'"]) {
            self.sql("postgres", &format!("ALTER SYSTEM SET {setting}"))?;
        }
        self.reload()
    }

    /// Replaces the rules of who may log in; whoever is `postgres` stays trusted.
    pub fn set_login_rules(&self, rules: &str) -> Result<()> {
        self.write_file("pg_hba.conf", &format!("host all postgres 127.0.0.1/32 trust\n{rules}"))?;
        self.reload()
    }

    /// A file in its data folder, that belongs to it.
    fn write_file(&self, name: &str, text: &str) -> Result<()> {
        let text = text.trim_end();
        let copy = format!(
            "COPY (SELECT unnest(string_to_array('{text}', E'\n'))) TO PROGRAM 'umask 077; cat > {name}'"
        );
        self.sql("postgres", &copy).map(drop)
    }

    /// Reads its settings again, and waits until connections are served by them.
    fn reload(&self) -> Result<()> {
        let loaded = || self.sql("postgres", "SELECT pg_conf_load_time() FROM pg_sleep(0.02)");
        let before = loaded()?;
        self.sql("postgres", "SELECT pg_reload_conf()")?;
        for _ in 0..MAX_LOOKS {
            if loaded()? != before {
                return Ok(());
            }
        }
        Err(Error::failed("PostgreSQL does not load its settings"))
    }

    /// Ends all its processes at once, without order.
    pub fn crash(&self) -> Result<()> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner).order("crash")
    }

    /// Starts it again.
    pub fn start_again(&self) -> Result<()> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner).order(&format!("start {}", self.port))
    }
}
