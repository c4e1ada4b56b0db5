//! The trait that makes a Rust type an event. It owns no behaviour.

use serde::{Serialize, de::DeserializeOwned};

/// A fact that happened, typed. Use `#[derive(Event)]`:
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # use tidings_contract::Event;
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(name = "payment.received", version = 2, key = account)]
/// struct PaymentReceived { account: String, cents: i64 }
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(name = "catalogue.rebuilt", version = 1, keyless)]
/// struct CatalogueRebuilt { entries: u64 }
/// ```
///
/// The payload on the wire is the type's JSON. A change that an older reader cannot decode needs a new version. A new
/// optional field needs none, as long as readers ignore unknown fields: do not use `deny_unknown_fields` on an event.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "this type does not implement `Event`",
    note = "add `#[derive(Serialize, Deserialize, Event)]` and `#[event(name = \"...\", version = 1, key = field)]` to it"
)]
pub trait Event: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The name, such as `user.created`; see [`Name`](crate::Name) for its rules.
    const NAME: &'static str;

    /// The version of the payload's schema: 1 to [`Envelope::MAX_VERSION`](crate::Envelope::MAX_VERSION).
    const VERSION: u32;

    /// What the event is about. Events of one key are kept in order; `None` means that the event needs no order.
    fn key(&self) -> Option<String>;
}
