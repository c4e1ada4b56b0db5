//! `tidings outbox parked`, `show`, `unpark` and `discard`.

use crate::support::{World, eventually};

both!(what_is_parked_is_listed_shown_asked_for_and_given_up);

async fn what_is_parked_is_listed_shown_asked_for_and_given_up(world: World) {
    let world = world.set_up().await;
    for (name, key) in [
        ("nobody.listens", "ada"),
        ("user.renamed", "ada"),
        ("nobody.listens", "bob"),
    ] {
        let publish = [
            "publish",
            name,
            "--key",
            key,
            "--data",
            "{\"id\":\"x\",\"email\":\"y\"}",
        ];
        world.ok(&publish).await;
    }
    assert_eq!(world.ok(&["outbox", "parked"]).await, "nothing is parked\n");
    let asked = world.json(&["outbox", "unpark", "--all", "--json"]).await;
    assert_eq!(asked[0]["asked"], 0);
    let relay = world.spawn(&["relay"]);
    eventually("they are parked", || async {
        world.status().await["parked"] == 3
    })
    .await;
    assert_eq!(relay.signalled("TERM").await, Some(0));

    let status = world.run(&["outbox", "status"]).await;
    assert_eq!(status.code, Some(1), "{status:?}");
    let status = status.stdout;
    assert!(status.contains("subject nobody.listens"), "{status}");
    assert!(status.contains("try: tidings streams apply"), "{status}");
    let list = world.ok(&["outbox", "parked", "--key", "ada"]).await;
    assert_eq!(list.lines().count(), 3, "{list}");
    assert!(list.contains("waits for subject nobody.listens"), "{list}");
    let shown = world.json(&["outbox", "show", "1", "--json"]).await;
    assert_eq!(shown[0]["key"], "ada");
    assert_eq!(shown[0]["payload"], "{\"id\":\"x\",\"email\":\"y\"}");

    let asked = world.ok(&["outbox", "unpark", "--key", "ada"]).await;
    assert!(asked.starts_with("asked for 2 events"), "{asked}");
    let list = world.ok(&["outbox", "parked", "--key", "ada"]).await;
    assert!(list.contains("it was asked for"), "{list}");
    let asked = world.json(&["outbox", "unpark", "--all", "--json"]).await;
    assert_eq!(asked[0]["asked"], 3);
    let said = world.refused(1, &["outbox", "unpark", "99"]).await;
    assert!(said.contains("row 99 is not parked"), "{said}");
    assert!(said.contains("try: tidings outbox parked"), "{said}");
    world.refused(2, &["outbox", "unpark"]).await;
    world.refused(2, &["outbox", "discard", "--all"]).await;

    let given_up = world.json(&["outbox", "discard", "--all", "--yes"]).await;
    assert_eq!(given_up.len(), 3, "{given_up:?}");
    assert_eq!(world.ok(&["outbox", "parked"]).await, "nothing is parked\n");
}
