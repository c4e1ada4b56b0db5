//! What producers and consumers of events agree on, and nothing else.
//!
//! * [`Event`]: a fact that happened, as a Rust type. Derive it.
//! * [`EventId`], [`Name`], [`Headers`], [`Lineage`]: what an event is known by.
//! * [`Envelope`]: an event together with what is known about it.
//! * [`wire`]: how an envelope looks as a NATS message, for any client in any language.
//! * [`Pattern`]: which names a subject such as `user.>` covers.
//!
//! This crate does no I/O and knows no server. A package of events depends on it alone:
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
// Public for `tidings`, which exports the trait with a derive of its own.
#[doc(hidden)]
pub mod event;
mod extensions;
mod headers;
mod id;
mod lineage;
mod name;
mod subject;
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
