//! What is counted, how often, and until when.

use super::*;
use crate::policy::outcome::{Cause, DeadLetter};

#[test]
fn each_end_of_an_attempt_counts_once() {
    let tally = Tally::default();
    let letter = DeadLetter {
        cause: Cause::Rejected,
        error: String::new(),
        attempts: 1,
        first_failed_at: None,
        handler: None,
    };
    let ends = [
        Outcome::Ack,
        Outcome::Duplicate,
        Outcome::Ack,
        Outcome::Retry(Duration::ZERO),
        Outcome::Defer(Duration::ZERO),
        Outcome::Reject(letter),
    ];
    for outcome in &ends {
        tally.ended(outcome);
    }
    assert_eq!(tally.counts().dead_lettered, 0, "no letter is confirmed");
    tally.dead_lettered(false);
    tally.dead_lettered(true);
    let (handled, failed, dead_lettered) = (3, 3, 1);
    let expected = Counts {
        handled,
        failed,
        dead_lettered,
    };
    assert_eq!(tally.counts(), expected);
}

#[test]
fn an_unconfirmed_issue_ends_with_the_next_confirmation() {
    let tally = Tally::default();
    tally.unconfirmed("denied");
    assert_eq!(tally.why_unconfirmed().as_deref(), Some("denied"));
    tally.confirmed();
    assert_eq!(tally.why_unconfirmed(), None);
}

#[test]
fn an_end_of_an_attempt_is_as_old_as_it_is() {
    let (tally, now) = (Tally::default(), Instant::now());
    assert_eq!(tally.last_ended(now), None);
    tally.ended(&Outcome::Ack);
    let second = Duration::from_secs(1);
    let age = tally.last_ended(Instant::now() + second).unwrap();
    assert!(age >= second && age < second * 60, "{age:?}");
}

#[test]
fn an_unconfirmed_answer_lasts_while_it_is_tried() {
    let tally = Tally::default();
    tally.unconfirmed("denied");
    tally.unconfirmed("silent");
    let now = Instant::now();
    let (why, age) = tally.unconfirmed_for(now + TRIED_AGAIN / 2).unwrap();
    assert!(why == "silent" && age < TRIED_AGAIN / 2, "{why} {age:?}");
    assert_eq!(tally.unconfirmed_for(now + TRIED_AGAIN * 2), None);
    tally.confirmed();
    assert_eq!(tally.unconfirmed_for(now), None);
}

#[test]
fn unhandled_names_are_reported_while_they_arrive() {
    let tally = Tally::default();
    assert_eq!(tally.why_unhandled(), None);
    assert_eq!(tally.unhandled("user.renamed"), Some(0));
    assert_eq!(tally.unhandled("user.renamed"), None, "it was said");
    for _ in 0..3 {
        tally.unhandled_waits("user.renamed");
    }
    let told = tally.why_unhandled().unwrap();
    assert!(told.contains("user.renamed (3 wait, since "), "{told}");
    for n in 0..1_000 {
        let name = format!("user.{n}{}", "x".repeat(10_000));
        tally.unhandled(&name);
    }
    let told = tally.why_unhandled().unwrap();
    assert!(
        told.contains(", and other events") && told.len() < 5_000,
        "{told}"
    );
    for _ in 0..3 {
        tally.unhandled_ends("user.renamed");
    }
    tally.nothing_waits();
    assert_eq!(tally.why_unhandled(), None);
}
