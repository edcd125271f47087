//! Calls that nest deeply.

/// A future without its type: the compiler bounds how deeply types nest.
pub(crate) type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
