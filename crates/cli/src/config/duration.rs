//! Durations as people write them: `250ms`, `30s`, `5m`, `18h`, `7d`. One number, one unit.

use std::time::Duration;

/// A text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write a whole number and ms, s, m, h or d, such as 30s")]
pub(crate) struct DurationError(String);

/// The units, with their length in milliseconds; the largest last.
const UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Parses a duration.
///
/// # Errors
/// [`DurationError`] when the number or the unit is missing, or the duration exceeds 500 million years.
pub(crate) fn parse(text: &str) -> Result<Duration, DurationError> {
    let error = || DurationError(text.to_owned());
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let (_, millis) = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(error)?;
    let number: u64 = match digits.bytes().all(|b| b.is_ascii_digit()) {
        true => digits.parse().map_err(|_| error())?,
        false => return Err(error()),
    };
    let millis = number.checked_mul(*millis).ok_or_else(error)?;
    Ok(Duration::from_millis(millis))
}

/// Formats a duration in the largest unit that needs no fraction. Parts below a millisecond are left out.
pub(crate) fn show(duration: Duration) -> String {
    let total = duration.as_millis();
    let whole = |(_, millis): &&(&str, u64)| total.is_multiple_of(u128::from(*millis));
    match UNITS.iter().rev().find(whole) {
        Some(_) if total == 0 => "0s".to_owned(),
        Some((name, millis)) => format!("{}{name}", total / u128::from(*millis)),
        None => format!("{total}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read_and_written_alike() {
        for text in ["250ms", "30s", "5m", "18h", "7d", "0s"] {
            assert_eq!(show(parse(text).unwrap()), text);
        }
        assert_eq!(parse("7d").unwrap(), Duration::from_secs(7 * 86_400));
        assert_eq!(show(Duration::from_secs(90)), "90s");
    }

    #[test]
    fn a_duration_without_number_and_unit_is_refused() {
        for text in [
            "",
            "5",
            "s",
            "-5s",
            "+5s",
            "5 s",
            "1.5s",
            "5y",
            "5S",
            "1h30m",
            "99999999999999999999s",
            "99999999999999999d",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
