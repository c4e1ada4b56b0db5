//! The users of `deploy/nats/permissions.conf` have all the rights that they need, and no others.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tidings::{
    Bus, Context, Event, EventPublisher, EventSubscriber, Failure, InboxTransaction, NatsOptions,
    Outbox, Relay, Retry, Worker, handler::OnExhausted, worker::WorkerError,
};
use tidings_test_servers::NatsServer;
use tokio::{
    process::Command,
    task::{AbortHandle, JoinHandle},
};
use tokio_util::sync::CancellationToken;

use crate::support::{Folder, Noted, User, eventually, publish_raw, within};

type Sqlite = sqlx::Sqlite;

pub const DOCUMENT: &str = include_str!("../../../../../deploy/nats/permissions.conf");
const PROGRAM: &str = r#"
[[stream]]
name = "EVENTS"
subjects = ["user.>", "payment.>"]
"#;

/// The n-th settlement of a payment.
#[derive(Debug, Serialize, Deserialize, Event)]
#[event(name = "payment.settled", version = 1, key = id)]
struct Settled {
    id: String,
    count: i64,
}

/// A payment was refunded: a second event name for the ordered subscriber.
#[derive(Debug, Serialize, Deserialize, Event)]
#[event(name = "payment.refunded", version = 1, key = id)]
struct Refunded {
    id: String,
}

/// A server with the users of the document, and the processes of these users.
pub struct Guarded {
    pub server: NatsServer,
    folder: Folder,
    outbox: Outbox<Sqlite>,
    pub producer: Bus,
    /// The outbox of a process other than the relay.
    elsewhere: Outbox<Sqlite>,
    shop: Shop,
}

#[derive(Clone, Default)]
pub struct Shop {
    noted: Noted,
    is_repaired: Arc<AtomicBool>,
}

pub struct Service<E> {
    stop: CancellationToken,
    task: JoinHandle<Result<(), E>>,
}

/// The users of the document.
pub const USERS: [&str; 5] = [
    "producer",
    "relay",
    "welcome-email",
    "user-directory",
    "operator",
];

async fn welcome(user: User, cx: Context<Shop>) -> Result<(), Failure> {
    match (&*user.id, cx.attempt()) {
        ("again", 1) => return Err(Failure::retry("not yet")),
        ("later", _) => {
            let hour = Duration::from_secs(3600);
            return Err(Failure::retry_after(hour, "in an hour"));
        }
        ("bad", _) if !cx.state().is_repaired.load(Ordering::SeqCst) => {
            return Err(Failure::reject("no such mailbox"));
        }
        _ => {}
    }
    cx.state().noted.note(format!("welcome {}", user.id));
    Ok(())
}

async fn settle(
    event: Settled,
    mut tx: InboxTransaction<Sqlite>,
    cx: Context<Shop>,
) -> Result<(), Failure> {
    let Settled { id, count } = event;
    if id == "slow" {
        return Err(Failure::retry("not yet"));
    }
    if count == 2 && !cx.state().is_repaired.load(Ordering::SeqCst) {
        return Err(Failure::reject("no such account"));
    }
    tx.publish(&User::new(&format!("{id}-{count}")))?;
    cx.state().noted.note(format!("settle {id} {count}"));
    Ok(())
}

async fn refund(
    event: Refunded,
    _: InboxTransaction<Sqlite>,
    cx: Context<Shop>,
) -> Result<(), Failure> {
    cx.state().noted.note(format!("refund {}", event.id));
    Ok(())
}

async fn bus(server: &NatsServer, user: &str) -> Bus {
    let with_user = format!("nats://{user}:secret@");
    let url = server.url().replace("nats://", &with_user);
    let options = NatsOptions::from(url).inbox_prefix(format!("_INBOX_{user}"));
    Bus::connect(options).await.expect("a connection")
}

/// The definitions of passwords that a server needs before the document.
pub fn passwords() -> String {
    let name = |user: &&str| user.to_uppercase().replace('-', "_");
    let passwords = USERS
        .iter()
        .map(|user| format!("{}_PASSWORD: secret\n", name(user)));
    passwords.collect()
}

impl Guarded {
    pub async fn start() -> Self {
        Self::start_under(DOCUMENT).await
    }

