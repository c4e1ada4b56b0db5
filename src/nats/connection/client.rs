//! The current NATS client. A client whose task has ended is replaced: async-nats 0.51 panics in its task at a header
//! whose value has a carriage return, and answers nothing from then on. Never decides what becomes of what was in
//! flight: for all who use the client, its end is a lost connection.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::{
    Message, PublishError, PublishErrorKind, Request, RequestError, RequestErrorKind, ServerInfo,
    SubscribeError, SubscribeErrorKind, Subscriber,
    client::{DrainError, FlushError},
    subject::ToSubject,
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tokio::sync::watch;

use super::connect;
use super::connect::{Hearing, reconnect_delay};
use crate::{
    log::Lasting,
    nats::{NatsOptions, REQUEST_TIMEOUT},
};

/// How long to wait, after an error of a closed channel, until the end of the task shows.
const SHOWS: Duration = Duration::from_millis(100);
/// A client that has lived for this long resets the delay before the next one.
const WELL: Duration = Duration::from_secs(10);
/// How long to wait for the end of a client that is closed: without a connection it does not end.
const CLOSES: Duration = Duration::from_secs(1);
/// The delay until a subscription is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// The current client. Clones share it.
#[derive(Clone)]
pub(in crate::nats) struct Client(Arc<Shared>);

struct Shared {
    now: watch::Sender<Arc<Live>>,
    /// The user has closed it, so it is not replaced.
    is_closed: AtomicBool,
}

/// One client, valid as long as its task runs.
pub(in crate::nats) struct Live {
    client: Arc<async_nats::Client>,
    /// The sender is dropped with the task.
    task: watch::Receiver<()>,
    /// How many bytes earlier clients had received.
    received_before: u64,
}

/// Lives as long as the task of a client, and raises the number of losses when the task ends.
pub(in crate::nats) struct Task {
    losses: Arc<watch::Sender<u64>>,
    /// A client that was never used has lost nothing.
    is_used: Arc<AtomicBool>,
    _running: watch::Sender<()>,
}

/// Observes the end of a task.
pub(in crate::nats) struct End {
    is_used: Arc<AtomicBool>,
    task: watch::Receiver<()>,
}

impl Task {
    /// A task, with the value that observes its end. When the end shows, the loss is already counted.
    pub(in crate::nats) fn new(losses: &Arc<watch::Sender<u64>>) -> (Self, End) {
        let (running, task) = watch::channel(());
        let is_used = Arc::<AtomicBool>::default();
        let of = Self {
            losses: Arc::clone(losses),
            is_used: Arc::clone(&is_used),
            _running: running,
        };
        (of, End { is_used, task })
    }

    /// Counts a lost connection.
    pub(in crate::nats) fn count_loss(&self) {
        self.losses.send_modify(|losses| *losses += 1);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if self.is_used.load(Ordering::Relaxed) {
            self.count_loss();
        }
    }
}

impl Live {
    pub(in crate::nats) fn new(client: Arc<async_nats::Client>, end: End) -> Self {
        end.is_used.store(true, Ordering::Relaxed);
        Self {
            client,
            task: end.task,
            received_before: 0,
        }
    }

    pub(in crate::nats) fn client(&self) -> &async_nats::Client {
        &self.client
    }

    fn has_stopped(&self) -> bool {
        self.task.has_changed().is_err()
    }

    /// Whether the client has stopped. An error of a stopped client may come a moment before the end of its task shows.
    async fn stops(&self) -> bool {
        self.has_stopped()
            || tokio::time::timeout(SHOWS, stopped(self.task.clone()))
                .await
                .is_ok()
    }

    fn received(&self) -> u64 {
        let now = self.client.statistics().in_bytes.load(Ordering::Relaxed);
        self.received_before.saturating_add(now)
    }
}

