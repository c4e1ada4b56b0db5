//! When a user of `deploy/nats/permissions.conf` tries to use another user's subjects, the server denies it.

use std::{collections::BTreeSet, time::Duration};

use async_nats::{Client, ConnectOptions, Event};
use serde_json::{Value, json};
use tidings_test_servers::NatsServer;
use tokio::sync::mpsc;

use super::documented::{DOCUMENT, Guarded, USERS, allowed};
use crate::support::{eventually, within};

/// The document, with one more user who may do everything and inspects the results.
pub fn with_root() -> String {
    DOCUMENT.replacen("users: [", "users: [ { user: root, password: secret }", 1)
}

/// The connection of a user, and the errors that the server reports to it.
pub struct Intruder {
    pub client: Client,
    reports: mpsc::UnboundedReceiver<String>,
}

/// The attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Publish,
    Subscribe,
}
use Act::{Publish, Subscribe};

impl Intruder {
    pub async fn connect(server: &NatsServer, user: &'static str) -> Self {
        let (heard, reports) = mpsc::unbounded_channel();
        let options = ConnectOptions::with_user_and_password(user.into(), "secret".into())
            .custom_inbox_prefix(format!("_INBOX_{user}"))
            .event_callback(move |event| {
                if let Event::ServerError(error) = event {
                    let _ = heard.send(error.to_string());
                }
                async {}
            });
        let client = options.connect(server.url()).await.expect("a connection");
        Self { client, reports }
    }

    /// Whether the server denies an attempt.
    async fn is_denied(&mut self, act: Act, subject: &str) -> bool {
        let subject = subject.to_owned();
        match act {
            Publish => self
                .client
                .publish(subject.clone(), "{}".into())
                .await
                .unwrap(),
            // When it is allowed, it is dropped at once.
            Subscribe => drop(self.client.subscribe(subject.clone()).await.unwrap()),
        }
        // The answer to this flush arrives after a denial.
        self.client.flush().await.unwrap();
        // real time: an act that is allowed has no answer
        let until = tokio::time::sleep(Duration::from_millis(500));
        tokio::pin!(until);
        loop {
            tokio::select! {
                report = self.reports.recv() => {
                    let report = report.expect("a connection").to_lowercase();
                    assert!(report.contains("permissions violation"), "{report}");
                    if report.contains(&format!("\"{}\"", subject.to_lowercase())) {
                        return true;
                    }
                }
                () = &mut until => return false,
            }
        }
    }

    /// The error code of an answer; 0 when the request succeeded.
    pub async fn refusal(&self, subject: &str, body: &Value) -> u64 {
        let asking = self
            .client
            .request(subject.to_owned(), body.to_string().into());
        let answer = within(subject, asking).await.expect("an answer");
        let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
        answer["error"]["err_code"].as_u64().unwrap_or(0)
    }
}