    pub async fn start_under(document: &str) -> Self {
        let folder = Folder::new();
        let log = folder.path().join("nats.log");
        let config = format!(
            "{}\n{document}\ntrace: true\nlog_file: {:?}\n",
            passwords(),
            log.display().to_string()
        );
        let server = NatsServer::options().config(config).start().await;
        let server = server.expect("nats-server starts");
        fs::write(folder.path().join("tidings.toml"), PROGRAM).expect("a file");
        let shop = folder.path().join("shop.db");
        let outbox = Outbox::open(&shop).await.unwrap();
        outbox.migrate().await.unwrap();
        let producer = bus(&server, "producer").await;
        Self {
            elsewhere: Outbox::open(&shop).await.unwrap().notify_via(&producer),
            shop: Shop::default(),
            server,
            folder,
            outbox,
            producer,
        }
    }

    pub async fn relay(&self) -> Service<tidings::outbox::RelayError> {
        let stop = CancellationToken::new();
        let relay = Relay::new(self.outbox.clone()).lease(Duration::from_secs(1));
        let task = tokio::spawn(relay.run(bus(&self.server, "relay").await, stop.clone()));
        Service { stop, task }
    }

    /// The workers of both subscribers, each with its own user.
    pub async fn workers(&self) -> [Service<WorkerError>; 2] {
        [
            self.worker("welcome-email").await,
            self.worker("user-directory").await,
        ]
    }

    async fn worker(&self, user: &str) -> Service<WorkerError> {
        // Half of this timeout is longer than the process waits by itself.
        let second = Duration::from_secs(1);
        let subscriber = match user {
            "welcome-email" => EventSubscriber::durable("welcome-email")
                .on(welcome)
                .retry(Retry::exponential(second, second)),
            _ => EventSubscriber::durable("user-directory")
                .on_transactional(&self.outbox, settle)
                .on_transactional(&self.outbox, refund)
                .on_exhausted(OnExhausted::ParkKey)
                .ordered_by_key(),
        };
        let worker = Worker::new(bus(&self.server, user).await, self.shop.clone());
        let stop = CancellationToken::new();
        let worker = worker.subscribe(subscriber);
        let task = tokio::spawn(worker.run(stop.clone().cancelled_owned()));
        Service { stop, task }
    }

    /// Starts the process of a user; it runs until it is aborted.
    pub async fn begin(&self, user: &str) -> AbortHandle {
        match user {
            "relay" => self.relay().await.task.abort_handle(),
            _ => self.worker(user).await.task.abort_handle(),
        }
    }

    /// Runs the program as the operator.
    async fn tidings(&self, arguments: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
        command
            .args(arguments.split_whitespace())
            .env_clear()
            .current_dir(self.folder.path())
            .env("TIDINGS_NATS_URL", self.server.url())
            .env("TIDINGS_NATS_USER", "operator")
            .env("TIDINGS_NATS_PASSWORD", "secret")
            .env("TIDINGS_NATS_INBOX_PREFIX", "_INBOX_operator")
            .env("TIDINGS_DATABASE_URL", "sqlite:shop.db")
            .kill_on_drop(true);
        within(arguments, command.output()).await.expect("it runs")
    }

    /// The output of a command that must succeed.
    pub async fn ok(&self, arguments: &str) -> String {
        let output = self.tidings(arguments).await;
        assert!(output.status.success(), "{arguments}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    pub async fn settles(&self, counts: std::ops::RangeInclusive<i64>) {
        let mut tx = self.elsewhere.begin().await.unwrap();
        for count in counts {
            let id = "p-7".to_owned();
            tx.publish(&Settled { id, count }).unwrap();
        }
        tx.commit().await.unwrap();
    }

    pub fn notes(&self) -> Vec<String> {
        self.shop.noted.all()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("nats.log")).expect("the log")
    }

