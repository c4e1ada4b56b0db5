//! `tidings demo` and `tidings bench`: they check their own results and report them with the exit code.

use tokio::process::Command;

use crate::support::{Ended, Running, Store, World, ended};

both!(
    the_demo_loses_nothing_when_its_relay_is_killed,
    every_bench_counts_right_on_given_servers,
    a_relay_in_another_process_is_watched,
    a_bench_of_handlers_names_its_mode_and_measures_its_memory,
    an_old_transaction_leaves_no_dead_row_in_the_log,
);

/// Runs the program where it finds the programs of the servers, as in a checkout.
async fn in_the_checkout(world: &World, arguments: &[&str]) -> Ended {
    ended(checkout(world, arguments)).await
}

fn checkout(world: &World, arguments: &[&str]) -> Command {
    let mut command = world.command(arguments);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    for variable in ["PATH", "TIDINGS_NATS_SERVER", "TIDINGS_POSTGRES_BIN"] {
        if let Some(value) = std::env::var_os(variable) {
            command.env(variable, value);
        }
    }
    command
}

#[tokio::test]
async fn a_demo_that_keeps_running_ends_cleanly_on_a_signal() {
    let world = World::start(Store::Sqlite).await;
    let mut demo = Running::of(checkout(&world, &["demo", "--keep"]));
    while demo.line().await.expect("it says how to end it") != "Ctrl-C ends it." {}
    assert_eq!(demo.signalled("INT").await, Some(0));
}

fn cells<'a>(table: &'a str, row: &str) -> Vec<&'a str> {
    let line = table.lines().find(|line| line.starts_with(row));
    let line = line.unwrap_or_else(|| panic!("no row {row}: {table}"));
    line[row.len()..].split_whitespace().collect()
}

async fn the_demo_loses_nothing_when_its_relay_is_killed(world: World) {
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

async fn every_bench_counts_right_on_given_servers(world: World) {
    let mut benches = vec![
        ("enqueue", "enqueue", "ratio"),
        ("enqueue --bulk 7", "enqueue", "ratio"),
        ("relay", "relay", "ratio"),
        ("relay --backlog 900", "backlog", "ratio"),
        ("enqueue --observed --traces 1", "enqueue", "spans"),
        ("relay --observed --traces 1", "relay", "spans"),
        ("consume --observed --traces 1", "consume", "spans"),
        ("latency", "latency", "p99_us"),
        (
            "latency --relay other --enqueue",
            "latency",
            "to_handler_p99_us",
        ),
        ("consume", "consume", "ratio"),
        ("consume --mode once", "consume", "ratio"),
        ("consume --mode batch", "consume", "ratio"),
        ("consume --mode ordered", "consume", "ratio"),
        ("replay", "replay", "done_seconds"),
        ("idle --for 1s", "idle", "seconds"),
    ];
    if world.store == Store::Postgres {
        benches.push(("relay --pinned-xmin 1s", "pinned-xmin", "ratio"));
    }
    for (bench, name, figure) in benches {
        let report = measured(&world, bench).await;
        assert_eq!(
            (&report["bench"], &report["store"]),
            (&name.into(), &store(&world).into())
        );
        assert_eq!(report["servers"], "given");
        for wrong in ["lost", "duplicates", "out_of_order"] {
            assert_eq!(report[wrong], 0, "{bench}: {report}");
        }
        assert!(
            report[figure].as_f64().is_some_and(|value| value > 0.0),
            "{bench}: {report}"
        );
    }
}

async fn a_relay_in_another_process_is_watched(world: World) {
    let backlog = measured(&world, "relay --backlog 900").await;
    assert_eq!(
        (&backlog["events"], &backlog["small_events"]),
        (&900.into(), &400.into())
    );
    let idle = measured(&world, "idle --for 1s").await;
    if cfg!(target_os = "linux") {
        for report in [&backlog, &idle] {
            let memory = report["relay_peak_mb"].as_u64().expect("its memory");
            assert!((1..100).contains(&memory), "{report}");
        }
        assert!(
            idle["core_percent"].as_f64().expect("its share") < 50.0,
            "{idle}"
        );
    }
    match world.store {
        Store::Postgres => {
            let queries = idle["queries_per_second"].as_f64().expect("its queries");
            assert!((1.0..20.0).contains(&queries), "{idle}");
        }
        Store::Sqlite => assert!(idle["queries_per_second"].is_null(), "{idle}"),
    }
}

async fn a_bench_of_handlers_names_its_mode_and_measures_its_memory(world: World) {
    let report = measured(&world, "consume --mode once").await;
    assert_eq!(report["mode"], "once");
    for place in ["start", "middle", "end"] {
        let memory = report[format!("memory_{place}_mb")].as_u64();
        let is_told = memory.is_some_and(|memory| (1..500).contains(&memory));
        assert!(is_told || cfg!(not(target_os = "linux")), "{report}");
    }
}

async fn an_old_transaction_leaves_no_dead_row_in_the_log(world: World) {
    if world.store == Store::Sqlite {
        let bench = ["bench", "relay", "--store", "sqlite", "--pinned-xmin", "1s"];
        let refused = world.refused(2, &bench).await;
        assert!(refused.contains("Postgres only"), "{refused}");
        return;
    }
    let report = measured(&world, "relay --pinned-xmin 2s").await;
    assert_eq!(report["log_dead_tuples"], 0, "{report}");
    // The open transaction keeps dead rows: a changed row leaves a dead one behind.
    for changed in ["relay_dead_tuples", "business_dead_tuples"] {
        assert!(report[changed].as_i64() > Some(0), "{report}");
    }
}

fn store(world: &World) -> &'static str {
    match world.store {
        Store::Postgres => "postgres",
        Store::Sqlite => "sqlite",
    }
}

