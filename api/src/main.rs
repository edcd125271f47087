//! `task-api`: stores tasks and publishes their lifecycle events to Kafka.

use task_api::args::Args;
use task_events::logging::exit_with;

fn main() {
    let args: Args = task_events::config::parse();
    if let Err(error) = task_events::logging::init(&args.log) {
        exit_with(error);
    }
    if let Err(error) = task_api::service::run(args) {
        exit_with(error);
    }
}
