//! Lag and throughput over the last minutes, a sample a second, for as long as somebody looks.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::rows::GroupRow;

/// Samples that are kept: five minutes.
const SAMPLES: usize = 300;
/// Samples over which a rate is taken.
const RATE_SAMPLES: usize = 5;
/// Groups of which the history is kept.
const MAX_GROUPS: usize = 20;

/// The samples, oldest first.
#[derive(Debug, Default, Serialize)]
pub(super) struct History {
    samples: VecDeque<Sample>,
}

/// What was seen at one moment.
#[derive(Debug, Serialize)]
pub(super) struct Sample {
    #[serde(skip)]
    at: Instant,
    #[serde(skip)]
    end: Option<i64>,
    /// Events that came in a second.
    rate: Option<f64>,
    groups: BTreeMap<String, GroupSample>,
}

#[derive(Debug, Clone, Serialize)]
struct GroupSample {
    lag: Option<i64>,
    /// Events that were handled in a second.
    rate: Option<f64>,
    #[serde(skip)]
    position: Option<i64>,
}

impl History {
    /// Adds a sample: the end of the events topic, and where the groups are.
    pub(super) fn add(&mut self, end: Option<i64>, groups: &[GroupRow]) {
        let now = Instant::now();
        let before = self.samples.iter().rev().take(RATE_SAMPLES).next_back();
        let rate = |then: Option<i64>, now_at: Option<i64>| {
            let seconds = (now - before?.at).as_secs_f64();
            let more = now_at?.checked_sub(then?).filter(|more| *more >= 0)?;
            // A tenth is as good as the clock.
            (seconds > 0.0).then(|| (more as f64 / seconds * 10.0).round() / 10.0)
        };
        let of_group = |row: &GroupRow| {
            let then = before.and_then(|before| before.groups.get(&row.group)?.position);
            let sample = GroupSample { lag: row.lag, rate: rate(then, row.position), position: row.position };
            (row.group.clone(), sample)
        };
        let sample = Sample {
            at: now,
            end,
            rate: rate(before.and_then(|before| before.end), end),
            groups: groups.iter().take(MAX_GROUPS).map(of_group).collect(),
        };
        self.samples.push_back(sample);
        if self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
    }

    /// The newest sample.
    pub(super) fn last(&self) -> Option<&Sample> {
        self.samples.back()
    }

    /// For how long a group has been at its position although it is behind; `None` if it moves or has all.
    pub(super) fn stuck(&self, group: &str) -> Option<Duration> {
        let of_group = |sample: &Sample| {
            let known = sample.groups.get(group)?;
            known.position.filter(|_| known.lag.is_some_and(|lag| lag > 0))
        };
        let newest = self.samples.back()?;
        let position = of_group(newest)?;
        let same = self.samples.iter().rev().take_while(|sample| of_group(sample) == Some(position));
        same.last().map(|oldest| newest.at - oldest.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(position: i64, lag: i64) -> GroupRow {
        let mut row = GroupRow::named("g");
        (row.position, row.lag) = (Some(position), Some(lag));
        row
    }

    #[tokio::test(start_paused = true)]
    async fn rates_come_from_the_last_seconds_and_a_group_that_does_not_move_is_stuck() {
        let mut history = History::default();
        for second in 0..10 {
            history.add(Some(100 * second), &[row(50 * second, 50 * second)]);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let last = history.last().unwrap();
        assert_eq!((last.rate, last.groups["g"].rate), (Some(100.0), Some(50.0)));
        assert_eq!(history.stuck("g"), Some(Duration::ZERO), "it has just moved");
        for _ in 0..20 {
            history.add(Some(900), &[row(450, 450)]);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(history.stuck("g"), Some(Duration::from_secs(20)));
        history.add(Some(900), &[row(900, 0)]);
        assert_eq!(history.stuck("g"), None, "it has all");
        assert_eq!(history.stuck("h"), None);
        history.add(Some(3), &[row(3, 0)]);
        assert_eq!(history.last().unwrap().rate, None, "the topic was created again");
        for _ in 0..2 * SAMPLES {
            history.add(None, &[]);
        }
        assert_eq!(history.samples.len(), SAMPLES);
    }
}
