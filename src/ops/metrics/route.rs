//! `/metrics` over HTTP.

use axum::{
    Router,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::Metrics;

impl Metrics {
    /// `/metrics`, for [`Ops::merge`] or the router of an application. It answers as [`Metrics::scrape`] does, by the
    /// `Accept` header.
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
        let answer = move |headers: HeaderMap| answer(metrics.clone(), headers);
        Router::new().route("/metrics", get(answer))
    }
}

async fn answer(metrics: Metrics, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT);
    let accept = accept.and_then(|accept| accept.to_str().ok());
    let (content_type, text) = metrics.scrape(accept).await;
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}
