//! Where an event comes from. Never its content.

use crate::{HeaderError, headers::is_clean};

/// The conversation that an event belongs to, the event that caused it, and the W3C trace context. Events that are
/// published inside a handler inherit it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lineage {
    /// The correlation id. An event without one starts a conversation that is named after the event's id.
    pub correlation_id: Option<String>,
    /// The id of the event whose handler published this one.
    pub causation_id: Option<String>,
    /// W3C `traceparent`.
    pub traceparent: Option<String>,
    /// W3C `tracestate`.
    pub tracestate: Option<String>,
}

impl Lineage {
    /// The longest text of a lineage, in bytes. Events inherit these texts from each other, so the texts of one
    /// publisher must fit into the headers of every later event. W3C requires 512 of services that pass a `tracestate`
    /// on.
    pub const MAX_BYTES: usize = 512;

    /// The id of the trace that the event belongs to: the second part of `traceparent`, 32 hexadecimal digits. `None`
    /// without a valid `traceparent`.
    ///
    /// ```
    /// use tidings_contract::Envelope;
    ///
    /// let event = Envelope::raw("user.created", 1, None, "{}")?;
    /// let event = event.traced("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")?;
    /// assert_eq!(event.lineage().trace_id(), Some("0af7651916cd43dd8448eb211c80319c"));
    /// # Ok::<(), tidings_contract::EnvelopeError>(())
    /// ```
    #[must_use]
    pub fn trace_id(&self) -> Option<&str> {
        let (trace_id, _) = Self::ids_of(self.traceparent.as_deref()?)?;
        Some(trace_id)
    }

    /// The trace id and the span id in a W3C `traceparent`, of this version or a later one. `None` when it is not valid.
    #[must_use]
    pub fn ids_of(traceparent: &str) -> Option<(&str, &str)> {
        let mut parts = traceparent.split('-');
        let (version, trace, span, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_of_later_version = version != "00";
        let is_valid = is_hex(version, 2)
            && version != "ff"
            && is_id(trace, 32)
            && is_id(span, 16)
            && is_hex(flags, 2)
            && (is_of_later_version || parts.next().is_none());
        is_valid.then_some((trace, span))
    }

    /// Fills the parts that are not set yet and can be carried. The trace context is taken whole or not at all.
    pub(crate) fn fill(&mut self, from: &Self) {
        let usable = |text: &Option<String>| text.clone().filter(|text| is_carried(text));
        if self.correlation_id.is_none() {
            self.correlation_id = usable(&from.correlation_id);
        }
        if self.causation_id.is_none() {
            self.causation_id = usable(&from.causation_id);
        }
        if self.traceparent.is_none() {
            self.traceparent = usable(&from.traceparent);
            self.tracestate = usable(&from.tracestate);
        }
    }
}

/// Checks that a text of the lineage, or a source, can be carried as the value of `header`.
pub(crate) fn checked(header: &str, value: String) -> Result<String, HeaderError> {
    if is_carried(&value) {
        Ok(value)
    } else {
        Err(HeaderError::Attribute(header.to_owned()))
    }
}

/// Whether a text can be carried by an event and by the events that it causes.
pub(crate) fn is_carried(text: &str) -> bool {
    !text.is_empty() && text.len() <= Lineage::MAX_BYTES && is_clean(text)
}

/// Hexadecimal digits that are not all zero.
fn is_id(text: &str, digits: usize) -> bool {
    is_hex(text, digits) && text.bytes().any(|digit| digit != b'0')
}

fn is_hex(text: &str, digits: usize) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == digits && text.bytes().all(is_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace_id(traceparent: &str) -> Option<String> {
        let lineage = Lineage {
            traceparent: Some(traceparent.to_owned()),
            ..Lineage::default()
        };
        lineage.trace_id().map(str::to_owned)
    }

    #[test]
    fn a_traceparent_of_any_version_has_a_trace_id() {
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        for valid in [
            format!("00-{trace}-{span}-01"),
            format!("00-{trace}-{span}-00"),
            format!("01-{trace}-{span}-01-later"),
        ] {
            assert_eq!(trace_id(&valid).as_deref(), Some(trace), "{valid}");
        }
        let zeros = "0".repeat(32);
        for invalid in [
            String::new(),
            "00-a-b-01".to_owned(),
            format!("ff-{trace}-{span}-01"),
            format!("00-{trace}-{span}-01-more"),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{zeros}-{span}-01"),
            format!("00-{trace}-{}-01", &zeros[..16]),
            format!("00-{trace}\u{e9}-{span}-01"),
        ] {
            assert_eq!(trace_id(&invalid), None, "{invalid}");
        }
    }
}
