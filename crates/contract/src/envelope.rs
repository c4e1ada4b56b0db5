//! An event with its metadata. Never a position in a stream or a table.

use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::{
    Event, EventId, Extensions, HeaderError, Headers, Lineage, Name, NameError, headers::is_clean,
    lineage::checked,
};

/// One event with its metadata: identity, name, version, key, payload and lineage.
///
/// [`Envelope::of`] makes it from a typed event, [`Envelope::raw`] from text, and [`wire::read`](crate::wire::read)
/// from a NATS message. Every setter checks its value. The size is checked against the server's limit when the event is
/// published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    pub(crate) id: EventId,
    pub(crate) name: Name,
    pub(crate) version: u32,
    pub(crate) key: Option<String>,
    pub(crate) time: Option<DateTime<Utc>>,
    pub(crate) source: Option<String>,
    pub(crate) lineage: Lineage,
    pub(crate) headers: Headers,
    pub(crate) extensions: Extensions,
    /// The payload's media type, when another publisher declares that it is not JSON.
    pub(crate) media_type: Option<String>,
    pub(crate) payload: Bytes,
}

/// Why an envelope could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// The event's `Serialize` failed.
    #[error("{name} cannot be written as JSON")]
    Encode {
        /// The event's name.
        name: String,
        /// The error of serde_json.
        #[source]
        source: serde_json::Error,
    },
    /// The name breaks the rules of [`Name`].
    #[error(transparent)]
    Name(#[from] NameError),
    /// The version is not between 1 and [`Envelope::MAX_VERSION`].
    #[error("{0} has a version that is refused: use 1 to {max}", max = Envelope::MAX_VERSION)]
    Version(Name),
    /// The payload is not JSON. Only another publisher can have made such an event.
    #[error(
        "the payload of {name} is {media_type:?}, and only JSON is published: make a new envelope with a JSON \
         payload"
    )]
    MediaType {
        /// The event's name.
        name: Name,
        /// The payload's media type, cut to 64 characters.
        media_type: String,
    },
    /// The key cannot be carried.
    #[error(
        "the key {key:?} of {name} is refused: use 1 to {max} bytes without control characters or white space at an end",
        max = Envelope::MAX_KEY_BYTES
    )]
    Key {
        /// The event's name.
        name: Name,
        /// The key as it was given, cut to 64 characters.
        key: String,
    },
    /// A header was refused.
    #[error(transparent)]
    Header(#[from] HeaderError),
}

/// A value that can be published: a reference to an event, or an [`Envelope`] with more metadata.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be published",
    label = "neither a reference to an event nor an `Envelope`",
    note = "publish `&event`, where the event's type has `#[derive(Serialize, Deserialize, Event)]`, or an `Envelope`"
)]
pub trait IntoEnvelope {
    /// Makes the envelope.
    ///
    /// # Errors
    /// [`EnvelopeError`] when the event cannot be encoded or a part of it is refused.
    fn into_envelope(self) -> Result<Envelope, EnvelopeError>;
}

impl<E: Event> IntoEnvelope for &E {
    fn into_envelope(self) -> Result<Envelope, EnvelopeError> {
        Envelope::of(self)
    }
}

impl IntoEnvelope for Envelope {
    /// Refuses an event that only a foreign publisher can have made: without a version, with a version over
    /// [`Envelope::MAX_VERSION`], with a key over [`Envelope::MAX_KEY_BYTES`], or with a payload that is not JSON. To
    /// publish its content, make a new envelope with [`Envelope::raw`].
    fn into_envelope(self) -> Result<Envelope, EnvelopeError> {
        self.check()?;
        Ok(self)
    }
}

impl Envelope {
    /// The longest key, in bytes.
    pub const MAX_KEY_BYTES: usize = 256;
    /// The highest version: the largest 32-bit signed integer, so that a column of every database and most languages
    /// can hold it.
    pub const MAX_VERSION: u32 = i32::MAX.unsigned_abs();

    /// Makes an envelope from a typed event, with a new id.
    ///
    /// # Errors
    /// [`EnvelopeError`] when the event cannot be encoded, or its name or key is refused.
    pub fn of<E: Event>(event: &E) -> Result<Self, EnvelopeError> {
        let payload = serde_json::to_vec(event).map_err(|source| EnvelopeError::Encode {
            name: E::NAME.to_owned(),
            source,
        })?;
        Self::new(
            Name::from_static(E::NAME)?,
            E::VERSION,
            event.key(),
            payload.into(),
        )
    }

    /// Makes an envelope from text: for tools, and for producers without the Rust type.
    ///
    /// # Errors
    /// [`EnvelopeError`] when name, version or key is refused.
    pub fn raw(
        name: &str,
        version: u32,
        key: Option<&str>,
        payload: impl Into<Bytes>,
    ) -> Result<Self, EnvelopeError> {
        Self::new(
            Name::parse(name)?,
            version,
            key.map(str::to_owned),
            payload.into(),
        )
    }