/// All attempts to use another user's subjects: the user, the act, and the subject.
fn forbidden() -> BTreeSet<(&'static str, Act, String)> {
    let mut acts = BTreeSet::new();
    let mut add = |who: &'static str, act: Act, subjects: &[String]| {
        acts.extend(subjects.iter().map(|subject| (who, act, subject.clone())));
    };
    let texts = |subjects: &[&str]| -> Vec<String> {
        subjects
            .iter()
            .map(|subject| (*subject).to_owned())
            .collect()
    };
    let streams = ["EVENTS", "RETRIES", "DEAD_LETTERS", "KV_TIDINGS"];
    let workers = ["welcome-email", "user-directory"];
    for user in USERS {
        for other in USERS.into_iter().filter(|other| *other != user) {
            add(user, Subscribe, &[format!("_INBOX_{other}.>")]);
            add(user, Publish, &[format!("_INBOX_{other}.guessed")]);
        }
        // Wildcards, and the subjects of events.
        add(
            user,
            Subscribe,
            &texts(&[
                ">",
                "*.>",
                "_INBOX.>",
                "user.>",
                "user.created",
                "payment.>",
                "dead-letter.>",
                "tidings.>",
                "tidings.retry.>",
                "tidings.retry-at.>",
                "$KV.TIDINGS.>",
                "$KV.>",
                "$JS.>",
                "$JS.ACK.>",
                "$JS.API.>",
                "$JS.EVENT.>",
                "$SYS.>",
            ]),
        );
        for stream in streams {
            let on_stream = [
                "DELETE",
                "PURGE",
                "SNAPSHOT",
                "RESTORE",
                "LEADER.STEPDOWN",
                "PEER.REMOVE",
            ];
            add(
                user,
                Publish,
                &on_stream.map(|verb| format!("$JS.API.STREAM.{verb}.{stream}")),
            );
        }
        add(
            user,
            Publish,
            &texts(&[
                "$JS.API.STREAM.MSG.DELETE.EVENTS",
                "$JS.API.STREAM.MSG.DELETE.KV_TIDINGS",
                "$JS.API.SERVER.REMOVE",
                "$JS.API.ACCOUNT.PURGE.$G",
                "$SYS.REQ.SERVER.PING",
                "$SYS.REQ.ACCOUNT.$G.CONNZ",
            ]),
        );
    }
    for user in USERS.into_iter().filter(|user| *user != "operator") {
        for stream in streams {
            let on_stream = ["CREATE", "UPDATE", "MSG.DELETE"];
            add(
                user,
                Publish,
                &on_stream.map(|verb| format!("$JS.API.STREAM.{verb}.{stream}")),
            );
            // A consumer whose name is chosen by the server or by the body.
            add(
                user,
                Publish,
                &[
                    format!("$JS.API.CONSUMER.CREATE.{stream}"),
                    format!("$JS.API.CONSUMER.CREATE.{stream}.spy"),
                    format!("$JS.API.CONSUMER.CREATE.{stream}.spy.>"),
                    format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.spy"),
                    format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.spy"),
                    format!("$JS.API.CONSUMER.LIST.{stream}"),
                    format!("$JS.API.CONSUMER.NAMES.{stream}"),
                    format!("$JS.API.DIRECT.GET.{stream}"),
                ],
            );
        }
        for victim in workers.into_iter().filter(|victim| *victim != user) {
            for consumer in [victim.to_owned(), format!("replay-{victim}")] {
                for stream in ["EVENTS", "RETRIES"] {
                    let on_consumer = [
                        "CREATE",
                        "DURABLE.CREATE",
                        "INFO",
                        "MSG.NEXT",
                        "DELETE",
                        "RESET",
                        "PAUSE",
                        "UNPIN",
                    ];
                    let on_consumer = on_consumer
                        .map(|verb| format!("$JS.API.CONSUMER.{verb}.{stream}.{consumer}"));
                    add(user, Publish, &on_consumer);
                    add(
                        user,
                        Publish,
                        &[
                            format!("$JS.API.CONSUMER.CREATE.{stream}.{consumer}.user.created"),
                            format!("$JS.ACK.{stream}.{consumer}.1.1.1.1700000000000000000.0"),
                            format!(
                                "$JS.ACK._.hash.{stream}.{consumer}.1.1.1.1700000000000000000.0"
                            ),
                            // The server may read it as either form of an ack.
                            format!("$JS.ACK.{stream}.{consumer}.{stream}.{user}.1.1.1"),
                        ],
                    );
                }
            }
            add(
                user,
                Publish,
                &[
                    format!("dead-letter.{victim}.user.created"),
                    format!("tidings.retry.{victim}.user.created"),
                    format!("tidings.retry-at.{victim}.1"),
                    format!("tidings.status.{victim}"),
                    format!("$KV.TIDINGS.lease.{victim}"),
                    format!("$KV.TIDINGS.lease.{victim}.1"),
                    format!("$KV.TIDINGS.parked.{victim}.1"),
                    format!("$KV.TIDINGS.replay.{victim}.1"),
                    format!("$KV.TIDINGS.replay-progress.{victim}.1"),
                    format!("$KV.TIDINGS.crash-marker.{victim}.1"),
                    format!("$JS.API.DIRECT.GET.KV_TIDINGS.$KV.TIDINGS.lease.{victim}"),
                    format!("$JS.API.DIRECT.GET.KV_TIDINGS.$KV.TIDINGS.parked.{victim}.1"),
                ],
            );
            add(
                user,
                Subscribe,
                &[
                    format!("tidings.status.{victim}"),
                    format!("$KV.TIDINGS.replay.{victim}.*"),
                ],
            );
        }
        add(
            user,
            Publish,
            &texts(&[
                "tidings.status",
                "tidings.status.relay.tidings",
                "$JS.API.STREAM.LIST",
            ]),
        );
    }
    // Subjects of the relay.
    for user in ["producer", "welcome-email", "user-directory", "operator"] {
        add(user, Publish, &texts(&["tidings.wake.tidings.released"]));
        add(
            user,
            Subscribe,
            &texts(&["tidings.wake.tidings", "tidings.status.relay.tidings"]),
        );
    }
    for user in workers {
        add(
            user,
            Publish,
            &texts(&["user.created", "payment.settled", "tidings.wake.tidings"]),
        );
        add(
            user,
            Publish,
            &[format!("tidings.retry.{user}.user.created")],
        );
    }
    for stream in streams {
        add(
            "producer",
            Publish,
            &[
                format!("$JS.API.STREAM.INFO.{stream}"),
                format!("$JS.API.STREAM.MSG.GET.{stream}"),
                format!("$JS.API.DIRECT.GET.{stream}.user.created"),
            ],
        );
        if stream != "EVENTS" {
            add(
                "relay",
                Publish,
                &[format!("$JS.API.STREAM.MSG.GET.{stream}")],
            );
        }
    }
    // A consumer name other than its own.
    add(
        "welcome-email",
        Publish,
        &texts(&[
            "$JS.API.CONSUMER.CREATE.EVENTS.welcome-email",
            "$JS.API.CONSUMER.CREATE.EVENTS.welcome-email.payment.settled",
            "$JS.API.CONSUMER.CREATE.RETRIES.welcome-email",
            "$JS.API.CONSUMER.CREATE.RETRIES.welcome-email.tidings.retry.>",
            "$JS.API.CONSUMER.RESET.EVENTS.welcome-email",
            "$JS.API.CONSUMER.DELETE.EVENTS.welcome-email",
        ]),
    );
    acts
}

