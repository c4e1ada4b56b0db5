//! A context for calling a handler as a plain function. Never runs anything.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tidings_contract::{Envelope, EnvelopeError, EventId, IntoEnvelope};
use tokio_util::sync::CancellationToken;

use crate::{
    handler::context::{Cancelled, Context, Facts},
    replay::tag::{ReplayId, ReplayTag, Replaying},
};

impl<S> Context<S> {
    /// A context for calling a handler in a test; [`TestContext`] builds one for a particular event.
    ///
    /// ```
    /// use serde::{Deserialize, Serialize};
    /// use tidings::{Context, Event, Failure};
    ///
    /// #[derive(Serialize, Deserialize, Event)]
    /// #[event(name = "payment.received", version = 1, key = id)]
    /// struct PaymentReceived {
    ///     id: u32,
    ///     cents: u32,
    /// }
    ///
    /// async fn book(event: PaymentReceived, _: Context<()>) -> Result<(), Failure> {
    ///     match event.cents {
    ///         0 => Err(Failure::reject("nothing was paid")),
    ///         _ => Ok(()),
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let nothing = PaymentReceived { id: 1, cents: 0 };
    /// let failure = book(nothing, Context::test(())).await.unwrap_err();
    /// assert_eq!(failure.to_string(), "nothing was paid");
    /// # }
    /// ```
    #[must_use]
    pub fn test(state: S) -> Self {
        TestContext::new(state).build()
    }
}

/// Builds a [`Context`] for calling a handler in a test. By default the event is a new one without a key, this is the
/// first attempt, and the event was stored now.
///
/// ```
/// use tidings::testing::TestContext;
///
/// let cx = TestContext::new("state").key("ada").attempt(3).header("tenant", "7").build();
/// assert_eq!((cx.key(), cx.attempt()), (Some("ada"), 3));
/// assert_eq!(cx.headers().get("tenant"), Some("7"));
/// ```
#[derive(Debug)]
pub struct TestContext<S> {
    state: S,
    envelope: Envelope,
    attempt: u32,
    stored_at: DateTime<Utc>,
    is_replay: bool,
}

impl<S> TestContext<S> {
    /// A context with this state.
    #[must_use]
    #[track_caller]
    pub fn new(state: S) -> Self {
        Self {
            state,
            envelope: fine(Envelope::raw("test.event", 1, None, "{}")),
            attempt: 1,
            stored_at: Utc::now(),
            is_replay: false,
        }
    }

    /// Takes name, version, key and payload from an event; from an [`Envelope`] everything, so call this first.
    ///
    /// # Panics
    /// When the event could not be published.
    #[must_use]
    #[track_caller]
    pub fn event(mut self, event: impl IntoEnvelope) -> Self {
        self.envelope = fine(event.into_envelope());
        self
    }

    /// The event's id.
    #[must_use]
    pub fn event_id(mut self, id: EventId) -> Self {
        self.envelope = self.envelope.with_id(id);
        self
    }

    /// The event's key.
    ///
    /// # Panics
    /// When the key is not valid.
    #[must_use]
    #[track_caller]
    pub fn key(mut self, key: &str) -> Self {
        let old = self.envelope;
        let (name, payload) = (old.name().as_str(), old.payload().clone());
        let mut new = fine(Envelope::raw(name, old.version(), Some(key), payload));
        new = new.with_id(old.id()).inherit(old.lineage());
        if let Some(time) = old.time() {
            new = new.at(time);
        }
        for (name, value) in old.headers().iter() {
            new = fine(new.header(name, value));
        }
        self.envelope = new;
        self
    }

    /// When the fact happened.
    #[must_use]
    pub fn time(mut self, time: DateTime<Utc>) -> Self {
        self.envelope = self.envelope.at(time);
        self
    }

    /// When the stream stored the event.
    #[must_use]
    pub fn stored_at(mut self, time: DateTime<Utc>) -> Self {
        self.stored_at = time;
        self
    }

    /// A custom header of the event.
    ///
    /// # Panics
    /// When the header is not valid.
    #[must_use]
    #[track_caller]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.envelope = fine(self.envelope.header(name, value));
        self
    }

    /// The number of the attempt, from 1.
    #[must_use]
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt.max(1);
        self
    }

    /// Makes the context one of a replay.
    ///
    /// ```
    /// use tidings::testing::TestContext;
    ///
    /// let cx = TestContext::new(()).as_replay().build();
    /// assert!(cx.is_replay());
    /// ```
    #[must_use]
    pub fn as_replay(mut self) -> Self {
        self.is_replay = true;
        self
    }

    /// The context, as a handler receives it.
    #[must_use]
    pub fn build(self) -> Context<S> {
        let facts = Facts {
            envelope: self.envelope.into(),
            subscriber: "test".into(),
            stream: "TEST".into(),
            sequence: 1,
            stored_at: self.stored_at,
            attempt: self.attempt,
            first_failed_at: None,
            redrives: 0,
            redriven_from: 0,
            timeout: Duration::from_secs(30),
            cancelled: Cancelled::by(&CancellationToken::new()),
            replay: self
                .is_replay
                .then(|| Arc::new(replaying("test", None, false))),
        };
        Context::new(Arc::new(self.state), Arc::new(facts))
    }
}

/// A replay that is made for a test.
pub(super) fn replaying(subscriber: &str, shadow: Option<&str>, follow_ups: bool) -> Replaying {
    let tag = ReplayTag {
        id: ReplayId::new(),
        shadow: shadow.map(str::to_owned),
        follow_ups,
    };
    Replaying {
        is_retry: false,
        ..tag.retried(subscriber)
    }
}

#[track_caller]
fn fine(envelope: Result<Envelope, EnvelopeError>) -> Envelope {
    match envelope {
        Ok(envelope) => envelope,
        Err(error) => panic!("the event is not valid: {error}"),
    }
}
