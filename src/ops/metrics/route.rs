//! `/metrics` over HTTP.

use std::collections::HashMap;

use axum::{
    Router,
    extract::Query,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{Asks, Metrics};

impl Metrics {
    /// `/metrics`, for [`Ops::merge`] or the router of an application. It answers as [`Metrics::scrape`] does, by the
    /// `Accept` header. `/metrics?outbox=0` asks no database, and leaves out what only a database can tell.
    ///
    /// ```
    /// use tidings::ops::{Ops, metrics::Metrics};
    ///
    /// let metrics = Metrics::new();
    /// let ops = Ops::listen("127.0.0.1:9464").merge(metrics.router());
    /// // Worker::new(bus, state).with(ops).with(metrics)
    /// # drop(ops);
    /// ```
    ///
    /// [`Ops::merge`]: crate::ops::Ops::merge
    pub fn router<S: Clone + Send + Sync + 'static>(&self) -> Router<S> {
        let metrics = self.clone();
        let answer = move |headers: HeaderMap, query: Query<HashMap<String, String>>| async move {
            answer(metrics, &headers, &query).await
        };
        Router::new().route("/metrics", get(answer))
    }
}

async fn answer(
    metrics: Metrics,
    headers: &HeaderMap,
    query: &HashMap<String, String>,
) -> Response {
    let asks = match query.get("outbox").map(|value| &**value) {
        Some("0") => Asks::NoDatabase,
        _ => Asks::Everything,
    };
    let accept = headers.get(header::ACCEPT);
    let accept = accept.and_then(|accept| accept.to_str().ok());
    let (content_type, text) = metrics.scraped(accept, asks).await;
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}
