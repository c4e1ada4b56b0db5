//! The events of a user. The key is the id of the user, so the events of one user are kept in
//! order.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidings_contract::Event;
use uuid::Uuid;

/// A user signed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Event)]
#[event(name = "user.created", version = 1, key = id)]
pub struct UserCreated {
    /// The user.
    pub id: Uuid,
    /// The address as the user gave it.
    pub email: String,
    /// When the user signed up.
    pub created_at: DateTime<Utc>,
}

/// A user has another address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Event)]
#[event(name = "user.email_changed", version = 1, key = id)]
pub struct UserEmailChanged {
    /// The user.
    pub id: Uuid,
    /// The address until now. Its owner may have to be notified.
    pub old_email: String,
    /// The address from now on.
    pub new_email: String,
    /// When it changed.
    pub changed_at: DateTime<Utc>,
}

/// A user was deleted. The event has no personal data, so that it can be kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Event)]
#[event(name = "user.deleted", version = 1, key = id)]
pub struct UserDeleted {
    /// The deleted user.
    pub id: Uuid,
    /// When the user was deleted.
    pub deleted_at: DateTime<Utc>,
}
