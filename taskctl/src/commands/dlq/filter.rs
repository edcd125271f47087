//! Which dead letters, by flags.

use chrono::{DateTime, Utc};
use clap::Args;
use task_events::config::group_name;
use task_events::operate::plan;

use crate::args::time;

/// Which dead letters.
#[derive(Debug, Clone, Args)]
pub struct Filter {
    /// Only of this consumer group
    #[arg(long, value_parser = group_name)]
    group: Option<String>,
    /// Only with this kind of error, as in the column KIND
    #[arg(long)]
    kind: Option<String>,
    /// Only what failed at or after this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<DateTime<Utc>>,
    /// Only what failed before this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<DateTime<Utc>>,
}

impl Filter {
    /// The same for the plan of a redrive.
    pub(super) fn filter(&self) -> plan::Filter {
        let Self { group, kind, since, until } = self.clone();
        plan::Filter { group, kind, since, until }
    }
}
