//! Producers without the library: psql, Python, and a table in the style of Debezium.

use std::path::PathBuf;

use serde_json::Value;
use sqlx::{ConnectOptions as _, Postgres};
use tidings::StreamSpec;
use tokio::process::Command;

use crate::support::{Database, Stream, World, eventually, within};

type Pg = World<Postgres>;

fn url(world: &Pg) -> String {
    let options = world.outbox.pool().connect_options();
    let mut url = options.to_url_lossy();
    url.set_query(None);
    url.to_string()
}

/// A folder that `make servers` installs.
fn installed(folder: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join(".dev")
        .join(folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_events_are_relayed_and_a_refusal_shows_its_hint() {
    let world = Pg::start().await;
    let relay = world.relay();
    let psql = installed("postgres/bin/psql");
    let psql = if psql.exists() {
        psql
    } else {
        PathBuf::from("psql")
    };
    let run = async |script: &str| {
        let mut command = Command::new(&psql);
        command.args([
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            &url(&world),
            "-c",
            script,
        ]);
        let output = within("psql", command.output()).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.success(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let script = "begin;
        select tidings.enqueue('count.raised', 1, 'p', '{\"key\": \"p\", \"count\": 1}', '{\"tenant\": \"acme\"}');
        commit;
        begin;
        select tidings.enqueue('count.raised', 1, 'p', '{\"key\": \"p\", \"count\": 99}');
        rollback;
        select tidings.enqueue('count.raised', 1, 'p', '{\"key\": \"p\", \"count\": 2}',
                               event => '0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a78');
        select tidings.enqueue('count.raised', 1, 'q', '{\"key\": \"q\", \"count\": 1}',
                               due => clock_timestamp() + interval '700 ms');";
    let (done, ids, errors) = run(script).await;
    assert!(done, "{errors}");
    let (done, _, errors) = run("select tidings.enqueue('Count', 1, 'p', '{}')").await;
    assert!(!done && errors.contains("is not an event name"), "{errors}");
    assert!(
        errors.contains("HINT:  Use two or more lower-case words"),
        "{errors}"
    );

    eventually("all three are stored", || async {
        world.stored().await.len() == 3
    })
    .await;
    relay.stop().await.unwrap();
    let ids: Vec<&str> = ids.lines().collect();
    let stored = world.stored().await;
    assert_eq!(stored.0[0].header("tenant"), "acme");
    // The second line is from the transaction that was rolled back; the delayed event comes last.
    assert_eq!(stored.ids(), [ids[0], ids[2], ids[3]]);
    assert_eq!(ids[2], "0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a78");
}

#[tokio::test(flavor = "multi_thread")]
async fn psycopg_events_are_relayed_and_refusals_are_exceptions() {
    let python = |arguments: &[&str]| {
        let mut command = Command::new("python3");
        command
            .env("PYTHONPATH", installed("psycopg"))
            .args(arguments);
        command
    };
    let probe = python(&["-c", "import psycopg"]).output().await;
    if !probe.is_ok_and(|probe| probe.status.success()) {
        eprintln!("skipped: python3 finds no psycopg (make servers installs it)");
        return;
    }
    let world = Pg::start().await;
    let relay = world.relay();
    let script = include_str!("producer.py");
    let output = within("python", python(&["-c", script, &url(&world)]).output()).await;
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    eventually("all four are stored", || async {
        world.stored().await.len() == 4
    })
    .await;
    relay.stop().await.unwrap();

    let stored = world.stored().await;
    let mut expected: Vec<&str> = result["committed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap())
        .collect();
    assert_eq!(expected[2], "0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a77");
    expected.push(result["due"].as_str().unwrap());
    assert_eq!(stored.ids(), expected);
    assert_eq!(stored.0[0].header("tenant"), "acme");
    let refused = result["refused"].as_array().unwrap();
    let words = [
        "is not an event name",
        "is not a version",
        "the key",
        "has no payload",
        "not an object of texts",
    ];
    assert_eq!(refused.len(), words.len());
    for (refusal, words) in refused.iter().zip(words) {
        assert!(
            refusal["message"].as_str().unwrap().contains(words),
            "{refusal}"
        );
        assert!(!refusal["hint"].as_str().unwrap().is_empty(), "{refusal}");
    }
}

/// The SQL comes from the documentation.
#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_table_feeds_the_stream_once_and_in_order() {
    let world = Pg::start().await;
    let pool = world.outbox.pool();
    let subjects = ["order.>", "customer_account.>"].map(|subject| subject.parse().unwrap());
    let stream = StreamSpec::new("ORDERS", subjects).unwrap();
    world.bus.apply_stream(&stream).await.unwrap();
    let table =
        "create table outboxevent (id uuid primary key, aggregatetype varchar(255) not null,
        aggregateid varchar(255) not null, type varchar(255) not null, payload jsonb)";
    Postgres::execute(pool, table).await;
    let before =
        "insert into outboxevent values (gen_random_uuid(), 'Order', '0', 'OrderCreated', '{}')";
    Postgres::execute(pool, before).await;
    let document = include_str!("../../../docs/operate/adopt.md");
    let (_, recipe) = document.split_once("```sql\n").unwrap();
    let (recipe, _) = recipe.split_once("```").unwrap();
    Postgres::execute(pool, recipe).await;
    // A service with rights on its own table only.
    let service = "create role service; grant usage on schema public to service;
        grant insert, select, delete on outboxevent to service";
    if Postgres::number(
        pool,
        "select count(*) from pg_roles where rolname = 'service'",
    )
    .await
        == 0
    {
        Postgres::execute(pool, service).await;
    }

    let relay = world.relay();
    let happened = [
        ("Order", "7", "OrderCreated", "order.created"),
        ("Order", "7", "ItemAdded", "order.item_added"),
        (
            "CustomerAccount",
            "7",
            "customer-account-opened",
            "customer_account.opened",
        ),
        ("Order", "8", "ORDER_CREATED", "order.created"),
        ("Order", "7", "Shipped", "order.shipped"),
    ];
    let mut expected = Vec::new();
    for (n, (about, id, what, name)) in happened.iter().enumerate() {
        let event = uuid::Uuid::now_v7();
        let insert = format!(
            "insert into outboxevent values ('{event}', '{about}', '{id}', '{what}', '{{\"n\": {n}}}')"
        );
        let delete = format!("delete from outboxevent where id = '{event}'");
        Postgres::execute(
            pool,
            &format!("begin; set local role service; {insert}; {delete}; commit"),
        )
        .await;
        let other = insert.replace(&event.to_string(), &uuid::Uuid::now_v7().to_string());
        Postgres::execute(pool, &format!("begin; {other}; rollback")).await;
        expected.push((event.to_string(), (*name).to_owned(), (*id).to_owned(), n));
    }
    let refused = "insert into outboxevent values (gen_random_uuid(), '7', '7', '!', '{}')";
    let error = sqlx::raw_sql(refused).execute(pool).await.unwrap_err();
    assert!(
        error.to_string().contains("is not an event name"),
        "{error}"
    );
    no_rights_are_lent(&world).await;
    Postgres::execute(pool, "truncate outboxevent").await;
    let read = async || Stream::read(&world.nats.url(), "ORDERS").await;
    eventually("all are stored", || async {
        read().await.len() >= expected.len()
    })
    .await;
    eventually("nothing is left", || async {
        let status = world.outbox.status().await.unwrap();
        status.backlog == status.returning
    })
    .await;
    relay.stop().await.unwrap();
    let stored: Vec<_> = read()
        .await
        .0
        .iter()
        .map(|message| {
            let n = usize::try_from(message.json()["n"].as_u64().unwrap()).unwrap();
            let header = |name| message.header(name).to_owned();
            (
                header("ce-id"),
                message.subject.clone(),
                header("ce-partitionkey"),
                n,
            )
        })
        .collect();
    assert_eq!(stored, expected);
}

/// The SQL comes from the documentation.
#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_table_keeps_the_trace_of_debezium() {
    let world = Pg::start().await;
    let pool = world.outbox.pool();
    let subjects = ["order.>"].map(|subject| subject.parse().unwrap());
    let stream = StreamSpec::new("ORDERS", subjects).unwrap();
    world.bus.apply_stream(&stream).await.unwrap();
    let table =
        "create table outboxevent (id uuid primary key, aggregatetype text, aggregateid text,
        type text, payload jsonb, tracingspancontext varchar(256))";
    Postgres::execute(pool, table).await;
    let document = include_str!("../../../docs/operate/adopt.md");
    let mut blocks = document.split("```sql\n").skip(1);
    let mut block = || blocks.next().unwrap().split_once("```").unwrap().0;
    let (adopted, trace) = (block(), block());
    let argument = "headers => outboxevent_trace(new.tracingspancontext)";
    assert!(document.contains(argument));
    let last = "event   => new.id)";
    let with_trace = adopted.replace(last, &last.replace(')', &format!(", {argument})")));
    assert_ne!(with_trace, adopted);
    Postgres::execute(pool, trace).await;
    Postgres::execute(pool, &with_trace).await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let traces = [
        format!(
            "E'#Tue Dec 01 03:00:00 UTC 2026\\ntraceparent={parent}\\ntracestate=a\\\\=1,b\\\\=2\\n'"
        ),
        format!("E'traceparent={parent}\\r\\n'"),
        "null".to_owned(),
        "'uber-trace-id=1'".to_owned(),
    ];
    for trace in &traces {
        let insert = format!(
            "insert into outboxevent values (gen_random_uuid(), 'Order', '7', 'Shipped', '{{}}', {trace})"
        );
        Postgres::execute(pool, &insert).await;
    }
    let relay = world.relay();
    let read = async || Stream::read(&world.nats.url(), "ORDERS").await;
    eventually("all are stored", || async { read().await.len() == 4 }).await;
    relay.stop().await.unwrap();
    let stored = read().await.0;
    let of = |name: &str| -> Vec<String> {
        let values = stored.iter().map(|message| message.header(name).to_owned());
        values.collect()
    };
    assert_eq!(of("traceparent"), [parent, parent, "", ""]);
    assert_eq!(of("tracestate"), ["a=1,b=2", "", "", ""]);
}

/// The function runs with the rights of its owner: a user must not get it to run the user's own code, nor attach it to
/// a table of the user's.
async fn no_rights_are_lent(world: &Pg) {
    Postgres::execute(world.outbox.pool(), "create table stolen (by name)").await;
    let mut service = world.outbox.pool().acquire().await.unwrap();
    let try_it = "begin; set local role service;
        create function pg_temp.take(pg_catalog.text) returns boolean language plpgsql as $$
        begin
            insert into public.stolen values (current_user);
            return true;
        exception when insufficient_privilege then
            return true;
        end $$;
        create domain pg_temp.text as pg_catalog.text check (pg_temp.take(value));
        insert into outboxevent values (gen_random_uuid(), 'Order', '9', 'OrderCreated', '{\"n\": 0}');
        do $$ begin if exists (select from public.stolen) then raise exception 'it ran theirs'; end if;
        exception when insufficient_privilege then null; end $$;
        reset role;
        do $$ begin if exists (select from public.stolen) then raise exception 'it ran theirs'; end if; end $$;
        rollback";
    sqlx::raw_sql(try_it).execute(&mut *service).await.unwrap();
    let hang_it = "begin; set local role service;
        create temporary table mine (like public.outboxevent);
        create trigger adopted after insert on mine
            for each row execute function public.outboxevent_adopted()";
    let refused = sqlx::raw_sql(hang_it).execute(&mut *service).await;
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("permission denied for function"),
        "{refused}"
    );
    sqlx::raw_sql("rollback")
        .execute(&mut *service)
        .await
        .unwrap();
}
