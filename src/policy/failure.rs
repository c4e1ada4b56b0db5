//! How a handler reports that it did not succeed. Never decides what follows.

use std::{
    error::Error,
    fmt::{self, Write as _},
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use tidings_contract::Envelope;

use crate::error_text::write_texts;

/// The maximum length of a stored error text, in bytes.
pub(crate) const MAX_TEXT: usize = 2_048;

/// A handler's verdict on a delivery that failed: retry by policy, retry after a time, or reject.
///
/// `?` on any error means "retry by policy". A `Failure` keeps its source and deliberately does not
/// implement [`Error`]: it is a verdict about one.
pub struct Failure {
    pub(crate) verdict: Verdict,
    fault: Fault,
    source: Box<dyn Error + Send + Sync>,
}

/// What has failed a delivery that has the verdict "retry".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The handler, by an error.
    Error,
    /// The handler took longer than it may.
    Timeout,
    /// The handler panicked.
    Panic,
}

impl Fault {
    /// The word for logs.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Panic => "panic",
        }
    }
}

/// What the handler asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Retry,
    RetryAfter(Duration),
    Reject,
    /// A dependency of the handler is unavailable, so it could not decide anything. The event is retried for as long as
    /// it takes, without counting an attempt.
    Unavailable,
    /// It failed only together with other events, so it may not be at fault. It is retried without counting an attempt.
    Undecided,
    /// The payload does not decode as the event.
    Undecodable,
    /// The event's time is outside the range that the inbox remembers.
    OutsideInbox,
}

impl Failure {
    /// Retries by the subscriber's policy. The same as `?`.
    pub fn retry(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Verdict::Retry, source.into())
    }

    /// Retries, but not before this time has passed; for instance when a service asks to wait. It still counts as an
    /// attempt.
    pub fn retry_after(after: Duration, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Verdict::RetryAfter(after), source.into())
    }

    /// Dead-letters the event at once, because no later attempt can succeed.
    pub fn reject(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Verdict::Reject, source.into())
    }

    /// A dependency of the handler failed before the handler could decide. Not a failure of the handler.
    #[cfg_attr(not(feature = "outbox"), allow(dead_code))] // constructed by the inbox only
    pub(crate) fn unavailable(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Verdict::Unavailable, source.into())
    }

    /// The inbox cannot tell whether the event was handled before.
    #[cfg_attr(not(feature = "outbox"), allow(dead_code))] // constructed by the inbox only
    pub(crate) fn outside_inbox(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Verdict::OutsideInbox, source.into())
    }

    /// The handler took longer than it may.
    pub(crate) fn timeout(text: String) -> Self {
        Self {
            fault: Fault::Timeout,
            ..Self::retry(text)
        }
    }

    /// The handler panicked.
    pub(crate) fn panic(text: String) -> Self {
        Self {
            fault: Fault::Panic,
            ..Self::retry(text)
        }
    }

    /// What has failed the delivery.
    pub(crate) const fn fault(&self) -> Fault {
        self.fault
    }

    /// The kind of failure, as a fixed word.
    pub(crate) const fn kind(&self) -> &'static str {
        match (self.verdict, self.fault) {
            (Verdict::Retry, Fault::Timeout) => "timeout",
            (Verdict::Retry, Fault::Panic) => "panic",
            (Verdict::Retry, Fault::Error) | (Verdict::RetryAfter(_), _) => "retry",
            (Verdict::Reject, _) => "rejected",
            (Verdict::Unavailable, _) => "unavailable",
            (Verdict::Undecided, _) => "undecided",
            (Verdict::Undecodable, _) => "undecodable",
            (Verdict::OutsideInbox, _) => "outside-inbox",
        }
    }

    /// The same error, for an event that may not be at fault.
    pub(crate) fn undecided(&self) -> Self {
        Self::new(Verdict::Undecided, told(self).into())
    }

    /// The payload does not decode.
    pub(crate) fn undecodable(envelope: &Envelope, source: &serde_json::Error) -> Self {
        Self::new(Verdict::Undecodable, undecodable(envelope, source).into())
    }

    /// The same verdict, with the error as text.
    pub(crate) fn copy(&self) -> Self {
        Self {
            fault: self.fault,
            ..Self::new(self.verdict, told(self).into())
        }
    }

    fn new(verdict: Verdict, source: Box<dyn Error + Send + Sync>) -> Self {
        Self {
            verdict,
            fault: Fault::Error,
            source,
        }
    }

    /// The error behind the verdict.
    #[must_use]
    pub fn source(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.source
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Failure {
    fn from(source: E) -> Self {
        Self::retry(source)
    }
}

/// The error and its sources, on one line.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_texts(f, &*self.source)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failure({:?}, {self})", self.verdict)
    }
}

