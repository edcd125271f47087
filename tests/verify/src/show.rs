//! What is printed of a round.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use harness::requests::{Answer, Request};
use verify::check::Report;

/// Before a round: what it will do.
pub(crate) fn begin(seed: u64, connections: usize, rate: Option<u32>, plan: &str) {
    let rate = rate.map_or("full speed".to_owned(), |rate| format!("{rate} requests/s"));
    println!("seed {seed}: {connections} connections, {rate}; {plan}");
}

/// What a round left.
pub(crate) struct Ended<'a> {
    pub(crate) report: &'a Report,
    pub(crate) requests: &'a [Request],
    /// In the topic.
    pub(crate) events: usize,
    pub(crate) drained: Duration,
}

/// After a round: what came of it. Removes its folder, unless something was found.
pub(crate) fn end(round: &Ended<'_>, root: &Path, folder: &Path) {
    let requests = round.requests;
    let count = |test: fn(&Answer) -> bool| requests.iter().filter(|one| test(&one.answer)).count();
    println!(
        "  {} requests: {} done, {} refused, {} failed (5xx), {} not answered; {} events; drained in {:.1} s",
        requests.len(),
        count(|answer| matches!(answer, Answer::Done { .. })),
        count(|answer| matches!(answer, Answer::Refused { .. })),
        count(|answer| matches!(answer, Answer::Failed { .. })),
        count(|answer| matches!(answer, Answer::None { .. })),
        round.events,
        round.drained.as_secs_f32(),
    );
    let mut unanswered: BTreeMap<&str, usize> = BTreeMap::new();
    for request in requests {
        if let Answer::None { why } = &request.answer {
            *unanswered.entry(why).or_default() += 1;
        }
    }
    for (why, times) in unanswered {
        println!("  {times} requests were not answered: {why}");
    }
    for note in &round.report.notes {
        println!("  {note}");
    }
    if round.report.is_sound() {
        let removed = std::fs::remove_dir_all(folder).and_then(|()| std::fs::remove_dir(root));
        // Another round may be kept there.
        drop(removed);
    } else {
        println!("{}  kept in {}", round.report, folder.display());
    }
}
