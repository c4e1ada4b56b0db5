//! JSON answers of servers, and of other processes that answer in their place.

use serde_json::{Map, Value, json};

use tidings_fuzz::fuzz_json;

use crate::nats::{
    ApiError, ConsumerLook, ConsumerSpec, Durable, NatsIdentity, Receipt,
    consume::{
        consumer::{ConsumerState, drift, filters},
        origin,
    },
    stream::{
        objections::{taken, unchangeable},
        settings::{Looked, Role, durable_issues, issues, put_over},
        streams::{Info, StreamSpec},
    },
};

const CONFIG: &str = r#"{"name":"EVENTS","subjects":["user.>","a.*.b"],"retention":"limits","max_age":604800000000000,
    "max_msgs":-1,"max_bytes":9223372036854775807,"max_msg_size":1024,"max_msgs_per_subject":1,"discard":"new",
    "storage":"memory","num_replicas":3,"sealed":true,"no_ack":true,"persist_mode":"async","mirror":{"name":"X"},
    "sources":[{"name":"Y"}],"subject_transform":{"src":">","dest":"x.>"},"allow_msg_counter":true,
    "max_consumers":1,"filter_subject":"user.created","filter_subjects":["a.b"],"deliver_policy":"all",
    "ack_policy":"none","replay_policy":"original","mem_storage":true,"deliver_subject":"x","max_deliver":3,
    "max_ack_pending":1000,"pause_until":"2026-11-21T09:30:00Z","ack_wait":30000000000,"backoff":[1,2],
    "metadata":{"tidings.subscriber":"mailer","tidings.streams":"EVENTS,OTHER"}}"#;

#[test]
fn fuzz_answers_to_publishes() {
    let seeds = [
        r#"{"stream":"EVENTS","seq":17,"duplicate":true,"batch":"x","count":5,"domain":"hub"}"#,
        r#"{"error":{"code":400,"err_code":10199,"description":"batch publish exceeds limit of 1000"},"stream":"EVENTS",
            "seq":0}"#,
        r#"{"error":{"code":503,"err_code":10077,"description":"maximum messages per subject exceeded"},"seq":0}"#,
        r#"{"error":{"code":503,"err_code":10077,"description":"write: no space left on device"},"seq":0}"#,
    ];
    fuzz_json("answer to a publish", &seeds, |answer| {
        let read = Receipt::read(answer);
        #[cfg(feature = "outbox")]
        if let Err(refusal) = crate::nats::publish::batch::classify(Receipt::read(answer)) {
            let _ = refusal.to_string();
            assert!(!refusal.cure().is_empty());
        }
        match read.into_result() {
            Ok(_) => true,
            Err(ApiError { err_code, .. }) => err_code > 0,
        }
    });
}

/// A stream, its comparison with the rules, and its state.
#[test]
fn fuzz_answers_about_streams() {
    let info = format!(
        r#"{{"created":"2026-11-21T09:30:00Z","config":{CONFIG},"state":{{"first_seq":1,"last_seq":17,"messages":17,
            "bytes":9,"consumer_count":1}},"ts":"2026-11-21T09:30:00Z"}}"#
    );
    let spec = StreamSpec::new("EVENTS", ["user.>".parse().unwrap()]).unwrap();
    fuzz_json("answer about a stream", &[&info], |answer| {
        let Ok(info) = serde_json::from_slice::<Info>(answer) else {
            return false;
        };
        let subjects = taken(&info.config);
        for role in [Role::Events, Role::DeadLetters, Role::Retries, Role::Bucket] {
            let looked = Looked {
                stream: "EVENTS",
                role,
                config: &info.config,
                messages: 1,
                bytes: 1,
                largest: 1024,
                ours: &subjects,
            };
            let found = issues(&looked, &subjects);
            assert!(found.iter().all(|issue| !issue.is_empty()));
        }
        unchangeable(&spec, &info.config);
        let mut config = info.config.clone();
        let wanted = spec.settings();
        drift(&config, &wanted);
        put_over(&mut config, wanted.clone());
        assert!(drift(&config, &wanted).is_empty());
        true
    });
}

/// Consumers, in the form of each request.
#[test]
fn fuzz_answers_about_consumers() {
    let info = format!(
        r#"{{"stream_name":"EVENTS","name":"mailer","created":"2026-11-21T09:30:00Z","config":{CONFIG},
            "delivered":{{"consumer_seq":3,"stream_seq":17,"last_active":"2026-11-21T09:30:00Z"}},
            "ack_floor":{{"consumer_seq":3,"stream_seq":18446744073709551615}},"num_ack_pending":1,
            "num_redelivered":2,"num_waiting":3,"num_pending":18446744073709551615,"paused":true,
            "pause_remaining":18446744073709551615,"ts":"2026-11-21T09:30:00Z"}}"#
    );
    fuzz_json("answer about a consumer", &[&info], |answer| {
        let state: Option<ConsumerState> = serde_json::from_slice(answer).ok();
        if let Some(state) = &state {
            state.paused_for();
            state.is_full();
        }
        let look: Option<ConsumerLook> = serde_json::from_slice(answer).ok();
        if let Some(look) = &look {
            look.floor();
            look.deliveries();
            look.max_ack_pending();
        }
        let durable: Option<Durable> = serde_json::from_slice(answer).ok();
        if let Some(durable) = &durable {
            durable_issues(&durable.stream, &durable.name, &durable.config);
            durable.paused_until();
            durable.earliest();
            durable.sibling_streams();
            filters(&durable.config);
            let mut config = durable.config.clone();
            let spec = ConsumerSpec::new("EVENTS", "mailer", Vec::new());
            origin::mark(&mut config, &spec);
            assert!(origin::is_marked(&config));
        }
        durable.is_some()
    });
}

/// All other answers: a map, a list of names, the identity of a NATS.
#[test]
fn fuzz_other_answers() {
    let seeds = [
        r#"{"streams":["EVENTS"],"total":1,"offset":0,"limit":1024}"#,
        r#"{"server":"a","cluster":"c","domain":"hub","account":"A","streams":null}"#,
    ];
    fuzz_json("other answer", &seeds, |answer| {
        let identity: Option<NatsIdentity> = serde_json::from_slice(answer).ok();
        if let Some(identity) = &identity {
            let written = json!(identity);
            let again: NatsIdentity = serde_json::from_value(written).unwrap();
            assert_eq!(again.to_string(), identity.to_string());
        }
        serde_json::from_slice::<Map<String, Value>>(answer).is_ok()
    });
}
