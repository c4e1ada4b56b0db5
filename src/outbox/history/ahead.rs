//! Produces results while the caller examines earlier ones. Never decides what is done with them.

use tokio::{sync::mpsc, task::JoinSet};

/// The results of a task, in order. Dropping this ends the task.
pub(crate) struct Ahead<T, E> {
    results: mpsc::Receiver<Result<T, E>>,
    making: JoinSet<()>,
}

impl<T, E> Ahead<T, E> {
    /// Starts the task; at most `room` results wait for the caller.
    pub(crate) fn begin<F: Future<Output = ()> + Send + 'static>(
        room: usize,
        make: impl FnOnce(mpsc::Sender<Result<T, E>>) -> F,
    ) -> Self {
        let (to, results) = mpsc::channel(room);
        let mut making = JoinSet::new();
        making.spawn(make(to));
        Self { results, making }
    }

    /// Returns the next result; `None` after the last one.
    pub(crate) async fn next(&mut self) -> Result<Option<T>, E> {
        if let Some(result) = self.results.recv().await {
            return result.map(Some);
        }
        match self.making.join_next().await {
            Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            _ => Ok(None),
        }
    }
}
