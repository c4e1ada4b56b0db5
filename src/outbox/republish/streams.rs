//! Which stream takes the events of a name, looked up once for each name. Never decides what is published there.

use std::{collections::HashMap, sync::Arc};

use tidings_contract::Name;

use super::RepublishError;
use crate::nats::Bus;

pub(crate) struct Streams {
    bus: Bus,
    prefix: Option<String>,
    known: HashMap<String, Arc<str>>,
}

impl Streams {
    /// Looks up subjects with this prefix, or the events' own.
    pub(crate) fn new(bus: &Bus, prefix: Option<String>) -> Self {
        Self {
            bus: bus.clone(),
            prefix,
            known: HashMap::new(),
        }
    }

    /// Whether a stream for this name was already found.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.known.contains_key(name)
    }

    pub(crate) async fn of(&mut self, name: &str) -> Result<Arc<str>, RepublishError> {
        if let Some(stream) = self.known.get(name) {
            return Ok(Arc::clone(stream));
        }
        let subject = subject(self.prefix.as_deref(), name);
        if let Err(error) = Name::parse(&subject) {
            let reason = error.to_string();
            return Err(RepublishError::NotAName { subject, reason });
        }
        let stream = self.bus.stream_of(&subject).await?;
        let stream: Arc<str> = stream.ok_or(RepublishError::NoStream { subject })?.into();
        self.known.insert(name.to_owned(), Arc::clone(&stream));
        Ok(stream)
    }
}

/// The subject under which an event of this name is published.
pub(super) fn subject(prefix: Option<&str>, name: &str) -> String {
    match prefix {
        Some(prefix) => format!("{prefix}.{name}"),
        None => name.to_owned(),
    }
}
