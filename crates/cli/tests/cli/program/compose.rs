//! `docker-compose.yml` without Docker: its users, roles, commands and passwords, against real servers.

use std::{collections::BTreeMap, path::Path, process::Stdio};

use sqlx::{Connection, Executor, PgConnection, Row};
use tidings_test_servers::NatsServer;
use tokio::process::{Child, Command};

use crate::support::{Folder, ended, eventually, fresh_database, tidings, user};

const COMPOSE: &str = include_str!("../../../../../docker-compose.yml");
const NATS: &str = include_str!("../../../../../deploy/nats/nats.conf");
const PERMISSIONS: &str = include_str!("../../../../../deploy/nats/permissions.conf");
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const OWNER: &str = "admin";
const USER: &str = "0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11";

/// A service of the file, with the settings that the tests use.
#[derive(Debug, Default, Clone)]
struct Service {
    /// The entrypoint; the program `tidings` when there is none.
    entrypoint: Vec<String>,
    command: Vec<String>,
    environment: BTreeMap<String, String>,
    text: String,
}

/// The services of the file, with default values for settings that are missing.
fn services() -> BTreeMap<String, Service> {
    let (_, body) = COMPOSE.split_once("\nservices:\n").unwrap();
    let (body, _) = body.split_once("\nvolumes:\n").unwrap();
    let mut services: BTreeMap<String, Service> = BTreeMap::new();
    let (mut name, mut is_environment) = (String::new(), false);
    for line in body
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
    {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        match indent {
            2 => name = key.to_owned(),
            4 => is_environment = key == "environment",
            _ => {}
        }
        let service = services.entry(name.clone()).or_default();
        service.text += &format!("{line}\n");
        let value = with_defaults(value.trim());
        if indent == 4 && (key == "command" || key == "entrypoint") {
            let words = value.trim_matches(['[', ']']).split(", ");
            let words = words.map(str::to_owned).collect();
            match key {
                "entrypoint" => service.entrypoint = words,
                _ => service.command = words,
            }
        }
        if indent == 6 && is_environment {
            service.environment.insert(key.to_owned(), value);
        }
    }
    services
}

/// An address that was free a moment ago.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Replaces each `${NAME:-default}` with its default.
fn with_defaults(text: &str) -> String {
    let mut done = String::new();
    let mut rest = text;
    while let Some((before, from)) = rest.split_once("${") {
        let (variable, behind) = from.split_once('}').unwrap();
        let (_, default) = variable.split_once(":-").unwrap_or((variable, ""));
        done += before;
        done += default;
        rest = behind;
    }
    done + rest
}

/// The servers of the file, and its services as processes.
struct Composed {
    services: BTreeMap<String, Service>,
    nats: NatsServer,
    /// The address of the owner's database: host, port and name.
    database: String,
    /// Where the health endpoints listen.
    ops: String,
    folder: Folder,
}

impl Composed {
    async fn start() -> Self {
        let services = services();
        let passwords = services["nats"].environment.iter();
        let passwords: String = passwords
            .map(|(name, value)| format!("{name}: {value}\n"))
            .collect();
        let config = format!("{passwords}{PERMISSIONS}");
        let nats = NatsServer::options().config(config).start().await.unwrap();
        let url = fresh_database().await;
        let mut admin = PgConnection::connect(&url).await.unwrap();
        let (_, database) = url.split_once('@').unwrap();
        let (_, name) = database.split_once('/').unwrap();
        let owner = &services["postgres"].environment["POSTGRES_USER"];
        assert_eq!(owner, OWNER);
        let owns =
            format!("create role {owner} login superuser; alter database {name} owner to {owner}");
        admin
            .execute(sqlx::raw_sql(sqlx::AssertSqlSafe(owns)))
            .await
            .unwrap();
        Self {
            services,
            nats,
            database: database.to_owned(),
            ops: free_address(),
            folder: Folder::new(),
        }
    }

