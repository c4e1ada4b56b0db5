//! Reading parked events is bounded by what is shown of them, whatever their size.

use tidings::outbox::{ParkedEvent, ParkedSelection};

use crate::{
    both,
    support::{Database, World},
};

both!(
    a_list_reads_neither_payloads_nor_headers,
    a_page_holds_as_many_payloads_as_memory_allows,
    a_row_can_be_read_whole_before_it_is_discarded,
);

const MIB: usize = 1024 * 1024;

/// Parks rows with the ids 1 to `rows`, each with a payload of this size.
async fn park<DB: Database>(world: &World<DB>, rows: usize, bytes: usize) {
    let table = DB::table("parked");
    let insert = match DB::KIND {
        "postgres" => format!(
            "insert into {table} (id, created_at, event, name, version, key, headers, payload, error)
             select id, now(), gen_random_uuid(), 'user.created', 1, 'ada', '{{\"tenant\": \"acme\"}}',
                    convert_to(repeat('x', {bytes}), 'UTF8'), 'too large'
             from generate_series(1, {rows}) as id"
        ),
        _ => format!(
            "with recursive series (id) as (values (1) union all select id + 1 from series where id < {rows})
             insert into {table} (id, created_at, event, name, version, key, headers, payload, error)
             select id, 0, randomblob(16), 'user.created', 1, 'ada', '{{\"tenant\": \"acme\"}}',
                    zeroblob({bytes}), 'too large'
             from series"
        ),
    };
    DB::execute(world.outbox.pool(), &insert).await;
}

fn ids(events: &[ParkedEvent]) -> Vec<i64> {
    events.iter().map(|event| event.id).collect()
}

async fn a_list_reads_neither_payloads_nor_headers<DB: Database>(world: World<DB>) {
    park(&world, 34, 2 * MIB).await;
    let all = ParkedSelection::All;
    let heads = world.outbox.parked_heads(&all, i64::MIN, 1000).await;
    let heads = heads.unwrap();
    // All at once: payloads and headers are not read into memory.
    assert_eq!(ids(&heads), (1..=34).collect::<Vec<_>>());
    for head in &heads {
        assert_eq!(head.payload_bytes, 2 * MIB as u64);
        assert!(head.payload.is_empty() && head.headers.is_empty());
        assert_eq!(
            (head.name.as_str(), head.error.as_str()),
            ("user.created", "too large")
        );
    }
    let behind = world.outbox.parked_heads(&all, 30, 3).await.unwrap();
    assert_eq!(ids(&behind), [31, 32, 33]);
    let of_key = ParkedSelection::Key("ada".to_owned());
    let of_key = world.outbox.parked_heads(&of_key, i64::MIN, u32::MAX).await;
    assert_eq!(of_key.unwrap().len(), 34);
    let of_nobody = ParkedSelection::Key("eve".to_owned());
    let of_nobody = world.outbox.parked_heads(&of_nobody, i64::MIN, 9).await;
    assert_eq!(of_nobody.unwrap(), []);
}

async fn a_page_holds_as_many_payloads_as_memory_allows<DB: Database>(world: World<DB>) {
    park(&world, 9, 2 * MIB).await;
    let (mut behind, mut pages) = (i64::MIN, Vec::new());
    loop {
        let all = ParkedSelection::All;
        let page = world.outbox.parked(&all, behind, u32::MAX).await.unwrap();
        let Some(last) = page.last() else { break };
        behind = last.id;
        assert!(page.iter().all(|event| event.payload.len() == 2 * MIB));
        pages.push(ids(&page));
    }
    assert!(pages.iter().all(|page| page.len() <= 3), "{pages:?}");
    assert_eq!(pages.concat(), (1..=9).collect::<Vec<_>>());
}

async fn a_row_can_be_read_whole_before_it_is_discarded<DB: Database>(world: World<DB>) {
    park(&world, 2, 6 * MIB).await;
    let all = ParkedSelection::All;
    let shown = world.outbox.parked(&all, i64::MIN, 9).await.unwrap();
    assert_eq!(ids(&shown), [1, 2]);
    assert!(shown.iter().all(|event| event.payload.is_empty()));
    let whole = world.outbox.parked_whole(&all, i64::MIN, 9).await.unwrap();
    assert_eq!(ids(&whole), [1]);
    assert_eq!(whole[0].payload.len(), 6 * MIB);
    assert_eq!(whole[0].headers, "{\"tenant\": \"acme\"}");
    // A row that does not exist is not discarded.
    let dead_lettered = world.outbox.discard_rows(&[1, 77]).await.unwrap();
    assert_eq!(ids(&dead_lettered), [1]);
    assert!(dead_lettered[0].payload.is_empty());
    let dead_lettered = world.outbox.discard(&all, 9).await.unwrap();
    assert_eq!(ids(&dead_lettered), [2]);
    assert_eq!(dead_lettered[0].payload.len(), 6 * MIB);
    assert_eq!(world.outbox.discard(&all, 9).await.unwrap(), []);
}
