//! The limits: the best loops that the client alone can do for the same work. They use nothing of Tidings but the wire
//! format.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use async_nats::{Client, HeaderMap, Request, header, jetstream};
use bytes::Bytes;
use chrono::Utc;
use futures::{StreamExt, stream::FuturesUnordered};
use tidings::{Envelope, Event as _, EventId, event::wire};

use super::{
    Job,
    event::Written,
    store::BenchStore,
    world::{RAW_STREAM, RAW_SUBJECT, STREAM, World},
};

/// Messages in one atomic batch: the server's limit.
const BATCH: usize = 1000;
/// How many acknowledgements wait for their confirmation at once.
pub(super) const IN_FLIGHT: usize = 512;

/// The messages that the relay would send.
fn messages(job: Job) -> impl Iterator<Item = anyhow::Result<(HeaderMap, Bytes)>> {
    let defaults = wire::Defaults::new(wire::DEFAULT_SOURCE, Utc::now());
    (0..job.events).map(move |number| {
        let envelope = Envelope::of(&Written::new(job, number))?;
        let mut headers = HeaderMap::new();
        wire::write_headers(&envelope, defaults, |name, value| {
            headers.insert(name, value)
        });
        Ok((headers, envelope.payload().clone()))
    })
}

/// Measures atomic batches of 1000, in events per second. The messages of the next batch are sent before the commit of
/// the previous one is answered.
pub(super) async fn atomic_batches<DB: BenchStore>(
    world: &World<DB>,
    job: Job,
) -> anyhow::Result<f64> {
    world.purge(RAW_STREAM).await?;
    let messages: Vec<_> = messages(job).collect();
    let began = Instant::now();
    send(&world.client, RAW_SUBJECT, messages.into_iter()).await?;
    Ok(per_second(job.events, began.elapsed()))
}

/// Fills the measured stream in the fastest way. The messages are made one by one: millions of them would count as
/// memory of this process.
pub(super) async fn fill<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<()> {
    send(&world.client, Written::NAME, messages(job)).await
}

async fn send(
    client: &Client,
    subject: &'static str,
    messages: impl Iterator<Item = anyhow::Result<(HeaderMap, Bytes)>>,
) -> anyhow::Result<()> {
    let mut committing: Option<tokio::task::JoinHandle<anyhow::Result<()>>> = None;
    let mut messages = messages.peekable();
    while messages.peek().is_some() {
        let batch: Vec<_> = messages.by_ref().take(BATCH).collect();
        let size = batch.len();
        let (_, random) = EventId::now().as_uuid().as_u64_pair();
        let id = format!("{random:x}");
        for (at, message) in batch.into_iter().enumerate() {
            let (mut headers, payload) = message?;
            headers.insert(header::NATS_BATCH_ID, &*id);
            headers.insert(header::NATS_BATCH_SEQUENCE, (at + 1).to_string());
            if at + 1 < size {
                client
                    .publish_with_headers(subject, headers, payload)
                    .await?;
                continue;
            }
            headers.insert(header::NATS_BATCH_COMMIT, "1");
            if let Some(last) = committing.take() {
                last.await??;
            }
            committing = Some(tokio::spawn(confirmed(
                client.clone(),
                subject,
                headers,
                payload,
            )));
        }
    }
    if let Some(last) = committing {
        last.await??;
    }
    Ok(())
}

async fn confirmed(
    client: Client,
    subject: &'static str,
    headers: HeaderMap,
    payload: Bytes,
) -> anyhow::Result<()> {
    let request = Request::new().headers(headers).payload(payload);
    let answer = client.send_request(subject, request).await?;
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload)?;
    match answer.get("error") {
        Some(error) => bail!("the limit cannot be measured: {error}"),
        None => Ok(()),
    }
}

