//! `tidings demo` and `tidings bench`: they judge themselves, and say so with their exit code.

use crate::support::{Ended, Store, World, ended};

both!(
    the_demo_loses_duplicates_and_inverts_nothing_though_its_relay_is_killed,
    every_bench_counts_right_on_servers_that_are_given,
);

/// Runs the program where it finds the servers' programs, as a person in a checkout would.
async fn in_the_checkout(world: &World, arguments: &[&str]) -> Ended {
    let mut command = world.command(arguments);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    for variable in ["PATH", "TIDINGS_NATS_SERVER", "TIDINGS_POSTGRES_BIN"] {
        if let Some(value) = std::env::var_os(variable) {
            command.env(variable, value);
        }
    }
    ended(command).await
}

fn cells<'a>(table: &'a str, row: &str) -> Vec<&'a str> {
    let line = table.lines().find(|line| line.starts_with(row));
    let line = line.unwrap_or_else(|| panic!("no row {row}: {table}"));
    line[row.len()..].split_whitespace().collect()
}

async fn the_demo_loses_duplicates_and_inverts_nothing_though_its_relay_is_killed(world: World) {
    let played = match world.store {
        Store::Sqlite => in_the_checkout(&world, &["demo"]).await,
        Store::Postgres => {
            in_the_checkout(&world, &["demo", "--database", &world.database_url]).await
        }
    };
    assert_eq!(played.code, Some(0), "{played:?}");
    assert!(played.stdout.contains("killed the relay"), "{played:?}");
    for row in ["lost", "duplicated", "out of order", "never committed"] {
        assert_eq!(cells(&played.stdout, row), ["0", "0", "0"], "{row}");
    }
    let committed = cells(&played.stdout, "committed");
    let events = cells(&played.stdout, "events");
    assert_eq!((committed[0], events[0], events[2]), ("500", "500", "500"));
    assert_eq!(cells(&played.stdout, "rolled back"), ["100"]);
}

async fn every_bench_counts_right_on_servers_that_are_given(world: World) {
    let store = match world.store {
        Store::Postgres => "postgres",
        Store::Sqlite => "sqlite",
    };
    for bench in ["enqueue", "relay", "latency", "consume"] {
        let arguments = [
            "bench", bench, "--store", store, "--events", "400", "--keys", "7", "--json",
        ];
        let report = &world.json(&arguments).await[0];
        assert_eq!(
            (&report["bench"], &report["store"]),
            (&bench.into(), &store.into())
        );
        assert_eq!(report["servers"], "given");
        for wrong in ["lost", "duplicates", "inversions"] {
            assert_eq!(report[wrong], 0, "{bench}: {report}");
        }
        let figure = if bench == "latency" {
            "p99_us"
        } else {
            "ratio"
        };
        assert!(
            report[figure].as_f64().is_some_and(|value| value > 0.0),
            "{bench}: {report}"
        );
    }
}

#[tokio::test]
async fn a_bench_without_servers_starts_its_own() {
    let world = World::start(Store::Sqlite).await;
    let mut command = world.command(&["bench", "relay", "--store", "sqlite", "--events", "300"]);
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("TIDINGS_NATS_URL")
        .env_remove("TIDINGS_DATABASE_URL");
    for variable in ["PATH", "TIDINGS_NATS_SERVER"] {
        if let Some(value) = std::env::var_os(variable) {
            command.env(variable, value);
        }
    }
    let measured = ended(command).await;
    assert_eq!(measured.code, Some(0), "{measured:?}");
    assert!(
        measured.stdout.contains("sync_interval always"),
        "{measured:?}"
    );
    assert!(measured.stdout.contains("ratio"), "{measured:?}");
}
