//! The wish to stop.

use tokio::sync::watch;

/// Ready once the broker stops; a lost sender is a dropped [`Broker`](crate::Broker).
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stopping| *stopping).await;
}
