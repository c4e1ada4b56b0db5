//! What a handler says when it does not succeed. Never what is done about it.

use std::{error::Error, fmt, time::Duration};

/// A handler's verdict on a delivery that failed: retry by policy, retry after a time, or reject.
///
/// `?` on any error means "retry by policy". A `Failure` keeps its source and deliberately does not
/// implement [`Error`]: it is a verdict about one.
pub struct Failure {
    pub(crate) verdict: Verdict,
    source: Box<dyn Error + Send + Sync>,
}

/// What the handler wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Retry,
    RetryAfter(Duration),
    Reject,
    /// What the handler needs is not there, so it could not decide anything: tried again, for as long as it
    /// takes, without costing an attempt.
    Unavailable,
    /// It failed only together with others, so nobody knows whether it is at fault: tried again without costing
    /// an attempt.
    Undecided,
    /// The payload does not decode as the event.
    Undecodable,
    /// The event's time is not in the reach of the inbox.
    OutsideInbox,
}

impl Failure {
    /// Try again by the subscriber's policy. The same as `?`.
    pub fn retry(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Verdict::Retry, source.into())
    }

    /// Try again, but not before this time has passed; for instance when a service asks to wait. It
    /// still counts as an attempt.
    pub fn retry_after(after: Duration, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Verdict::RetryAfter(after), source.into())
    }

    /// No later try can succeed: to the dead letters, now.
    pub fn reject(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Verdict::Reject, source.into())
    }

    /// What the handler needs failed before it could decide. Not the handler's failure.
    #[cfg_attr(not(any(feature = "postgres", feature = "sqlite")), allow(dead_code))] // the inbox says so
    pub(crate) fn unavailable(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Verdict::Unavailable, source.into())
    }

    /// The inbox cannot tell whether the event was handled before.
    #[cfg_attr(not(any(feature = "postgres", feature = "sqlite")), allow(dead_code))] // the inbox says so
    pub(crate) fn outside_inbox(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Verdict::OutsideInbox, source.into())
    }

    /// The same error, as that of an event which may have no part in it.
    pub(crate) fn undecided(&self) -> Self {
        Self::new(Verdict::Undecided, self.to_string().into())
    }

    pub(crate) fn undecodable(source: serde_json::Error) -> Self {
        Self::new(Verdict::Undecodable, source.into())
    }

    /// The same verdict, and the error as a text.
    pub(crate) fn copy(&self) -> Self {
        Self::new(self.verdict, self.to_string().into())
    }

    fn new(verdict: Verdict, source: Box<dyn Error + Send + Sync>) -> Self {
        Self { verdict, source }
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
        write!(f, "{}", self.source)?;
        let mut next = self.source.source();
        while let Some(source) = next {
            write!(f, ": {source}")?;
            next = source.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failure({:?}, {self})", self.verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_mark_means_retry() {
        fn handler() -> Result<(), Failure> {
            "x".parse::<u32>()?;
            Ok(())
        }
        assert_eq!(handler().unwrap_err().verdict, Verdict::Retry);
    }

    #[test]
    fn the_whole_chain_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("the mail was not sent")]
        struct Outer(#[source] std::num::ParseIntError);
        let failure = Failure::reject(Outer("x".parse::<u32>().unwrap_err()));
        assert_eq!(
            failure.to_string(),
            "the mail was not sent: invalid digit found in string"
        );
    }
}