pub async fn consumers(root: &Intruder) -> Vec<Value> {
    let mut found = Vec::new();
    for stream in ["EVENTS", "RETRIES"] {
        let list = format!("$JS.API.CONSUMER.LIST.{stream}");
        let answer = root.client.request(list, "".into()).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        found.extend(answer["consumers"].as_array().cloned().unwrap_or_default());
    }
    found.iter_mut().for_each(|one| {
        *one = json!([one["name"], one["created"], one["config"], one["ack_floor"]])
    });
    found.sort_by_key(Value::to_string);
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subjects_of_another_user_are_denied() {
    let guarded = Guarded::start_under(&with_root()).await;
    guarded.ok("streams apply").await;
    let workers = guarded.workers().await;
    let root = Intruder::connect(&guarded.server, "root").await;
    eventually(
        "all consumers are there, with what workers add to them",
        || async {
            let all = consumers(&root).await;
            let notes = all
                .iter()
                .filter(|one| !one[2]["metadata"]["tidings.streams"].is_null());
            (all.len(), notes.count()) == (4, 2)
        },
    )
    .await;
    let before = consumers(&root).await;
    let (acts, lists) = (forbidden(), allowed());
    assert!(acts.len() >= 70, "{} acts", acts.len());
    for user in USERS {
        let mut intruder = Intruder::connect(&guarded.server, user).await;
        for (_, act, subject) in acts.iter().filter(|(who, ..)| *who == user) {
            let is_denied = intruder.is_denied(*act, subject).await;
            assert!(is_denied, "{user} may {act:?} {subject}");
        }
        // An allowed act is not reported; without this check, every act might look denied.
        let own = lists[&(user.to_owned(), "subscribe")]
            .iter()
            .next()
            .unwrap();
        assert!(!intruder.is_denied(Subscribe, own).await, "{user} {own}");
    }
    assert_eq!(consumers(&root).await, before);
    for worker in workers {
        worker.stop().await;
    }
}