impl Client {
    /// Starts with this client, and replaces it when it has stopped, as long as there are clones.
    pub(in crate::nats) fn new(live: Live, options: &Arc<NatsOptions>, hearing: &Hearing) -> Self {
        let shared = Arc::new(Shared {
            now: watch::Sender::new(Arc::new(live)),
            is_closed: AtomicBool::new(false),
        });
        let keeper = Keeper {
            shared: Arc::downgrade(&shared),
            options: Arc::clone(options),
            hearing: hearing.clone(),
            stops: Lasting::default(),
            failures: Lasting::default(),
        };
        tokio::spawn(keeper.run());
        Self(shared)
    }

    fn now(&self) -> Arc<Live> {
        Arc::clone(&self.0.now.borrow())
    }

    /// The current client; a running one, if one can be created within the time of a request.
    pub(in crate::nats) async fn live(&self) -> Arc<Live> {
        let now = self.now();
        if !now.has_stopped() || self.is_closed() {
            return now;
        }
        self.another().await
    }

    async fn another(&self) -> Arc<Live> {
        let mut made = self.0.now.subscribe();
        let another = made.wait_for(|live| !live.has_stopped());
        // After the timeout the stopped client is used, and it returns the error.
        let _ = tokio::time::timeout(REQUEST_TIMEOUT, another).await.is_ok();
        self.now()
    }

    pub(in crate::nats) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(in crate::nats) fn is_closed(&self) -> bool {
        self.0.is_closed.load(Ordering::Relaxed)
    }

    pub(in crate::nats) fn is_connected(&self) -> bool {
        let now = self.now();
        let state = now.client.connection_state();
        state == async_nats::connection::State::Connected && !now.has_stopped()
    }

    pub(in crate::nats) fn max_payload(&self) -> usize {
        self.0.now.borrow().client.max_payload()
    }

    pub(in crate::nats) fn server_info(&self) -> ServerInfo {
        self.0.now.borrow().client.server_info()
    }

    pub(in crate::nats) fn new_inbox(&self) -> String {
        self.0.now.borrow().client.new_inbox()
    }

    /// How many bytes have been received, by all clients so far.
    pub(in crate::nats) fn received(&self) -> u64 {
        self.0.now.borrow().received()
    }

    pub(in crate::nats) async fn force_reconnect(&self) {
        // A client that has stopped is replaced anyway.
        let _ = self.now().client.force_reconnect().await;
    }

    /// Sends what is buffered and ends the client for good; waits a moment until that is done.
    pub(in crate::nats) async fn close(&self) -> Result<(), DrainError> {
        self.0.is_closed.store(true, Ordering::Relaxed);
        let live = self.now();
        live.client.drain().await?;
        let _ = tokio::time::timeout(CLOSES, stopped(live.task.clone())).await;
        Ok(())
    }

    pub(in crate::nats) async fn publish<S: ToSubject>(
        &self,
        subject: S,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let live = self.live().await;
        let published = live.client.publish(subject, payload).await;
        published_by(&live, published).await
    }

    pub(in crate::nats) async fn publish_with_reply<S: ToSubject, R: ToSubject>(
        &self,
        subject: S,
        reply: R,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let live = self.live().await;
        let publishing = live.client.publish_with_reply(subject, reply, payload);
        published_by(&live, publishing.await).await
    }

    #[cfg(feature = "outbox")]
    pub(in crate::nats) async fn publish_with_headers<S: ToSubject>(
        &self,
        subject: S,
        headers: async_nats::HeaderMap,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let live = self.live().await;
        let publishing = live.client.publish_with_headers(subject, headers, payload);
        published_by(&live, publishing.await).await
    }

    pub(in crate::nats) async fn send_request<S: ToSubject>(
        &self,
        subject: S,
        request: Request,
    ) -> Result<Message, RequestError> {
        self.live().await.send_request(subject, request).await
    }

    pub(in crate::nats) async fn flush(&self) -> Result<(), FlushError> {
        let live = self.live().await;
        let flushed = live.client.flush().await;
        if flushed.is_err() {
            live.stops().await;
        }
        flushed
    }

    /// Subscribes with the current client. The subscription ends with that client.
    pub(in crate::nats) async fn subscribe(
        &self,
        subject: String,
    ) -> Result<Subscriber, SubscribeError> {
        let live = self.live().await;
        match live.client.subscribe(subject.clone()).await {
            Err(error) if error.kind() == SubscribeErrorKind::Other && live.stops().await => {
                self.live().await.client.subscribe(subject).await
            }
            subscribed => subscribed,
        }
    }

