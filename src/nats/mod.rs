//! NATS: the only module that names async_nats. It moves messages and never decides what they mean.
//!
//! * [`Bus`]: a connection. [`NatsOptions`] configure it.
//! * [`EventPublisher`]: publishes without a database, confirmed by the server.
//! * [`StreamSpec`]: declares streams, and creates and updates them.

mod connection;
mod consume;
mod kv;
mod protocol;
mod publish;
pub(crate) mod stream;

mod ask;
mod error;
#[cfg(test)]
pub(crate) mod fuzz;

use std::{pin::pin, sync::Arc, time::Duration};

use async_nats::{HeaderMap, RequestErrorKind, jetstream};
use bytes::Bytes;
use tidings_contract::{Envelope, wire};
use tokio::sync::watch;

pub use connection::connect::ConnectError;
pub use connection::nats_identity::NatsIdentity;
pub use connection::options::{Auth, NatsOptions, Tls};
pub(crate) use connection::rights::Need;
#[cfg(feature = "ops")]
pub(crate) use connection::rights::Rights;
pub(crate) use consume::consumer::{ConsumerLook, ConsumerSpec, drift, filters};
pub(crate) use consume::delivery::{AckHandle, Deliveries};
pub(crate) use consume::durables::{Durable, Durables};
pub(crate) use consume::pull::{PullError, Pulled, Puller, PullerOptions};
pub(crate) use consume::signs::{LeaseSign, RetrySigns};
pub use error::{BusError, BusErrorKind};
pub(crate) use kv::park::{Head, Park, Question};
pub(crate) use kv::replays::{Part, ReplayConsumerState};
pub(crate) use kv::state::{BadEntry, Holds};
pub(crate) use protocol::authorship::{counted, is_reserved};
pub(crate) use protocol::dead_letter::identity_in;
pub(crate) use protocol::retry::Waiting;
pub(crate) use protocol::{api, headers, keys, names, redrive, subjects};
#[cfg(feature = "outbox")]
pub(crate) use publish::batch::{BatchId, Confirmed, Submission};
pub(crate) use publish::publisher::check_size;
pub use publish::publisher::{EventPublisher, PublishError, TooLarge};
#[cfg(feature = "outbox")]
pub(crate) use publish::refusal::{Cause, FULL_DISK, Refusal, cause_of_denial, cause_of_no_ack};
pub use stream::declare::{Plan, SettingChange};
#[cfg(feature = "ops")]
pub(crate) use stream::facts::AccountStorage;
pub(crate) use stream::identity::{Holder, quoted};
#[cfg(feature = "outbox")]
pub(crate) use stream::identity::{Identity, Own};
#[cfg(feature = "ops")]
pub(crate) use stream::measure::MeasuredStream;
#[cfg(all(test, feature = "ops", feature = "outbox"))]
pub(crate) use stream::measure::StreamMeasures;
pub(crate) use stream::messages::{StoredMessage, StreamInfo};
#[cfg(feature = "outbox")]
pub(crate) use stream::removal::Removal;
#[cfg(feature = "outbox")]
pub(crate) use stream::resume::{At, Found, Pings, StreamSnapshot};
pub(crate) use stream::seek::{Expanse, Read, Sighting};
pub use stream::settings::setting_text;
pub(crate) use stream::settings::{Role, durable_issues, starts_beyond};
#[cfg(feature = "outbox")]
pub(crate) use stream::stored::Stored;
pub use stream::streams::{StreamNameError, StreamSpec};
pub use stream::tail::{Reader, ReaderError, Seen};

use crate::error_text::unplaced;
pub(crate) use crate::policy::start::StartFrom;

/// How long the server may take to answer a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request waits for its answer before the client also watches for what could prevent the answer.
const AT_ONCE: Duration = Duration::from_millis(50);
const CONNECTION_LOST: &str = "the connection was lost while the answer was awaited";

/// A connection to NATS with JetStream. Cheap to clone; clones share the connection.
///
/// It reconnects by itself, without a limit of attempts, and logs that. It also recovers when the client has stopped at
/// a message that it cannot read.
#[derive(Clone)]
pub struct Bus {
    client: connection::client::Client,
    /// The context of the first client. It only serves to read stream positions.
    jetstream: jetstream::Context,
    lost: watch::Receiver<u64>,
    denied: connection::denied::Denied,
    link: connection::link::Link,
    options: Arc<NatsOptions>,
    /// The name of the consumers of readers; without it each consumer gets a name of its own.
    readers: Option<Arc<str>>,
}

/// The error object of a JetStream answer.
#[derive(Debug, Clone, serde::Deserialize)]
pub(crate) struct ApiError {
    #[serde(default)]
    pub(crate) err_code: u64,
    #[serde(default)]
    pub(crate) description: String,
}

