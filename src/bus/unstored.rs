//! Why nobody has stored a message of ours: whether its stream is gone, or only does not answer. Never sends it again.

use std::time::Duration;

use serde_json::json;

use super::{Bus, BusError, state, streams::StreamSpec};

/// How long the server may take to say which stream takes a subject.
const PATIENCE: Duration = Duration::from_secs(2);

impl Bus {
    /// What it is when nobody has confirmed a message, as far as the server tells.
    pub(super) async fn why_unstored(&self, subject: &str, error: BusError) -> BusError {
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
        let (names, wanted) = ("$JS.API.STREAM.NAMES", json!({ "subject": subject }));
        match self.api_within(PATIENCE, names, &wanted).await {
            Ok(Names { streams }) if streams.as_ref().is_none_or(Vec::is_empty) => {
                BusError::NoStream {
                    subject: subject.to_owned(),
                    cure: cure(subject),
                }
            }
            // Such as that JetStream is off for the account.
            Err(said @ BusError::Api { .. }) => said,
            Ok(_) | Err(_) => error,
        }
    }
}

impl BusError {
    /// What it says of a stream, and what helps when that is gone.
    pub(crate) fn told_of(&self, stream: &str) -> String {
        const NO_SUCH_STREAM: u64 = 10059;
        match self {
            Self::Api {
                code: NO_SUCH_STREAM,
                ..
            } => format!(
                "there is no stream {stream}: it was deleted; `tidings streams apply` creates it"
            ),
            error => error.to_string(),
        }
    }
}

/// Which stream should have taken a message, and what makes it.
fn cure(subject: &str) -> String {
    let of_a_subscriber = StreamSpec::of_subscribers();
    let home = of_a_subscriber.iter().find(|spec| {
        let mut subjects = spec.subjects.iter();
        subjects.any(|pattern| {
            let start = pattern.as_str().trim_end_matches('>');
            subject.starts_with(start)
        })
    });
    match home {
        Some(StreamSpec { name, .. }) => {
            format!("the stream {name} is gone, and `tidings streams apply` creates it")
        }
        None if subject.starts_with(&format!("$KV.{}.", state::BUCKET)) => format!(
            "the bucket {} is gone, and a worker that starts makes it anew",
            state::BUCKET
        ),
        None => "declare one that does, and run `tidings streams apply`".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cure_names_the_stream_that_is_gone() {
        for (subject, named) in [
            ("dead-letter.w.user.created", "DEAD_LETTERS"),
            ("tidings.retry.w.user.created", "RETRIES"),
            ("tidings.retry-at.w.1", "RETRIES"),
            ("$KV.TIDINGS.lease.w", "bucket TIDINGS"),
            ("user.created", "declare one"),
        ] {
            assert!(cure(subject).contains(named), "{subject}");
        }
    }
}