    /// A value of the file, translated to the servers of the test.
    fn here(&self, value: &str) -> String {
        let nats = self.nats.url().replace("nats://", "@");
        value
            .replace("@nats:4222", &nats)
            .replace("@postgres:5432/tidings", &format!("@{}", self.database))
            .replace("127.0.0.1:9464", &self.ops)
    }

    fn command(&self, service: &str) -> Command {
        let words = &self.services[service].command;
        let words: Vec<&str> = words.iter().map(|word| &**word).collect();
        match self.services[service].entrypoint.first() {
            None => self.program(service, &words),
            Some(program) => {
                let mut command = Command::new(tidings_test_support::program(program));
                command.env_clear().current_dir(self.folder.path());
                command.args(words);
                self.with_environment(service, command)
            }
        }
    }

    /// The program with the environment of a service.
    fn program(&self, service: &str, words: &[&str]) -> Command {
        self.with_environment(service, tidings(&self.folder, words))
    }

    fn with_environment(&self, service: &str, mut command: Command) -> Command {
        for (name, value) in &self.services[service].environment {
            command.env(name, self.here(value));
        }
        command
    }

    fn spawn(&self, service: &str) -> Child {
        let mut command = self.command(service);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::inherit()).kill_on_drop(true);
        command.spawn().expect("it starts")
    }

    /// Creates the roles with psql and the file that the service uses.
    async fn make_roles(&self) {
        let service = &self.services["roles"];
        assert!(
            service
                .text
                .contains("./deploy/postgres/roles.sql:/etc/tidings/roles.sql:ro")
        );
        let psql = Path::new(ROOT).join(".dev/postgres/bin/psql");
        let mut command = Command::new(if psql.exists() { psql } else { "psql".into() });
        for word in &service.entrypoint[1..] {
            command.arg(word.replace("/etc/tidings", &format!("{ROOT}/deploy/postgres")));
        }
        let (address, name) = self.database.split_once('/').unwrap();
        let (host, port) = address.split_once(':').unwrap();
        command.env_clear().envs(&service.environment);
        command.envs([("PGHOST", host), ("PGPORT", port), ("PGDATABASE", name)]);
        let made = ended(command).await;
        assert_eq!(made.code, Some(0), "{made:?}");
    }

    async fn as_role(&self, role: &str) -> PgConnection {
        let url = format!("postgres://{role}@{}", self.database);
        PgConnection::connect(&url).await.unwrap()
    }
}

