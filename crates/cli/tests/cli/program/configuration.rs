//! Configuration, exit codes and help.

use tidings_test_servers::NatsServer;

use crate::support::{Folder, Store, World, ended, tidings};

#[tokio::test]
async fn config_shows_each_value_with_its_source_and_hides_secrets() {
    let folder = Folder::new();
    let file = "[nats]\nurl = \"nats://h1\"\nuser = \"ada\"\npassword = \"s3cret\"\n";
    std::fs::write(folder.path().join("tidings.toml"), file).unwrap();
    let mut command = tidings(&folder, &["config", "--schema", "shop"]);
    command.env("TIDINGS_DATABASE_URL", "postgres://ada:s3cret@h/db");

    let config = ended(command).await;

    assert_eq!(config.code, Some(0), "{config:?}");
    let words = |key: &str| -> Vec<String> {
        let line = config.stdout.lines().find(|line| line.starts_with(key));
        line.unwrap()
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(
        words("nats.url"),
        ["nats.url", "nats://h1", "tidings.toml:2"]
    );
    assert_eq!(
        words("nats.password"),
        ["nats.password", "***", "tidings.toml:4"]
    );
    assert_eq!(
        words("database.schema"),
        ["database.schema", "shop", "flag", "--schema"]
    );
    assert_eq!(words("relay.lease"), ["relay.lease", "5s", "default"]);
    assert_eq!(words("database.url")[1], "postgres://ada:***@h/db");
    assert!(!config.stdout.contains("s3cret") && !config.stderr.contains("s3cret"));
}

#[tokio::test]
async fn config_as_json_has_an_object_for_each_value() {
    let folder = Folder::new();
    let config = ended(tidings(&folder, &["config", "--json"])).await;
    let lines: Vec<serde_json::Value> = config
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let url = lines
        .iter()
        .find(|line| line["key"] == "database.url")
        .unwrap();
    assert_eq!(url["value"], "sqlite:tidings.db");
    assert_eq!(url["source"], "default");
}

#[tokio::test]
async fn an_unknown_key_ends_every_command_with_2_and_its_line() {
    let folder = Folder::new();
    std::fs::write(folder.path().join("mine.toml"), "[relay]\nlaese = \"5s\"\n").unwrap();
    let mut command = tidings(&folder, &["migrate"]);
    command.env("TIDINGS_CONFIG", "mine.toml");

    let refused = ended(command).await;

    assert_eq!(refused.code, Some(2));
    assert_eq!(
        refused.stderr,
        "error: mine.toml:2: there is no setting relay.laese\n  \
         try: relay.lease, the nearest known name\n"
    );
}

#[tokio::test]
async fn a_configuration_file_that_is_named_must_exist() {
    let folder = Folder::new();
    let refused = ended(tidings(&folder, &["config", "--config", "none.toml"])).await;
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("none.toml"), "{refused:?}");
}

#[tokio::test]
async fn an_unreachable_server_ends_with_3_a_cure_and_no_secret() {
    let folder = Folder::new();
    let nats = "nats://ada:s3cret@127.0.0.1:1";
    let postgres = "postgres://ada:s3cret@127.0.0.1:1/db";
    for arguments in [
        ["streams", "--nats-url", nats],
        ["migrate", "--database-url", postgres],
    ] {
        let refused = ended(tidings(&folder, &arguments)).await;
        assert_eq!(refused.code, Some(3), "{refused:?}");
        assert!(refused.stderr.starts_with("error: cannot "), "{refused:?}");
        assert!(refused.stderr.contains("refused"), "{refused:?}");
        assert!(refused.stderr.contains("\n  try: "), "{refused:?}");
        assert!(!refused.stderr.contains("s3cret"), "{refused:?}");
    }
}

#[tokio::test]
async fn credentials_reach_the_server_and_no_log_shows_them() {
    let server = NatsServer::options().config("authorization { user: ada, password: s3cret }");
    let server = server.start().await.unwrap();
    let folder = Folder::new();
    let streams = |password: &str| {
        let mut command = tidings(&folder, &["streams", "--log", "trace"]);
        command
            .env("TIDINGS_NATS_URL", server.url())
            .env("TIDINGS_NATS_USER", "ada")
            .env("TIDINGS_NATS_PASSWORD", password);
        command
    };

    let right = ended(streams("s3cret")).await;
    let wrong = ended(streams("wr0ng")).await;
    let in_url = server.url().replace("nats://", "nats://ada:s3cret@");
    let in_url = ["streams", "--log", "trace", "--nats-url", &in_url];
    let in_url = ended(tidings(&folder, &in_url)).await;

    assert_eq!(
        (right.code, wrong.code, in_url.code),
        (Some(0), Some(3), Some(0))
    );
    assert!(wrong.stderr.contains("authorization"), "{wrong:?}");
    for said in [right, wrong, in_url] {
        assert!(
            !said.stderr.contains("s3cret") && !said.stderr.contains("wr0ng"),
            "{said:?}"
        );
    }
}

