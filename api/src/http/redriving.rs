//! A redrive of the live page, from its first letter on.
//!
//! *However it ends, it is logged what was redriven*: when all is done, when Kafka fails, when its time is over, and when
//! the process stops in the middle of it; and its caller is answered how far it came.

use std::sync::OnceLock;

use task_events::kafka::Kafka;
use task_events::operate::plan::{Outcome, Plan, PlanError};

/// A plan that is executed. Dropped, it logs what was done.
struct Logged<'a> {
    plan: &'a mut Plan,
    correlation_id: &'a str,
    /// How far it came, if it is interrupted.
    report: &'a OnceLock<String>,
    is_done: bool,
}

impl Drop for Logged<'_> {
    fn drop(&mut self) {
        let Self { plan, correlation_id, report, is_done } = self;
        let correlation_id = *correlation_id;
        for letter in &plan.letters {
            let (id, group) = (&letter.id, &letter.group);
            match &letter.outcome {
                Outcome::Redriven(to) => {
                    log::info!(correlation_id, id, group; "redrove dead letter {id} of {group} to {to}");
                }
                Outcome::Failed(why) => {
                    log::info!(correlation_id, id, group; "did not redrive dead letter {id} of {group}: {why}");
                }
                Outcome::Planned | Outcome::Skipped(_) => {}
            }
        }
        let (redriven, failed) = (plan.redriven, plan.failed);
        if *is_done {
            log::info!(
                correlation_id, redriven, failed;
                "redriven by the live page: {redriven} dead letters, {failed} could not be"
            );
            return;
        }
        let progress = plan.progress();
        log::warn!(correlation_id, redriven, failed; "a redrive by the live page was interrupted ({progress})");
        // There is one execution for each report.
        let _ = report.set(progress);
    }
}

/// Executes a plan. Dropped in the middle, it has logged and reported how far it came.
pub(super) async fn execute(
    mut plan: Plan,
    kafka: &Kafka,
    dlq_topic: &str,
    correlation_id: &str,
    report: &OnceLock<String>,
) -> Result<Plan, PlanError> {
    let mut logged = Logged { plan: &mut plan, correlation_id, report, is_done: false };
    logged.plan.execute(kafka, dlq_topic, &mut ()).await?;
    logged.is_done = true;
    drop(logged);
    Ok(plan)
}
