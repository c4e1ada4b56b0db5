//! That an event is handled as part of a replay, and of which. A plain value; it never decides what is replayed.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Names a replay, for ever: 32 hexadecimal digits, which sort by the time when it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReplayId(#[serde(with = "uuid::serde::simple")] Uuid);

/// A text that names no replay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no id of a replay: it has 32 hexadecimal digits, as `tidings replay list` shows")]
pub struct ReplayIdError(String);

impl ReplayId {
    /// One that nobody has.
    pub(crate) fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for ReplayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}

impl FromStr for ReplayId {
    type Err = ReplayIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = Uuid::parse_str(text).ok();
        let id = id.filter(|id| id.get_version_num() == 7);
        id.map(Self).ok_or_else(|| ReplayIdError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_shown() {
        let id = ReplayId::new();
        assert_eq!(id.to_string().len(), 32);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{id}\""));
        for text in ["", "latest", "936da01f9abd4d9d80c702af85c822a8"] {
            assert!(text.parse::<ReplayId>().is_err(), "{text:?}");
        }
    }
}
