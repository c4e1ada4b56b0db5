//! P2, P7, P9: a row with invalid values is parked with its error, and holds up no other row.

use sqlx::{Postgres, Sqlite, postgres::PgPoolOptions};
use tidings::{
    Outbox,
    outbox::{ParkedEvent, ParkedSelection},
    trace::{Trace, TraceTarget},
    verify::Verify,
};

use crate::{
    both,
    support::{Counted, Database, Stream, User, World, eventually},
};

both!(
    an_unreadable_row_is_parked_and_blocks_no_other,
    a_row_that_is_too_large_is_parked_unread,
    a_parked_row_with_an_unknown_blocker_stops_no_relay,
);

/// A row with one column that has an invalid value, in the SQL of one database.
struct Hostile {
    column: &'static str,
    value: &'static str,
    error: &'static str,
}

#[rustfmt::skip]
const fn hostile(column: &'static str, value: &'static str, error: &'static str) -> Hostile {
    Hostile { column, value, error }
}

const ON_POSTGRES: [Hostile; 14] = [
    hostile("created_at", "'infinity'", "its time"),
    hostile("created_at", "'-infinity'", "its time"),
    hostile("created_at", "'200000-01-01'", "its time"),
    hostile("created_at", "'4000-01-01 BC'", "its time"),
    hostile("version", "0", "version"),
    hostile("version", "-2147483648", "version"),
    hostile("name", "repeat('n', 5000)", "name has more than 200 bytes"),
    hostile("name", "'user.created' || chr(10)", "event name"),
    hostile(
        "key",
        "(select string_agg(md5(n::text), '') from generate_series(1, 500) as n)",
        "key has more than 256 bytes",
    ),
    hostile("key", "'a' || chr(160)", "the key"),
    hostile("headers", "'[1]'", "not a JSON object of texts"),
    hostile(
        "headers",
        r#"'{"a": "\ud800"}'"#,
        "not a JSON object of texts",
    ),
    hostile("headers", r#"'{"a": "\u0000"}'"#, "control character"),
    hostile(
        "headers",
        "'{}' || repeat(' ', 500000)",
        "headers has more than",
    ),
];

const ON_SQLITE: [Hostile; 15] = [
    hostile("created_at", "9223372036854775807", "its time"),
    hostile("created_at", "-9223372036854775807 - 1", "its time"),
    hostile("created_at", "'today'", "its time"),
    hostile("event", "x'00'", "event id"),
    hostile(
        "event",
        "'018f0000-0000-7000-8000-000000000000'",
        "event id",
    ),
    hostile("version", "2147483648", "version"),
    hostile("version", "'one'", "version"),
    hostile("version", "1.5", "version"),
    hostile("name", "cast(x'757365722eff' as text)", "not UTF-8"),
    hostile("name", "x'757365722e61'", "not text"),
    hostile("key", "cast(x'ff' as text)", "not UTF-8"),
    hostile("key", "x'61'", "not text"),
    hostile(
        "headers",
        "cast(x'7b22ff223a2278227d' as text)",
        "not UTF-8",
    ),
    hostile(
        "headers",
        r#"'{"a": "\ud800"}'"#,
        "not a JSON object of texts",
    ),
    hostile("payload", "7", "payload"),
];

/// Inserts a row as if it was from before the tables had constraints, or by a writer that switches them off.
async fn insert<DB: Database>(world: &World<DB>, row: &Hostile, key: &str) {
    let is_postgres = DB::KIND == "postgres";
    let (uuid, bytes) = match is_postgres {
        true => ("gen_random_uuid()", "'{}'"),
        false => ("randomblob(16)", "x'7b7d'"),
    };
    let key = format!("'{key}'");
    let value = |(column, usual): (&str, &str)| match column == row.column {
        true => row.value.to_owned(),
        false => usual.to_owned(),
    };
    let columns = [
        ("event", uuid),
        ("name", "'count.raised'"),
        ("version", "1"),
        ("key", &*key),
        ("headers", "'{}'"),
        ("payload", bytes),
        (
            "created_at",
            if is_postgres {
                "now()"
            } else {
                "1700000000000000"
            },
        ),
    ];
    let insert = format!(
        "insert into {} ({}) values ({})",
        DB::table("outbox"),
        columns.map(|(column, _)| column).join(", "),
        columns.map(value).join(", "),
    );
    let insert = match is_postgres {
        true => insert,
        false => format!(
            "pragma ignore_check_constraints = on; {insert}; pragma ignore_check_constraints = off"
        ),
    };
    DB::execute(world.outbox.pool(), &insert).await;
}

async fn commit<DB: Database>(world: &World<DB>, key: &str, count: i64) {
    let mut tx = world.outbox.begin().await.unwrap();
    let key = key.to_owned();
    tx.publish(&Counted { key, count }).unwrap();
    tx.commit().await.unwrap();
}

async fn parked<DB: Database>(world: &World<DB>) -> Vec<ParkedEvent> {
    let listing = world.outbox.parked(&ParkedSelection::All, i64::MIN, 1000);
    listing.await.unwrap()
}

async fn relayed<DB: Database>(world: &World<DB>) {
    let relay = world.relay();
    world.is_settled().await;
    relay.stop().await.unwrap();
}

/// Unparks all rows, and waits until they are parked again; returns their number.
async fn asked_in_vain<DB: Database>(world: &World<DB>) -> u64 {
    let asked = world.outbox.unpark(&ParkedSelection::All).await.unwrap();
    eventually("none of them is asked for any more", || async {
        let parked = parked(world).await;
        parked
            .iter()
            .all(|event| event.unpark_requested_at.is_none())
    })
    .await;
    asked
}

/// The number of events of a key that a trace finds.
async fn traced<DB: Database>(world: &World<DB>, key: &str) -> usize {
    let trace = Trace::new(&world.bus).outbox(&world.outbox);
    let (trace, key) = (trace.streams(["EVENTS"]), TraceTarget::Key(key.to_owned()));
    trace.run(&key).await.unwrap().events.len()
}

fn counts(stored: &Stream) -> Vec<i64> {
    let count = |message: &crate::support::Stored| message.json()["count"].as_i64();
    stored.0.iter().filter_map(count).collect()
}

async fn an_unreadable_row_is_parked_and_blocks_no_other<DB: Database>(world: World<DB>) {
    let rows: &[Hostile] = match DB::KIND {
        "postgres" => &ON_POSTGRES,
        _ => &ON_SQLITE,
    };
    if DB::KIND == "postgres" {
        let before = "drop trigger outbox_is_event on tidings.outbox";
        DB::execute(world.outbox.pool(), before).await;
    }
    for (row, count) in rows.iter().zip(0..) {
        commit(&world, "ada", count).await;
        insert(&world, row, &format!("hostile-{count}")).await;
    }
    // A later event of the same key is parked; an event of another key is published all the same.
    commit(&world, "hostile-0", 100).await;
    commit(&world, "bob", 101).await;
    let all = rows.len();

    let relay = world.relay();
    world.is_settled().await;
    let mut carried: Vec<i64> = (0..all as i64).collect();
    carried.push(101);
    assert_eq!(counts(&world.stored().await), carried);
    let listed = parked(&world).await;
    assert_eq!(listed.len(), all + 1, "{listed:#?}");
    for (row, parked) in rows.iter().zip(&listed) {
        let said = &parked.error;
        assert!(
            said.contains(row.error),
            "{} {}: {said}",
            row.column,
            row.value
        );
    }
    assert!(listed[all].error.contains("it follows"), "{listed:#?}");
    for key in ["hostile-0", "hostile-1", "ada"] {
        assert!(traced(&world, key).await > 0, "{key}");
    }

    // Unparked rows are parked again, with their errors.
    assert_eq!(asked_in_vain(&world).await, all as u64 + 1);
    let again = parked(&world).await;
    let errors = |listed: &[ParkedEvent]| -> Vec<String> {
        listed.iter().map(|event| event.error.clone()).collect()
    };
    assert_eq!(errors(&again), errors(&listed));
    commit(&world, "ada", 102).await;
    world.is_settled().await;
    relay.stop().await.unwrap();

    let dead_lettered = world.outbox.discard(&ParkedSelection::All, 1000).await;
    assert_eq!(dead_lettered.unwrap().len(), all + 1);
    assert_eq!(world.parked().await, 0);
    let verify = Verify::new(&world.bus, &world.outbox);
    for found in [
        verify.run().await.unwrap(),
        verify.payloads().run().await.unwrap(),
    ] {
        assert!(found.is_ok(), "{found:?}");
    }
    assert_eq!(counts(&world.stored().await).len(), carried.len() + 1);
}

/// The peak memory of this process, in MiB.
fn most_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = most.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<usize>().unwrap() / 1024
}

