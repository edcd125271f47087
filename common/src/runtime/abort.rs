//! Tasks whose life is bound to a value.

use tokio::task::AbortHandle;

/// Tasks that end with the value.
pub(super) struct AbortOnDrop(pub(super) Vec<AbortHandle>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}
