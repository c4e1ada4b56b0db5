//! The worker of a service: a relay, a subscriber that sends mail, and an ordered one that maintains a table.
//!
//! ```text
//! worker setup               migrate the outbox, set up the streams, create the table user_directory
//! worker run                 run the relay and both subscribers
//! worker run welcome-email   run one subscriber; the relay is a process of its own: tidings relay
//! ```
//!
//! The program reads `TIDINGS_NATS_URL`, `TIDINGS_NATS_INBOX_PREFIX` and `TIDINGS_DATABASE_URL` (Postgres), and logs
//! as `RUST_LOG` states. It ends with 4 when a handler is stuck, so that its supervisor restarts it. Health endpoints
//! and `/metrics` are at `TIDINGS_OPS_LISTEN`, on an address for other hosts with `TIDINGS_OPS_PUBLIC=true`. A service of
//! systemd with `Type=notify` says when it is ready.

mod directory;

use std::{env, time::Duration};

use anyhow::{Context as _, bail};
use sqlx::PgPool;
use tidings::{
    Bus, Context, EventSubscriber, Failure, NatsOptions, Outbox, Relay, Retry, StreamSpec, Worker,
    ops::{Ops, Systemd, metrics::Metrics},
    shutdown_signal,
};
use tidings_events::{UserCreated, UserDeleted, UserEmailChanged};
use tracing_subscriber::EnvFilter;

use directory::Directory;

const WELCOME_EMAIL: &str = "welcome-email";
const USER_DIRECTORY: &str = "user-directory";
/// The exit code when a handler is stuck and cannot be ended.
const STUCK: i32 = 4;

/// The state of the handlers.
struct App {
    directory: Directory,
}

/// Greets new users. Mails need no order; a mail that cannot be sent delays no other.
fn welcome_email() -> EventSubscriber<App> {
    EventSubscriber::durable(WELCOME_EMAIL)
        .on(send_welcome)
        .retry(Retry::exponential(Duration::from_secs(1), Duration::from_secs(300)).attempts(8))
}

/// Maintains the table of users. Events of one user are handled in order and never become dead letters: without one of
/// them the table would stay wrong.
fn user_directory() -> EventSubscriber<App> {
    let retry = Retry::exponential(Duration::from_millis(200), Duration::from_secs(30));
    EventSubscriber::durable(USER_DIRECTORY)
        .on(add_user)
        .on(change_email)
        .on(remove_user)
        .retry(retry.attempts(u32::MAX))
        .ordered_by_key()
}

/// This example has no mailer: it logs the mail.
async fn send_welcome(event: UserCreated, cx: Context<App>) -> Result<(), Failure> {
    tracing::info!(user = %event.id, to = event.email, event.id = %cx.event_id(), "welcome mail sent");
    Ok(())
}

async fn add_user(event: UserCreated, cx: Context<App>) -> Result<(), Failure> {
    let directory = &cx.state().directory;
    Ok(directory
        .put(event.id, Some(&event.email), event.created_at)
        .await?)
}

async fn change_email(event: UserEmailChanged, cx: Context<App>) -> Result<(), Failure> {
    let directory = &cx.state().directory;
    Ok(directory
        .put(event.id, Some(&event.new_email), event.changed_at)
        .await?)
}

async fn remove_user(event: UserDeleted, cx: Context<App>) -> Result<(), Failure> {
    let directory = &cx.state().directory;
    Ok(directory.put(event.id, None, event.deleted_at).await?)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["setup"] => setup().await,
        ["run"] => {
            let (bus, outbox) = connect().await?;
            let metrics = Metrics::new();
            metrics.outbox(&outbox);
            let relay = Relay::new(outbox.clone().notify_via(&bus));
            let worker = worker(bus, outbox, metrics).await?;
            let worker = worker
                .subscribe(welcome_email())
                .subscribe(user_directory());
            Ok(worker.with(relay).run(shutdown_signal()).await?)
        }
        ["run", name @ (WELCOME_EMAIL | USER_DIRECTORY)] => {
            let (bus, outbox) = connect().await?;
            let subscriber = match name {
                WELCOME_EMAIL => welcome_email(),
                _ => user_directory(),
            };
            // The relay, another process, tells how the outbox is.
            let worker = worker(bus, outbox, Metrics::new()).await?;
            let worker = worker.subscribe(subscriber);
            Ok(worker.run(shutdown_signal()).await?)
        }
        _ => bail!("usage: worker setup | worker run [{WELCOME_EMAIL} | {USER_DIRECTORY}]"),
    }
}

/// Prepares everything for `run`. May be repeated, and run by several processes at once.
async fn setup() -> anyhow::Result<()> {
    let (bus, outbox) = connect().await?;
    outbox.migrate().await?;
    let subjects = ["user.>".parse()?, "payment.>".parse()?];
    bus.setup([StreamSpec::new("EVENTS", subjects)?]).await?;
    Ok(Directory::new(outbox.pool().clone()).create().await?)
}

async fn connect() -> anyhow::Result<(Bus, Outbox<sqlx::Postgres>)> {
    let required =
        |name: &'static str| env::var(name).with_context(|| format!("set {name} to a URL"));
    let servers = required("TIDINGS_NATS_URL")?;
    let mut options = NatsOptions::servers(servers.split(','));
    if let Ok(prefix) = env::var("TIDINGS_NATS_INBOX_PREFIX") {
        options = options.inbox_prefix(prefix);
    }
    let bus = Bus::connect(options).await?;
    let pool = PgPool::connect(&required("TIDINGS_DATABASE_URL")?).await?;
    Ok((bus, Outbox::new(pool)))
}

/// A worker without subscribers. Fails at the start when the table is missing, not at the first event.
async fn worker(
    bus: Bus,
    outbox: Outbox<sqlx::Postgres>,
    metrics: Metrics,
) -> anyhow::Result<Worker<App>> {
    let directory = Directory::new(outbox.pool().clone());
    let checked = directory.check().await;
    checked.context("the table user_directory cannot be used: run `worker setup` first")?;
    let worker = Worker::new(bus, App { directory }).exit_when_stuck(STUCK);
    Ok(supervised(worker, metrics))
}

/// Adds what watches it: health endpoints for Kubernetes, metrics for Prometheus, and messages for systemd.
fn supervised(mut worker: Worker<App>, metrics: Metrics) -> Worker<App> {
    if let Ok(address) = env::var("TIDINGS_OPS_LISTEN") {
        let ops = Ops::listen(address).merge(metrics.router());
        let is_public = env::var("TIDINGS_OPS_PUBLIC").is_ok_and(|text| text == "true");
        let ops = if is_public { ops.public() } else { ops };
        worker = worker.with(ops).with(metrics);
    }
    if let Some(socket) = env::var_os("NOTIFY_SOCKET") {
        let interval = env::var("WATCHDOG_USEC").ok();
        let interval = interval.and_then(|text| text.parse().ok());
        let systemd = Systemd::notify(socket).watchdog(interval.map(Duration::from_micros));
        worker = worker.with(systemd);
    }
    worker
}
