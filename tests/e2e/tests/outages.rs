//! Kafka freezes: connections stay open, new ones are accepted by its machine, and nothing is answered.

use harness::{Outage, Outcome, World, alone};
use std::time::Duration;

/// Longer than the time-out of any call.
const LONG: Duration = Duration::from_secs(13);
/// Shorter than that of most.
const SHORT: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn with_a_frozen_kafka_the_api_answers_each_service_says_so_and_all_goes_on_at_its_return() -> Outcome {
    let _alone = alone().await;
    let mut world = World::start().await?;
    let mut outage = Outage::prepare(&world).await?;
    for lasts in [LONG, SHORT] {
        world.broker.pause()?;
        outage.go_on_for(lasts).await?;
        if lasts == LONG {
            outage.all_log("no answer within").await?;
        }
        world.broker.resume()?;
        println!("frozen for {lasts:?}: {:?}", outage.recovers(&world).await?);
    }
    Ok(())
}
