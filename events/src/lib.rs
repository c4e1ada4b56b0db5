//! The domain events of this repository: what happened to users and to payments. Never how it is
//! sent, stored or handled.
//!
//! One file an aggregate. For every event, by name and version:
//!
//! * `golden/<name>.v<version>.txt`: the message as NATS carries it. The header block, one line a
//!   header (on the wire they end with CRLF), an empty line, the payload.
//! * `schema/<name>.v<version>.json`: the JSON Schema of the payload.
//!
//! A test compares both with what the code makes. After a change that is meant:
//!
//! ```text
//! UPDATE_GOLDENS=1 cargo test -p tidings-events
//! git diff events/
//! ```
//!
//! Read the difference as somebody who runs the previous release. A new optional field
//! (`#[serde(default)]`) is fine: no event denies unknown fields, so older readers pass over it. What
//! an older reader cannot decode (a field gone, renamed or of another type) is a new version: a new
//! type beside the old one, which stays for as long as its events may be replayed.
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
