//! P7, P10: one list of rules for names, versions, keys, headers and sizes. The same cases are run against the
//! library, the SQL function, and the relay, which reads rows that were written by hand.

use chrono::DateTime;
use serde_json::json;
use sqlx::Postgres;
use tidings::{
    Context, Envelope, EventId, EventSubscriber, Failure, Worker,
    event::{EnvelopeError, wire},
};

use crate::{
    both,
    support::{Database, Noted, User, World, eventually},
};

both!(the_relay_parks_what_the_rules_refuse_and_relays_the_rest);

/// An event as its producer provides it.
#[derive(Debug, Clone)]
struct Case {
    name: String,
    version: i32,
    key: Option<String>,
    headers: Vec<(String, String)>,
    payload: String,
    is_event: bool,
}

impl Case {
    fn new(is_event: bool) -> Self {
        Self {
            name: "user.created".to_owned(),
            version: 1,
            key: None,
            headers: Vec::new(),
            payload: "{}".to_owned(),
            is_event,
        }
    }

    fn name(is_event: bool, name: &str) -> Self {
        let name = name.to_owned();
        Self {
            name,
            ..Self::new(is_event)
        }
    }

    fn key(is_event: bool, key: &str) -> Self {
        Self {
            key: Some(key.to_owned()),
            ..Self::new(is_event)
        }
    }

    fn header(is_event: bool, name: &str, value: &str) -> Self {
        Self {
            headers: vec![(name.to_owned(), value.to_owned())],
            ..Self::new(is_event)
        }
    }

    fn headers(&self) -> String {
        let headers = self.headers.iter();
        let object: serde_json::Map<_, _> = headers
            .map(|(name, value)| (name.clone(), json!(value)))
            .collect();
        serde_json::Value::Object(object).to_string()
    }

    /// The event as a Rust program builds it.
    fn envelope(&self) -> Result<Envelope, EnvelopeError> {
        let version = u32::try_from(self.version).unwrap_or(0);
        let key = self.key.as_deref();
        let mut envelope = Envelope::raw(&self.name, version, key, self.payload.clone())?;
        for (name, value) in &self.headers {
            envelope = match &*name.to_ascii_lowercase() {
                "ce-correlationid" => envelope.with_correlation_id(value),
                "traceparent" => envelope.traced(value),
                known => match known.strip_prefix("ce-") {
                    Some(extension) => envelope.extension(extension, value),
                    None => envelope.header(name, value),
                },
            }?;
        }
        Ok(envelope)
    }

    /// Whether the library can build it: the other headers of a lineage are inherited from the handled event.
    fn is_of_the_library(&self) -> bool {
        let inherited = ["tracestate", "ce-causationid", "ce-source"];
        let mut names = self.headers.iter().map(|(name, _)| &**name);
        !names.any(|name| inherited.contains(&name))
    }
}

/// With a header that makes the headers of the message this long on the wire.
fn of_header_bytes(is_event: bool, bytes: usize) -> Case {
    let mut case = Case::key(is_event, "caf\u{e9} 7%");
    case.headers
        .push(("ce-correlationid".to_owned(), "c 1".to_owned()));
    case.headers.push(("x".to_owned(), String::new()));
    let tenant = ("ce-tenant".to_owned(), "caf\u{e9} 7%".to_owned());
    case.headers.push(tenant);
    let without = header_bytes(&case);
    case.headers[1].1 = "h".repeat(bytes - without);
    case
}

/// With a payload that makes the message this large.
fn of_bytes(is_event: bool, bytes: usize) -> Case {
    let mut case = Case::header(is_event, "tenant", "acme");
    let without = header_bytes(&case);
    case.payload = format!("\"{}\"", "p".repeat(bytes - without - 2));
    case
}

fn header_bytes(case: &Case) -> usize {
    let defaults = wire::Defaults::new(wire::DEFAULT_SOURCE, DateTime::UNIX_EPOCH);
    wire::header_bytes(&case.envelope().unwrap(), defaults)
}