#[tokio::test]
async fn each_service_has_its_own_user_and_role_with_enough_rights() {
    let composed = Composed::start().await;
    let setup = ended(composed.command("setup")).await;
    assert_eq!(setup.code, Some(0), "{setup:?}");
    composed.make_roles().await;
    // Repeated, as after a later migration.
    composed.make_roles().await;
    let _running = ["relay", "welcome-email", "user-directory"].map(|name| composed.spawn(name));
    let data = user(USER, "ada@example.org");
    let words = ["publish", "user.created", "--key", USER, "--data", &data];
    let mut publishing = composed.program("setup", &words);
    publishing.env(
        "TIDINGS_DATABASE_URL",
        composed.here("postgres://producer@postgres:5432/tidings"),
    );
    let published = ended(publishing).await;
    assert_eq!(published.code, Some(0), "{published:?}");
    eventually("the directory knows the user", || async {
        let mut owner = composed.as_role(OWNER).await;
        let known = owner
            .fetch_optional("select email from user_directory")
            .await
            .unwrap();
        known.is_some_and(|row| row.get::<String, _>(0) == "ada@example.org")
    })
    .await;
    let check = "test: [CMD, tidings, healthcheck]";
    let relay = &composed.services["relay"];
    assert!(relay.text.contains(check), "{}", relay.text);
    let health = ended(composed.program("relay", &["healthcheck"])).await;
    assert_eq!(health.code, Some(0), "{health:?}");
    let status = ended(composed.program("relay", &["outbox", "status"])).await;
    assert_eq!(status.code, Some(0), "{status:?}");

    let forbidden = [
        ("relay", "drop table tidings.outbox"),
        ("relay", "alter table tidings.relay add column x int"),
        ("relay", "create table tidings.mine ()"),
        ("relay", "create table public.mine ()"),
        ("relay", "create schema mine"),
        ("relay", "create role mine"),
        ("relay", "select * from user_directory"),
        ("relay", "delete from user_directory"),
        ("worker", "select * from tidings.outbox"),
        (
            "worker",
            "insert into tidings.outbox (event, name, payload) values (gen_random_uuid(), 'user.created', '{}')",
        ),
        ("worker", "update tidings.relay set owner = 'me'"),
        ("worker", "delete from user_directory"),
        ("worker", "drop table user_directory"),
        ("worker", "create table public.mine ()"),
        ("producer", "select * from tidings.outbox"),
        ("producer", "delete from tidings.outbox"),
        (
            "producer",
            "insert into tidings.outbox (id, event, name, payload) values (1, gen_random_uuid(), 'user.created', '{}')",
        ),
        ("producer", "update tidings.relay set owner = 'me'"),
        ("producer", "select * from user_directory"),
        ("producer", "copy tidings.outbox to program 'cat'"),
    ];
    for (role, statement) in forbidden {
        let mut connection = composed.as_role(role).await;
        let refused = connection.execute(statement).await;
        let refused = refused.expect_err(statement).to_string();
        let is_right = refused.contains("permission denied") || refused.contains("must be owner");
        assert!(is_right, "{role}: {statement}: {refused}");
    }
    let mut owner = composed.as_role(OWNER).await;
    let able =
        "select count(*) from pg_roles where rolname = any(array['relay', 'worker', 'producer'])
        and not (rolsuper or rolcreaterole or rolcreatedb or rolbypassrls or rolreplication)";
    let able: i64 = owner.fetch_one(able).await.unwrap().get(0);
    assert_eq!(able, 3);
}

#[test]
fn services_are_no_operators_and_nats_requires_a_password() {
    let services = services();
    assert!(NATS.contains("\ninclude permissions.conf\n"));
    let nats = &services["nats"];
    for file in ["nats.conf", "permissions.conf"] {
        let mount = format!("./deploy/nats/{file}:/etc/nats/{file}:ro");
        assert!(nats.text.contains(&mount), "{mount}");
    }
    let users: Vec<&str> = PERMISSIONS
        .split("user: ")
        .skip(1)
        .filter_map(|text| text.split(',').next())
        .collect();
    for user in &users {
        let password = format!(
            "user: {user}, password: ${}_PASSWORD",
            user.to_uppercase().replace('-', "_")
        );
        let (_, variable) = password.split_once('$').unwrap();
        assert!(PERMISSIONS.contains(&password), "{password}");
        assert!(nats.environment.contains_key(variable), "{variable}");
    }
    let owner = format!(
        "postgres://{}:",
        services["postgres"].environment["POSTGRES_USER"]
    );
    let mut seen = Vec::new();
    for (name, service) in &services {
        let Some(url) = service.environment.get("TIDINGS_NATS_URL") else {
            continue;
        };
        let user = url.trim_start_matches("nats://").split(':').next().unwrap();
        assert!(users.contains(&user), "{name}: {user}");
        let prefix = &service.environment["TIDINGS_NATS_INBOX_PREFIX"];
        assert_eq!(prefix, &format!("_INBOX_{user}"), "{name}");
        assert!(PERMISSIONS.contains(&format!("\"{prefix}.>\"")), "{prefix}");
        let is_privileged =
            user == "operator" || service.environment["TIDINGS_DATABASE_URL"].starts_with(&owner);
        assert_eq!(is_privileged, name == "setup", "{name}");
        seen.push(user);
    }
    seen.sort_unstable();
    assert_eq!(
        seen,
        ["operator", "relay", "user-directory", "welcome-email"]
    );
}