#[tokio::test]
async fn logs_can_be_json_and_never_mix_with_results() {
    let world = World::start(Store::Sqlite).await;
    let mut command = world.command(&["migrate", "--log", "info"]);
    command.env("TIDINGS_LOG_FORMAT", "json");
    let migrated = ended(command).await;
    assert_eq!(migrated.stdout, "applied 0001_outbox\n");
    assert_eq!(migrated.stderr.lines().count(), 1);
    for line in migrated.stderr.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["message"], "outbox migrated");
    }
}

#[tokio::test]
async fn a_missing_database_is_not_created_by_reading_it() {
    let folder = Folder::new();
    let refused = ended(tidings(&folder, &["outbox", "status"])).await;
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert!(
        refused.stderr.contains("try: tidings migrate"),
        "{refused:?}"
    );
    assert!(!folder.path().join("tidings.db").exists());
}

#[tokio::test]
async fn a_database_without_an_outbox_names_the_cure() {
    let world = World::start(Store::Postgres).await;
    let said = world.refused(1, &["outbox", "status"]).await;
    assert!(said.contains("try: tidings migrate"), "{said}");
}

#[tokio::test]
async fn completions_need_no_configuration() {
    let folder = Folder::new();
    std::fs::write(folder.path().join("tidings.toml"), "nonsense").unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let completions = ended(tidings(&folder, &["completions", shell])).await;
        assert_eq!(completions.code, Some(0));
        assert!(completions.stdout.contains("publish"), "{shell}");
    }
}

#[tokio::test]
async fn help_lists_the_exit_codes_and_a_wrong_flag_ends_with_2() {
    let folder = Folder::new();
    let help = ended(tidings(&folder, &["--help"])).await;
    assert!(help.stdout.contains("Exit codes:"), "{help:?}");
    let wrong = ended(tidings(&folder, &["relay", "--fast"])).await;
    assert_eq!(wrong.code, Some(2));
}

#[tokio::test]
async fn config_check_reports_every_fault_without_a_connection() {
    let folder = Folder::new();
    let file = "[relay]\nlaese = \"5s\"\nbatch = 0\n[database]\nurl = \"postgres://ada:s3cret@127.0.0.1:1/db\"\n";
    std::fs::write(folder.path().join("tidings.toml"), file).unwrap();

    let faulty = ended(tidings(&folder, &["config", "check"])).await;
    assert_eq!(faulty.code, Some(2), "{faulty:?}");
    assert_eq!(
        faulty.stdout,
        "tidings.toml:2: there is no setting relay.laese\n  try: relay.lease, the nearest known name\n\
         tidings.toml:3: relay.batch cannot be used: write a whole number from 1 to 1000\n"
    );
    assert_eq!(faulty.stderr, "");
    let json = ended(tidings(&folder, &["config", "check", "--json"])).await;
    let lines: Vec<serde_json::Value> = json
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!((json.code, lines.len()), (Some(2), 2));
    assert_eq!(lines[1]["line"], 3);
    assert_eq!(lines[1]["file"], "tidings.toml");
    let before = ended(tidings(&folder, &["config", "--json", "check"])).await;
    assert_eq!((before.code, before.stdout), (json.code, json.stdout));

    std::fs::write(
        folder.path().join("good.toml"),
        &file[file.find("[database]").unwrap()..],
    )
    .unwrap();
    let good = ended(tidings(&folder, &["config", "check", "good.toml"])).await;
    assert_eq!(
        (good.code, &*good.stdout),
        (Some(0), "good.toml: no fault\n")
    );
    let none = ended(tidings(&folder, &["config", "check", "none.toml"])).await;
    assert_eq!(none.code, Some(2));
    assert!(
        none.stdout
            .contains("none.toml cannot be read: No such file"),
        "{none:?}"
    );
    let empty = ended(tidings(&Folder::new(), &["config", "check"])).await;
    assert_eq!(empty.code, Some(0), "{empty:?}");
}
