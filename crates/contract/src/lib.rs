//! What producers and consumers of events agree on, and nothing else.
//!
//! * [`Event`]: a fact that happened, as a Rust type. Derive it.
//! * [`EventId`], [`Name`], [`Headers`], [`Lineage`]: the metadata of an event.
//! * [`Envelope`]: an event with its metadata.
//! * [`wire`]: the form of an envelope as a NATS message, for any client in any language.
//! * [`Pattern`]: which names a subject such as `user.>` covers.
//!
//! # Rules
//!
//! One list of rules holds for [`Envelope`], for the SQL function `tidings.enqueue`, and for the relay, which parks
//! rows that were written past both:
//!
//! | what | rule |
//! |---|---|
//! | name | [`Name`]: two or more lower-case words joined by dots, at most [`Name::MAX_BYTES`]; the first is neither `tidings` nor `dead-letter` |
//! | version | 1 to [`Envelope::MAX_VERSION`] |
//! | key | none, or 1 to [`Envelope::MAX_KEY_BYTES`] without control characters (C0, DEL, C1), and without white space (Unicode's) at an end |
//! | name of a header | 1 or more visible ASCII characters, no colon |
//! | reserved, in any letter case | names that begin with `ce-`, `nats-` or `tidings-`; `content-type`, `traceparent`, `tracestate` |
//! | value of a header | any text, also an empty one, without control characters, and without white space at an end |
//! | `traceparent`, `tracestate`, `ce-correlationid`, `ce-causationid`, `ce-source` | what [`Lineage`] and the source are carried by: 1 to [`Lineage::MAX_BYTES`], else as a value |
//! | headers of a message | at most [`wire::MAX_HEADER_BYTES`] as [`wire::header_bytes`] counts them |
//! | message | headers and payload together within the server's `max_payload` |
//! | time of a row | the years 1 to 9999 |
//!
//! The headers argument of the SQL function, and the headers column of the outbox, may set the system's own five
//! headers by name. `ce-time` is accepted in the outbox only: an event written by SQL happens when it is written.
//!
//! This crate does no I/O and knows no server. A package of events needs no other dependency of Tidings:
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use tidings_contract::{Envelope, Event};
//!
//! #[derive(Debug, Serialize, Deserialize, Event)]
//! #[event(name = "user.created", version = 1, key = id)]
//! struct UserCreated { id: u64, email: String }
//!
//! let event = UserCreated { id: 7, email: "ada@example.org".into() };
//! let envelope = Envelope::of(&event)?.header("tenant", "acme")?;
//! assert_eq!(envelope.name().as_str(), "user.created");
//! assert_eq!(envelope.key(), Some("7"));
//! # Ok::<(), tidings_contract::EnvelopeError>(())
//! ```

mod envelope;
// Public for `tidings`, which exports the trait with its own derive.
#[doc(hidden)]
pub mod event;
mod extensions;
mod headers;
mod id;
mod lineage;
mod name;
mod subject;
mod traceparent;
pub mod wire;

pub use envelope::{Envelope, EnvelopeError, IntoEnvelope};
pub use event::Event;
pub use extensions::Extensions;
pub use headers::{HeaderError, Headers};
pub use id::EventId;
pub use lineage::Lineage;
pub use name::{Name, NameError};
pub use subject::{Pattern, PatternError};
pub use tidings_derive::Event;
pub use traceparent::Traceparent;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
