//! Events that are committed, published and traced.

use tidings::{
    EventId,
    trace::{Trace, TraceTarget, TracedEvent},
};

use super::{Database, User, World, eventually};

impl<DB: Database> World<DB> {
    pub fn trace(&self) -> Trace {
        Trace::new(&self.bus)
            .outbox(&self.outbox)
            .streams(["EVENTS"])
    }

    pub async fn traced(&self, id: EventId) -> TracedEvent {
        let found = self.trace().run(&TraceTarget::Event(id)).await.unwrap();
        assert_eq!(found.events.len(), 1, "{found:#?}");
        found.events.into_iter().next().unwrap()
    }

    pub async fn commit(&self, user: &str) -> EventId {
        let mut tx = self.outbox.begin().await.unwrap();
        let id = tx.publish(&User::new(user)).unwrap();
        tx.commit().await.unwrap();
        id
    }

    /// Runs a relay until everything is published.
    pub async fn publish_all(&self) {
        let relay = self.relay();
        eventually("everything is published", || async {
            let status = self.outbox.status().await.unwrap();
            status.backlog == status.returning
        })
        .await;
        relay.stop().await.unwrap();
    }
}
