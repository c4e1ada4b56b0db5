//! The service of the demo: its events and its two subscribers, a mail for every new user and a directory of users. The
//! code is like that of a real service; the judge watches it through [`App::observer`].

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tidings::{Context, Event, EventSubscriber, Failure, Retry, StreamSpec};
use uuid::Uuid;

use super::directory::Directory;

/// A user has signed up.
#[derive(Debug, Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 1, key = id)]
pub(super) struct UserCreated {
    pub(super) id: Uuid,
    pub(super) email: String,
    pub(super) created_at: DateTime<Utc>,
}

/// A user has changed the address.
#[derive(Debug, Serialize, Deserialize, Event)]
#[event(name = "user.email_changed", version = 1, key = id)]
pub(super) struct UserEmailChanged {
    pub(super) id: Uuid,
    pub(super) old_email: String,
    pub(super) new_email: String,
    pub(super) changed_at: DateTime<Utc>,
}

/// The state that the handlers share.
pub(super) struct App {
    /// The table of users.
    pub(super) directory: Directory,
    /// Called at the start of every attempt.
    pub(super) observer: Observer,
}

/// Observes every attempt of a handler.
pub(super) type Observer = Box<dyn Fn(&Context<App>) + Send + Sync>;

/// The stream of the demo's events.
pub(super) fn events_stream() -> Vec<StreamSpec> {
    let subjects = "user.>".parse();
    StreamSpec::new("EVENTS", subjects).into_iter().collect()
}

/// Greets new users. Mails need no order: a mail that cannot be sent delays no other one.
pub(super) fn welcome_email() -> EventSubscriber<App> {
    EventSubscriber::durable("welcome-email")
        .on(send_welcome)
        .retry(Retry::exponential(Duration::from_secs(1), Duration::from_secs(300)).attempts(8))
}

/// Keeps the table of users. A user's events are handled in order, and none is ever dead-lettered: the table would stay
/// wrong.
pub(super) fn user_directory() -> EventSubscriber<App> {
    EventSubscriber::durable("user-directory")
        .on(add_user)
        .on(change_email)
        .retry(
            Retry::exponential(Duration::from_millis(200), Duration::from_secs(30))
                .attempts(u32::MAX),
        )
        .ordered_by_key()
}

/// The demo has no mailer, so it logs the mail.
async fn send_welcome(event: UserCreated, cx: Context<App>) -> Result<(), Failure> {
    (cx.state().observer)(&cx);
    tracing::info!(user = %event.id, to = event.email, event.id = %cx.event_id(), "welcome mail sent");
    Ok(())
}

async fn add_user(event: UserCreated, cx: Context<App>) -> Result<(), Failure> {
    (cx.state().observer)(&cx);
    let directory = &cx.state().directory;
    Ok(directory
        .put(event.id, Some(&event.email), event.created_at)
        .await?)
}

async fn change_email(event: UserEmailChanged, cx: Context<App>) -> Result<(), Failure> {
    (cx.state().observer)(&cx);
    let directory = &cx.state().directory;
    Ok(directory
        .put(event.id, Some(&event.new_email), event.changed_at)
        .await?)
}