    fn new(
        name: Name,
        version: u32,
        key: Option<String>,
        payload: Bytes,
    ) -> Result<Self, EnvelopeError> {
        let envelope = Self {
            id: EventId::now(),
            name,
            version,
            key,
            time: None,
            source: None,
            lineage: Lineage::default(),
            headers: Headers::default(),
            extensions: Extensions::default(),
            media_type: None,
            payload,
        };
        envelope.check()?;
        Ok(envelope)
    }

    fn check(&self) -> Result<(), EnvelopeError> {
        if self.version == 0 || self.version > Self::MAX_VERSION {
            return Err(EnvelopeError::Version(self.name.clone()));
        }
        if let Some(media_type) = &self.media_type {
            return Err(EnvelopeError::MediaType {
                name: self.name.clone(),
                media_type: media_type.chars().take(64).collect(),
            });
        }
        match &self.key {
            Some(key) if key.len() > Self::MAX_KEY_BYTES || !is_key(key) => {
                Err(EnvelopeError::Key {
                    name: self.name.clone(),
                    key: key.chars().take(64).collect(),
                })
            }
            _ => Ok(()),
        }
    }

    /// Sets the event's id. Publishing the same id again is a duplicate.
    #[must_use]
    pub fn with_id(mut self, id: EventId) -> Self {
        self.id = id;
        self
    }

    /// Sets the time at which the fact happened; the default is the moment of publishing. Precision: microseconds.
    #[must_use]
    pub fn at(mut self, time: DateTime<Utc>) -> Self {
        self.time = Some(time);
        self
    }

