//! How long a call may take.

use std::time::Duration;

/// Time for a connection: resolving, connecting, negotiating, logging in.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a request, beyond the time that a fetch may wait at the broker.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
