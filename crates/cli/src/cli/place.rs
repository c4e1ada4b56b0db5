//! Positions in a stream as people write them: `2h`, a time, a sequence, `beginning`, `now`.

use chrono::{DateTime, TimeDelta, Utc};
use tidings::StartFrom;

use crate::config::duration;

/// Parses a position.
///
/// # Errors
/// The accepted forms, when the text has none of them.
pub(super) fn parse(text: &str) -> Result<StartFrom, String> {
    match text {
        "beginning" => return Ok(StartFrom::Beginning),
        "now" => return Ok(StartFrom::New),
        _ => {}
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        let sequence = text
            .parse()
            .map_err(|_| "no stream has that many events".to_owned());
        return sequence.map(StartFrom::Sequence);
    }
    if let Ok(ago) = duration::parse(text) {
        let time = TimeDelta::from_std(ago)
            .ok()
            .and_then(|ago| Utc::now().checked_sub_signed(ago));
        return Ok(time.map_or(StartFrom::Beginning, StartFrom::Time));
    }
    match DateTime::parse_from_rfc3339(text) {
        Ok(time) => Ok(StartFrom::Time(time.to_utc())),
        Err(_) => Err(
            "write 2h, 2026-01-31T12:00:00Z, a sequence such as 4711, beginning or now".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_an_age_a_time_a_sequence_or_an_end() {
        assert_eq!(parse("beginning"), Ok(StartFrom::Beginning));
        assert_eq!(parse("now"), Ok(StartFrom::New));
        assert_eq!(parse("4711"), Ok(StartFrom::Sequence(4711)));
        let minute = DateTime::UNIX_EPOCH + TimeDelta::seconds(60);
        assert_eq!(
            parse("1970-01-01T01:01:00+01:00"),
            Ok(StartFrom::Time(minute))
        );
        let Ok(StartFrom::Time(ago)) = parse("2h") else {
            panic!("an age is a time")
        };
        assert!((Utc::now() - ago).num_minutes() >= 120);
        assert_eq!(parse("99999999999d"), Ok(StartFrom::Beginning));
        for text in [
            "",
            "-1",
            "+5",
            "1.5",
            "2h ago",
            "yesterday",
            "99999999999999999999",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn fuzz_stream_positions() {
        let seeds = [
            "2h",
            "2026-01-31T12:00:00Z",
            "4711",
            "beginning",
            "now",
            "1970-01-01T01:01:00+01:00",
        ];
        tidings_fuzz::fuzz_text("place", &seeds, |text| parse(text).is_ok());
    }
}
