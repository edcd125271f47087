//! Which dead letters, by flags.

use chrono::{DateTime, Utc};
use clap::Args;
use task_events::config::group_name;
use task_events::operate::plan;
use task_events::operate::positions::Positions;

use crate::args::time;
use crate::{Context, Error};

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

    /// Where nothing matches: an error if no instance of the group has ever run, so that a name that is mistyped does
    /// not look like a group without dead letters.
    pub(super) async fn check_group(&self, context: &Context) -> Result<(), Error> {
        let Some(group) = &self.group else { return Ok(()) };
        let positions = Positions::read(&context.kafka, &context.topics.offsets_topic).await?;
        if positions.knows(group) { Ok(()) } else { Err(context.unknown_group(group)) }
    }
}
