//! The list of this crate's events, for tools that have a name and bytes but no type.

use std::fmt;

use tidings_contract::Event;

use crate::{PaymentReceived, PaymentSettled, UserCreated, UserDeleted, UserEmailChanged};

/// Every event of this crate.
pub const ALL: &[Known] = &[
    Known::of::<UserCreated>(),
    Known::of::<UserEmailChanged>(),
    Known::of::<UserDeleted>(),
    Known::of::<PaymentReceived>(),
    Known::of::<PaymentSettled>(),
];

/// An event without its type.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Known {
    /// Its name.
    pub name: &'static str,
    /// The version of its payload.
    pub version: u32,
    /// Decodes a payload, and returns the key of the typed event. The error is the one with which a
    /// subscriber would reject the payload.
    pub check: fn(&[u8]) -> Result<Option<String>, serde_json::Error>,
}

impl Known {
    const fn of<E: Event>() -> Self {
        Self {
            name: E::NAME,
            version: E::VERSION,
            check: |payload| Ok(serde_json::from_slice::<E>(payload)?.key()),
        }
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Known({}.v{})", self.name, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, payload: &str) -> Result<Option<String>, serde_json::Error> {
        let known = ALL.iter().find(|known| known.name == name).unwrap();
        (known.check)(payload.as_bytes())
    }

    #[test]
    fn a_payload_that_decodes_gives_its_key() {
        let id = "0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11";
        let payload = format!(r#"{{"id":"{id}","deleted_at":"2026-11-21T09:30:00Z"}}"#);
        assert_eq!(
            check("user.deleted", &payload).unwrap().as_deref(),
            Some(id)
        );
    }

    #[test]
    fn a_payload_that_does_not_decode_says_where() {
        let error = check("user.deleted", r#"{"id":7}"#).unwrap_err();
        assert_eq!((error.line(), error.column()), (1, 7), "{error}");
    }
}
