//! A [`Service`] of two functions, for consumers that need no more: one that decodes a record into an id and a
//! message, and one that handles a message. Ids of handled messages are kept in a [`Dedup`], so that a repeat is
//! not handled again.
//!
//! A crash between the handling of a message and the end of its batch repeats the message: delivery is
//! at-least-once, and the handling has to bear it.

use std::sync::Arc;

use uuid::Uuid;

use super::handler::{Decoder, Delivery, Done, Handler, HandlerError, Service};
use crate::dedup::Dedup;
use crate::event::Malformed;
use crate::kafka::ConsumerRecord;

/// Makes a message and the id by which a repeat of it is known.
type Decode<M> = fn(&ConsumerRecord) -> Result<(Uuid, M), Malformed>;

/// A [`Service`] that calls `handle` for each message that `decode` makes and `dedup` does not know.
///
/// An error of `decode` sends the record to the DLQ at once; one of `handle` is retried, then ends there too.
pub fn for_each<M, F, W>(dedup: Dedup, decode: Decode<M>, handle: F) -> ForEach<M, F>
where
    M: Send + Sync + 'static,
    F: Fn(Arc<M>) -> W + Clone + Send + Sync + 'static,
    W: Future<Output = Result<(), HandlerError>> + Send,
{
    ForEach { decode: DecodeAndDedup { dedup, decode }, handle }
}

/// What [`for_each`] returns.
#[derive(Debug, Clone)]
pub struct ForEach<M, F> {
    decode: DecodeAndDedup<M>,
    handle: F,
}

/// The [`Decoder`] of a [`ForEach`].
#[derive(Debug)]
pub struct DecodeAndDedup<M> {
    dedup: Dedup,
    decode: Decode<M>,
}

impl<M> Clone for DecodeAndDedup<M> {
    fn clone(&self) -> Self {
        Self { dedup: self.dedup.clone(), decode: self.decode }
    }
}

impl<M, F, W> Service for ForEach<M, F>
where
    M: Send + Sync + 'static,
    F: Fn(Arc<M>) -> W + Clone + Send + Sync + 'static,
    W: Future<Output = Result<(), HandlerError>> + Send,
{
    type Handler = Self;

    async fn open(&self, _topic: &str, _partition: i32) -> Result<Self, HandlerError> {
        Ok(Self { decode: self.decode.clone(), handle: self.handle.clone() })
    }
}

impl<M: Send + Sync + 'static> Decoder for DecodeAndDedup<M> {
    type Message = (Uuid, Arc<M>);

    fn decode(&self, record: &ConsumerRecord) -> Result<Self::Message, Malformed> {
        (self.decode)(record).map(|(id, message)| (id, Arc::new(message)))
    }

    fn wants(&self, _message: &Self::Message) -> bool {
        true
    }

    fn dedup_id(&self, (id, _): &Self::Message) -> Option<Uuid> {
        Some(*id)
    }

    async fn known(&self, ids: &[Uuid]) -> Result<Vec<bool>, HandlerError> {
        self.dedup.known(ids.to_vec()).await.map_err(|error| HandlerError::new("dedup", error))
    }
}

impl<M, F, W> Handler for ForEach<M, F>
where
    M: Send + Sync + 'static,
    F: Fn(Arc<M>) -> W + Clone + Send + Sync + 'static,
    W: Future<Output = Result<(), HandlerError>> + Send,
{
    type Decoder = DecodeAndDedup<M>;

    fn decoder(&self) -> DecodeAndDedup<M> {
        self.decode.clone()
    }

    async fn handle(&mut self, delivery: &Delivery<'_, (Uuid, Arc<M>)>) -> Result<(), HandlerError> {
        (self.handle)(Arc::clone(&delivery.message.1)).await
    }

    async fn flush(&mut self, done: &Done<'_>) -> Result<u64, HandlerError> {
        let recorded = self.decode.dedup.record(done.ids.to_vec(), None).await;
        recorded.map_err(|error| HandlerError::new("dedup", error))?;
        Ok(0)
    }
}
