//! `tidings dead-letters show`: one dead letter in full. Never changes anything.

use clap::Args;
use tidings::dead_letters::{DeadLetters, DeadLettersError};

use super::{head_of, not_there, or_dash};
use crate::{
    cli::{
        connect, output,
        report::{Outcome, Report},
    },
    config::Config,
};

#[derive(Args)]
pub(super) struct Show {
    /// The dead letter's number, as `list` prints it
    #[arg(value_name = "SEQUENCE", value_parser = clap::value_parser!(u64).range(1..))]
    letter: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Show {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let bus = connect(config).await?;
        let found = DeadLetters::new(&bus).find(self.letter).await;
        let letter = found.map_err(|error| match error {
            DeadLettersError::Gone { sequence } => not_there(sequence),
            error => Report::from(error),
        })?;
        if self.json {
            return Ok(output::json(&letter)?);
        }
        let [sequence, subscriber, name, key] = head_of(&letter);
        let event = letter.event.map(|event| event.to_string());
        let attempts = letter.attempts.map(|attempts| attempts.to_string());
        let stream = letter.stream.as_deref().zip(letter.stream_sequence);
        let stream = stream.map(|(stream, sequence)| format!("{stream}, sequence {sequence}"));
        let delivery = letter.consumer_sequence.map(|n| n.to_string());
        let mut rows = vec![
            ["dead letter".to_owned(), sequence],
            ["subscriber".to_owned(), subscriber],
            ["event".to_owned(), or_dash(event.as_deref())],
            [
                "name".to_owned(),
                format!("{name}, version {}", letter.version),
            ],
            ["key".to_owned(), key],
            [
                "dead-lettered at".to_owned(),
                output::time(letter.stored_at),
            ],
        ];
        let known = [
            ("first failed at", letter.first_failed_at.map(output::time)),
            ("last failed at", letter.last_failed_at.map(output::time)),
            ("attempts", attempts),
            ("cause", letter.cause.as_ref().map(ToString::to_string)),
            ("error", Some(letter.error.clone())),
            ("fingerprint", letter.fingerprint.clone()),
            ("handler", letter.handler.clone()),
            ("from", stream),
            ("consumer sequence", delivery),
            ("redriven before", Some(letter.redrives.to_string())),
            ("left out", letter.truncated.clone()),
        ];
        for (what, text) in known {
            if let Some(text) = text {
                rows.push([what.to_owned(), or_dash(Some(&text))]);
            }
        }
        for (name, value) in &letter.headers {
            rows.push(["header".to_owned(), format!("{name}: {value}")]);
        }
        let payload = String::from_utf8_lossy(&letter.payload);
        rows.push(["payload".to_owned(), payload.into_owned()]);
        Ok(output::table(&rows)?)
    }
}
