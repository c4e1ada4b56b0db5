//! The quickstart of README.md as a reader runs it: the program, the request, and what both of them print.

use std::{fs, path::PathBuf, process::Stdio};

use sqlx::PgPool;
use tidings_test_servers::{NatsServer, PostgresServer};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::Command,
};

use crate::support::{program, within};

const README: &str = include_str!("../../README.md");
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/quickstart.rs");
/// Where README says that the service listens; here it takes a free port.
const ADDRESS: &str = "127.0.0.1:3000";

/// A command of README that begins so, and the lines that it prints.
fn command(start: &str) -> (&'static str, Vec<&'static str>) {
    let mut lines = README.lines().skip_while(|line| !line.starts_with(start));
    let command = lines.next().expect("README has the command");
    let is_output = |line: &&str| !line.starts_with("$ ") && !line.starts_with("```");
    (command, lines.take_while(is_output).collect())
}

/// The built example. A run of all tests builds it; a run of this one alone does not.
fn built() -> PathBuf {
    let built = program("examples/quickstart");
    let changed = |path: PathBuf| fs::metadata(path).unwrap().modified().unwrap();
    assert!(
        changed(built.clone()) >= changed(EXAMPLE.into()),
        "{} is older than its source: cargo build --workspace --all-targets",
        built.display()
    );
    built
}

/// Sends what a `curl` of README sends; returns the status line and the body of the response.
async fn send(curl: &str, address: &str) -> (String, String) {
    let words: Vec<&str> = curl.split('\'').collect();
    let [_, header, _, body, url] = words[..] else {
        panic!("not as it was: {curl}")
    };
    let (_, path) = url.split_once(ADDRESS).unwrap();
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\n{header}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    let mut link = TcpStream::connect(address).await.unwrap();
    link.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    link.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quickstart_prints_what_the_readme_says_and_stops() {
    let (run, printed) = command("$ cargo run");
    assert_eq!(run, "$ cargo run --example quickstart --features postgres");
    let (curl, responded) = command("$ curl");
    let nats = NatsServer::start().await.unwrap();
    let options = PostgresServer::options().fsync(false);
    let postgres = options.start().await.unwrap();
    let mut service = Command::new(built())
        .env_clear()
        .env("NATS_URL", nats.url())
        .env("DATABASE_URL", postgres.url())
        .env("LISTEN", "127.0.0.1:0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(service.stdout.take().unwrap()).lines();

    let listening = within("it listens", lines.next_line()).await.unwrap();
    let listening = listening.expect("it runs");
    let address = listening.strip_prefix("listening on http://").unwrap();
    let (status, body) = within("a response", send(curl, address)).await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert_eq!([&*body], responded[..]);
    let welcome = within("the event is handled", lines.next_line()).await;
    let welcome = welcome.unwrap().expect("it still runs");
    assert_eq!(
        [&listening.replace(address, ADDRESS), &welcome],
        printed[..]
    );
    let pool = PgPool::connect(&postgres.url()).await.unwrap();
    let users: Vec<String> = sqlx::query_scalar("select email from users")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert_eq!(users, ["ada@example.org"]);

    let pid = service.id().unwrap().to_string();
    let interrupt = Command::new("kill").args(["-INT", &pid]).status().await;
    assert!(interrupt.unwrap().success());
    let ended = within("its end", service.wait()).await.unwrap();
    assert!(ended.success(), "{ended}");
}
