//! `tidings trace`: prints an event's path from the outbox to its subscribers; an unknown event ends with 1.

use crate::{
    service::Service,
    support::{Ended, World, says, user},
};

const ADA: &str = "0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11";

both!(
    an_event_is_traced_from_its_commit_to_its_subscribers,
    an_unknown_event_ends_with_1,
    an_event_of_an_unconfigured_stream_is_found,
);

impl World {
    async fn publish_user(&self, more: &[&str]) -> String {
        let event = user(ADA, "ada@example.org");
        let mut arguments = vec![
            "publish",
            "user.created",
            "--key",
            ADA,
            "--data",
            &event,
            "--json",
        ];
        arguments.extend(more);
        let printed = self.json(&arguments).await.remove(0);
        printed["id"].as_str().unwrap().to_owned()
    }

    async fn traced(&self, arguments: &[&str]) -> String {
        let said = self.ok(&[&["trace"], arguments].concat()).await;
        assert!(said.contains("searched"), "{said}");
        said
    }
}

async fn an_event_is_traced_from_its_commit_to_its_subscribers(world: World) {
    let world = world.set_up().await;
    let id = world.publish_user(&[]).await;
    let waiting = world.traced(&[&id]).await;
    says(
        &waiting,
        &[
            &id,
            "user.created v1",
            ADA,
            "written, row 1",
            "no relay is active",
        ],
    );

    let service = Service::start(&world).await;
    let relay = world.spawn(&["relay"]);
    world.backlog_is(0).await;
    let done = || async {
        let event = &world.json(&["trace", &id, "--json"]).await[0]["events"][0];
        let all = event["subscribers"].as_array().unwrap().clone();
        all.len() == 2 && all.iter().all(|one| one["outcome"] == "acknowledged")
    };
    crate::support::eventually("both have answered", done).await;
    service.stop().await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
    let all = world.traced(&[&id]).await;
    let line = |of: &str, what: &str| {
        let found = all
            .lines()
            .find(|line| line.contains(of) && line.contains(what));
        assert!(found.is_some(), "{of}: {what} is not in:\n{all}");
    };
    line("outbox", "written, row 1");
    line(
        "relay",
        "in a batch of 1 (rows 1 to 1, sequences 1 to 1) under epoch 1",
    );
    line("EVENTS", "stored at sequence 1, and still there");
    line("welcome-email", "acknowledged; the outcome is not recorded");
    line("user-directory", "everything up to 1 is acknowledged");
    says(&world.traced(&["--key", ADA]).await, &[&id]);
    says(&world.traced(&["--correlation", &id]).await, &[&id]);

    // Without its database, the trace still shows what NATS knows.
    let mut alone = world.command(&["trace", &id]);
    alone.env("TIDINGS_DATABASE_URL", "sqlite:nowhere.db");
    let alone: Ended = crate::support::ended(alone).await;
    assert_eq!(alone.code, Some(0), "{alone:?}");
    says(
        &alone.stdout,
        &[
            "not searched: there is no database nowhere.db",
            "stored at sequence 1",
        ],
    );
    let mut alone = world.command(&["trace", "--key", "nobody"]);
    alone.env("TIDINGS_DATABASE_URL", "sqlite:nowhere.db");
    let alone: Ended = crate::support::ended(alone).await;
    assert_eq!(alone.code, Some(1), "{alone:?}");
    says(
        &alone.stderr,
        &["of the key nobody; outbox not searched: there is no database nowhere.db"],
    );

    // A delayed event, and an event published directly to NATS.
    let later = world.publish_user(&["--in", "1h"]).await;
    says(
        &world.traced(&[&later]).await,
        &["to be published later", "due", "the event is not due yet"],
    );
    let direct = world.publish_user(&["--direct"]).await;
    says(
        &world.traced(&[&direct]).await,
        &[
            "has no row of the event",
            "not delivered yet: its consumer is at 1",
        ],
    );
}

async fn an_unknown_event_ends_with_1(world: World) {
    let world = world.set_up().await;
    let ended = world.run(&["trace", ADA]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    says(
        &ended.stderr,
        &["nothing is known of the event", ADA, "an earlier --since"],
    );
    says(
        &ended.stdout,
        &["searched", "EVENTS", "RETRIES", "DEAD_LETTERS"],
    );
    let found = world.run(&["trace", "--key", "nobody", "--json"]).await;
    assert_eq!(found.code, Some(1), "{found:?}");
    says(&found.stdout, &["\"events\":[]"]);
    says(
        &world.refused(2, &["trace"]).await,
        &["<ID|--key <KEY>|--correlation <ID>>"],
    );
    says(
        &world.refused(2, &["trace", "7"]).await,
        &["invalid value '7'"],
    );
    world.refused(2, &["trace", ADA, "--key", "ada"]).await;
    world.refused(2, &["trace", ADA, "--limit", "0"]).await;
}

async fn an_event_of_an_unconfigured_stream_is_found(world: World) {
    let world = world.set_up().await;
    let id = world.publish_user(&["--direct"]).await;
    world.write("tidings.toml", "");
    for arguments in [&[&*id][..], &["--key", ADA], &["--correlation", &id]] {
        let told = world.traced(arguments).await;
        says(
            &told,
            &[&id, "EVENTS", "stored at sequence 1, and still there"],
        );
    }
}
