//! Work for the writer, and how it is answered.

use tokio::sync::oneshot;

use super::delivery::{Delivered, PublishedTopic};
use super::failure::{StoreError, Unreadable};
use super::mutation::{Mutation, Outcome};
use crate::reply::{Group, Reply};

/// The reply to the caller of a change.
pub(super) type MutateResult = Result<Outcome, StoreError>;
pub(super) type LazyDelivery = (Delivered, oneshot::Sender<Result<(), StoreError>>);
/// What became of a change whose group is on disk.
pub(super) type MutationResult = Result<Outcome, Unreadable>;

/// Work for the writer.
#[derive(Debug)]
pub(super) enum Job {
    Mutate(Box<Mutation>, Reply<MutateResult>),
    Delivered(Delivered, oneshot::Sender<Result<(), StoreError>>),
    PublishTo(PublishedTopic, oneshot::Sender<Result<(), StoreError>>),
    /// A read met an I/O error: is the file still good?
    Check(oneshot::Sender<Result<(), StoreError>>),
    /// Are the files still in their place?
    Look,
    /// Deliveries wait.
    Flush,
}

impl Job {
    pub(super) fn finish(self, outcome: Option<MutationResult>, replies: &mut Group<MutateResult>) {
        // A caller that has disconnected is no error: the change is stored.
        match (self, outcome) {
            (Self::Mutate(_, reply), Some(outcome)) => replies.send(reply, outcome.map_err(StoreError::from)),
            (Self::Delivered(_, reply) | Self::PublishTo(_, reply) | Self::Check(reply), _) => {
                drop(reply.send(Ok(())));
            }
            (Self::Mutate(_, reply), None) => {
                replies.send(reply, Err(StoreError::Unavailable("no outcome".to_owned())));
            }
            (Self::Look | Self::Flush, _) => {}
        }
    }

    pub(super) fn refuse(self, error: StoreError) {
        match self {
            Self::Mutate(_, reply) => reply.send(Err(error)),
            Self::Delivered(_, reply) | Self::PublishTo(_, reply) | Self::Check(reply) => {
                drop(reply.send(Err(error)));
            }
            Self::Look | Self::Flush => {}
        }
    }
}
