//! The example worker, from empty servers to its end.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests are test code

use std::process::{ExitStatus, Stdio};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgPool, Row};
use tidings::{Bus, Event, EventPublisher};
use tidings_events::{UserCreated, UserDeleted, UserEmailChanged};
use tidings_test_servers::{NatsServer, PostgresServer};
use tidings_test_support::{Folder, eventually, within};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpStream, UnixDatagram},
    process::Command,
};
use uuid::Uuid;

const EMAIL: &str = "ada@example.org";

struct World {
    nats: NatsServer,
    postgres: PostgresServer,
    pool: PgPool,
}

impl World {
    async fn start() -> Self {
        let nats = NatsServer::start().await.unwrap();
        let options = PostgresServer::options().fsync(false);
        let postgres = options.start().await.unwrap();
        let pool = PgPool::connect(&postgres.url()).await.unwrap();
        Self {
            nats,
            postgres,
            pool,
        }
    }

    fn worker(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
        command
            .env_clear()
            .env("TIDINGS_NATS_URL", self.nats.url())
            .env("TIDINGS_DATABASE_URL", self.postgres.url())
            .args(words)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs a command until it ends; returns its exit status and stderr.
    async fn ended(&self, words: &[&str]) -> (ExitStatus, String) {
        let output = within("its end", self.worker(words).output())
            .await
            .unwrap();
        (output.status, String::from_utf8(output.stderr).unwrap())
    }

    /// The address of the only user, and whether the user was deleted.
    async fn directory(&self) -> Option<(Option<String>, bool)> {
        let look = "select email, deleted_at is not null from user_directory";
        let row = sqlx::query(look).fetch_optional(&self.pool).await.unwrap();
        row.map(|row| (row.get(0), row.get(1)))
    }

    async fn publish(&self, event: &impl Event) {
        let bus = Bus::connect(self.nats.url().as_str()).await.unwrap();
        EventPublisher::new(&bus).publish(event).await.unwrap();
    }

    async fn known_as(&self, email: Option<&str>) {
        eventually(&format!("the directory has {email:?}"), || async {
            self.directory().await == Some((email.map(str::to_owned), email.is_none()))
        })
        .await;
    }
}

fn at(minute: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::minutes(minute)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_sets_up_updates_its_directory_and_ends_cleanly() {
    let world = World::start().await;
    for _again in 0..2 {
        let (status, said) = world.ended(&["setup"]).await;
        assert!(status.success(), "{said}");
    }
    let mut worker = world.worker(&["run"]).spawn().unwrap();
    let id = Uuid::now_v7();
    let created = UserCreated {
        id,
        email: EMAIL.into(),
        created_at: at(0),
    };
    world.publish(&created).await;
    world.known_as(Some(EMAIL)).await;
    let new_email = "ada@example.com";
    world
        .publish(&UserEmailChanged {
            id,
            old_email: EMAIL.into(),
            new_email: new_email.into(),
            changed_at: at(1),
        })
        .await;
    world.known_as(Some(new_email)).await;
    let deleted_at = at(2);
    world.publish(&UserDeleted { id, deleted_at }).await;
    world.known_as(None).await;
    // The creation again, as a new event: it is older than the row in the directory.
    world.publish(&created).await;
    let bus = Bus::connect(world.nats.url().as_str()).await.unwrap();
    eventually("everything is handled", || async {
        let found = tidings::subscribers::Subscribers::new(&bus)
            .find("user-directory")
            .await;
        found.is_ok_and(|it| {
            let mut consumers = it.consumers.iter();
            consumers.all(|consumer| consumer.pending == 0 && consumer.ack_pending == 0)
        })
    })
    .await;
    assert_eq!(world.directory().await, Some((None, true)));

    let pid = worker.id().unwrap().to_string();
    let told = Command::new("kill").args(["-TERM", &pid]).status().await;
    assert!(told.unwrap().success());
    let ended = within("its end", worker.wait()).await.unwrap();
    assert!(ended.success(), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_learns_when_a_worker_is_ready() {
    let world = World::start().await;
    let (status, said) = world.ended(&["setup"]).await;
    assert!(status.success(), "{said}");
    let folder = Folder::new();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut command = world.worker(&["run", "welcome-email"]);
    let mut worker = command.env("NOTIFY_SOCKET", path).spawn().unwrap();
    let ready = async {
        loop {
            let mut message = [0; 4096];
            let length = socket.recv(&mut message).await.unwrap();
            let message = String::from_utf8_lossy(&message[..length]).into_owned();
            if message.starts_with("READY=1\n") {
                return message;
            }
        }
    };
    let ready = within("it is ready", ready).await;
    assert!(
        ready.contains("STATUS=subscriber welcome-email: idle"),
        "{ready}"
    );
    worker.kill().await.unwrap();
}

/// What `/metrics` at this address answers.
async fn scraped(address: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_can_scrape_a_worker() {
    let world = World::start().await;
    let (status, said) = world.ended(&["setup"]).await;
    assert!(status.success(), "{said}");
    let mut command = world.worker(&["run"]);
    command.env("TIDINGS_OPS_LISTEN", "127.0.0.1:0");
    let mut worker = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(worker.stderr.take().unwrap()).lines();
    let listening = async {
        loop {
            let line = log.next_line().await.unwrap().expect("it runs");
            if line.contains("health endpoints listening") {
                return line;
            }
        }
    };
    let line = within("it listens", listening).await;
    let (_, port) = line.split_once("127.0.0.1:").expect(&line);
    let port: String = port.chars().take_while(char::is_ascii_digit).collect();
    let address = format!("127.0.0.1:{port}");
    eventually("all that runs is scraped", || async {
        let answer = scraped(&address).await;
        [
            "HTTP/1.1 200 OK",
            "tidings_outbox_backlog_events{outbox=\"tidings\"}",
            "tidings_relay_state{outbox=\"tidings\"",
            "tidings_subscriber_state{subscriber=\"welcome-email\"",
            "tidings_subscriber_state{subscriber=\"user-directory\"",
        ]
        .iter()
        .all(|part| answer.contains(part))
    })
    .await;
    worker.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_table_the_worker_names_the_cure() {
    let world = World::start().await;
    let (status, said) = world.ended(&["run", "user-directory"]).await;
    assert!(!status.success());
    assert!(said.contains("run `worker setup` first"), "{said}");
    let (status, said) = world.ended(&["run", "nobody"]).await;
    assert!(!status.success());
    assert!(said.contains("usage: worker setup"), "{said}");
}
