//! The names of the checks, as they are in the table.

/// Answered 2xx, and its events are not in the audit log, or not in the topic.
pub const LOST: &str = "lost";
/// Answered 2xx, and the API does not have it.
pub const LOST_STATE: &str = "lost in the task store";
/// In the topic or the audit log, and never asked for.
pub const UNEXPECTED: &str = "unexpected";
/// Says something else than was asked for.
pub const ALTERED: &str = "altered";
/// An answer of 500 or above.
pub const REFUSED: &str = "refused (5xx)";
/// A created or completed task without a notification.
pub const NOT_TOLD: &str = "notification missing";
/// Twice in the audit log.
pub const TWICE_AUDITED: &str = "duplicate in the audit log";
/// Twice in the topic, and nothing explains it.
pub const TWICE_IN_TOPIC: &str = "duplicate in the topic, unexplained";
/// The changes of a task in another order than they were made.
pub const ORDER: &str = "order of a task";
/// The audit log in another order than the topic.
pub const TOPIC_ORDER: &str = "audit log in topic order";
/// A commit of work that was not done yet.
pub const AHEAD: &str = "commit ahead of its work";
/// Two owners at work.
pub const OWNERS: &str = "two owners";
/// Work that did not end although all faults were over.
pub const NOT_DRAINED: &str = "not drained";
/// In several audit logs of instances that share the partitions, and nothing explains it.
pub const UNION: &str = "audited once in the union";
/// Notified several times, and nothing explains it.
pub const NOTIFIED_ONCE: &str = "notified once";
/// A partition of an owner, or the turn of a relay, that was killed or paused, that was nobody else's for too long.
pub const OWNED: &str = "owned again after a kill or a pause";
/// The same after a stop in order, a partition that was not given back then, or a stop that was none.
pub const HANDED_OVER: &str = "handed over after a stop";
/// 4xx, 5xx or no answer from a replica that was well.
pub const UNAVAILABLE: &str = "refused by a replica that was well";
/// A replica that lists other tasks than another.
pub const REPLICAS: &str = "replicas list the same tasks";
/// A partition that was claimed while its owner lived, or was given to somebody else.
pub const TAKEN: &str = "taken from a living owner";
/// A fault that hit nobody in any round.
pub const HIT: &str = "faults that hit nobody";
/// A process that ended or panicked without being asked to, or did not come back after a fault.
pub const RUNNING: &str = "processes that run";