    /// Returns the first denial, when there is one.
    async fn denied(&self) -> String {
        loop {
            if let Some(denied) = denied(&self.log()) {
                return denied;
            }
            // real time: the server writes its log
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    pub async fn has(&self, note: &str) {
        eventually(note, || async {
            self.shop.noted.all().iter().any(|noted| noted == note)
        })
        .await;
    }
}

impl<E: std::fmt::Debug> Service<E> {
    pub async fn stop(self) {
        self.stop.cancel();
        let ended = within("a clean stop", self.task).await;
        ended.expect("no panic").expect("a clean end");
    }

    async fn die(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Subjects by user and verb: `publish` or `subscribe`.
pub type Subjects = BTreeMap<(String, &'static str), BTreeSet<String>>;

/// The rights in the document.
pub fn allowed() -> Subjects {
    let (mut allowed, mut user, mut what) = (Subjects::new(), "", "");
    for line in DOCUMENT.lines() {
        let line = line.split_once('#').map_or(line, |(line, _)| line);
        if let Some((_, named)) = line.split_once("user: ") {
            user = named.split(',').next().unwrap_or_default();
        }
        for verb in ["publish", "subscribe"] {
            if line.contains(&format!("{verb} {{")) {
                what = verb;
            }
        }
        let subjects = line.split('"').skip(1).step_by(2).map(str::to_owned);
        let of = allowed.entry((user.to_owned(), what)).or_default();
        of.extend(subjects);
    }
    allowed.retain(|_, subjects| !subjects.is_empty());
    allowed
}

/// The first denial in the log of the server.
fn denied(log: &str) -> Option<String> {
    let line = log.lines().find(|line| line.contains("Violation"));
    line.map(str::to_owned)
}

/// The subjects that the users have used, according to the log of the server.
fn asked(log: &str) -> Subjects {
    let mut asked = Subjects::new();
    for line in log.lines() {
        let user = line.split_once("/user:").map(|(_, rest)| rest);
        let command = line.split_once("<<- [").map(|(_, rest)| rest);
        let (Some(user), Some(command)) = (user, command) else {
            continue;
        };
        let user = user.split('"').next().unwrap_or_default();
        let mut words = command.split([' ', ']']);
        let what = match words.next() {
            Some("PUB" | "HPUB") => "publish",
            Some("SUB") => "subscribe",
            _ => continue,
        };
        let subjects = asked.entry((user.to_owned(), what)).or_default();
        subjects.extend(words.next().map(str::to_owned));
    }
    asked
}

/// Whether a subject that may have wildcards covers another one.
fn covers(wide: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for token in wide.split('.') {
        match (token, tokens.next()) {
            (">", Some(_)) => return true,
            (_, None) => return false,
            ("*", Some(_)) => {}
            (token, Some(is)) if token == is => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// Subjects that are used only after a fault: a server that has lost a part of its store (`lost_dead_letters.rs`), a
/// stream that has removed events before a replay reached them, a bad entry of the bucket, a relay that takes over from
/// one that is not dead yet (`isolation_by_rights.rs`).
fn is_of_a_fault(subject: &str) -> bool {
    const SUBJECTS: [&str; 2] = [
        "$JS.API.STREAM.INFO.DEAD_LETTERS",
        "$JS.API.STREAM.MSG.GET.RETRIES",
    ];
    let is_entry = subject.starts_with("$JS.API.DIRECT.GET.KV_TIDINGS.$KV.TIDINGS.*.");
    is_entry
        || SUBJECTS.contains(&subject)
        || subject.ends_with("-count")
        || subject.ends_with(".relay-tidings-2")
}

/// Everything that the users of the document do, except after a fault.
async fn all_of_it(guarded: &Guarded) {
    guarded.ok("streams apply").await;
    let relay = guarded.relay().await;
    let workers = guarded.workers().await;
    guarded.settles(1..=4).await;
    guarded.has("settle p-7 1").await;
    guarded.has("welcome p-7-1").await;
    // The next relay finds messages that it has not published itself, after an end of the stream that it knows.
    relay.stop().await;
    let producer = EventPublisher::new(&guarded.producer);
    for id in ["good", "again", "bad"] {
        producer.publish(&User::new(id)).await.unwrap();
    }
    guarded.has("welcome good").await;
    guarded.has("welcome again").await;
    eventually("four letters", || async {
        let listed = guarded.ok("dead-letters list --json").await;
        listed.lines().count() == 4
    })
    .await;
    for worker in workers {
        worker.die().await;
    }
    let relay = guarded.relay().await;
    let workers = guarded.workers().await;
    guarded.ok("dead-letters show 1").await;
    guarded.ok("dead-letters export").await;
    guarded.shop.is_repaired.store(true, Ordering::SeqCst);
    for subscriber in ["user-directory --key p-7", "welcome-email"] {
        let redrive = format!("dead-letters redrive --subscriber {subscriber}");
        guarded.ok(&redrive).await;
    }
    guarded.has("settle p-7 4").await;
    guarded.has("welcome p-7-4").await;
    guarded.has("welcome bad").await;
    fs::write(
        guarded.folder.path().join("tidings.toml"),
        PROGRAM.replace("EVENTS\"", "EVENTS\"\nduplicate_window = \"3m\""),
    )
    .expect("a file");
    for command in [
        "streams apply",
        "subscribers list",
        "subscribers show user-directory",
        "subscribers pause welcome-email",
        "subscribers resume welcome-email",
        "subscribers prune welcome-email",
        "replay start welcome-email --from beginning --watch --yes",
        "replay start user-directory --from beginning --dry-run",
        "replay start user-directory --from beginning --name payment.settled --watch --yes",
        "replay start user-directory --from beginning --watch --yes",
        "replay list",
        "outbox status",
        "verify --payloads",
        "trace --key p-7",
        "outbox republish --from 1h --force --yes",
        "publish user.created --direct --key 0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11 --data \
         {\"id\":\"0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11\",\"email\":\"a@b\",\"created_at\":\"2026-11-21T09:30:00Z\"}",
    ] {
        guarded.ok(command).await;
    }
    let seen = guarded.tidings("doctor preflight").await;
    let printed = String::from_utf8_lossy(&seen.stdout);
    assert!(!printed.contains("not seen"), "{seen:?}");
    // The worker is stopped while it has handled a later event before an earlier one; the reset must delete that
    // record.
    for id in ["slow", "p-8"].map(str::to_owned) {
        producer.publish(&Settled { id, count: 1 }).await.unwrap();
    }
    guarded.has("settle p-8 1").await;
    publish_raw(
        &guarded.server.url(),
        "{\"headers\":true,\"verbose\":false,\"user\":\"producer\",\"pass\":\"secret\"}",
        b"user.created",
        b"a header that no client can read",
        b"",
    )
    .await;
    eventually("its letter", || async {
        let listed = guarded.ok("dead-letters list --json").await;
        listed.lines().count() == 1
    })
    .await;
    producer.publish(&User::new("later")).await.unwrap();
    eventually("it waits", || async {
        let shown = guarded.ok("subscribers show welcome-email").await;
        shown.contains("0 due, 1 later")
    })
    .await;
    for worker in workers {
        worker.stop().await;
    }
    guarded
        .ok("subscribers reset user-directory --to beginning --yes")
        .await;
    for subscriber in ["welcome-email", "user-directory"] {
        let remove = format!("subscribers remove {subscriber}");
        eventually("its pulls are over", || async {
            let dry = guarded.tidings(&format!("{remove} --dry-run")).await;
            dry.status.success()
        })
        .await;
        guarded.ok(&format!("{remove} --yes")).await;
    }
    relay.stop().await;
    // The lease is not renewed any more: the command asks the relays for their status.
    let asked = guarded.tidings("outbox status").await;
    let printed = String::from_utf8_lossy(&asked.stdout);
    assert!(printed.contains("none is running"), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_permissions_are_sufficient_and_minimal() {
    let guarded = Guarded::start().await;
    tokio::select! {
        () = all_of_it(&guarded) => {}
        denied = guarded.denied() => panic!("{denied}"),
    }
    assert_eq!(denied(&guarded.log()), None);
    let (allowed, asked) = (allowed(), asked(&guarded.log()));
    assert_eq!(Vec::from_iter(allowed.keys()), Vec::from_iter(asked.keys()));
    let mut needless = Vec::new();
    for (who, subjects) in &allowed {
        let of_user = &asked[who];
        let is_used = |wide: &String| of_user.iter().any(|subject| covers(wide, subject));
        let is_needless =
            |wide: &&String| !is_used(wide) && (who.0 == "operator" || !is_of_a_fault(wide));
        let of_user = subjects.iter().filter(is_needless);
        needless.extend(of_user.map(|subject| (who, subject)));
    }
    assert!(needless.is_empty(), "{needless:#?}");
}
