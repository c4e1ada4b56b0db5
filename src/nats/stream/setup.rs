//! Everything that a service needs at NATS, in one call. Never deletes anything.

use super::streams::StreamSpec;
use crate::nats::{Bus, BusError};

impl Bus {
    /// Creates or updates the streams of events, and all that subscribers need: the streams `DEAD_LETTERS` and `RETRIES`,
    /// and the bucket `TIDINGS`. Safe to call at each start, and by several processes at once. A specification that is
    /// named like one of the two internal streams is used in its place.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use tidings::{Bus, StreamSpec};
    ///
    /// let bus = Bus::connect("nats://127.0.0.1:4222").await?;
    /// bus.setup([StreamSpec::new("EVENTS", ["user.>".parse()?])?]).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`BusError`] when the server does not answer or refuses; the streams before the refused one are set up then.
    ///
    /// # Cancel safety
    /// When the future is dropped, some of the streams may be set up. Calling it again completes the rest.
    pub async fn setup(
        &self,
        streams: impl IntoIterator<Item = StreamSpec>,
    ) -> Result<(), BusError> {
        let mut streams: Vec<StreamSpec> = streams.into_iter().collect();
        for internal in StreamSpec::internal() {
            if streams.iter().all(|stream| stream.name != internal.name) {
                streams.push(internal);
            }
        }
        for stream in &streams {
            self.apply_stream(stream).await?;
        }
        self.apply_bucket().await
    }
}
