//! When a right is missing in `deploy/nats/permissions.conf`, the service reports it at its start with the line to
//! add, even if nothing has needed it yet; and it logs only a few lines about it.

use super::documented::{DOCUMENT, Guarded};
use crate::support::{eventually, log};

/// The document in which one subject of a user is replaced by an unused one.
fn without(user: &str, does: &str, subject: &str) -> String {
    let (before, rest) = DOCUMENT.split_once(&format!("user: {user}, ")).unwrap();
    let (its, after) = match rest.split_once("\n      user: ") {
        Some((its, after)) => (its, format!("\n      user: {after}")),
        None => (rest, String::new()),
    };
    let (publishes, subscribes) = its.split_once("subscribe {").unwrap();
    let take = |list: &str| {
        let taken = list.replacen(&format!("\"{subject}\""), "\"nothing.uses.it\"", 1);
        assert_ne!(taken, list, "{user} {does} {subject}");
        taken
    };
    let changed = match does {
        "publish to" => format!("{}subscribe {{{subscribes}", take(publishes)),
        _ => format!("{publishes}subscribe {{{}", take(subscribes)),
    };
    format!("{before}user: {user}, {changed}{after}")
}

/// Rights that are unused until an event fails, a process dies, or an operator asks for something.
const RIGHTS: [(&str, &str, &str); 23] = [
    ("relay", "subscribe to", "tidings.wake.tidings.released"),
    ("relay", "subscribe to", "tidings.status.relay.tidings"),
    ("relay", "publish to", "tidings.wake.tidings.released"),
    ("welcome-email", "subscribe to", "tidings.status"),
    (
        "welcome-email",
        "subscribe to",
        "tidings.status.welcome-email",
    ),
    (
        "welcome-email",
        "publish to",
        "$JS.API.CONSUMER.MSG.NEXT.EVENTS.welcome-email",
    ),
    (
        "welcome-email",
        "publish to",
        "$JS.API.CONSUMER.MSG.NEXT.RETRIES.welcome-email",
    ),
    (
        "welcome-email",
        "publish to",
        "$JS.ACK.EVENTS.welcome-email.>",
    ),
    (
        "welcome-email",
        "publish to",
        "$JS.ACK.RETRIES.welcome-email.>",
    ),
    (
        "welcome-email",
        "publish to",
        "tidings.retry-at.welcome-email.*",
    ),
    ("welcome-email", "publish to", "dead-letter.welcome-email.>"),
    (
        "welcome-email",
        "publish to",
        "$JS.API.STREAM.MSG.GET.KV_TIDINGS",
    ),
    (
        "welcome-email",
        "publish to",
        "$KV.TIDINGS.*.welcome-email.*",
    ),
    (
        "user-directory",
        "publish to",
        "$JS.API.CONSUMER.RESET.EVENTS.user-directory",
    ),
    (
        "user-directory",
        "publish to",
        "$JS.API.CONSUMER.RESET.RETRIES.user-directory",
    ),
    (
        "user-directory",
        "publish to",
        "$JS.API.CONSUMER.MSG.NEXT.RETRIES.user-directory",
    ),
    (
        "user-directory",
        "publish to",
        "$JS.ACK.EVENTS.user-directory.>",
    ),
    (
        "user-directory",
        "publish to",
        "$JS.ACK.RETRIES.user-directory.>",
    ),
    (
        "user-directory",
        "publish to",
        "dead-letter.user-directory.>",
    ),
    (
        "user-directory",
        "publish to",
        "$JS.API.STREAM.MSG.GET.DEAD_LETTERS",
    ),
    (
        "user-directory",
        "publish to",
        "$KV.TIDINGS.lease.user-directory",
    ),
    (
        "user-directory",
        "publish to",
        "$JS.API.DIRECT.GET.KV_TIDINGS.$KV.TIDINGS.lease.user-directory",
    ),
    (
        "user-directory",
        "publish to",
        "$KV.TIDINGS.*.user-directory.*",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_permission_is_named_at_the_start() {
    log::listen();
    for (user, does, subject) in RIGHTS {
        let guarded = Guarded::start_under(&without(user, does, subject)).await;
        guarded.ok("streams apply").await;
        // The check asks for the first kind of entry.
        let named = subject.replace("KV.TIDINGS.*.", "KV.TIDINGS.crash-marker.");
        let cure = format!("allow it to {does} {named}");
        let before = log::said(&cure).len();
        let said = || log::said(&cure).split_off(before);
        let service = guarded.begin(user).await;
        eventually(&cure, || async { !said().is_empty() }).await;
        service.abort();
        assert!(said().len() < 5, "{:#?}", said());
    }
}
