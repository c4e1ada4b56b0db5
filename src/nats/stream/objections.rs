//! Objections to a stream's declaration, raised before anything is changed. Never changes a stream.

use serde_json::{Map, Value};
use tidings_contract::Pattern;

use super::{
    patterns,
    streams::{Info, StreamSpec},
};
use crate::nats::{
    Bus, BusError,
    protocol::{keys, subjects},
};

/// The shortest age or window that the server accepts.
const SHORTEST: std::time::Duration = std::time::Duration::from_millis(100);

impl StreamSpec {
    /// What is wrong with the declaration alone, each in a sentence with its cure.
    #[must_use]
    pub fn objections(&self) -> Vec<String> {
        let mut found = Vec::new();
        if let Some(age) = self.max_age {
            if age < self.duplicate_window {
                found.push(format!(
                    "max_age ({age:?}) is below duplicate_window ({:?}): make max_age longer, or duplicate_window \
                     shorter",
                    self.duplicate_window
                ));
            }
            if age < SHORTEST {
                found.push(format!(
                    "max_age ({age:?}) is below 100ms, the least that a server takes"
                ));
            }
        }
        if self.duplicate_window < SHORTEST {
            let window = self.duplicate_window;
            found.push(format!(
                "duplicate_window ({window:?}) is below 100ms, the least that a server takes"
            ));
        }
        if self.max_bytes == Some(0) {
            found.push(
                "max_bytes is 0, which a server takes for no limit: leave it out, or give a size"
                    .to_owned(),
            );
        }
        if !matches!(self.replicas, 1..=5) {
            found.push(format!(
                "replicas is {}: a server takes 1 to 5, best 1, 3 or 5",
                self.replicas
            ));
        }
        if let Err(overlap) = patterns::added(&[], &self.subjects) {
            let patterns::Overlap { taken, wanted } = overlap;
            found.push(format!(
                "its subjects {taken} and {wanted} overlap: declare one that covers both"
            ));
        }
        found
    }
}

impl Bus {
    /// The objections to [`Bus::apply_stream`], as far as they are known in advance: each in a sentence with its cure.
    ///
    /// # Errors
    /// [`BusError`] when the server does not answer or refuses.
    pub async fn stream_objections(&self, spec: &StreamSpec) -> Result<Vec<String>, BusError> {
        let info = self.stream_info(&spec.name).await?;
        self.objections(spec, info.as_ref()).await
    }

    /// The subjects of the streams of Tidings: those that it creates, the inspected one, and others whose names are
    /// known.
    pub(in crate::nats) async fn subjects_of_ours(
        &self,
        config: &Map<String, Value>,
        others: &[String],
    ) -> Result<Vec<String>, BusError> {
        let fixed = [
            subjects::DEAD_LETTERS,
            subjects::RETRIES,
            subjects::SCHEDULED_RETRIES,
            keys::ALL,
        ];
        let mut ours: Vec<String> = fixed.map(str::to_owned).to_vec();
        ours.extend(taken(config));
        for other in others {
            let info = self.stream_info(other).await?;
            ours.extend(info.iter().flat_map(|info| taken(&info.config)));
        }
        Ok(ours)
    }

    pub(in crate::nats) async fn objections(
        &self,
        spec: &StreamSpec,
        info: Option<&Info>,
    ) -> Result<Vec<String>, BusError> {
        let mut found = spec.objections();
        if let Some(info) = info {
            found.extend(unchangeable(spec, &info.config));
        } else if spec.subjects.is_empty() {
            found
                .push("it has no subjects: declare those of its events, such as user.>".to_owned());
        }
        for subject in spec.subjects.iter().map(Pattern::as_str) {
            let others = self.stream_names(subject).await?;
            for other in others.iter().filter(|other| **other != spec.name) {
                found.push(format!(
                    "stream {other} takes {subject}, or a part of it: a subject belongs to one stream, so remove it \
                     from one of the two"
                ));
            }
        }
        Ok(found)
    }
}

/// The differences that the server does not allow to be changed in an existing stream.
pub(in crate::nats) fn unchangeable(spec: &StreamSpec, config: &Map<String, Value>) -> Vec<String> {
    let mut found = Vec::new();
    let settings = spec.settings();
    let fixed = ["storage", "retention"].into_iter();
    for setting in fixed {
        let (now, wanted) = (config.get(setting), settings.get(setting));
        if let (Some(now), Some(wanted)) = (now, wanted)
            && now != wanted
            && !(spec.holds_letters() && now == "interest" && wanted == "limits")
        {
            found.push(format!(
                "its {setting} is {now} and cannot become {wanted}: copy what is needed, delete the stream, and \
                 declare it again"
            ));
        }
    }
    for (setting, what) in [
        ("sealed", "is sealed"),
        ("mirror", "is a mirror of another stream"),
    ] {
        if config
            .get(setting)
            .is_some_and(|value| *value != Value::Bool(false) && !value.is_null())
        {
            found.push(format!(
                "it {what}, so nothing can be published into it: use another stream"
            ));
        }
    }
    let taken = taken(config);
    if let Err(patterns::Overlap { taken, wanted }) = patterns::added(&taken, &spec.subjects) {
        found.push(format!(
            "it takes {taken}, which overlaps with {wanted}: declare one that covers both"
        ));
    }
    found
}

/// The subjects that a stream takes.
pub(in crate::nats) fn taken(config: &Map<String, Value>) -> Vec<String> {
    let subjects = config.get("subjects").and_then(Value::as_array);
    let texts = subjects.into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn spec(subjects: &[&str]) -> StreamSpec {
        let subjects = subjects.iter().map(|text| Pattern::parse(text).unwrap());
        StreamSpec::new("EVENTS", subjects).unwrap()
    }

    #[test]
    fn settings_that_a_server_refuses_are_reported_before() {
        assert_eq!(spec(&["a.>"]).objections(), [""; 0]);
        let mut wrong = spec(&["a.*", "*.b"]);
        wrong.max_age = Some(Duration::from_millis(50));
        wrong.duplicate_window = Duration::from_millis(60);
        wrong.max_bytes = Some(0);
        wrong.replicas = 0;
        let said = wrong.objections();
        let begins = [
            "max_age (50ms) is below dup",
            "max_age (50ms) is below 100",
            "duplicate_window",
            "max_bytes",
            "replicas",
            "its subjects a.*",
        ];
        assert_eq!(said.len(), begins.len(), "{said:?}");
        for (said, begin) in said.iter().zip(begins) {
            assert!(said.starts_with(begin), "{said}");
        }
    }

    #[test]
    fn settings_that_cannot_be_changed_are_named() {
        let mut config = spec(&["a.>"]).settings();
        assert_eq!(unchangeable(&spec(&["b.>"]), &config), [""; 0]);
        config.insert("storage".into(), "memory".into());
        config.insert("sealed".into(), true.into());
        let said = unchangeable(&spec(&["a.>"]), &config);
        assert!(said[0].starts_with("its storage is \"memory\""), "{said:?}");
        assert!(said[1].starts_with("it is sealed"), "{said:?}");
    }
}
