//! Another tool that changes streams and consumers, through the API of the server. Never uses Tidings.

use serde_json::{Value, json};
use tidings_test_servers::NatsServer;

/// Another tool, which uses the API of the server directly.
pub struct Tool(async_nats::Client);

impl Tool {
    pub async fn at(server: &NatsServer) -> Self {
        Self(
            async_nats::connect(server.url())
                .await
                .expect("a connection"),
        )
    }

    pub async fn api(&self, what: &str, body: Value) -> Value {
        let subject = format!("$JS.API.{what}");
        let answer = self.0.request(subject, body.to_string().into()).await;
        let answer = answer.expect("an answer");
        serde_json::from_slice(&answer.payload).expect("JSON")
    }

    /// The same; it must succeed.
    pub async fn done(&self, what: &str, body: Value) -> Value {
        let answer = self.api(what, body).await;
        assert!(answer.get("error").is_none(), "{what}: {answer}");
        answer
    }

    pub async fn put(&self, subject: &str, headers: &[(&str, &str)], payload: &str) {
        let mut map = async_nats::HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, *value);
        }
        let sending =
            self.0
                .publish_with_headers(subject.to_owned(), map, payload.to_owned().into());
        sending.await.expect("it is sent");
        self.0.flush().await.expect("it is sent");
    }

    pub async fn durable(&self, name: &str) -> Value {
        let info = self
            .done(&format!("CONSUMER.INFO.EVENTS.{name}"), json!({}))
            .await;
        info["config"].clone()
    }

    /// Changes settings of a durable in EVENTS.
    pub async fn change_durable(&self, name: &str, settings: &Value) {
        let mut config = self.durable(name).await;
        put_over(&mut config, settings);
        self.write_durable(name, config, "update").await;
    }

    pub async fn write_durable(&self, name: &str, config: Value, action: &str) {
        let request = json!({ "stream_name": "EVENTS", "config": config, "action": action });
        self.done(&format!("CONSUMER.CREATE.EVENTS.{name}"), request)
            .await;
    }

    pub async fn stream(&self, name: &str) -> Value {
        let info = self.done(&format!("STREAM.INFO.{name}"), json!({})).await;
        info["config"].clone()
    }

    pub async fn change_stream(&self, name: &str, settings: &Value) {
        let mut config = self.stream(name).await;
        put_over(&mut config, settings);
        self.done(&format!("STREAM.UPDATE.{name}"), config).await;
    }
}

/// Replaces settings of a configuration.
pub fn put_over(config: &mut Value, settings: &Value) {
    for (setting, value) in settings.as_object().expect("settings") {
        config[setting] = value.clone();
    }
}