/// The server's answer to a publish.
#[derive(Debug, Default, serde::Deserialize)]
struct Receipt {
    #[serde(default)]
    stream: String,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<ApiError>,
}

impl Receipt {
    fn read(answer: &[u8]) -> Self {
        serde_json::from_slice(answer).unwrap_or_else(|error| Self {
            error: Some(ApiError {
                err_code: 0,
                description: format!("the answer is not JetStream's: {}", unplaced(&error)),
            }),
            ..Self::default()
        })
    }

    fn into_result(self) -> Result<Self, ApiError> {
        match self.error {
            Some(error) => Err(error),
            None => {
                if self.duplicate {
                    let Self { stream, seq, .. } = &self;
                    tracing::debug!(
                        stream,
                        seq,
                        "duplicate publish detected: the stream already has the event id"
                    );
                }
                Ok(self)
            }
        }
    }
}

impl Bus {
    /// Connects, to one URL or with options, and fails when no server of the list can be reached.
    ///
    /// # Errors
    /// [`ConnectError`] names the servers and the cause.
    pub async fn connect(options: impl Into<NatsOptions>) -> Result<Self, ConnectError> {
        Self::open(Arc::new(options.into())).await
    }

    /// Opens another connection to the same servers, for work that must not share the fate of this one: a message that
    /// a client cannot read ends its connection for all who use it.
    ///
    /// # Errors
    /// As [`Bus::connect`].
    pub async fn another(&self) -> Result<Self, ConnectError> {
        Self::open(Arc::clone(&self.options)).await
    }

    async fn open(options: Arc<NatsOptions>) -> Result<Self, ConnectError> {
        let hearing = connection::connect::Hearing::new();
        let live = connection::connect::dial(&options, &hearing).await?;
        let jetstream = jetstream::ContextBuilder::new()
            .timeout(REQUEST_TIMEOUT)
            .build(live.client().clone());
        let lost = hearing.losses.subscribe();
        let client = connection::client::Client::new(live, &options, &hearing);
        Ok(Self {
            link: connection::link::Link::new(&client, &lost),
            client,
            jetstream,
            lost,
            denied: hearing.denied,
            options,
            readers: None,
        })
    }

    /// The server's limit for one message, headers and payload together, in bytes.
    #[must_use]
    pub fn max_payload(&self) -> usize {
        self.client.max_payload()
    }

    /// The version of the connected server, such as `2.15.1`.
    #[must_use]
    pub fn server_version(&self) -> String {
        self.client.server_info().version
    }

    /// The name of the connected server.
    #[must_use]
    pub fn server_name(&self) -> String {
        self.client.server_info().server_name
    }

