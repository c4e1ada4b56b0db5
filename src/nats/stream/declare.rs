//! The settings of a declared stream, one setter each. Never checks them; declaring the stream does.

use std::time::Duration;

use super::streams::StreamSpec;

/// Sets what [`Bus::setup`](crate::nats::Bus::setup) declares.
///
/// ```
/// use std::time::Duration;
/// use tidings::StreamSpec;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let users = StreamSpec::new("USERS", ["user.>".parse()?])?
///     .replicas(3)
///     .max_age(Duration::from_secs(90 * 86_400));
/// # Ok(()) }
/// ```
impl StreamSpec {
    /// Sets the number of replicas: 1, 3 or 5.
    #[must_use]
    pub fn replicas(mut self, replicas: u8) -> Self {
        self.replicas = replicas;
        self
    }

    /// Sets how long events are kept.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// Sets how many bytes are kept before new events are refused.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// Sets how long the server recognises a repeated event id.
    #[must_use]
    pub fn duplicate_window(mut self, window: Duration) -> Self {
        self.duplicate_window = window;
        self
    }
}