async fn a_row_that_is_too_large_is_parked_unread<DB: Database>(world: World<DB>) {
    const LARGE: u64 = 120_000_000;
    commit(&world, "ada", 1).await;
    let payload = match DB::KIND {
        "postgres" => "convert_to(repeat('x', 120000000), 'UTF8')",
        _ => "zeroblob(120000000)",
    };
    insert(&world, &hostile("payload", payload, ""), "large").await;
    commit(&world, "large", 2).await;
    commit(&world, "ada", 3).await;
    let before = most_memory();

    let relay = world.relay();
    world.is_settled().await;
    assert_eq!(counts(&world.stored().await), [1, 3]);
    let listed = parked(&world).await;
    assert_eq!(listed.len(), 2);
    let limit = format!("more than {} bytes", world.bus.max_payload());
    assert!(listed[0].error.contains(&limit), "{}", listed[0].error);
    assert_eq!(
        (listed[0].payload.len(), listed[0].payload_bytes),
        (0, LARGE)
    );
    assert_eq!(listed[0].key.as_deref(), Some("large"));

    asked_in_vain(&world).await;
    let verify = Verify::new(&world.bus, &world.outbox);
    assert!(verify.payloads().run().await.unwrap().is_ok());
    relay.stop().await.unwrap();
    // SQLite runs in this process, and has the row in memory while it copies it.
    if DB::KIND == "postgres" {
        let more = most_memory() - before;
        assert!(more < 60, "{more} MiB for a row that is not read");
    }

    // Discarding the row returns all of it, once.
    let dead_lettered = world
        .outbox
        .discard(&ParkedSelection::All, 1000)
        .await
        .unwrap();
    assert_eq!(dead_lettered[0].payload.len() as u64, LARGE);
    let rest = world
        .outbox
        .discard(&ParkedSelection::All, 1000)
        .await
        .unwrap();
    assert_eq!((dead_lettered.len(), rest.len()), (1, 1));
    assert_eq!(parked(&world).await, []);
}

