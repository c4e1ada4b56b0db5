//! Which dead letters are selected. Never reads one.

use chrono::{DateTime, Utc};
use tidings_contract::{Name, Pattern};

use super::StoredDeadLetter;
use crate::{
    nats::{StartFrom, subjects},
    policy::outcome::Cause,
};

/// Selects dead letters: those that meet every condition; all of them when there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetterSelection {
    /// The one with this sequence.
    pub sequence: Option<u64>,
    /// Those of a subscriber.
    pub subscriber: Option<String>,
    /// Those whose event's name the pattern covers.
    pub name: Option<Pattern>,
    /// Those of a key.
    pub key: Option<String>,
    /// Those with this fingerprint of the error.
    pub fingerprint: Option<String>,
    /// Those with this cause.
    pub cause: Option<Cause>,
    /// Those that were stored at or after this time.
    pub since: Option<DateTime<Utc>>,
    /// Those that were stored before this time.
    pub until: Option<DateTime<Utc>>,
}

impl DeadLetterSelection {
    /// Only the one with this sequence.
    #[must_use]
    pub fn sequence(mut self, sequence: u64) -> Self {
        self.sequence = Some(sequence);
        self
    }

    /// Only those of a subscriber.
    #[must_use]
    pub fn subscriber(mut self, subscriber: impl Into<String>) -> Self {
        self.subscriber = Some(subscriber.into());
        self
    }

    /// Only those whose event's name the pattern covers.
    #[must_use]
    pub fn name(mut self, name: Pattern) -> Self {
        self.name = Some(name);
        self
    }

    /// Only those of a key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Only those with this fingerprint.
    #[must_use]
    pub fn fingerprint(mut self, fingerprint: impl Into<String>) -> Self {
        self.fingerprint = Some(fingerprint.into());
        self
    }

    /// Only those with this cause; its word, such as `exhausted`, will do.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<Cause>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Only those stored at or after this time.
    #[must_use]
    pub fn since(mut self, time: DateTime<Utc>) -> Self {
        self.since = Some(time);
        self
    }

    /// Only those stored before this time.
    #[must_use]
    pub fn until(mut self, time: DateTime<Utc>) -> Self {
        self.until = Some(time);
        self
    }

    /// Whether it has no condition.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it selects, of each key of a subscriber, all dead letters or none. Only then can parked keys be
    /// redriven.
    #[must_use]
    pub fn is_of_whole_keys(&self) -> bool {
        let mut rest = self.clone();
        (rest.subscriber, rest.key) = (None, None);
        rest.is_all()
    }

    /// Whether a dead letter is selected.
    #[must_use]
    pub fn selects(&self, letter: &StoredDeadLetter) -> bool {
        let same = |wanted: &Option<String>, is: Option<&str>| match wanted {
            Some(wanted) => is == Some(wanted),
            None => true,
        };
        let covered = |pattern: &Pattern| {
            Name::parse(&letter.name).map_or(pattern.as_str() == letter.name, |name| {
                pattern.covers(&name)
            })
        };
        self.sequence.is_none_or(|wanted| wanted == letter.sequence)
            && same(&self.subscriber, Some(&letter.subscriber))
            && self.name.as_ref().is_none_or(covered)
            && same(&self.key, letter.key.as_deref())
            && same(&self.fingerprint, letter.fingerprint.as_deref())
            && self
                .cause
                .as_ref()
                .is_none_or(|wanted| letter.cause.as_ref() == Some(wanted))
            && self.since.is_none_or(|since| letter.stored_at >= since)
            && !self.is_past(letter)
    }

    /// Whether neither this dead letter nor any later one is selected.
    pub(super) fn is_past(&self, letter: &StoredDeadLetter) -> bool {
        self.sequence.is_some_and(|wanted| letter.sequence > wanted)
            || self.until.is_some_and(|until| letter.stored_at >= until)
    }

    /// A subject filter that covers all selected dead letters, and perhaps more.
    pub(super) fn subjects(&self) -> String {
        match &self.subscriber {
            Some(subscriber) if is_word(subscriber) => subjects::dead_letters_of(subscriber),
            _ => subjects::DEAD_LETTERS.to_owned(),
        }
    }

    /// Where reading begins.
    pub(super) fn start(&self) -> StartFrom {
        match (self.sequence, self.since) {
            (Some(sequence), _) => StartFrom::Sequence(sequence),
            (None, Some(since)) => StartFrom::Time(since),
            (None, None) => StartFrom::Sequence(1),
        }
    }
}

/// Whether a text is one token of a subject.
fn is_word(text: &str) -> bool {
    let parts = |c: char| c == '.' || c == '*' || c == '>' || c.is_whitespace() || c.is_control();
    !text.is_empty() && !text.contains(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::StoredMessage;

    fn letter() -> StoredDeadLetter {
        let headers = [
            ("ce-type", "user.created.v1"),
            ("ce-partitionkey", "ada"),
            ("tidings-dead-cause", "exhausted"),
            ("tidings-dead-error", "timeout after 30s"),
        ];
        StoredDeadLetter::of(StoredMessage {
            sequence: 7,
            stored_at: DateTime::UNIX_EPOCH,
            subject: "dead-letter.welcome.user.created".to_owned(),
            headers: headers.map(|(n, v)| (n.to_owned(), v.to_owned())).into(),
            payload: bytes::Bytes::new(),
        })
    }

    #[test]
    fn every_condition_counts() {
        let (letter, all) = (letter(), DeadLetterSelection::default());
        let later = DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(1);
        let pattern = |text| Pattern::parse(text).unwrap();
        for (selection, selects) in [
            (all.clone(), true),
            (all.clone().sequence(7), true),
            (all.clone().sequence(8), false),
            (all.clone().subscriber("welcome"), true),
            (all.clone().subscriber("other"), false),
            (all.clone().name(pattern("user.>")), true),
            (all.clone().name(pattern("user.renamed")), false),
            (all.clone().key("ada"), true),
            (all.clone().key("bob"), false),
            (all.clone().fingerprint("57147553f8d9"), true),
            (all.clone().fingerprint("0"), false),
            (all.clone().cause("exhausted"), true),
            (all.clone().cause("rejected"), false),
            (all.clone().since(DateTime::UNIX_EPOCH), true),
            (all.clone().since(later), false),
            (all.clone().until(later), true),
            (all.clone().until(DateTime::UNIX_EPOCH), false),
            (all.clone().key("ada").cause("rejected"), false),
        ] {
            assert_eq!(selection.selects(&letter), selects, "{selection:?}");
        }
    }

    #[test]
    fn an_invalid_subscriber_name_is_not_used_as_a_subject() {
        for subscriber in ["a.b", ">", "", "a b"] {
            let selection = DeadLetterSelection::default().subscriber(subscriber);
            assert_eq!(selection.subjects(), "dead-letter.>");
        }
    }
}
