//! Results that are made while those before are looked at. Never decides what is made of them.

use tokio::{sync::mpsc, task::JoinSet};

/// What a task of its own makes, in its order. The task ends when this is dropped.
pub(crate) struct Ahead<T, E> {
    results: mpsc::Receiver<Result<T, E>>,
    making: JoinSet<()>,
}

impl<T, E> Ahead<T, E> {
    /// Begins to make; at most so many wait to be looked at.
    pub(crate) fn begin<F: Future<Output = ()> + Send + 'static>(
        room: usize,
        make: impl FnOnce(mpsc::Sender<Result<T, E>>) -> F,
    ) -> Self {
        let (to, results) = mpsc::channel(room);
        let mut making = JoinSet::new();
        making.spawn(make(to));
        Self { results, making }
    }

    /// The next one; `None` behind the last one.
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
