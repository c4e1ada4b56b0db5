//! A measurement between two measurements of its limit, because the figures drift on a shared machine. Never knows what
//! is measured.

use crate::cli::process;

/// The measurement, and the limit in the same run.
pub(super) struct Between<T> {
    pub(super) measured: T,
    /// Events per second.
    pub(super) before: f64,
    pub(super) after: f64,
    /// The processor time of this process, in seconds: during the measurement, and during both limits together; `None`
    /// where it cannot be known.
    pub(super) cores: Option<[f64; 2]>,
}

impl<T> Between<T> {
    /// Measures the limit, then the work, then the limit again. The argument of `limit` is true the first time.
    pub(super) async fn measure(
        limit: impl AsyncFn(bool) -> anyhow::Result<f64>,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<Self> {
        let look = process::core_seconds_of_this;
        let start = look();
        let before = limit(true).await?;
        let begun = look();
        let measured = work.await?;
        let worked = look();
        let after = limit(false).await?;
        let ended = look();
        let cores = || Some([worked? - begun?, begun? - start? + ended? - worked?]);
        Ok(Self {
            measured,
            before,
            after,
            cores: cores(),
        })
    }

    /// The limit, in events per second.
    pub(super) fn limit(&self) -> f64 {
        f64::midpoint(self.before, self.after)
    }
}
