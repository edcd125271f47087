//! What the system says of this process, under the names that all of Prometheus's client libraries use.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

use super::text::Text;

/// Fields of `/proc/self/stat`, counted from the one after the command's name, which may hold anything.
const USER_TIME: usize = 11;
const SYSTEM_TIME: usize = 12;
const THREADS: usize = 17;
const START_TIME: usize = 19;
const VIRTUAL_MEMORY: usize = 20;
const RESIDENT_PAGES: usize = 21;

impl Text {
    /// What every process has: its name and version, and what the system says of it. Blocks for a moment.
    pub fn process(&mut self, service: &str, version: &str) {
        let help = "Always 1; the labels say which service and version this is.";
        self.family("task_events_build_info", "gauge", help);
        self.series("task_events_build_info", &[("service", service), ("version", version)], 1);
        render(self);
    }
}

/// Adds the process's metrics. Blocks: with 20,000 open files for some milliseconds. What the system does not
/// tell is left out.
fn render(text: &mut Text) {
    if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::parse) {
        let seconds = |ticks: u64| seconds(ticks, clock_ticks_per_second());
        let cpu = seconds(stat.cpu_ticks);
        text.single("process_cpu_seconds_total", "counter", "User and system CPU time spent.", cpu);
        let (resident, threads) = (stat.resident_pages * page_size() as u64, stat.threads);
        text.single("process_resident_memory_bytes", "gauge", "Resident memory size.", resident);
        text.single("process_virtual_memory_bytes", "gauge", "Virtual memory size.", stat.virtual_bytes);
        text.single("process_threads", "gauge", "Number of threads of the process.", threads);
        if let Some(booted) = booted() {
            let started = booted.as_secs_f64() + seconds(stat.start_ticks);
            let help = "Start time of the process since the Unix epoch.";
            text.single("process_start_time_seconds", "gauge", help, started);
        }
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        // One of them is that of the folder itself.
        let open = files.count().saturating_sub(1);
        text.single("process_open_fds", "gauge", "Number of open file descriptors.", open);
    }
    if let Some(most) = getrlimit(Resource::Nofile).current {
        text.single("process_max_fds", "gauge", "Maximum number of open file descriptors.", most);
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    /// Since the system was booted.
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(stat: &str) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let field = |number: usize| fields.get(number)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(USER_TIME)? + field(SYSTEM_TIME)?,
            threads: field(THREADS)?,
            start_ticks: field(START_TIME)?,
            virtual_bytes: field(VIRTUAL_MEMORY)?,
            resident_pages: field(RESIDENT_PAGES)?,
        })
    }
}

fn seconds(ticks: u64, per_second: u64) -> f64 {
    Duration::from_micros(ticks.saturating_mul(1_000_000) / per_second.max(1)).as_secs_f64()
}

/// When the system was booted, since 1970.
fn booted() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
        .filter(|booted| SystemTime::now().duration_since(UNIX_EPOCH).is_ok_and(|now| *booted <= now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_may_have_any_name() {
        let stat =
            "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 110 12 13 14 15 16 3 0 99 4096 5 18446744073709551615 1";
        let parsed =
            Stat { cpu_ticks: 122, threads: 3, start_ticks: 99, virtual_bytes: 4_096, resident_pages: 5 };
        assert_eq!(Stat::parse(stat), Some(parsed));
        assert_eq!(Stat::parse("7 (a"), None);
        assert_eq!(Stat::parse("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_is_described() {
        let mut text = Text::default();
        render(&mut text);
        let text = text.finish();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
            line.unwrap_or_else(|| panic!("no {name}: {text}")).parse::<f64>().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        assert!((3.0..=value("process_max_fds")).contains(&value("process_open_fds")));
        assert!(value("process_threads") >= 1.0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let started = value("process_start_time_seconds");
        assert!((now - 3_600.0..=now + 2.0).contains(&started), "{started} is not before {now}");
        assert!(value("process_cpu_seconds_total") >= 0.0);
    }
}
