//! P9: when one of its two sources does not answer, `tidings trace` prints what the other one knows, and ends with 3.

use crate::support::{Store, World, says, user};

const ADA: &str = "0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11";

both!(
    without_nats_a_trace_shows_the_outbox_and_ends_with_3,
    without_jetstream_a_trace_shows_the_outbox_and_ends_with_3,
);

impl World {
    async fn relayed_user(&self) -> String {
        let event = user(ADA, "ada@example.org");
        let publish = ["publish", "user.created", "--data", &event, "--json"];
        let printed = self.json(&publish).await.remove(0);
        let relay = self.spawn(&["relay"]);
        self.backlog_is(0).await;
        assert_eq!(relay.signalled("TERM").await, Some(0));
        printed["id"].as_str().unwrap().to_owned()
    }
}

async fn without_nats_a_trace_shows_the_outbox_and_ends_with_3(world: World) {
    let world = world.set_up().await;
    let id = world.relayed_user().await;
    world.nats.stop().await.unwrap();
    let ended = world.run(&["trace", &id]).await;
    assert_eq!(ended.code, Some(3), "{ended:?}");
    says(
        &ended.stdout,
        &[
            &id,
            "written, row 1",
            "confirmed by EVENTS in a batch of 1",
            "EVENTS confirmed the event at 1; whether the stream has it now is not known",
            "not searched: ",
        ],
    );
    says(&ended.stderr, &["not everything could be seen: NATS"]);
    let json = world.run(&["trace", "--key", ADA, "--json"]).await;
    assert_eq!(json.code, Some(3), "{json:?}");
    says(&json.stdout, &["\"place\":\"NATS\"", "\"is_unseen\":true"]);
    let nobody = world.run(&["trace", "--key", "nobody"]).await;
    assert_eq!(nobody.code, Some(3), "it may be in a stream: {nobody:?}");
    says(&nobody.stderr, &["nothing is known", "NATS not searched"]);
}

async fn without_jetstream_a_trace_shows_the_outbox_and_ends_with_3(world: World) {
    let mut world = world.set_up().await;
    let id = world.relayed_user().await;
    let accounts =
        "accounts { PLAIN { users: [ { user: plain, password: s } ] } }\nno_auth_user: plain";
    let options = tidings_test_servers::NatsServer::options().config(accounts);
    world.replace_nats(options).await;
    let ended = world.run(&["trace", &id]).await;
    assert_eq!(ended.code, Some(3), "{ended:?}");
    says(&ended.stdout, &["written, row 1", "is not known", "10039"]);
    for command in [
        "verify",
        "subscribers show x",
        "dead-letters list",
        "subscribers list",
    ] {
        let arguments: Vec<&str> = command.split(' ').collect();
        let ended = world.run(&arguments).await;
        assert!(matches!(ended.code, Some(1 | 3)), "{command}: {ended:?}");
        let told = format!("{}{}", ended.stdout, ended.stderr);
        says(&told, &["10039"]);
    }
}

/// The relay runs, and no consumer of this account takes the event.
#[tokio::test]
async fn a_trace_shows_that_no_subscriber_takes_an_event() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    let id = world.relayed_user().await;
    let said = world.ok(&["trace", &id]).await;
    says(
        &said,
        &[
            "stored at sequence 1, and still there",
            "no durable consumer here takes user.created",
            "or run elsewhere",
            "the server ",
        ],
    );
}

/// The database exists, and does not answer.
#[tokio::test]
async fn without_its_database_a_trace_shows_nats_and_ends_with_3() {
    let world = World::start(Store::Sqlite).await.set_up().await;
    let id = world.relayed_user().await;
    let mut command = world.command(&["trace", &id]);
    command.env(
        "TIDINGS_DATABASE_URL",
        "postgres://nobody:x@127.0.0.1:1/nothing",
    );
    let ended = crate::support::ended(command).await;
    assert_eq!(ended.code, Some(3), "{ended:?}");
    says(
        &ended.stdout,
        &[
            "stored at sequence 1, and still there",
            "cannot open the database",
        ],
    );
    says(&ended.stderr, &["not everything could be seen: outbox"]);
    // Neither source answers: nothing can be traced, and the first error names the source.
    world.nats.stop().await.unwrap();
    let mut command = world.command(&["trace", &id]);
    command.env(
        "TIDINGS_DATABASE_URL",
        "postgres://nobody:x@127.0.0.1:1/nothing",
    );
    let ended = crate::support::ended(command).await;
    assert_eq!((ended.code, &*ended.stdout), (Some(3), ""), "{ended:?}");
}
