//! The declarations of streams; creates and updates streams accordingly. Never deletes, never changes what it does not
//! own.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tidings_contract::Pattern;

use super::{
    declare::{Plan, SettingChange},
    objections::taken,
    patterns,
    settings::{Looked, Role, is_as_wanted, issues, put_over},
};
use crate::nats::{
    Bus, BusError,
    protocol::{api, codes, names, subjects},
};

/// The declaration of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamSpec {
    /// The stream's name: letters, digits, `_` and `-`.
    pub name: String,
    /// The subjects it takes, such as `user.>`.
    pub subjects: Vec<Pattern>,
    /// The number of replicas in a cluster: 1, 3 or 5; default 1.
    pub replicas: u8,
    /// How long events are kept; default without limit.
    pub max_age: Option<Duration>,
    /// How many bytes are kept before new events are refused; default without limit.
    pub max_bytes: Option<u64>,
    /// How long the server recognises a repeated event id; default 2 min.
    pub duplicate_window: Duration,
}

/// The text is not a valid stream name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a stream name: use letters, digits, `_` and `-`, at most 255")]
pub struct StreamNameError(String);

impl StreamSpec {
    /// A stream with the defaults.
    ///
    /// # Errors
    /// [`StreamNameError`] when the name is not valid.
    pub fn new(
        name: impl Into<String>,
        subjects: impl IntoIterator<Item = Pattern>,
    ) -> Result<Self, StreamNameError> {
        let name = name.into();
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || name.len() > 255 || !name.chars().all(word) {
            return Err(StreamNameError(name));
        }
        Ok(Self {
            name,
            subjects: subjects.into_iter().collect(),
            replicas: 1,
            max_age: None,
            max_bytes: None,
            duplicate_window: Duration::from_secs(120),
        })
    }

    /// The stream of dead letters, `DEAD_LETTERS`.
    ///
    /// # Panics
    /// Never: its name and subject are constants that a test parses.
    #[must_use]
    #[allow(clippy::expect_used)] // constants; the test below parses them
    pub fn dead_letters() -> Self {
        let subjects = Pattern::parse(subjects::DEAD_LETTERS).expect("a constant pattern");
        Self::new(names::DEAD_LETTERS, [subjects]).expect("a constant name")
    }

    /// The stream of events that failed and wait for another attempt, `RETRIES`. An event is in it from its failure to
    /// its next attempt, so that it does not count as ack pending for its subscriber.
    ///
    /// # Panics
    /// Never: its name and subjects are constants that a test parses.
    #[must_use]
    #[allow(clippy::expect_used)] // constants; the test below parses them
    pub fn retries() -> Self {
        let subjects = [subjects::RETRIES, subjects::SCHEDULED_RETRIES]
            .map(|subjects| Pattern::parse(subjects).expect("a constant pattern"));
        Self::new(names::RETRIES, subjects).expect("a constant name")
    }

    /// The streams that subscribers need in addition to those of their events: the dead letters and the retries.
    #[must_use]
    pub fn internal() -> [Self; 2] {
        [Self::dead_letters(), Self::retries()]
    }

    /// Whether events leave the stream when they were handled, and may be published by a schedule.
    fn holds_retries(&self) -> bool {
        let of_retries = [subjects::RETRIES, subjects::SCHEDULED_RETRIES];
        let mut subjects = self.subjects.iter();
        subjects.any(|subjects| of_retries.contains(&subjects.as_str()))
    }

    /// Whether the stream stores dead letters. With retention `interest` it would store none, and the server can change
    /// that.
    pub(in crate::nats) fn holds_letters(&self) -> bool {
        let mut subjects = self.subjects.iter();
        subjects.any(|pattern| pattern.as_str() == subjects::DEAD_LETTERS)
    }

    /// The settings that Tidings owns, under the names of the JetStream API.
    pub(in crate::nats) fn settings(&self) -> Map<String, Value> {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let max_bytes = match self.max_bytes {
            Some(bytes) => json!(bytes),
            None => json!(-1),
        };
        let subjects: Vec<&str> = self.subjects.iter().map(Pattern::as_str).collect();
        // The server refuses schedules in a stream with `discard: new`.
        let (retention, discard) = if self.holds_retries() {
            ("workqueue", "old")
        } else {
            ("limits", "new")
        };
        let settings = json!({
            "subjects": subjects,
            "retention": retention,
            "storage": "file",
            "discard": discard,
            "allow_msg_schedules": self.holds_retries(),
            "num_replicas": self.replicas,
            "max_age": self.max_age.map_or(0, nanos),
            "max_bytes": max_bytes,
            "duplicate_window": nanos(self.duplicate_window),
            "allow_direct": true,
            "allow_atomic": true,
            "max_msgs_per_subject": -1,
            "no_ack": false,
            "subject_transform": null,
        });
        match settings {
            Value::Object(settings) => settings,
            _ => Map::new(),
        }
    }

    /// The settings for the update of a stream. Its other subjects stay, because they belong to other services.
    fn settings_over(&self, current: &Map<String, Value>) -> Map<String, Value> {
        let mut settings = self.settings();
        let taken = taken(current);
        // An overlap is an objection, which is raised before this.
        if let Ok(subjects) = patterns::added(&taken, &self.subjects) {
            settings.insert("subjects".into(), json!(subjects));
        }
        settings
    }

