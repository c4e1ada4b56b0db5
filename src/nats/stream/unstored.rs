//! Why a message was not stored: its stream is missing, or does not answer. Never sends it again.

use std::time::Duration;

use serde_json::json;

use super::streams::StreamSpec;
use crate::nats::{
    Bus, BusError,
    protocol::{api, codes, keys, names},
};

/// How long the server may take to answer which stream takes a subject.
const PATIENCE: Duration = Duration::from_secs(2);

impl Bus {
    /// The precise error when a message was not confirmed, as far as the server reports it.
    pub(in crate::nats) async fn why_unstored(&self, subject: &str, error: BusError) -> BusError {
        #[derive(serde::Deserialize)]
        struct Names {
            #[serde(default)]
            streams: Option<Vec<String>>,
        }
        if !matches!(
            error,
            BusError::NoResponders { .. } | BusError::Timeout { .. }
        ) {
            return error;
        }
        let (names, wanted) = (api::STREAM_NAMES, json!({ "subject": subject }));
        match self.api_within(PATIENCE, names, &wanted).await {
            Ok(Names { streams }) if streams.as_ref().is_none_or(Vec::is_empty) => {
                let home = home(subject);
                let is_there = match &home {
                    Some(home) => self.is_there(home).await,
                    None => false,
                };
                BusError::NoStream {
                    subject: subject.to_owned(),
                    cure: cure(home.as_deref(), is_there),
                }
            }
            // For example, JetStream is off for the account.
            Err(said @ BusError::Refused { .. }) => said,
            Ok(_) | Err(_) => error,
        }
    }

    /// Whether a stream exists, as far as the server reports it.
    async fn is_there(&self, stream: &str) -> bool {
        let subject = api::stream_info(stream);
        let nothing = json!({});
        let told = self.api_within(PATIENCE, &subject, &nothing).await;
        told.is_ok_and(|_: serde::de::IgnoredAny| true)
    }
}

impl BusError {
    /// The error in words, for a stream; with the cure when the stream is missing.
    pub(crate) fn told_of(&self, stream: &str) -> String {
        match self {
            Self::Refused {
                code: codes::STREAM_NOT_FOUND,
                ..
            } => format!(
                "there is no stream {stream}: it was deleted; `tidings streams apply` creates it"
            ),
            error => error.to_string(),
        }
    }
}

/// Which stream should have taken a message, if that is known.
fn home(subject: &str) -> Option<String> {
    let of_a_subscriber = StreamSpec::internal();
    let home = of_a_subscriber.iter().find(|spec| {
        let mut subjects = spec.subjects.iter();
        subjects.any(|pattern| {
            let start = pattern.as_str().trim_end_matches('>');
            subject.starts_with(start)
        })
    });
    let is_entry = keys::of_subject(subject).is_some();
    let bucket = is_entry.then(|| names::BUCKET_STREAM.to_owned());
    home.map(|spec| spec.name.clone()).or(bucket)
}

/// The cure that creates the stream for a message, or has it take the message again.
fn cure(home: Option<&str>, is_there: bool) -> String {
    let bucket = names::BUCKET;
    match (home, is_there) {
        (None, _) => "declare one that takes it, and run `tidings streams apply`".to_owned(),
        (Some(name), true) if name == names::BUCKET_STREAM => format!(
            "the bucket {bucket} exists and has other subjects, or is a mirror: start a worker, which sets its \
             subjects back, or delete the mirror with `nats stream rm {name}`"
        ),
        (Some(name), true) => format!(
            "the stream {name} exists and has other subjects, or is a mirror: `tidings streams apply` sets its \
             subjects back, or says what prevents it"
        ),
        (Some(name), false) if name == names::BUCKET_STREAM => {
            format!("the bucket {bucket} is gone, and a worker that starts recreates it")
        }
        (Some(name), false) => {
            format!("the stream {name} is gone, and `tidings streams apply` creates it")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cure_names_the_missing_stream() {
        for (subject, named) in [
            ("dead-letter.w.user.created", "DEAD_LETTERS"),
            ("tidings.retry.w.user.created", "RETRIES"),
            ("tidings.retry-at.w.1", "RETRIES"),
            ("$KV.TIDINGS.lease.w", "bucket TIDINGS"),
            ("user.created", "declare one"),
        ] {
            let home = home(subject);
            for is_there in [true, false] {
                let cure = cure(home.as_deref(), is_there);
                assert!(cure.contains(named), "{subject}");
                let is_gone = home.is_some() && !is_there;
                assert_eq!(cure.contains("is gone"), is_gone, "{subject}");
            }
        }
    }
}