/// Why a payload does not decode.
pub(crate) fn undecodable(envelope: &Envelope, error: &serde_json::Error) -> String {
    match envelope.media_type() {
        Some(media_type) => told(&format_args!(
            "the payload is {media_type}, not JSON: {error}"
        )),
        None => told(error),
    }
}

/// The text of an error as it is stored and shown: in headers, in the records of parked keys, in the inbox, in the log.
/// One line of at most [`MAX_TEXT`] bytes. The error is application code: its text may quote a whole payload, and its
/// `Display` may panic.
pub(crate) fn told(error: &dyn fmt::Display) -> String {
    let mut line = Line::default();
    // A text that is too long ends with an error too; what was written before is kept.
    let writing = AssertUnwindSafe(|| write!(line, "{error}"));
    if catch_unwind(writing).is_err() {
        line.is_full = false;
        let _ = line.write_str(" (the Display of the error panicked)");
    }
    line.text.truncate(line.text.trim_end().len());
    line.text
}

/// Collects one line of text, up to the maximum length.
#[derive(Default)]
struct Line {
    text: String,
    is_full: bool,
}

impl fmt::Write for Line {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        for letter in more.chars() {
            let letter = match letter {
                '\u{2028}' | '\u{2029}' => ' ',
                letter if letter.is_control() => ' ',
                letter => letter,
            };
            self.is_full |= self.text.len() + letter.len_utf8() > MAX_TEXT;
            if self.is_full {
                return Err(fmt::Error);
            }
            if !(self.text.is_empty() && letter.is_whitespace()) {
                self.text.push(letter);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_error_is_shown_in_one_bounded_line(text in any::<String>()) {
            let line = told(&text);
            prop_assert!(line.len() <= MAX_TEXT && !line.contains(char::is_control));
            prop_assert_eq!(line.trim(), &line);
        }
    }

    #[test]
    fn a_long_error_is_cut_between_characters() {
        let line = told(&"\u{e9}".repeat(3_000));
        assert_eq!((line.len(), line.chars().count()), (MAX_TEXT, MAX_TEXT / 2));
    }

    #[test]
    fn an_error_without_an_end_is_cut() {
        struct Endless;
        impl fmt::Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    f.write_str("again ")?;
                }
            }
        }
        assert!(told(&Endless).len() <= MAX_TEXT);
    }

    #[test]
    fn an_error_whose_text_panics_is_shown_up_to_the_panic() {
        struct Panics;
        impl fmt::Display for Panics {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("so far")?;
                panic!("no further")
            }
        }
        assert_eq!(told(&Panics), "so far (the Display of the error panicked)");
    }

    #[test]
    fn a_question_mark_means_retry() {
        fn handler() -> Result<(), Failure> {
            "x".parse::<u32>()?;
            Ok(())
        }
        assert_eq!(handler().unwrap_err().verdict, Verdict::Retry);
    }

    #[test]
    fn a_failure_keeps_its_kind_when_it_is_copied() {
        let timeout = Failure::timeout("30 s".to_owned());
        let panic = Failure::panic("no message".to_owned());
        assert_eq!(
            (timeout.copy().kind(), panic.copy().kind()),
            ("timeout", "panic")
        );
        assert_eq!(timeout.undecided().kind(), "undecided");
        assert_eq!(Failure::reject("x").kind(), "rejected");
        assert_eq!(Failure::retry("x").kind(), "retry");
    }

    #[test]
    fn the_whole_error_chain_is_shown_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("the mail was not sent")]
        struct Outer(#[source] std::num::ParseIntError);
        let failure = Failure::reject(Outer("x".parse::<u32>().unwrap_err()));
        assert_eq!(
            failure.to_string(),
            "the mail was not sent: invalid digit found in string"
        );
    }

    #[test]
    fn fuzz_texts_of_errors() {
        let seeds = [
            "timeout after 30s\n  at x\r\n",
            " \u{2028}\u{85}\0",
            &"\u{1f600}".repeat(MAX_TEXT / 4),
            &"\u{e9}a".repeat(MAX_TEXT),
        ];
        tidings_fuzz::fuzz_text("text of an error", &seeds, |text| {
            let kept = told(&text);
            assert!(kept.len() <= MAX_TEXT && kept.trim() == kept);
            assert!(!kept.contains(|c: char| c.is_control() || "\u{2028}\u{2029}".contains(c)));
            assert_eq!(told(&kept), kept);
            kept != text
        });
    }
}
