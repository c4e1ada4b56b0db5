//! Work for as long as a worker runs that what its handlers use has need of. Never does anything by itself.

use futures::future::BoxFuture;

/// Some work. It ends with the worker, which drops it wherever it is.
pub(crate) struct Housekeeping {
    /// What it is for: a worker does it once, however many handlers ask for it.
    pub(crate) of: usize,
    /// Never ends.
    pub(crate) work: BoxFuture<'static, ()>,
}
