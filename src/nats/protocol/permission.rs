//! The permission that allows a subject. Pure.

use super::{names::is_unnamed_reader, subjects::INBOX_PREFIX};

/// The permission that allows a subject: one for all acks of a consumer, one for all inboxes, and one for each other
/// kind of subject that differs each time.
pub(in crate::nats) fn permission_for(subject: &str) -> String {
    let tokens: Vec<&str> = subject.split('.').collect();
    match &*tokens {
        ["$JS", "ACK", stream, consumer, rest @ ..] if rest.len() == 5 => {
            format!("$JS.ACK.{stream}.{consumer}.>")
        }
        // This form has the domain and the account first. The permission is not `*.*`: that would also cover acks of
        // the other form, of any consumer.
        ["$JS", "ACK", domain, account, stream, consumer, ..] => {
            format!("$JS.ACK.{domain}.{account}.{stream}.{consumer}.>")
        }
        ["dead-letter", subscriber, _, ..] => format!("dead-letter.{subscriber}.>"),
        ["tidings", "retry-at", subscriber, _] => format!("tidings.retry-at.{subscriber}.*"),
        [before @ .., "$KV", bucket, kind, subscriber, _] => {
            let entries = format!("$KV.{bucket}.{kind}.{subscriber}.*");
            [before, &[&*entries]].concat().join(".")
        }
        [before @ .., reader] if is_of_unnamed_reader(before, reader) => {
            format!("{}.*", before.join("."))
        }
        [inbox, _, ..] if inbox.starts_with(INBOX_PREFIX) => format!("{inbox}.>"),
        _ => subject.to_owned(),
    }
}

/// Whether a subject deletes the consumer of a reader without a name of its own.
pub(in crate::nats) fn deletes_unnamed_reader(subject: &str) -> bool {
    let tokens: Vec<&str> = subject.split('.').collect();
    matches!(&*tokens, ["$JS", "API", "CONSUMER", "DELETE", _, .., name] if is_unnamed_reader(name))
}

fn is_of_unnamed_reader(before: &[&str], name: &str) -> bool {
    before.starts_with(&["$JS", "API", "CONSUMER"]) && is_unnamed_reader(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_permission_covers_subjects_that_differ_each_time() {
        let permissions = [
            ("$JS.ACK.S.c.1.2.3.4.5", "$JS.ACK.S.c.>"),
            ("$JS.ACK._.hash.S.c.1.2.3.4.5.token", "$JS.ACK._.hash.S.c.>"),
            ("dead-letter.w.user.created", "dead-letter.w.>"),
            ("tidings.retry-at.w.0190e6e4", "tidings.retry-at.w.*"),
            ("$KV.TIDINGS.parked.w.0190e6e4", "$KV.TIDINGS.parked.w.*"),
            ("$KV.TIDINGS.lease.w", "$KV.TIDINGS.lease.w"),
            (
                "$JS.API.DIRECT.GET.KV_TIDINGS.$KV.TIDINGS.crash-marker.w.1",
                "$JS.API.DIRECT.GET.KV_TIDINGS.$KV.TIDINGS.crash-marker.w.*",
            ),
            (
                "$JS.API.CONSUMER.MSG.NEXT.EVENTS.0190e6e47a3e7c3e9d3e3b1f0d8a6a11",
                "$JS.API.CONSUMER.MSG.NEXT.EVENTS.*",
            ),
            ("_INBOX.abc.def", "_INBOX.>"),
            ("_INBOX_worker.abc", "_INBOX_worker.>"),
            ("$JS.API.CONSUMER.INFO.S.c", "$JS.API.CONSUMER.INFO.S.c"),
        ];
        for (subject, permission) in permissions {
            assert_eq!(permission_for(subject), permission);
        }
    }

    #[test]
    fn only_the_end_of_a_reader_without_a_name_is_its_deletion() {
        const READER: &str = "0190e6e47a3e7c3e9d3e3b1f0d8a6a11";
        let deletion = format!("$JS.API.CONSUMER.DELETE.EVENTS.{READER}");
        assert!(deletes_unnamed_reader(&deletion));
        for other in [
            "$JS.API.CONSUMER.DELETE.EVENTS.mailer".to_owned(),
            format!("$JS.API.CONSUMER.DELETE.{READER}"),
            format!("$JS.API.CONSUMER.MSG.NEXT.EVENTS.{READER}"),
            String::new(),
        ] {
            assert!(!deletes_unnamed_reader(&other), "{other}");
        }
    }
}