    fn plan(&self, current: &Map<String, Value>) -> Plan {
        let shown = |value: Option<&Value>| match value {
            Some(value) => value.to_string(),
            None => "unset".into(),
        };
        let differs: Vec<_> = self
            .settings_over(current)
            .into_iter()
            .filter(|(name, wanted)| !is_as_wanted(current.get(name), wanted))
            .map(|(setting, wanted)| SettingChange {
                now: shown(current.get(&setting)),
                wanted: wanted.to_string(),
                setting,
            })
            .collect();
        if differs.is_empty() {
            Plan::Unchanged
        } else {
            Plan::Update(differs)
        }
    }
}

/// The part of the answer to a stream request that is read.
#[derive(Deserialize)]
pub(in crate::nats) struct Info {
    pub(in crate::nats) created: String,
    pub(in crate::nats) config: Map<String, Value>,
    pub(in crate::nats) state: InfoState,
    /// When the server answered, by its clock.
    #[cfg(feature = "outbox")]
    #[serde(default)]
    pub(in crate::nats) ts: Option<chrono::DateTime<chrono::Utc>>,
}

#[derive(Deserialize)]
pub(in crate::nats) struct InfoState {
    pub(in crate::nats) first_seq: u64,
    pub(in crate::nats) last_seq: u64,
    pub(in crate::nats) messages: u64,
    pub(in crate::nats) bytes: u64,
}

impl Bus {
    /// What [`Bus::apply_stream`] would do.
    ///
    /// # Errors
    /// [`BusError`] when the server does not answer or refuses.
    pub async fn plan_stream(&self, spec: &StreamSpec) -> Result<Plan, BusError> {
        Ok(match self.stream_info(&spec.name).await? {
            Some(info) => spec.plan(&info.config),
            None => Plan::Create,
        })
    }

    /// Creates or updates a stream. The declared subjects are added to those that the stream already takes: several
    /// services may declare the same stream, each with its own subjects, and none removes another's;
    /// [`Bus::remove_subjects`] removes subjects. Settings that Tidings does not own stay as they are.
    ///
    /// # Errors
    /// [`BusError::Declaration`] when the stream cannot be as declared, for instance because another stream takes one
    /// of the subjects; nothing is changed then. [`BusError`] when the server does not answer or refuses.
    ///
    /// # Cancel safety
    /// When the future is dropped, the stream may or may not be changed. Applying it again is safe.
    pub async fn apply_stream(&self, spec: &StreamSpec) -> Result<Plan, BusError> {
        let mut is_second = false;
        loop {
            let info = self.stream_info(&spec.name).await?;
            if let Some(reason) = self
                .objections(spec, info.as_ref())
                .await?
                .into_iter()
                .next()
            {
                let stream = spec.name.clone();
                return Err(BusError::Declaration { stream, reason });
            }
            let name = &spec.name;
            let (plan, subject, mut config) = match info {
                None => (Plan::Create, api::stream_create(name), Map::new()),
                Some(info) => match spec.plan(&info.config) {
                    Plan::Unchanged => return Ok(Plan::Unchanged),
                    plan => (plan, api::stream_update(name), info.config),
                },
            };
            config.insert("name".into(), json!(name));
            let settings = spec.settings_over(&config);
            put_over(&mut config, settings);
            match self.api::<Info>(&subject, &config).await {
                Ok(_) => {
                    let extra = patterns::extra(&taken(&config), &spec.subjects);
                    tracing::info!(stream = name, %plan, subjects_of_others = ?extra, "stream applied");
                    return Ok(plan);
                }
                // Another service has created it at the same moment.
                Err(BusError::Refused {
                    code: codes::STREAM_NAME_EXISTS,
                    ..
                }) if !is_second => is_second = true,
                Err(error) => return Err(error),
            }
        }
    }

    /// The subjects that a stream takes but its declaration does not name, each with the number of events that are
    /// stored under it; empty when there is no such stream.
    ///
    /// # Errors
    /// [`BusError`] when the server does not answer or refuses.
    pub async fn extra_subjects(&self, spec: &StreamSpec) -> Result<Vec<(String, u64)>, BusError> {
        #[derive(Deserialize)]
        struct Counted {
            state: Counts,
        }
        #[derive(Deserialize)]
        struct Counts {
            #[serde(default)]
            subjects: Option<BTreeMap<String, u64>>,
        }
        let Some(info) = self.stream_info(&spec.name).await? else {
            return Ok(Vec::new());
        };
        let mut extra = Vec::new();
        for subject in patterns::extra(&taken(&info.config), &spec.subjects) {
            let asked = api::stream_info(&spec.name);
            let counted: Counted = self
                .api(&asked, &json!({ "subjects_filter": subject }))
                .await?;
            let events = counted.state.subjects.unwrap_or_default();
            extra.push((subject, events.into_values().fold(0, u64::saturating_add)));
        }
        Ok(extra)
    }

