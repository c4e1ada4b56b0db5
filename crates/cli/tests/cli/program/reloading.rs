//! The relay's configuration changes while the program runs: on SIGHUP, and when the file has changed.

use std::{fs, os::unix::fs::symlink, path::Path, process::Stdio};

use tidings::{
    Bus,
    outbox::{RelayInstance, RelaySettings},
};
use tokio::process::Command;

use crate::support::{EVENTS, Running, Store, World, eventually, signal};

const LOG: &str = "relay.log";

/// A relay, its log in a file.
async fn relay(world: &World, arguments: &[&str]) -> Running {
    let mut command = world.command(arguments);
    let log = fs::File::create(world.path(LOG)).unwrap();
    command.stdin(Stdio::null()).stderr(log);
    let running = Running::of(command);
    eventually("it has the lease", || async {
        !world.status().await["lease"]["owner"].is_null()
    })
    .await;
    running
}

/// The lines of the log that have this text.
fn said(world: &World, text: &str) -> Vec<String> {
    let log = fs::read_to_string(world.path(LOG)).unwrap();
    let lines = log.lines().filter(|line| line.contains(text));
    lines.map(str::to_owned).collect()
}

async fn says(world: &World, text: &str) {
    eventually(text, || async { !said(world, text).is_empty() }).await;
}

/// Has the program read its configuration again; returns when it has done so.
async fn hang_up(world: &World, relay: &Running) {
    let reloaded = || said(world, "configuration reloaded").len();
    let before = reloaded();
    signal("HUP", relay.id()).await;
    eventually("it is reloaded", || async { reloaded() > before }).await;
}

async fn settings(bus: &Bus) -> Option<RelaySettings> {
    let relays = RelayInstance::of(bus, "tidings").await.unwrap();
    relays.first()?.settings
}

async fn batch_is(bus: &Bus, batch: usize) {
    let what = format!("a batch of {batch}");
    eventually(&what, || async {
        settings(bus).await.is_some_and(|it| it.batch == batch)
    })
    .await;
}

/// Replaces the file at once, as editors do.
fn replace(world: &World, settings: &str) {
    world.write("new.toml", &format!("{EVENTS}{settings}"));
    fs::rename(world.path("new.toml"), world.path("tidings.toml")).unwrap();
}

#[tokio::test]
async fn sighup_changes_what_can_change_and_names_the_rest() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    let bus = Bus::connect(world.nats.url()).await.unwrap();
    let relay = relay(&world, &["relay"]).await;
    hang_up(&world, &relay).await;
    let first = &said(&world, "configuration reloaded")[0];
    assert!(first.contains("changed=0"), "{first}");

    replace(
        &world,
        "[relay]\nbatch = 10\nlease = \"2s\"\nretention = \"1h\"\nstall_timeout = \"9s\"\n\
         [nats]\ninbox_prefix = \"_MINE\"\n[runtime]\nworker_threads = 3\n",
    );
    hang_up(&world, &relay).await;
    batch_is(&bus, 10).await;
    let now = settings(&bus).await.unwrap();
    assert_eq!((now.lease_ms, now.stall_timeout_ms), (2000, 9000));
    assert_eq!(now.retention_ms, 3_600_000);
    eventually("the lease is taken again", || async {
        world.status().await["lease"]["lasts_seconds"] == 2.0
    })
    .await;
    says(&world, "restart required").await;
    let named = &said(&world, "restart required")[0];
    assert!(
        named.contains("nats.inbox_prefix, runtime.worker_threads"),
        "{named}"
    );
    assert_eq!(said(&world, "setting adjusted").len(), 4);
    assert_eq!(relay.signalled("TERM").await, Some(0));
}

#[tokio::test]
async fn a_bad_file_keeps_the_settings_and_is_an_issue() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    let bus = Bus::connect(world.nats.url()).await.unwrap();
    replace(&world, "[relay]\nbatch = 20\n");
    let relay = relay(&world, &["relay"]).await;
    let before = settings(&bus).await.unwrap();

    replace(&world, "[relay]\nbatch = 0\nretention = \"1h\"\n");
    signal("HUP", relay.id()).await;
    says(&world, "configuration not reloaded").await;
    let line = "tidings.toml:5: relay.batch cannot be used";
    let said_once = said(&world, "configuration not reloaded");
    assert!(said_once[0].contains(line), "{said_once:?}");
    assert_eq!(settings(&bus).await.unwrap(), before);
    // Another program reads the bad file too, and refuses it.
    world.write("good.toml", "");
    let verdict = || async {
        let doctor = ["doctor", "--json", "--config", "good.toml"];
        let doctor = world.run(&doctor).await;
        let verdict: serde_json::Value = serde_json::from_str(&doctor.stdout).unwrap();
        (doctor.code, verdict)
    };
    let (code, said_of_it) = verdict().await;
    let finding = &said_of_it["findings"][0];
    assert_eq!(code, Some(1), "{said_of_it}");
    assert_eq!(finding["id"], "relay/configuration/tidings", "{finding}");
    assert_eq!(finding["status"], "degraded");
    assert!(finding["cause"].as_str().unwrap().contains(line));
    eventually("the status tells it", || async {
        let status = ["outbox", "status", "--config", "good.toml"];
        let shown = world.run(&status).await;
        shown.code == Some(1) && shown.stdout.contains(line)
    })
    .await;

    replace(&world, "[relay]\nbatch = 30\n");
    batch_is(&bus, 30).await;
    eventually("the doctor finds nothing", || async {
        verdict().await.0 == Some(0)
    })
    .await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
}

