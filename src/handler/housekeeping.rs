//! Maintenance that a worker runs on behalf of its handlers. Never does anything by itself.

use futures::future::BoxFuture;

use crate::policy::preflight::PoolFigures;

/// Some maintenance work. It is dropped, at any await, when the worker ends.
pub(crate) struct Housekeeping {
    /// Identifies what is maintained: a worker runs the work once, however many handlers need it.
    pub(crate) of: usize,
    /// The pool that its handlers share, where several of them use it at once.
    pub(crate) pool: Option<PoolFigures>,
    /// Never ends.
    pub(crate) work: BoxFuture<'static, ()>,
}
