//! OpenTelemetry traces of the events of [Tidings](tidings): from the code that publishes an event, over outbox and
//! stream, to the handlers. One line, before the first event is created:
//!
//! ```
//! use opentelemetry_sdk::trace::SdkTracerProvider;
//!
//! let provider = SdkTracerProvider::builder().build(); // with an exporter
//! tidings_otel::observer(&provider).install()?;
//! # Ok::<(), tidings::observer::InstalledError>(())
//! ```
//!
//! | moment | span | kind | relation |
//! |---|---|---|---|
//! | `tx.publish`, `enqueue` | none; the current context is stored with the event as its creation context | | |
//! | the same, with [`Observer::create_spans`] | `create user.created` | producer | child of the current span |
//! | `EventPublisher::publish` | `send user.created` | producer | child of the current span; the creation context |
//! | the relay, for events whose trace is sampled | `send user.created`, from the commit to the confirmation | client | child of the creation context |
//! | a handler is called | `process user.created` | consumer | a link always; a child too, [when the event is prompt](Join::Auto) |
//! | the server is told an outcome, with [`Observer::settle_spans`] | `settle user.created` | client | as `process` |
//! | a batch handler is called | `process user.created` | consumer | a trace of its own, with a link for each event, at most 128; a child only if it has one event, with [`Join::Parent`] |
//!
//! Names and attributes follow the semantic conventions for messaging, version 1.44, which are still in development.
//! What they have no name for begins with `tidings.`. No span holds a payload, a header of the application, the text of
//! an error, or, unless [`Observer::with_keys`] is set, the key of an event; [`Observer::with_hashed_keys`] adds a hash of
//! it. Baggage is not carried. [`Observer::with_metrics`] records the metrics of the conventions.
//!
//! The spans of a handler are children of its `process` span, whether they are made with OpenTelemetry or by
//! `tracing-opentelemetry`, which is the application's to install.
//!
//! | feature | what |
//! |---|---|
//! | `otlp-http` | `otlp::http`: OTLP over HTTP |
//! | `otlp-grpc` | `otlp::grpc`: OTLP over gRPC |

mod attempt;
mod attributes;
mod context;
mod join;
mod metrics;
mod observer;
#[cfg(feature = "otlp")]
pub mod otlp;
mod requests;

pub use join::Join;
pub use observer::{Observer, observer};
pub use opentelemetry;
#[cfg(feature = "otlp")]
pub use opentelemetry_sdk;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