/// Measures reading the measured stream without payloads, in messages per second.
pub(super) async fn headers<DB: BenchStore>(world: &World<DB>, job: Job) -> anyhow::Result<f64> {
    let stream = world.jetstream().get_stream(STREAM).await?;
    let consumer = stream
        .create_consumer(jetstream::consumer::pull::Config {
            ack_policy: jetstream::consumer::AckPolicy::None,
            headers_only: true,
            ..Default::default()
        })
        .await?;
    let began = Instant::now();
    let messages = consumer
        .stream()
        .max_messages_per_batch(IN_FLIGHT)
        .messages()
        .await?;
    let mut messages = messages.take(job.events);
    while let Some(message) = messages.next().await {
        message?;
    }
    Ok(per_second(job.events, began.elapsed()))
}

/// Measures a pull consumer with confirmed acknowledgements, 512 of them waiting at once, in events per second.
pub(super) async fn pull_and_confirm<DB: BenchStore>(
    world: &World<DB>,
    job: Job,
    stream: &str,
) -> anyhow::Result<f64> {
    let stream = world.jetstream().get_stream(stream).await?;
    let consumer = stream
        .create_consumer(jetstream::consumer::pull::Config {
            max_ack_pending: 10_000,
            ..Default::default()
        })
        .await?;
    let began = Instant::now();
    let mut messages = consumer
        .stream()
        .max_messages_per_batch(IN_FLIGHT)
        .messages()
        .await?
        .take(job.events);
    let mut confirming = FuturesUnordered::new();
    loop {
        tokio::select! {
            message = messages.next(), if confirming.len() < IN_FLIGHT => match message {
                Some(message) => {
                    let reply = message?.message.reply.context("a reply subject")?;
                    let request = Request::new().payload(Bytes::from_static(b"+ACK"));
                    let client = &world.client;
                    confirming.push(async move { client.send_request(reply, request).await });
                }
                None => break,
            },
            Some(confirmed) = confirming.next() => drop(confirmed?),
        }
    }
    while let Some(confirmed) = confirming.next().await {
        confirmed?;
    }
    Ok(per_second(job.events, began.elapsed()))
}

/// Measures the time from a confirmed publish until its message is pulled, at a constant rate.
pub(super) async fn publish_and_pull<DB: BenchStore>(
    world: &World<DB>,
    job: Job,
    rate: u32,
) -> anyhow::Result<Vec<Duration>> {
    world.purge(RAW_STREAM).await?;
    let stream = world.jetstream().get_stream(RAW_STREAM).await?;
    let consumer = stream
        .create_consumer(jetstream::consumer::pull::Config {
            ack_policy: jetstream::consumer::AckPolicy::None,
            ..Default::default()
        })
        .await?;
    let mut messages = consumer.messages().await?.take(job.events);
    let received = tokio::spawn(async move {
        let mut received = Vec::new();
        while let Some(message) = messages.next().await {
            let now = Instant::now();
            let event: Written = serde_json::from_slice(&message?.payload)?;
            received.push((event.number, now));
        }
        anyhow::Ok(received)
    });
    let mut sent = Vec::with_capacity(job.events);
    let mut tick = tokio::time::interval(Duration::from_secs(1) / rate);
    let mut confirming = tokio::task::JoinSet::new();
    let messages: Vec<_> = self::messages(job).collect();
    for message in messages {
        let (headers, payload) = message?;
        tick.tick().await;
        sent.push(Instant::now());
        confirming.spawn(confirmed(
            world.client.clone(),
            RAW_SUBJECT,
            headers,
            payload,
        ));
    }
    while let Some(answer) = confirming.join_next().await {
        answer??;
    }
    let received = tokio::time::timeout(Duration::from_secs(60), received).await???;
    let times = received.into_iter().filter_map(|(number, at)| {
        let sent: &Instant = sent.get(number)?;
        Some(at - *sent)
    });
    Ok(times.collect())
}

#[allow(clippy::cast_precision_loss)] // a rate
pub(super) fn per_second(events: usize, elapsed: Duration) -> f64 {
    events as f64 / elapsed.as_secs_f64()
}