    /// Subscribes once more after a subscription has ended, as often as needed; `None` when the client is closed.
    pub(in crate::nats) async fn subscribe_again(&self, subject: &str) -> Option<Subscriber> {
        while !self.is_closed() {
            match self.subscribe(subject.to_owned()).await {
                Ok(subscriber) => return Some(subscriber),
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
        None
    }

    /// The messages of a subject, across all clients. A message that comes between two clients is lost.
    pub(in crate::nats) async fn listen(
        &self,
        subject: &str,
    ) -> Result<impl Stream<Item = Message> + Send + Unpin + use<>, SubscribeError> {
        let first = self.subscribe(subject.to_owned()).await?;
        let listening = (self.clone(), subject.to_owned(), first);
        let heard = stream::unfold(listening, |(client, subject, mut subscriber)| async move {
            loop {
                if let Some(message) = subscriber.next().await {
                    return Some((message, (client, subject, subscriber)));
                }
                subscriber = client.subscribe_again(&subject).await?;
            }
        });
        Ok(heard.boxed())
    }
}

impl Live {
    pub(in crate::nats) async fn send_request<S: ToSubject>(
        &self,
        subject: S,
        request: Request,
    ) -> Result<Message, RequestError> {
        let answer = self.client.send_request(subject, request).await;
        if let Err(error) = &answer
            && error.kind() == RequestErrorKind::Other
        {
            self.stops().await;
        }
        answer
    }
}

/// Delays the error of a stopped client until its end shows, so that the next attempt goes to another client.
async fn published_by(
    live: &Live,
    published: Result<(), PublishError>,
) -> Result<(), PublishError> {
    if let Err(error) = &published
        && error.kind() == PublishErrorKind::Send
    {
        live.stops().await;
    }
    published
}

/// Replaces a client that has stopped. It owns no client, so that dropping the last clone ends it.
struct Keeper {
    shared: Weak<Shared>,
    options: Arc<NatsOptions>,
    hearing: Hearing,
    stops: Lasting,
    failures: Lasting,
}

impl Keeper {
    async fn run(self) {
        let mut attempts = 0;
        while let Some(task) = self.task() {
            let began = Instant::now();
            stopped(task).await;
            if began.elapsed() >= WELL {
                attempts = 0;
            }
            if !self.is_wanted() {
                return;
            }
            if let Some(unsaid) = self.stops.again(Instant::now()) {
                tracing::warn!(
                    servers = connect::shown(&self.options.servers),
                    unsaid,
                    "NATS client stopped: it cannot read a message, and connects again"
                );
            }
            while !self.replace(&mut attempts).await {
                if !self.is_wanted() {
                    return;
                }
            }
        }
    }

    /// The task of the current client, if the client is still used.
    fn task(&self) -> Option<watch::Receiver<()>> {
        let shared = self.shared.upgrade()?;
        let task = shared.now.borrow().task.clone();
        Some(task)
    }

    fn is_wanted(&self) -> bool {
        let shared = self.shared.upgrade();
        shared.is_some_and(|shared| !shared.is_closed.load(Ordering::Relaxed))
    }

    async fn replace(&self, attempts: &mut usize) -> bool {
        *attempts += 1;
        tokio::time::sleep(reconnect_delay(*attempts)).await;
        let mut live = match connect::dial(&self.options, &self.hearing).await {
            Ok(live) => live,
            Err(error) => {
                if let Some(unsaid) = self.failures.again_as(&error.to_string(), Instant::now()) {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(%error, cause, unsaid, "NATS client restart failed");
                }
                return false;
            }
        };
        if let Some(shared) = self.shared.upgrade() {
            live.received_before = shared.now.borrow().received();
            shared.now.send_replace(Arc::new(live));
        }
        true
    }
}

/// Returns when the task has ended.
async fn stopped(mut task: watch::Receiver<()>) {
    while task.changed().await.is_ok() {}
}
