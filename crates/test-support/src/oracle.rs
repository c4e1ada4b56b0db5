//! The messages of a stream, read with the NATS client only: the oracle does not trust the code under test.

use std::collections::{BTreeMap, HashSet};

use async_nats::{HeaderMap, jetstream};
use futures::StreamExt;

/// A message of a stream.
pub struct Stored {
    pub subject: String,
    pub headers: HeaderMap,
    pub payload: Vec<u8>,
}

/// All messages of a stream, in order.
pub struct Stream(pub Vec<Stored>);

impl Stored {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload).unwrap_or_default()
    }
}

impl Stream {
    pub async fn read(url: &str, name: &str) -> Self {
        let client = async_nats::connect(url).await.expect("a connection");
        let context = jetstream::new(client);
        let mut stream = context.get_stream(name).await.expect("the stream");
        let left = stream.info().await.expect("its state").state.messages;
        if left == 0 {
            return Self(Vec::new());
        }
        let name = uuid::Uuid::now_v7().simple().to_string();
        let config = jetstream::consumer::pull::Config {
            name: Some(name.clone()),
            ack_policy: jetstream::consumer::AckPolicy::None,
            inactive_threshold: std::time::Duration::from_secs(60),
            ..Default::default()
        };
        let consumer = stream.create_consumer(config).await.expect("a consumer");
        let messages = consumer.messages().await.expect("messages");
        let all = messages
            .take(usize::try_from(left).expect("few enough"))
            .map(|message| {
                let message = message.expect("a message").message;
                Stored {
                    subject: message.subject.to_string(),
                    headers: message.headers.unwrap_or_default(),
                    payload: message.payload.to_vec(),
                }
            });
        let all = super::within("the stream is read", all.collect()).await;
        // A stream may have a thousand consumers, and the tests read it repeatedly.
        stream
            .delete_consumer(&name)
            .await
            .expect("no consumer is left");
        Self(all)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn ids(&self) -> Vec<String> {
        self.0
            .iter()
            .map(|m| m.header("ce-id").to_owned())
            .collect()
    }

    /// The messages of one subject.
    pub fn of(self, subject: &str) -> Self {
        let of_it = |message: &Stored| message.subject == subject;
        Self(self.0.into_iter().filter(of_it).collect())
    }

    /// The number of further copies of an event.
    pub fn duplicated(&self) -> usize {
        let ids: HashSet<_> = self.ids().into_iter().collect();
        self.len() - ids.len()
    }

    /// Counts how often the number of a key decreases from one event to the next.
    pub fn inverted(&self) -> usize {
        let mut last: BTreeMap<String, i64> = BTreeMap::new();
        let mut inverted = 0;
        for message in &self.0 {
            let json = message.json();
            let count = json["count"].as_i64().unwrap_or_default();
            let key = message.header("ce-partitionkey").to_owned();
            if last
                .insert(key, count)
                .is_some_and(|before| before >= count)
            {
                inverted += 1;
            }
        }
        inverted
    }
}
