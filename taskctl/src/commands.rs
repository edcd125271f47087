//! The commands, one file each.

pub mod audit;
pub mod db;
pub mod dlq;
pub mod doctor;
pub mod explain;
pub mod groups;
pub mod manual;
pub mod offsets;
pub mod schema;
pub mod status;
pub mod tail;
pub mod token;
pub mod topics;
pub mod trace;
