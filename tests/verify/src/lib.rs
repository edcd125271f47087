//! Nothing is lost: load, faults, and a check of what came of it.
//!
//! The check works as Jepsen's queue workload does. Clients write down what they asked for and what they
//! were answered ([`requests`](harness::requests)). Afterwards that is compared with what is in the topic, in the audit log,
//! in the offsets topic and in the services' logs ([`evidence`], [`check`]). Faults are chosen by a seed
//! ([`plan`]), so that a round can be repeated ([`round`]).
//!
//! This crate shares no code with the system that it checks.

pub mod api;
pub mod check;
pub mod evidence;
pub mod lives;
mod others;
pub mod plan;
pub mod round;
pub mod scaled;
pub mod soak;
pub mod system;