    /// Sets one of the user's own headers.
    ///
    /// # Errors
    /// [`EnvelopeError::Header`] as in [`Headers::set`].
    pub fn header(
        mut self,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<Self, EnvelopeError> {
        self.headers.set(name, value)?;
        Ok(self)
    }

    /// Sets a CloudEvents extension, such as `tenant`: on the wire it is the header `ce-tenant`.
    ///
    /// # Errors
    /// [`EnvelopeError::Header`] as in [`Extensions::set`].
    pub fn extension(
        mut self,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<Self, EnvelopeError> {
        self.extensions.set(name, value)?;
        Ok(self)
    }

    /// Sets the correlation id: the conversation that the event belongs to.
    ///
    /// # Errors
    /// [`HeaderError::Attribute`] when the text is empty, over [`Lineage::MAX_BYTES`], or has
    /// control characters or white space at an end.
    pub fn with_correlation_id(mut self, id: impl Into<String>) -> Result<Self, EnvelopeError> {
        self.lineage.correlation_id = Some(checked("ce-correlationid", id.into())?);
        Ok(self)
    }

    /// Sets the W3C trace context: the value of the `traceparent` header.
    ///
    /// # Errors
    /// [`HeaderError::Attribute`] as in [`Envelope::with_correlation_id`].
    pub fn traced(mut self, traceparent: impl Into<String>) -> Result<Self, EnvelopeError> {
        self.lineage.traceparent = Some(checked("traceparent", traceparent.into())?);
        Ok(self)
    }

    /// Fills the parts of the lineage that are not set yet from `from`, the lineage of the event being handled. A text
    /// that breaks the limits of [`Lineage`] is left out.
    #[must_use]
    pub fn inherit(mut self, from: &Lineage) -> Self {
        self.lineage.fill(from);
        self
    }

    /// Sets the lineage of an event that `cause` has caused, as far as it is not set yet: same conversation, same trace,
    /// causation by the id of `cause`. A handler needs no call: what it publishes is caused by what it handles.
    #[must_use]
    pub fn caused_by(self, cause: &Envelope) -> Self {
        self.inherit(&cause.descent())
    }

    /// The lineage for events that the handler of this event publishes: same conversation, same trace, caused by this
    /// event.
    #[must_use]
    pub fn descent(&self) -> Lineage {
        Lineage {
            correlation_id: Some(self.correlation_id()),
            causation_id: Some(self.id.to_string()),
            ..self.lineage.clone()
        }
    }

    /// Decodes the payload as a typed event.
    ///
    /// # Errors
    /// The error of serde_json, with line and column.
    pub fn decode<E: Event>(&self) -> Result<E, serde_json::Error> {
        serde_json::from_slice(&self.payload)
    }

    /// The event's identity.
    #[must_use]
    pub fn id(&self) -> EventId {
        self.id
    }

    /// The event's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The version of the payload's schema; 0 when a foreign publisher declared none.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// What the event is about.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// When the fact happened; `None` until it is published.
    #[must_use]
    pub fn time(&self) -> Option<DateTime<Utc>> {
        self.time
    }

    /// The service that published the event.
    #[must_use]
    pub fn source(&self) -> Option<&str> {
        self.source.as_deref()
    }

    /// The correlation id: the value that was set, else the event's own id.
    #[must_use]
    pub fn correlation_id(&self) -> String {
        match &self.lineage.correlation_id {
            Some(id) => id.clone(),
            None => self.id.to_string(),
        }
    }

    /// Where the event comes from, as far as it is known.
    #[must_use]
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// The user's own headers.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The CloudEvents extensions of the event.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// The payload's media type, such as `application/xml`, when its publisher declares that it is not JSON.
    #[must_use]
    pub fn media_type(&self) -> Option<&str> {
        self.media_type.as_deref()
    }

    /// The payload. It is JSON unless [`Envelope::media_type`] names another type.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }
}

/// Whether a text can be a key. Its length is not checked: that limit is ours, and a foreign publisher may use longer
/// keys.
pub(crate) fn is_key(text: &str) -> bool {
    !text.is_empty() && is_clean(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        Envelope::raw("user.created", 1, Some("7"), "{}").unwrap()
    }

    #[test]
    fn a_key_that_headers_cannot_hold_is_refused() {
        let long = "k".repeat(Envelope::MAX_KEY_BYTES + 1);
        for key in ["", "a\nb", "\u{0}", " a", "a\u{a0}", &*long] {
            let refused = Envelope::raw("user.created", 1, Some(key), "{}");
            assert!(matches!(refused, Err(EnvelopeError::Key { .. })), "{key:?}");
        }
    }

    #[test]
    fn a_key_in_any_script_is_kept() {
        let longest = "\u{1f600}".repeat(Envelope::MAX_KEY_BYTES / 4);
        for key in ["\u{65e5}\u{672c} 7", "a:b/c%41\"", &*longest] {
            let made = Envelope::raw("user.created", 1, Some(key), "{}").unwrap();
            assert_eq!(made.key(), Some(key));
        }
    }

    #[test]
    fn the_error_of_a_giant_key_is_short() {
        let giant = "\u{e9}".repeat(1 << 20);
        let refused = Envelope::raw("user.created", 1, Some(&giant), "{}").unwrap_err();
        assert!(refused.to_string().len() < 400, "{refused}");
    }

    #[test]
    fn a_version_out_of_range_and_a_malformed_name_are_refused() {
        for version in [0, Envelope::MAX_VERSION + 1, u32::MAX] {
            let refused = Envelope::raw("user.created", version, None, "{}");
            assert!(matches!(refused, Err(EnvelopeError::Version(_))));
        }
        assert!(Envelope::raw("user.created", Envelope::MAX_VERSION, None, "{}").is_ok());
        let name = Envelope::raw("User", 1, None, "{}");
        assert!(matches!(name, Err(EnvelopeError::Name(_))));
    }

    #[test]
    fn a_lineage_that_headers_cannot_hold_is_refused() {
        let long = "c".repeat(Lineage::MAX_BYTES + 1);
        for text in ["", "a\r\nX: y", " a", &*long] {
            let refused = [
                envelope().with_correlation_id(text),
                envelope().traced(text),
            ];
            assert!(
                refused.into_iter().all(|made| matches!(
                    made,
                    Err(EnvelopeError::Header(HeaderError::Attribute(_)))
                )),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_lineage_that_headers_cannot_hold_is_not_inherited() {
        let injected = Lineage {
            correlation_id: Some("a\nb".into()),
            causation_id: Some(String::new()),
            traceparent: Some("a\r\nNats-Rollup: all".into()),
            tracestate: Some("s".repeat(Lineage::MAX_BYTES + 1)),
        };
        let child = envelope().inherit(&injected);
        assert_eq!(child.lineage(), &Lineage::default());
    }

    #[test]
    fn a_first_event_starts_its_own_correlation() {
        let event = envelope();
        assert_eq!(event.correlation_id(), event.id().to_string());
    }

    #[test]
    fn follow_ups_keep_correlation_and_trace_and_name_their_cause() {
        let parent = envelope()
            .with_correlation_id("order-1")
            .unwrap()
            .traced("00-aa-bb-01")
            .unwrap();
        let child = envelope().inherit(&parent.descent());
        assert_eq!(child.correlation_id(), "order-1");
        assert_eq!(child.lineage().causation_id, Some(parent.id().to_string()));
        assert_eq!(child.lineage().traceparent.as_deref(), Some("00-aa-bb-01"));
    }

    #[test]
    fn values_that_the_publisher_set_are_preserved() {
        let parent = envelope().with_correlation_id("order-1").unwrap();
        let child = envelope()
            .with_correlation_id("mine")
            .unwrap()
            .inherit(&parent.descent());
        assert_eq!(child.correlation_id(), "mine");
    }

    #[test]
    fn an_own_trace_does_not_mix_with_the_inherited_one() {
        let inherited = Lineage {
            traceparent: Some("00-parent".into()),
            tracestate: Some("vendor=parent".into()),
            ..Lineage::default()
        };
        let child = envelope().traced("00-own").unwrap().inherit(&inherited);
        assert_eq!(child.lineage().traceparent.as_deref(), Some("00-own"));
        assert_eq!(child.lineage().tracestate, None);
    }
}
