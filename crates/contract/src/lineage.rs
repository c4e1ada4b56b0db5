//! Where an event comes from. Never its content.

use crate::{HeaderError, Traceparent, headers::is_clean};

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
        let parts = Traceparent::parse(self.traceparent.as_deref()?)?;
        Some(parts.trace_id)
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
