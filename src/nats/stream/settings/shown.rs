//! Values of settings in readable form: the server counts times in nanoseconds, unlike its users. Never compares
//! values.

use serde_json::Value;

/// The settings of streams and consumers that are times, at whatever depth.
const TIMES: [&str; 9] = [
    "ack_wait",
    "backoff",
    "duplicate_window",
    "idle_heartbeat",
    "inactive_threshold",
    "max_age",
    "max_expires",
    "priority_timeout",
    "subject_delete_marker_ttl",
];
/// The units of a time, the largest first, each with its nanoseconds.
const UNITS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// The value of a setting of a stream or a consumer, by its name in the JetStream API, in readable form: times have a
/// unit, such as `30s`, and a missing value is `not set`. The rest is JSON.
#[must_use]
pub fn setting_text(setting: &str, value: &Value) -> String {
    match value {
        Value::Null => "not set".to_owned(),
        Value::Number(number) => match number.as_u64().filter(|_| TIMES.contains(&setting)) {
            Some(nanos) => time(nanos),
            None => value.to_string(),
        },
        Value::Array(items) if TIMES.contains(&setting) => {
            let items: Vec<String> = items
                .iter()
                .map(|item| setting_text(setting, item))
                .collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(parts) => {
            let parts: Vec<String> = parts
                .iter()
                .map(|(name, part)| format!("{name:?}:{}", setting_text(name, part)))
                .collect();
            format!("{{{}}}", parts.join(","))
        }
        value => value.to_string(),
    }
}

/// A time in the largest unit that needs no fraction.
fn time(nanos: u64) -> String {
    let whole = |(_, unit): &&(&str, u64)| nanos.is_multiple_of(*unit);
    match UNITS.iter().find(whole) {
        Some((name, unit)) if nanos > 0 => format!("{}{name}", nanos / unit),
        _ => "0s".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_time_has_its_unit_wherever_it_stands() {
        for (setting, value, expected) in [
            ("ack_wait", json!(30_000_000_000_u64), "30s"),
            ("max_age", json!(604_800_000_000_000_u64), "7d"),
            ("max_age", json!(0), "0s"),
            ("max_expires", json!(90_000_000_000_u64), "90s"),
            ("priority_timeout", json!(1_500_000_000), "1500ms"),
            ("duplicate_window", json!(100_000), "100us"),
            ("inactive_threshold", json!(7), "7ns"),
            (
                "backoff",
                json!([1_000_000_000, 60_000_000_000_u64]),
                "[1s,1m]",
            ),
            (
                "consumer_limits",
                json!({ "inactive_threshold": 3_600_000_000_000_u64, "max_ack_pending": 1_000 }),
                "{\"inactive_threshold\":1h,\"max_ack_pending\":1000}",
            ),
        ] {
            assert_eq!(setting_text(setting, &value), expected, "{setting}");
        }
    }

    #[test]
    fn a_value_that_is_no_time_is_shown_unchanged() {
        for (setting, value, expected) in [
            ("max_ack_pending", json!(1_000_000_000), "1000000000"),
            ("max_bytes", json!(-1), "-1"),
            ("retention", json!("limits"), "\"limits\""),
            ("headers_only", json!(true), "true"),
            ("priority_groups", json!(["a"]), "[\"a\"]"),
            ("backoff", json!(null), "not set"),
        ] {
            assert_eq!(setting_text(setting, &value), expected, "{setting}");
        }
    }
}
