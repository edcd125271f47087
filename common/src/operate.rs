//! What an operator sees and does, for whatever shows it: `taskctl` and the API's live page ask the same code.
//!
//! All of it is read from what is durable: the topics. Nothing here keeps a connection or a task of its own alive
//! after its call.
//!
//! | file | what |
//! | --- | --- |
//! | `scan` | a part of a partition, read once |
//! | `letters` | the dead letters of the DLQ, and what became of each |
//! | `plan` | which dead letters to redrive, what to know before, and doing it |
//! | `positions` | how far each group is |
//! | `groups`, `partitions` | whether the owners of groups live, and how far behind they are |
//! | `trace` | the life of one event, one task or one request |

pub mod groups;
pub mod letters;
pub mod members;
pub mod partitions;
pub mod plan;
pub mod positions;
pub mod scan;
pub mod trace;

/// Is called with how much of a long piece of work is done.
pub trait Progress: Send {
    /// A piece of work begins: what it is, and what its units are called.
    fn begin(&mut self, what: &'static str, unit: &'static str);
    /// So much more is to be done than was known before.
    fn add_total(&mut self, more: u64);
    /// So much more is done.
    fn add(&mut self, more: u64);
}

/// Nobody looks.
impl Progress for () {
    fn begin(&mut self, _: &'static str, _: &'static str) {}

    fn add_total(&mut self, _: u64) {}

    fn add(&mut self, _: u64) {}
}
