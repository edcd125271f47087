//! The network swallows what is sent, and no side is notified: not by a reset, not by a closed connection.

use std::time::Duration;

use harness::{Broker, Kind, Outage, Outcome, Result, World, alone, free_port};
use harness::{Mode, Proxy};

async fn black_hole(mode: Mode) -> Result<()> {
    let _alone = alone().await;
    let port = free_port()?;
    let proxy = Proxy::start(free_port()?, port, 1).await.unwrap();
    let world = World::on(Broker::start_on(Kind::from_env()?, port, proxy.port()).await?).await?;
    let mut outage = Outage::prepare(&world).await?;
    for seconds in [13, 5, 8] {
        proxy.set(mode, 100);
        outage.go_on_for(Duration::from_secs(seconds)).await?;
        if seconds == 13 {
            outage.all_log("no answer within").await?;
        }
        // What it has swallowed is gone, and so is all that its connections would bring.
        proxy.set(Mode::Pass, 100);
        println!("{mode:?} for {seconds} s: {:?}", outage.recovers(&world).await?);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_is_named_and_left_when_kafka_is_back() -> Outcome {
    black_hole(Mode::HalfOpen).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_never_comes_is_not_waited_for_when_kafka_is_back() -> Outcome {
    black_hole(Mode::DropReplies).await?;
    Ok(())
}
