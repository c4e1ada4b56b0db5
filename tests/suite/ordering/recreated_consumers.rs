//! P7, P9: the next active instance of an ordered subscriber recreates consumers that were deleted while none was
//! active.

use serde_json::json;
use tidings::{Bus, EventSubscriber, subscribers::Subscribers};

use crate::support::{
    Noted, Tool, eventually,
    working::{Working, apply_streams, publish, server, subscriber},
};

const NAME: &str = "directory";

fn ordered() -> EventSubscriber<Noted> {
    subscriber(NAME).ordered_by_key()
}

/// Waits until this many instances answer, one of which has the lease.
async fn run(bus: &Bus, instances: usize) {
    eventually("the instances answer", || async {
        let overview = Subscribers::new(bus).overview().await;
        let running = overview.subscribers.iter().flat_map(|one| &one.instances);
        let leases: Vec<Option<bool>> = running.map(|instance| instance.holds_lease).collect();
        leases.len() == instances && leases.contains(&Some(true))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_takes_over_recreates_deleted_consumers() {
    let (server, bus) = server().await;
    let tool = Tool::at(&server).await;
    for gone in [
        &["EVENTS"][..],
        &["RETRIES"][..],
        &["EVENTS", "RETRIES"][..],
    ] {
        let first = Working::run(&bus, [ordered()]);
        publish(&bus, "before").await;
        first.has("before").await;
        let second = Working::run(&bus, [ordered()]);
        run(&bus, 2).await;
        first.kill().await;
        for stream in gone {
            tool.done(&format!("CONSUMER.DELETE.{stream}.{NAME}"), json!({}))
                .await;
        }
        publish(&bus, "behind").await;
        second.has("behind").await;
        for stream in ["EVENTS", "RETRIES"] {
            tool.done(&format!("CONSUMER.INFO.{stream}.{NAME}"), json!({}))
                .await;
        }
        second.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_starts_a_recreated_stream_at_its_beginning() {
    let (server, bus) = server().await;
    let tool = Tool::at(&server).await;
    for gone in [&["RETRIES"][..], &["EVENTS", "RETRIES", "DEAD_LETTERS"][..]] {
        let first = Working::run(&bus, [ordered()]);
        publish(&bus, "before").await;
        first.has("before").await;
        let second = Working::run(&bus, [ordered()]);
        run(&bus, 2).await;
        first.kill().await;
        for stream in gone {
            tool.done(&format!("STREAM.DELETE.{stream}"), json!({}))
                .await;
        }
        apply_streams(&bus).await;
        publish(&bus, "behind").await;
        second.has("behind").await;
        second.end().await;
    }
}

/// As after a server whose store was emptied: the lease and all consumers are gone with their streams.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_lost_everything_works_after_streams_apply() {
    let (server, bus) = server().await;
    let tool = Tool::at(&server).await;
    let only = Working::run(&bus, [ordered()]);
    publish(&bus, "before").await;
    only.has("before").await;
    for stream in ["EVENTS", "RETRIES", "DEAD_LETTERS", "KV_TIDINGS"] {
        tool.done(&format!("STREAM.DELETE.{stream}"), json!({}))
            .await;
    }
    eventually("it cannot begin", || async {
        let overview = Subscribers::new(&bus).overview().await;
        let instances = overview.subscribers.iter().flat_map(|one| &one.instances);
        let mut idle = instances.filter(|instance| instance.holds_lease != Some(true));
        idle.next().is_some()
    })
    .await;
    apply_streams(&bus).await;
    publish(&bus, "behind").await;
    only.has("behind").await;
    only.end().await;
}