    /// Whether the connection is up now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.client.is_connected()
    }

    /// Whether both are the same connection.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.client.is_same(&other.client)
    }

    /// Sends what is buffered and closes the connection. Call it after all publishes are confirmed.
    ///
    /// # Errors
    /// [`BusError::Broken`] when the connection is already gone.
    pub async fn close(&self) -> Result<(), BusError> {
        self.client.close().await.map_err(|error| BusError::Broken {
            subject: "drain".into(),
            reason: error.to_string(),
        })
    }

    /// Sends a request to the JetStream API; `T` is the answer without its error object.
    async fn api<T: serde::de::DeserializeOwned>(
        &self,
        subject: &str,
        body: &impl serde::Serialize,
    ) -> Result<T, BusError> {
        self.api_within(REQUEST_TIMEOUT, subject, body).await
    }

    async fn api_within<T: serde::de::DeserializeOwned>(
        &self,
        patience: Duration,
        subject: &str,
        body: &impl serde::Serialize,
    ) -> Result<T, BusError> {
        #[derive(serde::Deserialize)]
        struct Failed {
            error: ApiError,
        }
        let broken = |reason: String| BusError::Broken {
            subject: subject.to_owned(),
            reason,
        };
        let body = serde_json::to_vec(body).map_err(|error| broken(error.to_string()))?;
        let request = async_nats::Request::new()
            .payload(body.into())
            .timeout(Some(patience));
        let answer = self.request(subject, request).await?;
        if let Ok(Failed { error }) = serde_json::from_slice(&answer) {
            return Err(BusError::refused(subject, error));
        }
        serde_json::from_slice(&answer).map_err(|error| broken(unplaced(&error)))
    }

    /// Changes whenever the connection is lost.
    pub(crate) fn losses(&self) -> watch::Receiver<u64> {
        self.lost.clone()
    }

    /// Waits for an answer. `None` when the connection is lost meanwhile: no answer comes then, though the client would
    /// continue to wait.
    #[cfg(feature = "outbox")]
    async fn unless_lost<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        let losses = *self.lost.borrow();
        self.unless_lost_since(losses, answer).await
    }

    /// Like `unless_lost`, but also counts a loss since the number of losses was `losses`.
    async fn unless_lost_since<T>(
        &self,
        losses: u64,
        answer: impl Future<Output = T>,
    ) -> Option<T> {
        let mut lost = self.lost.clone();
        tokio::select! {
            biased;
            answer = answer => Some(answer),
            Ok(_) = lost.wait_for(|lost| *lost != losses) => None,
        }
    }

    /// Publishes a message, waits for JetStream to confirm it, and returns its stream position.
    async fn store(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<Receipt, BusError> {
        let request = async_nats::Request::new().headers(headers).payload(payload);
        let answer = match self.request(&subject, request).await {
            Ok(answer) => answer,
            // Boxed, because the error path is rare: nearly every message is stored.
            Err(error) => return Err(Box::pin(self.why_unstored(&subject, error)).await),
        };
        match Receipt::read(&answer).into_result() {
            Ok(receipt) => Ok(receipt),
            Err(error) => Err(BusError::refused(subject, error)),
        }
    }

    async fn request(
        &self,
        subject: &str,
        request: async_nats::Request,
    ) -> Result<Bytes, BusError> {
        let answer = self.answer(subject, request).await?;
        Ok(answer.payload)
    }

    async fn answer(
        &self,
        subject: &str,
        request: async_nats::Request,
    ) -> Result<async_nats::Message, BusError> {
        let patience = request.timeout.flatten().unwrap_or(REQUEST_TIMEOUT);
        // The timeout of the request does not cover its time in the client's queue.
        let request = request.timeout(None);
        let client = self.client.live().await;
        let (denials, losses) = (self.denied.times(subject), *self.lost.borrow());
        let mut sending = pin!(client.send_request(subject.to_owned(), request));
        // Most answers come at once, and watching for what could prevent an answer costs as much as the request.
        let answer = match tokio::time::timeout(AT_ONCE, &mut sending).await {
            Ok(answer) => answer,
            Err(_) => {
                let sending = self.unless_lost_since(losses, sending);
                let patience = patience.saturating_sub(AT_ONCE);
                let sending = Box::pin(tokio::time::timeout(patience, sending));
                tokio::select! {
                    biased;
                    answer = sending => match answer {
                        Ok(Some(answer)) => answer,
                        Ok(None) => return Err(BusError::lost(subject)),
                        Err(_) => return Err(self.ack_pending(subject, patience)),
                    },
                    () = self.denied.once_more(subject, denials) => {
                        return Err(BusError::denied(subject));
                    }
                }
            }
        };
        answer.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => BusError::NoResponders {
                subject: subject.to_owned(),
            },
            RequestErrorKind::Other if *self.lost.borrow() != losses => BusError::lost(subject),
            _ => BusError::Broken {
                subject: subject.to_owned(),
                reason: error.to_string(),
            },
        })
    }

    /// A new subject on which to receive answers.
    pub(crate) fn an_inbox(&self) -> String {
        self.client.new_inbox()
    }

    /// The error when no answer came.
    fn ack_pending(&self, subject: &str, after: Duration) -> BusError {
        let prefix = self.options.inbox_prefix.as_deref();
        let prefix = prefix.unwrap_or(subjects::INBOX_PREFIX);
        let is_inbox = |subject: &String| {
            let rest = subject.strip_prefix(prefix);
            rest.is_some_and(|rest| rest.starts_with('.'))
        };
        match self.denied.subscription().filter(is_inbox) {
            Some(inbox) => BusError::Denied {
                action: "subscribe to",
                permission: format!("{prefix}.>"),
                subject: inbox,
            },
            _ => BusError::Timeout {
                subject: subject.to_owned(),
                after,
            },
        }
    }
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus")
            .field("server", &self.client.server_info().server_name)
            .finish_non_exhaustive()
    }
}

/// The headers of an envelope as NATS carries them.
fn headers_of(envelope: &Envelope, defaults: wire::Defaults<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    wire::write_headers(envelope, defaults, |name, value| {
        headers.insert(name, value);
    });
    headers
}

/// Reads an envelope from a message of a stream.
fn envelope_of(
    message: &async_nats::Message,
    place: impl FnOnce() -> String,
) -> Result<Envelope, wire::ReadError> {
    // The first value of each header, as the server does with its own headers.
    let headers = message.headers.iter().flat_map(|headers| {
        headers.iter().filter_map(|(name, values)| {
            let name: &str = name.as_ref();
            values.first().map(|value| (name, value.as_str()))
        })
    });
    wire::read(&message.subject, headers, message.payload.clone(), place)
}

/// Whether the kind of a message can only be read with its payload.
fn is_in_payload(message: &async_nats::Message) -> bool {
    let headers = message.headers.iter().flat_map(HeaderMap::iter);
    let said = headers.flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        let is_said = name.eq_ignore_ascii_case("content-type");
        values.first().filter(|_| is_said)
    });
    said.into_iter()
        .any(|value| wire::is_in_payload(value.as_str()))
}
