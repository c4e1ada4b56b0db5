//! What the inbox and the handlers of a test have written, as the database has it.

use super::{Database, World, eventually};

impl<DB: Database> World<DB> {
    /// The number of inbox rows.
    pub async fn remembered(&self) -> i64 {
        let sql = format!(
            "select count(*) from {} where dead_letter is null",
            DB::table("inbox")
        );
        DB::number(self.outbox.pool(), &sql).await
    }

    /// How often a user was counted up.
    pub async fn counted(&self, user: &str) -> i64 {
        let sql = format!("select coalesce(max(count), 0) from counter where key = '{user}'");
        DB::number(self.outbox.pool(), &sql).await
    }

    /// The number of follow-up events in the outbox.
    pub async fn followed(&self, user: &str) -> i64 {
        let table = DB::table("outbox");
        let sql = format!("select count(*) from {table} where key = '{user}'");
        DB::number(self.outbox.pool(), &sql).await
    }

    /// Waits until the subscriber has handled this many deliveries and none is left.
    pub async fn is_handled(&self, deliveries: u64) {
        let context =
            async_nats::jetstream::new(async_nats::connect(self.nats.url()).await.unwrap());
        eventually("all deliveries are acknowledged", || async {
            let stream = context.get_stream("EVENTS").await.unwrap();
            let Ok(info) = stream.consumer_info("counter").await else {
                return false;
            };
            info.ack_floor.stream_sequence >= deliveries && info.num_pending == 0
        })
        .await;
    }
}