/// A file in a folder as Kubernetes makes it of a ConfigMap: `tidings.toml -> ..data/tidings.toml`, `..data -> ..1`.
fn config_map(folder: &Path, version: u32, batch: usize) {
    let name = format!("..{version}");
    fs::create_dir_all(folder.join(&name)).unwrap();
    let text = format!("{EVENTS}[relay]\nbatch = {batch}\n");
    fs::write(folder.join(&name).join("tidings.toml"), text).unwrap();
    symlink(&name, folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
}

#[tokio::test]
async fn a_link_of_the_folder_that_is_swapped_is_noticed() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    let bus = Bus::connect(world.nats.url()).await.unwrap();
    let folder = world.path("mounted");
    config_map(&folder, 1, 11);
    symlink("..data/tidings.toml", folder.join("tidings.toml")).unwrap();
    let relay = relay(&world, &["relay", "--config", "mounted/tidings.toml"]).await;
    batch_is(&bus, 11).await;
    config_map(&folder, 2, 12);
    batch_is(&bus, 12).await;
    fs::remove_dir_all(folder.join("..1")).unwrap();
    config_map(&folder, 3, 13);
    batch_is(&bus, 13).await;
    // A file that is gone is a fault, and changes nothing.
    fs::remove_file(folder.join("..data")).unwrap();
    says(&world, "configuration not reloaded").await;
    batch_is(&bus, 13).await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
}

#[tokio::test]
async fn the_log_filter_changes_while_the_relay_runs() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    replace(&world, "[log]\nfilter = \"error\"\n");
    let relay = relay(&world, &["relay"]).await;
    assert_eq!(said(&world, "INFO"), [""; 0]);

    replace(&world, "[log]\nfilter = \"debug\"\n");
    signal("HUP", relay.id()).await;
    says(&world, "setting adjusted").await;
    let adjusted = &said(&world, "setting adjusted")[0];
    let parts = [
        "setting=\"log.filter\"",
        "old=\"error\"",
        "new=\"debug\"",
        "INFO",
    ];
    assert!(
        parts.iter().all(|part| adjusted.contains(part)),
        "{adjusted}"
    );
    hang_up(&world, &relay).await;
    says(&world, "DEBUG").await;

    replace(&world, "[log]\nfilter = \"error\"\n");
    signal("HUP", relay.id()).await;
    eventually("both changes are told", || async {
        said(&world, "setting adjusted").len() == 2
    })
    .await;
    replace(&world, "nonsense");
    says(&world, "configuration not reloaded").await;
    let reloaded = said(&world, "configuration reloaded").len();
    replace(&world, "[log]\nfilter = \"info\"\n");
    eventually("it speaks again", || async {
        said(&world, "configuration reloaded").len() > reloaded
    })
    .await;
    assert_eq!(said(&world, "setting adjusted").len(), 3);
    assert_eq!(relay.signalled("TERM").await, Some(0));
}

#[tokio::test]
async fn a_closed_terminal_stops_the_relay() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    let program = env!("CARGO_BIN_EXE_tidings");
    let mut script = Command::new("script");
    script
        .args(["-q", "-c", &format!("exec {program} relay"), "/dev/null"])
        .current_dir(world.path("."))
        .env("TIDINGS_NATS_URL", world.nats.url())
        .env("TIDINGS_DATABASE_URL", &world.database_url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    let mut terminal = script.spawn().expect("script, of bsdutils");
    let owner = || async { world.status().await["lease"]["owner"].clone() };
    eventually("it has the lease", || async { !owner().await.is_null() }).await;

    // With the terminal, a SIGHUP of an operator has it read its configuration.
    let relay = owner().await;
    let id = relay
        .as_str()
        .unwrap()
        .split(':')
        .nth(1)
        .unwrap()
        .to_owned();
    let hung_up = Command::new("kill").args(["-HUP", &id]).status().await;
    assert!(hung_up.unwrap().success());
    let bus = Bus::connect(world.nats.url()).await.unwrap();
    replace(&world, "[relay]\nbatch = 40\n");
    batch_is(&bus, 40).await;

    terminal.kill().await.unwrap();
    eventually("the lease is released", || async {
        owner().await.is_null()
    })
    .await;
    eventually("the process has ended", || async {
        let state = fs::read_to_string(Path::new("/proc").join(&id).join("stat"));
        // What nothing waits for is left as a zombie in some containers.
        state.map_or(true, |state| state.contains(") Z "))
    })
    .await;
}

#[tokio::test]
async fn the_number_of_threads_is_a_setting() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    let settings = "[runtime]\nworker_threads = 40\nblocking_threads = 2\n";
    replace(&world, settings);
    let relay = relay(&world, &["relay"]).await;
    let tasks = fs::read_dir(format!("/proc/{}/task", relay.id())).unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    let workers = names
        .filter(|name| name.trim() == "tokio-rt-worker")
        .count();
    assert!((40..=42).contains(&workers), "{workers}");
    assert_eq!(relay.signalled("TERM").await, Some(0));
}
