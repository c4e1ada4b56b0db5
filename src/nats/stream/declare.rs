//! The settings of a declared stream: a setter each, and what differs from them. Never reads or changes a stream.

use std::{fmt, time::Duration};

use serde::Serialize;

use super::{settings::setting_text, streams::StreamSpec};

/// What [`Bus::apply_stream`](crate::nats::Bus::apply_stream) does, or would do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Plan {
    /// The stream does not exist.
    Create,
    /// These settings differ.
    Update(Vec<SettingChange>),
    /// Nothing to do.
    Unchanged,
}

/// A setting of a stream that differs from its declaration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SettingChange {
    /// The setting, under its name in the JetStream API.
    pub setting: String,
    /// Its present value, as JSON; `unset` when it has none.
    pub now: String,
    /// The declared value, as JSON.
    pub wanted: String,
}

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

/// A value of a plan in readable form.
fn shown(setting: &str, value: &str) -> String {
    match serde_json::from_str(value) {
        Ok(value) => setting_text(setting, &value),
        Err(_) => value.to_owned(),
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create => f.write_str("create"),
            Self::Unchanged => f.write_str("unchanged"),
            Self::Update(differs) => {
                f.write_str("update")?;
                for SettingChange {
                    setting,
                    now,
                    wanted,
                } in differs
                {
                    let (now, wanted) = (shown(setting, now), shown(setting, wanted));
                    write!(f, " {setting}: {now} -> {wanted};")?;
                }
                Ok(())
            }
        }
    }
}
