//! The events of a payment. The key is the id of the payment, not of its user: received must come
//! before settled.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidings_contract::Event;
use uuid::Uuid;

use crate::Money;

/// A user's payment was accepted; the money is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Event)]
#[event(name = "payment.received", version = 1, key = id)]
pub struct PaymentReceived {
    /// The payment.
    pub id: Uuid,
    /// Who paid.
    pub user_id: Uuid,
    /// What the user pays.
    pub amount: Money,
    /// When it was accepted.
    pub received_at: DateTime<Utc>,
}

/// The money of a payment has arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Event)]
#[event(name = "payment.settled", version = 1, key = id)]
pub struct PaymentSettled {
    /// The payment.
    pub id: Uuid,
    /// Who paid.
    pub user_id: Uuid,
    /// The amount that arrived: the payment less fees.
    pub amount: Money,
    /// When it arrived.
    pub settled_at: DateTime<Utc>,
    /// The bank's reference of the transfer, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bank_reference: Option<String>,
}
