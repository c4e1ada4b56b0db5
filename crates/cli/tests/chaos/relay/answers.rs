//! Answers of the stream to a batch: lost, rejected, or never asked for because the batch was abandoned.

use std::time::Duration;

use async_nats::HeaderMap;
use futures::StreamExt;
use tidings::{StreamSpec, event::Pattern, testing::failpoint::Point};

use crate::{
    process::Process,
    support::{Counted, Proxy, World, eventually, within},
    trial::{Chaos, Trial},
    trials,
};

trials!(
    an_answer_that_is_lost: in short on postgres,
    a_batch_that_is_rejected: in short on sqlite,
    a_batch_that_is_abandoned: in short on sqlite,
);

/// The deduplication window: so short that an id does not help when a batch is sent again.
const WINDOW: Duration = Duration::from_millis(100);

async fn forgetful<DB: Chaos>(world: &World<DB>) {
    let subjects = ["user.>", "count.>"].map(|s| Pattern::parse(s).unwrap());
    let mut stream = StreamSpec::new("EVENTS", subjects).unwrap();
    stream.duplicate_window = WINDOW;
    world.bus.apply_stream(&stream).await.unwrap();
}

/// The batch is stored, and the relay does not receive the answer.
async fn an_answer_that_is_lost<DB: Chaos>(world: World<DB>) {
    forgetful(&world).await;
    let mut trial = Trial::begin("answer: a commit's is lost, with the connection", world).await;
    let proxy = Proxy::to(trial.world.nats.port()).await;
    let url = format!("nats://127.0.0.1:{}", proxy.port);
    let _relay = Process::relay(&url, &trial.database_url());
    trial.flows().await;

    let lost = proxy.lose_answers_after("Nats-Batch-Commit");
    let connection = within("a commit passes", lost).await;
    // real time: until the batch is stored and the server has forgotten its ids
    tokio::time::sleep(WINDOW * 2).await;
    connection.cancel();

    trial.recovers().await;
    trial.judge().await;
}

/// Another publisher has published one event of the batch after the relay has looked at the stream: error 10201.
async fn a_batch_that_is_rejected<DB: Chaos>(world: World<DB>) {
    let mut trial = Trial::begin("answer: a batch is rejected (10201)", world).await;
    let _relay = trial.relay();
    trial.flows().await;
    let client = async_nats::connect(trial.world.nats.url()).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);

    let mut tx = trial.world.outbox.begin().await.unwrap();
    let mut ahead = Vec::new();
    for n in 0..40 {
        trial
            .world
            .count(&mut tx, &format!("bulk-{}", n % 3))
            .await
            .unwrap();
        if n % 8 == 4 {
            let counted = Counted {
                key: format!("ahead-{n}"),
                count: 1,
            };
            let id = tx.publish(&counted).unwrap();
            DB::note(&mut tx, id).await.unwrap();
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", id.to_string());
            headers.insert("ce-id", id.to_string());
            headers.insert("ce-type", "count.raised.v1");
            headers.insert("ce-partitionkey", counted.key.clone());
            let payload = serde_json::to_vec(&counted).unwrap();
            let sent = jetstream
                .publish_with_headers("count.raised", headers, payload.into())
                .await;
            ahead.push(sent.unwrap().await.unwrap().sequence);
        }
    }
    tx.commit().await.unwrap();

    trial.recovers().await;
    // Each of these events was confirmed alone, at its own sequence: no batch contains it.
    let ahead = ahead
        .iter()
        .map(u64::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    let noted = format!(
        "select count(*) from {} where first_sequence in ({ahead}) and first_sequence = last_sequence",
        DB::table("ledger")
    );
    eventually("they are in the ledger", || async {
        DB::number(trial.world.outbox.pool(), &noted).await == 5
    })
    .await;
    trial.judge().await;
}

/// Messages of a batch are sent and never committed: the server drops them, and reports it.
async fn a_batch_that_is_abandoned<DB: Chaos>(world: World<DB>) {
    forgetful(&world).await;
    let mut trial = Trial::begin("answer: a batch is abandoned", world).await;
    let client = async_nats::connect(trial.world.nats.url()).await.unwrap();
    let advisories = "$JS.EVENT.ADVISORY.STREAM.BATCH_ABANDONED.>";
    let mut abandoned = client.subscribe(advisories).await.unwrap();
    client.flush().await.unwrap();
    let batch = async |nth| {
        let (relay, armed) = trial.relay_until(Point::MembersSent, nth);
        let relay = trial.world.run_relay(relay);
        within("members are sent", armed.reached()).await;
        relay.kill().await;
        trial.world.is_taken().await;
        // real time: until the server has forgotten the ids
        tokio::time::sleep(WINDOW * 2).await;
        trial.world.end_the_lease().await;
    };
    // Some batches have few rows and some have many; at least one of them has messages before the commit.
    for nth in 1..=3 {
        trial.goes_on().await;
        batch(nth).await;
    }
    within("the server drops it", abandoned.next())
        .await
        .unwrap();

    let _relay = trial.relay();

    trial.recovers().await;
    trial.judge().await;
}
