//! The paths, and what each answers. Everything is read at the moment of the request; no request is made to NATS or to a
//! database.

use std::collections::HashMap;

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{
    Health,
    answers::{Healthz, Livez, Scale},
};
use crate::judge::{
    Component,
    process::{Part, ProcessVerdict, not_alive},
};

type Parameters = Query<HashMap<String, String>>;

pub(super) fn routes<S: Clone + Send + Sync + 'static>(health: Health) -> Router<S> {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/readyz/relay", get(readyz_relay))
        .route("/readyz/subscriber/{name}", get(readyz_subscriber))
        .route("/healthz", get(healthz))
        .route("/scale/{subscriber}", get(scale))
        .with_state(health)
}

async fn livez(State(health): State<Health>, Query(parameters): Parameters) -> Response {
    let figures = health.figures();
    let causes = not_alive(&figures);
    let status = status(causes.is_empty());
    if parameters.contains_key("verbose") {
        return fresh((status, Json(Livez::new(&figures, causes))));
    }
    match causes.is_empty() {
        true => fresh("alive\n"),
        false => fresh((status, format!("{}\n", causes.join("\n")))),
    }
}

async fn readyz(State(health): State<Health>, Query(parameters): Parameters) -> Response {
    ready(health.verdict().parts.iter(), &parameters)
}

async fn readyz_relay(State(health): State<Health>, Query(parameters): Parameters) -> Response {
    one(&health.verdict(), &parameters, "relay", |part| {
        part.component == Component::Relay
    })
}

async fn readyz_subscriber(
    State(health): State<Health>,
    Path(name): Path<String>,
    Query(parameters): Parameters,
) -> Response {
    one(
        &health.verdict(),
        &parameters,
        "subscriber of this name",
        |part| part.component == Component::Subscriber && part.of == name,
    )
}

async fn healthz(State(health): State<Health>) -> Response {
    fresh(Json(Healthz::new(health.verdict(), health.started_at())))
}

/// What waits for a subscriber as a whole, for an autoscaler. Each active instance knows it; one on standby looks at no
/// consumer, and answers 503.
async fn scale(State(health): State<Health>, Path(name): Path<String>) -> Response {
    let figures = health.figures();
    let found = figures.subscribers.iter().find(|one| one.name == name);
    let Some(subscriber) = found else {
        let text = "this process has no subscriber of this name\n";
        return fresh((StatusCode::NOT_FOUND, text));
    };
    match Scale::of(subscriber) {
        Some(scale) => fresh(Json(scale)),
        None => fresh((
            StatusCode::SERVICE_UNAVAILABLE,
            "what waits is not known: NATS has not answered, or this instance is on standby\n",
        )),
    }
}

/// The parts that match. A part that is not there may still come while the process starts.
fn one(
    verdict: &ProcessVerdict,
    parameters: &HashMap<String, String>,
    what: &str,
    is_it: impl Fn(&Part) -> bool,
) -> Response {
    let found: Vec<&Part> = verdict.parts.iter().filter(|part| is_it(part)).collect();
    if !found.is_empty() {
        return ready(found.into_iter(), parameters);
    }
    let whole: Vec<&Part> = verdict.parts.iter().take(1).collect();
    match whole.iter().all(|part| part.is_started()) {
        true => fresh((
            StatusCode::NOT_FOUND,
            format!("this process has no {what}\n"),
        )),
        false => ready(whole.into_iter(), parameters),
    }
}

fn ready<'a>(
    parts: impl Iterator<Item = &'a Part> + Clone,
    parameters: &HashMap<String, String>,
) -> Response {
    let is_ready = match parameters.get("of").map(|of| &**of) {
        None => parts.clone().all(|part| part.status.is_ready()),
        Some("startup") => parts.clone().all(Part::is_started),
        Some(_) => {
            let text = "?of=startup is known, and nothing else\n";
            return fresh((StatusCode::BAD_REQUEST, text));
        }
    };
    let lines: Vec<String> = parts.map(Part::line).collect();
    fresh((status(is_ready), format!("{}\n", lines.join("\n"))))
}

fn status(is_well: bool) -> StatusCode {
    match is_well {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// An answer that no cache keeps.
fn fresh(answer: impl IntoResponse) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], answer).into_response()
}
