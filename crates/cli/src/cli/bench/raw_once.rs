//! The limit of transactional handlers: the same effects by hand, with sqlx and async-nats alone.

use std::time::Instant;

use anyhow::Context as _;
use async_nats::{
    Message, Request,
    jetstream::{self, consumer::pull::Stream as Messages},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::Take};
use tidings::event::wire;
use uuid::Uuid;

use super::{
    Job,
    effects::BATCH,
    event::Written,
    raw::per_second,
    store::BenchStore,
    world::{STREAM, World},
};

/// Measures one transaction per event, in events per second: a row in an inbox, a row of the effect, commit, a
/// confirmed acknowledgement. As many run at once as the handlers do.
pub(super) async fn pull_commit_and_confirm<DB: BenchStore>(
    world: &World<DB>,
    job: Job,
) -> anyhow::Result<f64> {
    let (began, messages) = pull(world, job).await?;
    let handling = messages.map(anyhow::Ok);
    handling
        .try_for_each_concurrent(DB::HANDLERS, |message| async {
            handle(world, message?.message).await
        })
        .await?;
    Ok(per_second(job.events, began.elapsed()))
}

/// The same with one transaction per thousand events: one statement for the inbox, another one for all effects.
pub(super) async fn pull_commit_and_confirm_all<DB: BenchStore>(
    world: &World<DB>,
    job: Job,
) -> anyhow::Result<f64> {
    let (began, messages) = pull(world, job).await?;
    let handling = messages.chunks(BATCH).map(anyhow::Ok);
    handling
        .try_for_each_concurrent(DB::BATCHES, |batch| handle_all(world, batch))
        .await?;
    Ok(per_second(job.events, began.elapsed()))
}

/// Pulls all messages of the stream. Returns the start time and the messages.
async fn pull<DB: BenchStore>(
    world: &World<DB>,
    job: Job,
) -> anyhow::Result<(Instant, Take<Messages>)> {
    DB::empty(world.outbox.pool()).await?;
    DB::settle(world.outbox.pool()).await;
    let stream = world.jetstream().get_stream(STREAM).await?;
    let consumer = stream
        .create_consumer(jetstream::consumer::pull::Config {
            max_ack_pending: 10_000,
            ..Default::default()
        })
        .await?;
    let began = Instant::now();
    let messages = consumer.messages().await?.take(job.events);
    Ok((began, messages))
}

async fn handle_all<DB: BenchStore, E: std::error::Error + Send + Sync + 'static>(
    world: &World<DB>,
    batch: Vec<Result<jetstream::Message, E>>,
) -> anyhow::Result<()> {
    let (mut events, mut numbers, mut replies) = (Vec::new(), Vec::new(), Vec::new());
    for message in batch {
        let message = message?.message;
        let event: Written = serde_json::from_slice(&message.payload)?;
        let headers = message.headers.as_ref();
        let id = headers.and_then(|headers| headers.get(wire::MESSAGE_ID));
        events.push(Uuid::try_parse(id.context("an id")?.as_str())?);
        numbers.push(i64::try_from(event.number)?);
        replies.push(message.reply.context("a reply subject")?);
    }
    let mut tx = world.outbox.pool().begin_with(DB::BEGIN).await?;
    let added = DB::remember_all_plainly(&mut tx, &events).await?;
    anyhow::ensure!(added == events.len(), "an event was there already");
    DB::effect_of_all(&mut tx, &numbers).await?;
    tx.commit().await?;
    let acks = replies.into_iter().map(|reply| {
        let request = Request::new().payload(Bytes::from_static(b"+ACK"));
        world.client.send_request(reply, request)
    });
    futures::future::try_join_all(acks).await?;
    Ok(())
}

async fn handle<DB: BenchStore>(world: &World<DB>, message: Message) -> anyhow::Result<()> {
    let event: Written = serde_json::from_slice(&message.payload)?;
    let headers = message.headers.as_ref();
    let id = headers.and_then(|headers| headers.get(wire::MESSAGE_ID));
    let id = Uuid::try_parse(id.context("an id")?.as_str())?;
    let mut tx = world.outbox.pool().begin_with(DB::BEGIN).await?;
    if DB::remember_plainly(&mut tx, id).await? {
        DB::effect(&mut tx, i64::try_from(event.number)?).await?;
        tx.commit().await?;
    }
    let reply = message.reply.context("a reply subject")?;
    let request = Request::new().payload(Bytes::from_static(b"+ACK"));
    world.client.send_request(reply, request).await?;
    Ok(())
}
