//! What the stream of retries drops silently because of a configured limit. Never changes the limit.

use serde_json::{Map, Value};

use super::settings::setting_text;
use crate::nats::{Bus, BusError};

/// Settings that limit a stream, and the values that mean no limit.
const LIMITS: [(&str, &str, i64); 3] = [
    ("max_age", "max-age", 0),
    ("max_bytes", "max-bytes", -1),
    ("max_msgs", "max-msgs", -1),
];

impl Bus {
    /// The limits by which a stream silently drops what is still needed, each in a sentence with its cure. The stream
    /// of retries discards its oldest messages, because the server takes no schedules otherwise; such a message is a
    /// waiting retry. Other streams have no such limits.
    ///
    /// # Errors
    /// [`BusError`] when the server does not answer.
    pub async fn silent_limits(&self, stream: &str) -> Result<Vec<String>, BusError> {
        let info = self.stream_info(stream).await?;
        Ok(info.map_or_else(Vec::new, |info| limits(stream, &info.config)))
    }
}

pub(super) fn limits(stream: &str, config: &Map<String, Value>) -> Vec<String> {
    if config.get("allow_msg_schedules") != Some(&Value::Bool(true)) {
        return Vec::new();
    }
    let limit = |(setting, option, none): (&str, &str, i64)| {
        let value = config.get(setting).and_then(Value::as_i64)?;
        (value > 0).then(|| {
            let shown = setting_text(setting, &value.into());
            format!(
                "{setting} is {shown}: when the limit is reached, {stream} silently drops the oldest waiting \
                 retries. Remove the limit from the configuration, or from the stream: `nats stream edit {stream} \
                 --{option}={none}`"
            )
        })
    };
    LIMITS.into_iter().filter_map(limit).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(config: Value) -> Vec<String> {
        limits("RETRIES", config.as_object().unwrap())
    }

    #[test]
    fn a_limit_of_the_retry_stream_is_named_with_its_cure() {
        let none =
            json!({ "allow_msg_schedules": true, "max_age": 0, "max_bytes": -1, "max_msgs": -1 });
        assert!(of(none).is_empty());
        let both = json!({ "allow_msg_schedules": true, "max_age": 3_600_000_000_000_i64, "max_msgs": 1000 });
        let said = of(both);
        assert!(
            said[0].starts_with("max_age is 1h: when the limit is reached, RETRIES silently drops"),
            "{said:?}"
        );
        assert!(
            said[1].ends_with("`nats stream edit RETRIES --max-msgs=-1`"),
            "{said:?}"
        );
        assert_eq!(said.len(), 2);
    }

    #[test]
    fn another_stream_refuses_what_is_new() {
        assert!(of(json!({ "max_msgs": 1000 })).is_empty());
    }
}