async fn a_parked_row_with_an_unknown_blocker_stops_no_relay<DB: Database>(world: World<DB>) {
    let (uuid, bytes) = match DB::KIND {
        "postgres" => ("gen_random_uuid(), now()", "'{}'"),
        _ => ("randomblob(16), 1700000000000000", "x'7b7d'"),
    };
    let row = format!(
        "insert into {} (event, created_at, id, name, version, headers, payload, error, blocked_on)
        values ({uuid}, 7, 'count.raised', 1, '{{}}', {bytes}, 'by hand', 'better days')",
        DB::table("parked")
    );
    DB::execute(world.outbox.pool(), &row).await;
    commit(&world, "ada", 1).await;
    relayed(&world).await;
    assert_eq!((world.stored().await.len(), world.parked().await), (1, 1));
}

/// A database with another encoding beside the usual ones.
async fn encoded(encoding: &str) -> World<Postgres> {
    let (neighbour, ()) = Postgres::open().await;
    let name = format!("e{}", uuid::Uuid::now_v7().simple());
    let create = format!(
        "create database {name} encoding '{encoding}' lc_collate 'C' lc_ctype 'C' template template0"
    );
    Postgres::execute(neighbour.pool(), &create).await;
    let options = (*neighbour.pool().connect_options()).clone();
    let pool = PgPoolOptions::new().max_connections(20);
    let pool = pool.connect_with(options.database(&name)).await.unwrap();
    World::of(Outbox::new(pool), std::sync::Arc::new(())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_is_not_utf_8_is_parked_and_blocks_no_other() {
    for (encoding, wrong) in [("SQL_ASCII", r"E'\xff'"), ("WIN1252", r"E'\x81'")] {
        let world = encoded(encoding).await;
        for (column, count) in ["name", "key", "headers"].into_iter().zip(0..) {
            commit(&world, "ada", count).await;
            insert(&world, &hostile(column, wrong, ""), "hostile").await;
        }
        commit(&world, "ada", 3).await;
        let relay = world.relay();
        world.is_settled().await;
        assert_eq!(counts(&world.stored().await), [0, 1, 2, 3], "{encoding}");
        let listed = parked(&world).await;
        assert_eq!(listed.len(), 3, "{encoding}: {listed:#?}");
        for (parked, column) in listed.iter().zip(["name", "key", "headers"]) {
            let expected = format!("the column {column} is not UTF-8");
            assert!(
                parked.error.contains(&expected),
                "{encoding}: {}",
                parked.error
            );
        }
        assert_eq!(traced(&world, "hostile").await, 2, "{encoding}");
        asked_in_vain(&world).await;
        relay.stop().await.unwrap();
        let dead_lettered = world.outbox.discard(&ParkedSelection::All, 1000).await;
        assert_eq!(dead_lettered.unwrap().len(), 3, "{encoding}");
        let verify = Verify::new(&world.bus, &world.outbox);
        let verified = verify.payloads().run().await.unwrap();
        assert!(verified.is_ok(), "{encoding}: {verified:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_outside_the_database_encoding_is_stored_escaped() {
    let world = encoded("LATIN1").await;
    let headers = r#"'{"\ud83d\ude00": "x"}'"#;
    insert(&world, &hostile("headers", headers, ""), "hostile").await;
    commit(&world, "caf\u{e9}", 1).await;
    relayed(&world).await;
    assert_eq!(world.stored().await.len(), 1);
    let listed = parked(&world).await;
    assert!(
        listed[0].error.contains("is not a header name"),
        "{listed:#?}"
    );
}

/// Rows that came past the trigger, as by a subscription, are kept, and moved to where they hold up nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_out_of_bounds_block_no_adoption() {
    let world = World::<Postgres>::start().await;
    let pool = world.outbox.pool();
    let before = "alter table tidings.outbox disable trigger outbox_is_event;
        insert into tidings.outbox (event, name, payload, created_at)
            values (gen_random_uuid(), 'count.raised', '{\"count\": 1}', 'infinity');
        alter table tidings.outbox enable trigger outbox_is_event";
    let restored = "update tidings.relay set system = '1', cursor = '900000000:900000000:'";
    for sql in [restored, before] {
        Postgres::execute(pool, sql).await;
    }
    commit(&world, "ada", 2).await;
    let planned = world.outbox.adopt_dry_run().await.unwrap().unwrap();
    assert_eq!(planned.to_publish, 2);

    world.outbox.adopt().await.unwrap().unwrap();

    relayed(&world).await;
    assert_eq!(counts(&world.stored().await), [2]);
    assert_eq!(world.parked().await, 1);
    for refused in [
        "insert into tidings.outbox (event, name, payload, created_at) values (gen_random_uuid(), 'a.b', '1', 'infinity')",
        "insert into tidings.outbox (event, name, payload, id) values (gen_random_uuid(), 'a.b', '1', 0)",
        "insert into tidings.outbox (event, name, payload, version) values (gen_random_uuid(), 'a.b', '1', 0)",
        "update tidings.outbox set version = 0",
        "insert into tidings.delayed (event, name, payload, due, created_at) values (gen_random_uuid(), 'a.b', '1', now(), '-infinity')",
    ] {
        let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(refused))
            .execute(pool)
            .await;
        let refused = refused.unwrap_err();
        assert!(refused.as_database_error().unwrap().is_check_violation());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_id_that_a_writer_sets_on_sqlite_is_refused() {
    let world = World::<Sqlite>::start().await;
    commit(&world, "ada", 1).await;
    relayed(&world).await;
    for id in ["-7", "0", "9223372036854775807"] {
        let insert = format!(
            "insert into tidings_outbox (id, event, name, payload) values ({id}, randomblob(16), 'count.raised', x'31')"
        );
        let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(insert))
            .execute(world.outbox.pool())
            .await;
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("given by the outbox"),
            "{id}"
        );
    }
    commit(&world, "ada", 2).await;
    relayed(&world).await;
    assert_eq!(counts(&world.stored().await), [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_id_below_all_others_on_postgres_is_relayed() {
    let world = World::<Postgres>::start().await;
    commit(&world, "ada", 1).await;
    let relay = world.relay();
    world.is_settled().await;
    let by_hand = "drop trigger outbox_is_event on tidings.outbox;
        insert into tidings.outbox (event, name, payload, id)
            values (gen_random_uuid(), 'count.raised', '{\"count\": 2}', -7),
                   (gen_random_uuid(), 'count.raised', '{\"count\": 3}', 9223372036854775807)";
    Postgres::execute(world.outbox.pool(), by_hand).await;
    world.is_settled().await;
    commit(&world, "ada", 4).await;
    world.is_settled().await;
    relay.stop().await.unwrap();
    assert_eq!(counts(&world.stored().await), [1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_event_that_the_log_refuses_is_parked_when_due() {
    let world = World::<Sqlite>::start().await;
    let hostile = "pragma ignore_check_constraints = on;
        insert into tidings_delayed (event, due, name, version, payload)
            values (randomblob(16), 1, 'count.raised', 'one', x'7b7d');
        pragma ignore_check_constraints = off";
    Sqlite::execute(world.outbox.pool(), hostile).await;
    assert_eq!(world.outbox.delayed(None, 10).await.unwrap().len(), 1);
    let mut tx = world.outbox.begin().await.unwrap();
    tx.publish_at(&User::new("ada"), chrono::Utc::now())
        .unwrap();
    tx.commit().await.unwrap();
    let relay = world.relay();
    eventually("one is stored, one is parked", || async {
        (world.stored().await.len(), world.parked().await) == (1, 1)
    })
    .await;
    commit(&world, "ada", 1).await;
    world.is_settled().await;
    relay.stop().await.unwrap();
    assert_eq!(world.stored().await.len(), 2);
}
