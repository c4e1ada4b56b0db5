//! Where an event comes from. Never what it says.

use crate::{HeaderError, headers::is_clean};

/// The conversation that an event belongs to, the event that caused it, and the W3C trace context.
/// What is published inside a handler inherits it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lineage {
    /// The conversation; an event without one begins its own and is named after its id.
    pub correlation_id: Option<String>,
    /// The id of the event whose handler published this one.
    pub causation_id: Option<String>,
    /// W3C `traceparent`.
    pub traceparent: Option<String>,
    /// W3C `tracestate`.
    pub tracestate: Option<String>,
}

impl Lineage {
    /// The longest text of a lineage, in bytes. It is handed from event to event, so what one
    /// publisher may say must fit into the headers of everybody who answers; 512 is what W3C asks
    /// of those who pass a `tracestate` on.
    pub const MAX_BYTES: usize = 512;

    /// Fills what is not set yet, as far as it can be carried. A trace is taken whole or not at all.
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

/// A text of the lineage, or a source, that can be carried as the value of `header`.
pub(crate) fn checked(header: &str, value: String) -> Result<String, HeaderError> {
    if is_carried(&value) {
        Ok(value)
    } else {
        Err(HeaderError::Attribute(header.to_owned()))
    }
}

/// Whether a text can be carried by an event and by those it causes.
pub(crate) fn is_carried(text: &str) -> bool {
    !text.is_empty() && text.len() <= Lineage::MAX_BYTES && is_clean(text)
}
