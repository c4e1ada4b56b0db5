//! The NATS permissions that a subscriber needs, including those that it needs only when something fails. Pure.

use crate::nats::{ConsumerSpec, Need, api, keys, names, subjects};

/// What a subscriber publishes and subscribes to sooner or later. The last consumer is that of its retries. Permissions
/// that are needed once, to create consumers, are left out: that call fails by itself.
pub(super) fn needs(
    consumers: &[ConsumerSpec],
    dead_letters: &str,
    name: &str,
    is_ordered: bool,
) -> Vec<Need> {
    let mut needs = vec![
        Need::subscribe(subjects::STATUS, "answering the search for instances"),
        Need::subscribe(subjects::status_of(name), "answering status requests"),
        Need::publish(
            keys::subject(&keys::crash_marker(name, "1")),
            "finding the event that killed a process",
        ),
        Need::publish(api::message_get(names::BUCKET_STREAM), "reading replays"),
    ];
    for ConsumerSpec {
        stream, durable, ..
    } in consumers
    {
        needs.extend([
            Need::publish(api::consumer_info(stream, durable), "checking its consumer"),
            Need::publish(api::consumer_next(stream, durable), "pulling events"),
            Need::publish(api::any_ack(stream, durable), "acknowledging events"),
        ]);
        if is_ordered {
            let reset = api::consumer_reset(stream, durable);
            needs.push(Need::publish(
                reset,
                "handling events in order after a takeover",
            ));
        }
    }
    let of_events = consumers.split_last().map_or(&[][..], |(_, events)| events);
    for event in of_events.iter().flat_map(|consumer| &consumer.subjects) {
        let letter = subjects::dead_letter(name, event);
        needs.push(Need::publish(letter, "storing dead letters"));
    }
    if is_ordered {
        let reading = api::message_get(dead_letters);
        needs.push(Need::publish(
            reading,
            "reading the dead letters of a parked key",
        ));
        let lease = keys::subject(&keys::lease(name));
        let read = api::direct_get_last(names::BUCKET_STREAM, &lease);
        needs.push(Need::publish(lease, "acquiring its lease"));
        needs.push(Need::publish(read, "acquiring its lease"));
    } else {
        let later = subjects::scheduled_retry(name, "1");
        needs.push(Need::publish(later, "retrying an event"));
    }
    needs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_needs_dead_letters_and_order_needs_a_lease() {
        let names = ["user.created", "user.deleted"].map(str::to_owned).to_vec();
        let consumers = [
            ConsumerSpec::new("EVENTS", "d", names),
            ConsumerSpec::new("RETRIES", "d", vec!["tidings.retry.d.>".to_owned()]),
        ];
        let subjects = |is_ordered| -> Vec<String> {
            let needs = needs(&consumers, "DEAD_LETTERS", "d", is_ordered);
            needs.into_iter().map(|need| need.subject).collect()
        };
        let [unordered, ordered] = [false, true].map(subjects);
        for both in [
            "dead-letter.d.user.created",
            "dead-letter.d.user.deleted",
            "$JS.ACK.EVENTS.d.1.1.1.1.0",
            "$JS.ACK.RETRIES.d.1.1.1.1.0",
        ] {
            let has = |needs: &[String]| needs.iter().any(|need| need == both);
            assert!(has(&unordered) && has(&ordered), "{both}");
        }
        assert!(unordered.contains(&"tidings.retry-at.d.1".to_owned()));
        assert!(!ordered.contains(&"tidings.retry-at.d.1".to_owned()));
        assert!(ordered.contains(&"$KV.TIDINGS.lease.d".to_owned()));
        assert!(!unordered.contains(&"$KV.TIDINGS.lease.d".to_owned()));
    }
}
