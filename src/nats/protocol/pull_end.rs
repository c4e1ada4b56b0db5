//! Why the server ends a pull, by its status. Never decides what follows.

use std::time::Duration;

use super::codes::status;

/// Why a pull has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nats) enum PullEnd {
    /// It has expired, or it was answered.
    Over,
    /// The next message exceeds the byte limit of the pull.
    TooLarge,
    /// It has exceeded a limit.
    Refused(Limit),
    /// The consumer, or its stream, is deleted.
    Deleted,
    /// The consumer takes no pull requests.
    Unfit,
    /// Another server leads the consumer now.
    Elsewhere,
    /// An unknown reason: it would end the next pull too.
    Unknown,
}

/// A limit of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nats) enum Limit {
    /// The maximum number of messages.
    Batch(usize),
    /// The maximum number of bytes.
    Bytes(usize),
    /// The longest expiry.
    Expires(Duration),
    /// No more concurrent pulls.
    Waiting,
}

impl PullEnd {
    /// Classifies the status and its description.
    pub(in crate::nats) fn of(code: u16, reason: &str) -> Self {
        let said = reason.to_ascii_lowercase();
        let says = |words: &str| said.contains(words);
        match code {
            status::NO_MESSAGES | status::EXPIRED => Self::Over,
            status::PULL_ENDED if says("exceeds maxbytes") => Self::TooLarge,
            status::PULL_ENDED if says("batch completed") => Self::Over,
            status::PULL_ENDED if says("deleted") => Self::Deleted,
            status::PULL_ENDED if says("push based") => Self::Unfit,
            status::PULL_ENDED if says("shutdown") || says("leadership") => Self::Elsewhere,
            status::PULL_ENDED => Limit::of(&said).map_or(Self::Unknown, Self::Refused),
            _ => Self::Unknown,
        }
    }
}

impl Limit {
    /// Reads the server's description in lower case: "exceeded maxrequestbatch of 5".
    fn of(said: &str) -> Option<Self> {
        let behind = |words: &str| Some(said.split_once(words)?.1.trim());
        let number = |words| behind(words)?.parse().ok().filter(|number| *number > 0);
        if let Some(batch) = number("maxrequestbatch of ") {
            return Some(Self::Batch(batch));
        }
        if let Some(bytes) = number("maxrequestmaxbytes of ") {
            return Some(Self::Bytes(bytes));
        }
        if let Some(time) = behind("maxrequestexpires of ") {
            return duration(time).map(Self::Expires);
        }
        said.contains("exceeded maxwaiting")
            .then_some(Self::Waiting)
    }
}

/// A duration in Go's notation, such as `1m0.5s`; `None` when it is zero.
fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit = &rest[end..];
        let length = unit.find(|c: char| c.is_ascii_digit());
        let (unit, left) = unit.split_at(length.unwrap_or(unit.len()));
        seconds += number
            * match unit {
                "h" => 3_600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = left;
    }
    let time = Duration::try_from_secs_f64(seconds).ok()?;
    (!time.is_zero()).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes_of_the_server_are_known() {
        for (code, said, end) in [
            (408, "Request Timeout", PullEnd::Over),
            (404, "No Messages", PullEnd::Over),
            (409, "Batch Completed", PullEnd::Over),
            (409, "Message Size Exceeds MaxBytes", PullEnd::TooLarge),
            (409, "Consumer Deleted", PullEnd::Deleted),
            (409, "Consumer is push based", PullEnd::Unfit),
            (409, "Server Shutdown", PullEnd::Elsewhere),
            (409, "Leadership Change", PullEnd::Elsewhere),
            (409, "Exceeded MaxWaiting", PullEnd::Refused(Limit::Waiting)),
            (
                409,
                "Exceeded MaxRequestBatch of 5",
                PullEnd::Refused(Limit::Batch(5)),
            ),
            (
                409,
                "Exceeded MaxRequestMaxBytes of 1000",
                PullEnd::Refused(Limit::Bytes(1000)),
            ),
            (
                409,
                "Exceeded MaxRequestExpires of 1.5s",
                PullEnd::Refused(Limit::Expires(Duration::from_millis(1_500))),
            ),
        ] {
            assert_eq!(PullEnd::of(code, said), end, "{code} {said}");
        }
    }

    #[test]
    fn an_unknown_status_is_not_taken_for_a_timeout() {
        for (code, said) in [
            (400, "Bad Request - Priority Group missing"),
            (423, "Nats-Pin-Id mismatch"),
            (409, "something of a later server"),
            (409, "Exceeded MaxRequestBatch of 0"),
            (500, ""),
        ] {
            assert_eq!(PullEnd::of(code, said), PullEnd::Unknown, "{code} {said}");
        }
    }

    #[test]
    fn a_time_is_read_as_the_server_writes_it() {
        for (text, millis) in [
            ("1s", 1_000),
            ("500ms", 500),
            ("1m0s", 60_000),
            ("1h0m0.25s", 3_600_250),
        ] {
            assert_eq!(
                duration(text),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in ["", "0s", "x", "1", "1y"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn fuzz_ends_of_pulls() {
        let seeds = [
            "Exceeded MaxRequestBatch of 5",
            "Exceeded MaxRequestMaxBytes of 18446744073709551615",
            "Exceeded MaxRequestExpires of 1h1m0.5s250ms3\u{b5}s",
            "Exceeded MaxWaiting",
            "Message Size Exceeds MaxBytes",
            "Server Shutdown",
        ];
        tidings_fuzz::fuzz_text("end of a pull", &seeds, |reason| {
            for code in [404, 503] {
                PullEnd::of(code, reason);
            }
            PullEnd::of(409, reason) != PullEnd::Unknown
        });
    }
}
