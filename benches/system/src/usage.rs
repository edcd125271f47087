//! What a process used, by the kernel's count.

use std::fs;

/// Processor time in microseconds, in user and kernel, of all threads.
pub fn cpu_us(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a running process");
    // The name of the program is in brackets and may have blanks.
    let (_, fields) = stat.rsplit_once(") ").expect("a line of /proc/PID/stat");
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("ticks")).sum();
    let per_second = rustix::param::clock_ticks_per_second();
    ticks as f64 * 1e6 / per_second as f64
}

/// Bytes that it had written to disk.
pub fn written(pid: u32) -> f64 {
    number(&format!("/proc/{pid}/io"), "write_bytes:")
}

/// Memory in MiB, now and at its highest.
pub fn memory(pid: u32) -> (f64, f64) {
    let status = format!("/proc/{pid}/status");
    (number(&status, "VmRSS:") / 1024.0, number(&status, "VmHWM:") / 1024.0)
}

fn number(file: &str, name: &str) -> f64 {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let word = line.and_then(|line| line.split_whitespace().next());
    word.and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{file} has no {name}"))
}