    /// Removes subjects from a stream. Events that are stored under them stay; events that are published to them from
    /// now on are refused, or taken by another stream.
    ///
    /// # Errors
    /// [`BusError`] when the server does not answer or refuses.
    ///
    /// # Cancel safety
    /// As for [`Bus::apply_stream`].
    pub async fn remove_subjects(&self, stream: &str, subjects: &[String]) -> Result<(), BusError> {
        let Some(Info { mut config, .. }) = self.stream_info(stream).await? else {
            return Ok(());
        };
        let mut left = taken(&config);
        left.retain(|subject| !subjects.contains(subject));
        config.insert("subjects".into(), json!(left));
        let subject = api::stream_update(stream);
        let _: Info = self.api(&subject, &config).await?;
        tracing::info!(stream, ?subjects, "stream subjects removed");
        Ok(())
    }

    /// The issues of a stream's settings, each in a sentence with its cure; `None` when there is no such stream.
    /// `subjects` are those that its subscribers want, `others` the other streams that Tidings works with.
    pub(crate) async fn stream_issues(
        &self,
        stream: &str,
        role: Role,
        subjects: &[String],
        others: &[String],
    ) -> Result<Option<Vec<String>>, BusError> {
        let Some(info) = self.stream_info(stream).await? else {
            return Ok(None);
        };
        let issues = self.issues_of((stream, role), &info, subjects, others);
        issues.await.map(Some)
    }

    pub(in crate::nats) async fn issues_of(
        &self,
        (stream, role): (&str, Role),
        info: &Info,
        subjects: &[String],
        others: &[String],
    ) -> Result<Vec<String>, BusError> {
        let ours = match info.config.get("republish").is_some_and(|it| !it.is_null()) {
            true => self.subjects_of_ours(&info.config, others).await?,
            false => Vec::new(),
        };
        let looked = Looked {
            stream,
            role,
            config: &info.config,
            messages: info.state.messages,
            bytes: info.state.bytes,
            largest: self.max_payload(),
            ours: &ours,
        };
        Ok(issues(&looked, subjects))
    }

    /// The streams whose subjects overlap with a pattern.
    ///
    /// # Errors
    /// [`BusError`] when the server does not answer or refuses.
    pub async fn streams_taking(&self, pattern: &Pattern) -> Result<Vec<String>, BusError> {
        self.stream_names(pattern.as_str()).await
    }

    /// The stream that takes a subject, if there is one.
    pub(crate) async fn stream_of(&self, subject: &str) -> Result<Option<String>, BusError> {
        Ok(self.stream_names(subject).await?.into_iter().next())
    }

    pub(in crate::nats) async fn stream_names(
        &self,
        subject: &str,
    ) -> Result<Vec<String>, BusError> {
        #[derive(Deserialize)]
        struct Names {
            #[serde(default)]
            streams: Option<Vec<String>>,
        }
        let names: Names = self
            .api(api::STREAM_NAMES, &json!({ "subject": subject }))
            .await?;
        Ok(names.streams.unwrap_or_default())
    }

    /// Groups subjects by the stream that takes them.
    pub(crate) async fn streams_of<'a>(
        &self,
        subjects: impl IntoIterator<Item = &'a str>,
    ) -> Result<BTreeMap<Option<String>, Vec<&'a str>>, BusError> {
        let mut streams: BTreeMap<_, Vec<&str>> = BTreeMap::new();
        for subject in subjects {
            let stream = self.stream_of(subject).await?;
            streams.entry(stream).or_default().push(subject);
        }
        Ok(streams)
    }

    /// When a stream was created, as the server writes it; `None` when there is no such stream.
    pub(crate) async fn stream_created(&self, stream: &str) -> Result<Option<String>, BusError> {
        Ok(self.stream_info(stream).await?.map(|info| info.created))
    }

    pub(in crate::nats) async fn stream_info(&self, name: &str) -> Result<Option<Info>, BusError> {
        match self.api(&api::stream_info(name), &json!({})).await {
            Ok(info) => Ok(Some(info)),
            Err(BusError::Refused {
                code: codes::STREAM_NOT_FOUND,
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_differences_are_planned_and_foreign_settings_stay() {
        let spec = StreamSpec::dead_letters();
        let mut current = spec.settings();
        current.insert("description".into(), json!("somebody else's"));
        current.remove("max_age");
        current.remove("subject_transform");
        assert_eq!(spec.plan(&current), Plan::Unchanged);
        current.insert("num_replicas".into(), json!(3));
        let plan = spec.plan(&current).to_string();
        assert_eq!(plan, "update num_replicas: 3 -> 1;");
    }

    #[test]
    fn the_retries_are_a_stream_of_their_own_kind() {
        let settings = StreamSpec::retries().settings();
        assert_eq!(settings.get("retention"), Some(&json!("workqueue")));
        assert_eq!(settings.get("allow_msg_schedules"), Some(&json!(true)));
    }

    #[test]
    fn names_with_dots_or_spaces_are_refused() {
        for name in ["", "a.b", "a b", "a*", "a>"] {
            assert!(StreamSpec::new(name, []).is_err(), "{name:?}");
        }
    }
}
