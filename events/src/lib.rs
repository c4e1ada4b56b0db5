//! The domain events of this repository: what happened to users and to payments. Never how events
//! are sent, stored or handled.
//!
//! One file per aggregate. For every event, by name and version:
//!
//! * `golden/<name>.v<version>.txt`: the message as NATS carries it. The header block, one line a
//!   header (on the wire they end with CRLF), an empty line, the payload.
//! * `schema/<name>.v<version>.json`: the JSON Schema of the payload.
//!
//! A test compares both with the output of the code. After an intended change:
//!
//! ```text
//! UPDATE_GOLDENS=1 cargo test -p tidings-events
//! git diff events/
//! ```
//!
//! Read the difference like a user of the previous release. A new optional field
//! (`#[serde(default)]`) is compatible: no event denies unknown fields, so older readers skip it. A
//! change that an older reader cannot decode (a field that is removed, renamed or of another type)
//! needs a new version: a new type beside the old one, which stays as long as its events may be
//! replayed.
//!
//! ```
//! use tidings_contract::{Envelope, Event as _};
//! use tidings_events::UserDeleted;
//!
//! let event = UserDeleted { id: uuid::Uuid::now_v7(), deleted_at: chrono::Utc::now() };
//! assert_eq!(UserDeleted::NAME, "user.deleted");
//! assert_eq!(Envelope::of(&event)?.key(), Some(&*event.id.to_string()));
//! # Ok::<(), tidings_contract::EnvelopeError>(())
//! ```

mod currency;
mod known;
mod money;
mod payment;
mod user;

pub use currency::{Currency, CurrencyError};
pub use known::{ALL, Known};
pub use money::Money;
pub use payment::{PaymentReceived, PaymentSettled};
pub use user::{UserCreated, UserDeleted, UserEmailChanged};