/// Runs a bench of 400 events on the servers of the test.
async fn measured(world: &World, bench: &str) -> serde_json::Value {
    let size = [
        "--store",
        store(world),
        "--events",
        "400",
        "--keys",
        "7",
        "--json",
    ];
    let words = std::iter::once("bench").chain(bench.split(' ')).chain(size);
    let arguments: Vec<&str> = words.collect();
    world.json(&arguments).await.remove(0)
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

/// The child processes of a process.
#[cfg(target_os = "linux")]
fn children(of: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{of}/task")).expect("its tasks");
    let of_task = |task: std::io::Result<std::fs::DirEntry>| {
        let children = task.ok()?.path().join("children");
        std::fs::read_to_string(children).ok()
    };
    let children: Vec<String> = tasks.filter_map(of_task).collect();
    let children = children.iter().flat_map(|ids| ids.split_whitespace());
    children.map(|id| id.parse().expect("an id")).collect()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_bench_that_is_interrupted_leaves_no_relay_behind() {
    use std::path::Path;

    use crate::support::eventually;

    let world = World::start(Store::Sqlite).await;
    let bench = world.spawn(&["bench", "idle", "--store", "sqlite", "--for", "10m"]);
    let relay = || {
        let says = |id: &u32| std::fs::read_to_string(format!("/proc/{id}/cmdline"));
        let is_relay = |id: &u32| says(id).is_ok_and(|line| line.ends_with("relay\0"));
        children(bench.id()).into_iter().find(is_relay)
    };
    eventually("the bench has a relay", || async { relay().is_some() }).await;
    let relay = relay().expect("a relay");
    assert_eq!(bench.signalled("TERM").await, Some(1));
    eventually("the relay is gone", || async {
        let state = std::fs::read_to_string(format!("/proc/{relay}/stat"));
        state.is_ok_and(|state| state.contains(") Z "))
            || !Path::new(&format!("/proc/{relay}")).exists()
    })
    .await;
}
