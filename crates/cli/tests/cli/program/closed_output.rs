//! A command that changes things completes all changes, even if its output is no longer read; what a command deletes
//! is printed before.

use std::process::Stdio;

use crate::{
    service::Service,
    support::{World, eventually},
};

both!(
    a_change_completes_without_a_reader_of_its_output,
    nothing_is_discarded_without_a_reader_of_the_output,
    a_confirmed_command_completes_without_a_reader,
);

impl World {
    /// Runs a command whose output is not read from the first byte on; the exit code.
    async fn unread(&self, arguments: &[&str]) -> Option<i32> {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(Stdio::null());
        command.status().await.unwrap().code()
    }

    async fn park_one(&self) {
        self.ok(&["publish", "nobody.listens", "--data", "{}"])
            .await;
        let relay = self.spawn(&["relay"]);
        eventually("it is parked", || async {
            self.status().await["parked"] == 1
        })
        .await;
        assert_eq!(relay.signalled("TERM").await, Some(0));
    }
}

async fn a_change_completes_without_a_reader_of_its_output(world: World) {
    assert_eq!(world.unread(&["migrate"]).await, Some(0));
    assert_eq!(world.unread(&["streams", "apply"]).await, Some(0));
    let publish = ["publish", "user.created", "--data", "{}"];
    assert_eq!(world.unread(&publish).await, Some(0));
    assert_eq!(world.status().await["backlog"], 1);
    let relay = world.spawn(&["relay"]);
    world.backlog_is(0).await;
    assert_eq!(relay.signalled("TERM").await, Some(0));

    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let stream = context.get_stream("EVENTS").await.unwrap();
    stream.delete_message(1).await.unwrap();
    assert_eq!(world.unread(&["verify", "--repair"]).await, Some(0));
    assert_eq!(stream.get_info().await.unwrap().state.last_sequence, 2);
    let again = ["outbox", "republish", "--from", "1", "--force", "--yes"];
    assert_eq!(world.unread(&again).await, Some(0));
    assert_eq!(stream.get_info().await.unwrap().state.last_sequence, 3);

    let later = ["publish", "user.created", "--data", "{}", "--in", "1h"];
    let later = [&later[..], &["--json"]].concat();
    let id = world.json(&later).await[0]["id"].clone();
    let cancel = ["outbox", "cancel", id.as_str().unwrap(), "--yes"];
    assert_eq!(world.unread(&cancel).await, Some(0));
    assert_eq!(world.status().await["delayed"], 0);
    // The exit code still reports what could not be done.
    assert_eq!(world.unread(&cancel).await, Some(1));
}

async fn nothing_is_discarded_without_a_reader_of_the_output(world: World) {
    let world = world.set_up().await;
    world.park_one().await;
    let discard = ["outbox", "discard", "--all", "--yes"];
    assert_eq!(world.unread(&discard).await, Some(1));
    assert_eq!(world.status().await["parked"], 1);
    assert_eq!(world.unread(&["outbox", "unpark", "--all"]).await, Some(0));
    let list = world.ok(&["outbox", "parked"]).await;
    assert!(list.contains("soon, as requested"), "{list}");
    let dead_lettered = world.json(&discard).await;
    assert_eq!(dead_lettered[0]["payload"], "{}");
    assert_eq!(world.status().await["parked"], 0);
}

/// The preview is printed before the change.
async fn a_confirmed_command_completes_without_a_reader(world: World) {
    let world = world.set_up().await;
    let service = Service::start(&world).await;
    eventually("an instance works", || async {
        let shown = world.run(&["subscribers", "show", "welcome-email"]).await;
        shown.stdout.contains("activity         active")
    })
    .await;
    service.stop().await;
    for _ in 0..3 {
        let event = crate::support::user("0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11", "a@x");
        let publish = ["publish", "user.created", "--data", &event, "--direct"];
        world.ok(&publish).await;
    }
    let reset = [
        "subscribers",
        "reset",
        "welcome-email",
        "--to",
        "now",
        "--yes",
    ];
    assert_eq!(world.unread(&reset).await, Some(0));
    let shown = world
        .run(&["subscribers", "show", "welcome-email", "--json"])
        .await;
    assert!(shown.stdout.contains("\"pending\":0"), "{shown:?}");
    let pause = ["subscribers", "pause", "welcome-email"];
    assert_eq!(world.unread(&pause).await, Some(0));
    assert_eq!(
        world
            .unread(&["subscribers", "resume", "welcome-email"])
            .await,
        Some(0)
    );
    let remove = ["subscribers", "remove", "welcome-email", "--yes"];
    eventually("it is removed", || async {
        // The removal is refused while a worker pulls.
        world.unread(&remove).await == Some(0)
    })
    .await;
    let listed = world.run(&["subscribers", "list", "--json"]).await;
    assert!(!listed.stdout.contains("welcome-email"), "{listed:?}");
}
