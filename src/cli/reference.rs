//! The subscribers of the reference worker: a mail for every new user, and a directory of users.
//!
//! They are what a service would write; `run` uses them as they are, the demo watches them through
//! [`App::observer`].

mod directory;

use std::time::Duration;

use tidings::{Context, EventSubscriber, Failure, Retry, StreamSpec};
use tidings_events::{UserCreated, UserDeleted, UserEmailChanged};

pub(crate) use directory::Directory;

use crate::config::Config;

/// What the handlers share.
pub(crate) struct App {
    /// The table of users.
    pub(crate) directory: Directory,
    /// Called at the beginning of every attempt; its failure becomes the handler's.
    pub(crate) observer: Option<Observer>,
}

/// Sees every attempt of a handler.
pub(crate) type Observer = Box<dyn Fn(&Context<App>) -> Result<(), Failure> + Send + Sync>;

impl App {
    fn observe(&self, cx: &Context<Self>) -> Result<(), Failure> {
        match &self.observer {
            Some(observer) => observer(cx),
            None => Ok(()),
        }
    }
}

/// The stream of this repository's own events, where none is configured.
pub(crate) fn events_stream(config: &Config) -> Vec<StreamSpec> {
    if !config.streams.is_empty() {
        return Vec::new();
    }
    let subjects = ["user.>", "payment.>"]
        .into_iter()
        .filter_map(|text| text.parse().ok());
    StreamSpec::new("EVENTS", subjects).into_iter().collect()
}

/// Greets new users. Mails need no order; one that cannot be sent holds up no other.
pub(crate) fn welcome_email() -> EventSubscriber<App> {
    EventSubscriber::durable("welcome-email")
        .on(send_welcome)
        .retry(Retry::exponential(Duration::from_secs(1), Duration::from_secs(300)).attempts(8))
}

/// Keeps the table of users. A user's events are handled in order, and none is ever given up: the
/// table would be wrong for good.
pub(crate) fn user_directory() -> EventSubscriber<App> {
    EventSubscriber::durable("user-directory")
        .on(add_user)
        .on(change_email)
        .on(remove_user)
        .retry(
            Retry::exponential(Duration::from_millis(200), Duration::from_secs(30))
                .attempts(u32::MAX),
        )
        .ordered_by_key()
}

/// This repository has no mailer, so the log is where the mail goes.
async fn send_welcome(event: UserCreated, cx: Context<App>) -> Result<(), Failure> {
    cx.state().observe(&cx)?;
    tracing::info!(user = %event.id, to = event.email, event.id = %cx.event_id(), "welcome mail");
    Ok(())
}

async fn add_user(event: UserCreated, cx: Context<App>) -> Result<(), Failure> {
    cx.state().observe(&cx)?;
    let directory = &cx.state().directory;
    Ok(directory
        .put(event.id, Some(&event.email), event.created_at)
        .await?)
}

async fn change_email(event: UserEmailChanged, cx: Context<App>) -> Result<(), Failure> {
    cx.state().observe(&cx)?;
    let directory = &cx.state().directory;
    Ok(directory
        .put(event.id, Some(&event.new_email), event.changed_at)
        .await?)
}

async fn remove_user(event: UserDeleted, cx: Context<App>) -> Result<(), Failure> {
    cx.state().observe(&cx)?;
    let directory = &cx.state().directory;
    Ok(directory.put(event.id, None, event.deleted_at).await?)
}