fn cases() -> Vec<Case> {
    let mut cases = vec![Case::new(true), Case::name(true, "user.a-b_c.d2")];
    let long = format!("user.{}", "x".repeat(195));
    cases.push(Case::name(true, &long));
    for name in [
        "",
        "user",
        "User.created",
        "user..created",
        ".user",
        "user.",
        "user.*",
        "user.>",
        "user created.x",
        "1.user",
        "user.\u{e9}t\u{e9}",
        "user.cre\nated",
        "user.created\n",
        "$js.x",
        "tidings.wake",
        "dead-letter.x",
        &format!("{long}x"),
    ] {
        cases.push(Case::name(false, name));
    }
    for (version, is_event) in [(i32::MAX, true), (0, false), (-1, false), (i32::MIN, false)] {
        cases.push(Case {
            version,
            ..Case::new(is_event)
        });
    }
    let longest = "\u{1f600}".repeat(64);
    for key in [
        "k",
        "a b",
        "\u{65e5}\u{672c} 7",
        "a:b/c%41\"",
        "a\u{2028}b",
        "a\u{a0}b",
        "\u{200b}",
        &*longest,
    ] {
        cases.push(Case::key(true, key));
    }
    let ends = [
        " ", "\t", "\u{a0}", "\u{1680}", "\u{2000}", "\u{200a}", "\u{2028}", "\u{2029}",
        "\u{202f}", "\u{205f}", "\u{3000}",
    ];
    for end in ends {
        cases.push(Case::key(false, &format!("a{end}")));
        cases.push(Case::key(false, &format!("{end}a")));
        cases.push(Case::key(false, end));
        cases.push(Case::header(false, "x", &format!("a{end}")));
        cases.push(Case::header(false, "x", &format!("{end}a")));
    }
    let controls = [
        "\n", "\r", "\t", "\u{1}", "\u{1f}", "\u{7f}", "\u{80}", "\u{85}", "\u{9f}",
    ];
    for control in controls {
        cases.push(Case::key(false, &format!("a{control}b")));
        cases.push(Case::header(false, "x", &format!("a{control}b")));
        cases.push(Case::header(false, "traceparent", &format!("a{control}b")));
    }
    for key in ["", &*format!("{longest}k"), &*"k".repeat(257)] {
        cases.push(Case::key(false, key));
    }
    for name in [
        "tenant",
        "X-Y",
        "ce",
        "cee-x",
        "x-ce-id",
        "natsy",
        "content-type-x",
        "!#$%&'*+-.^_`|~",
        "{\"a\"}",
    ] {
        cases.push(Case::header(true, name, "acme"));
    }
    for value in [
        "",
        "a b",
        "a: b",
        "\u{e9}",
        "a\u{2028}b",
        "a\u{a0}b",
        "\\ \" %41",
    ] {
        cases.push(Case::header(true, "x", value));
    }
    for name in [
        "", " ", "a b", "a:b", ":", "a\r\nb", "a\t", "\u{e9}", "\u{7f}", "a\u{a0}",
    ] {
        cases.push(Case::header(false, name, "x"));
    }
    for name in [
        "Nats-Rollup",
        "nats-msg-id",
        "NATS-x",
        "nats-",
        "Nats-Expected-Last-Sequence",
        "ce-id",
        "CE-Type",
        "ce-specversion",
        "ce-subject",
        "ce-partitionkey",
        "ce-specversion",
        "ce-",
        "tidings-replay",
        "TIDINGS-redrives",
        "Tidings-",
        "content-type",
        "Content-Type",
    ] {
        cases.push(Case::header(false, name, "x"));
    }
    cases.push(Case::header(false, "ce-time", "yesterday"));
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for name in [
        "traceparent",
        "Traceparent",
        "tracestate",
        "ce-correlationid",
        "CE-CorrelationId",
        "ce-causationid",
        "ce-source",
    ] {
        cases.push(Case::header(true, name, trace));
        cases.push(Case::header(true, name, &"c".repeat(512)));
        for value in [
            "",
            " a",
            "a\r\nNats-Rollup: all",
            &*"c".repeat(513),
            &*"\u{e9}".repeat(257),
        ] {
            cases.push(Case::header(false, name, value));
        }
    }
    for name in [
        "ce-tenant",
        "CE-Tenant",
        "ce-dataschema",
        "ce-traceparent",
        "ce-ids",
        "ce-0",
        "ce-abcdefghijklmnopqrst",
    ] {
        for value in ["acme", "a b", "\u{e9}%41\"", &*"c".repeat(2_000)] {
            cases.push(Case::header(true, name, value));
        }
        for value in ["", " a", "a\u{a0}", "a\r\nNats-Rollup: all", "a\u{85}b"] {
            cases.push(Case::header(false, name, value));
        }
    }
    for name in [
        "ce-data",
        "ce-data_base64",
        "ce-datacontenttype",
        "CE-DataContentType",
        "ce-a-b",
        "ce-a.b",
        "ce-ce-id",
        "ce-\u{e9}",
    ] {
        cases.push(Case::header(false, name, "x"));
    }
    cases.push(of_header_bytes(true, 65_535));
    cases.push(of_header_bytes(false, 65_536));
    cases.push(of_bytes(true, 1 << 20));
    cases.push(of_bytes(false, (1 << 20) + 1));
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_library_and_the_sql_function_follow_the_rules() {
    let world = World::<Postgres>::start().await;
    let pool = world.outbox.pool();
    for case in cases() {
        let mut tx = world.outbox.begin().await.unwrap();
        if case.is_of_the_library() {
            let taken = case.envelope().map(|envelope| tx.publish(envelope));
            let is_taken = matches!(taken, Ok(Ok(_)));
            assert_eq!(
                is_taken, case.is_event,
                "the library: {case:.200?} {taken:?}"
            );
        }
        let enqueue = "select tidings.enqueue($1, $2, $3, $4::text::json, $5::text::jsonb)";
        let enqueued = sqlx::query(enqueue)
            .bind(&case.name)
            .bind(case.version)
            .bind(&case.key)
            .bind(&case.payload)
            .bind(case.headers())
            .execute(&mut *tx)
            .await;
        let said = enqueued.as_ref().err().map(ToString::to_string);
        assert_eq!(
            enqueued.is_ok(),
            case.is_event,
            "the SQL function: {case:.200?} {said:?}"
        );
        if let Err(error) = enqueued {
            let error = error.into_database_error().unwrap();
            assert_eq!(
                error.code().as_deref(),
                Some("22023"),
                "{case:.200?} {error}"
            );
            let error = error.downcast::<sqlx::postgres::PgDatabaseError>();
            assert!(
                error.hint().is_some_and(|hint| !hint.is_empty()),
                "{case:.200?}"
            );
        }
        tx.rollback().await.unwrap();
    }
    // The time of an event is the time of its insert.
    let dated =
        "select tidings.enqueue('a.b', 1, null, '{}', '{\"ce-time\": \"2026-11-30T09:00:00Z\"}')";
    let refused = sqlx::raw_sql(dated).execute(pool).await.unwrap_err();
    assert!(refused.to_string().contains("is reserved"), "{refused}");
}

async fn the_relay_parks_what_the_rules_refuse_and_relays_the_rest<DB: Database>(world: World<DB>) {
    let mut insert = match DB::KIND {
        "postgres" => "drop trigger outbox_is_event on tidings.outbox;".to_owned(),
        _ => "pragma ignore_check_constraints = on;".to_owned(),
    };
    let cases = cases();
    let ids: Vec<EventId> = cases.iter().map(|_| EventId::now()).collect();
    for (case, id) in cases.iter().zip(&ids) {
        let hex = |text: &str| {
            text.bytes()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        let is_postgres = DB::KIND == "postgres";
        let id = match is_postgres {
            true => format!("'{id}'"),
            false => format!("x'{}'", id.as_uuid().simple()),
        };
        let text = |hex: String| match is_postgres {
            true => format!("convert_from(decode('{hex}', 'hex'), 'UTF8')"),
            false => format!("cast(x'{hex}' as text)"),
        };
        let bytes = |hex: String| match is_postgres {
            true => format!("decode('{hex}', 'hex')"),
            false => format!("x'{hex}'"),
        };
        let key = case
            .key
            .as_ref()
            .map_or("null".to_owned(), |key| text(hex(key)));
        insert += &format!(
            "insert into {} (event, name, version, key, headers, payload) values ({id}, {}, {}, {key}, {}, {});",
            DB::table("outbox"),
            text(hex(&case.name)),
            case.version,
            text(hex(&case.headers())),
            bytes(hex(&case.payload)),
        );
    }
    if DB::KIND == "sqlite" {
        insert += "pragma ignore_check_constraints = off";
    }
    DB::execute(world.outbox.pool(), &insert).await;
    let relay = world.relay();
    eventually("everything is stored or parked", || async {
        world.outbox.status().await.unwrap().backlog == 0
    })
    .await;
    relay.stop().await.unwrap();
    let stored = world.stored().await;
    let stored = stored.ids();
    for (case, id) in cases.iter().zip(&ids) {
        let is_stored = stored.contains(&id.to_string());
        assert_eq!(is_stored, case.is_event, "the relay: {case:.200?}");
    }
    let refused = cases.iter().filter(|case| !case.is_event).count();
    assert_eq!(world.parked().await as usize, refused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_context_from_sql_reaches_the_handler() {
    async fn note(_: User, cx: Context<Noted>) -> Result<(), Failure> {
        let lineage = cx.envelope().lineage().clone();
        let said: [Option<String>; 3] = [
            lineage.traceparent,
            lineage.tracestate,
            lineage.causation_id,
        ];
        cx.state().note(format!("{said:?} {}", cx.correlation_id()));
        Ok(())
    }
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let world = World::<Postgres>::start().await;
    let noted = Noted::default();
    let worker = Worker::new(world.bus.clone(), noted.clone())
        .subscribe(EventSubscriber::durable("traced").on(note));
    let running = world.run(worker);
    let relay = world.relay();
    let enqueue = format!(
        "select tidings.enqueue('user.created', 1, 'ada', '{{\"id\": \"ada\", \"email\": \"a@x\"}}',
            '{{\"traceparent\": \"{PARENT}\", \"tracestate\": \"vendor=a%20b\", \"ce-correlationid\": \"order 7\",
               \"ce-causationid\": \"request-9\"}}')::text"
    );
    Postgres::word(world.outbox.pool(), &enqueue).await;
    noted.reach(1).await;
    relay.stop().await.unwrap();
    running.stop().await.unwrap();
    let stored = world.stored().await;
    assert_eq!(stored.0[0].header("traceparent"), PARENT);
    assert_eq!(stored.0[0].header("tracestate"), "vendor=a%20b");
    assert_eq!(stored.0[0].header("ce-correlationid"), "order%207");
    let expected = [Some(PARENT), Some("vendor=a%20b"), Some("request-9")];
    assert_eq!(noted.all(), [format!("{expected:?} order 7")]);
}

/// The handler gets it like an extension that the library has set.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extension_of_the_sql_function_is_an_event_attribute() {
    async fn note(_: User, cx: Context<Noted>) -> Result<(), Failure> {
        let tenant = cx.envelope().extensions().get("tenant");
        cx.state().note(format!("{tenant:?}"));
        Ok(())
    }
    let world = World::<Postgres>::start().await;
    let noted = Noted::default();
    let worker = Worker::new(world.bus.clone(), noted.clone())
        .subscribe(EventSubscriber::durable("tenants").on(note));
    let running = world.run(worker);
    let relay = world.relay();
    let enqueue =
        "select tidings.enqueue('user.created', 1, 'ada', '{\"id\": \"ada\", \"email\": \"a@x\"}',
        '{\"CE-Tenant\": \"caf\u{e9} 7\"}')::text";
    Postgres::word(world.outbox.pool(), enqueue).await;
    noted.reach(1).await;
    relay.stop().await.unwrap();
    running.stop().await.unwrap();
    assert_eq!(noted.all(), ["Some(\"caf\u{e9} 7\")"]);
    let stored = world.stored().await;
    assert_eq!(stored.0[0].header("ce-tenant"), "caf%C3%A9%207");
}

/// After the first relay has connected, the function uses the server's limit, like the library.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sql_function_knows_the_size_limit_of_the_server() {
    let nats = tidings_test_servers::NatsServer::options().max_payload(200_000);
    let nats = nats.start().await.unwrap();
    let world = World::with(Postgres::open().await, nats).await;
    let enqueue = |bytes: usize| {
        let payload = "p".repeat(bytes);
        format!("select tidings.enqueue('user.created', 1, null, '\"{payload}\"')::text")
    };
    let relay = world.relay();
    eventually("the relay has been there", || async {
        let known = "select max_payload::bigint from tidings.relay";
        Postgres::number(world.outbox.pool(), known).await == 200_000
    })
    .await;
    let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(enqueue(200_000)))
        .execute(world.outbox.pool())
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("the limit is 200000"),
        "{refused}"
    );
    Postgres::word(world.outbox.pool(), &enqueue(190_000)).await;
    eventually("it is stored", || async { world.stored().await.len() == 1 }).await;
    relay.stop().await.unwrap();
    assert_eq!(world.parked().await, 0);
}
