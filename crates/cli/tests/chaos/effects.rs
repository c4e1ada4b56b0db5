//! What handlers did: rows that they write in the transaction of the inbox, and the comparison with what was
//! committed. Never asks the inbox, nor a consumer.

use std::collections::{HashMap, HashSet};

use sqlx::{Postgres, Sqlite};

use crate::{support::Verdict, trial::Chaos};

/// What one handler did. An effect that is there twice is two rows.
#[derive(Debug, Clone)]
pub struct Effect {
    pub event: String,
    pub key: String,
    pub count: i64,
    pub replica: i64,
}

/// A database that handlers write to.
pub trait Effects: Chaos {
    /// A table that numbers its rows as they are written.
    const TABLE: &'static str;
    fn add(
        connection: &mut Self::Connection,
        effect: Effect,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
    /// In the order in which they were written.
    fn effects(pool: &sqlx::Pool<Self>) -> impl Future<Output = Vec<Effect>> + Send;
    /// How many there are, and how many of one event; `None` when the database is away.
    fn written(
        pool: &sqlx::Pool<Self>,
        event: &str,
    ) -> impl Future<Output = Option<(i64, i64)>> + Send;
}

const ADD: &str = "insert into effect (event, key, count, replica) values ($1, $2, $3, $4)";
const ALL: &str = "select event, key, count, replica from effect order by number";

const WRITTEN: &str =
    "select (select count(*) from effect), (select count(*) from effect where event = $1)";

macro_rules! effects {
    ($database:ty, $number:literal) => {
        impl Effects for $database {
            const TABLE: &'static str = concat!(
                "create table effect (number ",
                $number,
                ", event text not null, key text not null, count bigint not null, replica bigint not null)"
            );

            async fn add(connection: &mut Self::Connection, effect: Effect) -> Result<(), sqlx::Error> {
                let Effect { event, key, count, replica } = effect;
                let add = sqlx::query(ADD).bind(event).bind(key).bind(count).bind(replica);
                add.execute(connection).await.map(drop)
            }

            async fn effects(pool: &sqlx::Pool<Self>) -> Vec<Effect> {
                let all = sqlx::query_as(ALL).fetch_all(pool).await;
                let effect = |(event, key, count, replica)| Effect { event, key, count, replica };
                all.expect("the effects").into_iter().map(effect).collect()
            }

            async fn written(pool: &sqlx::Pool<Self>, event: &str) -> Option<(i64, i64)> {
                sqlx::query_as(WRITTEN).bind(event).fetch_one(pool).await.ok()
            }
        }
    };
}

effects!(Postgres, "bigserial primary key");
effects!(Sqlite, "integer primary key autoincrement");

/// What became of the events that were committed.
pub fn verdict(noted: Vec<String>, effects: &[Effect], dead: &[String]) -> Verdict {
    let noted: HashSet<String> = noted.into_iter().collect();
    let ends = || effects.iter().map(|effect| &effect.event).chain(dead);
    let ended: HashSet<String> = ends().cloned().collect();
    Verdict {
        events: noted.len(),
        lost: noted.difference(&ended).count(),
        phantom: ended.difference(&noted).count(),
        duplicated: ends().count() - ended.len(),
        inverted: inverted(effects),
    }
}

/// How often the count of a key goes down from one effect to the next.
fn inverted(effects: &[Effect]) -> usize {
    let mut last = HashMap::new();
    let goes_down = |effect: &&Effect| {
        let before = last.insert(effect.key.clone(), effect.count);
        before.is_some_and(|before| before >= effect.count)
    };
    effects.iter().filter(goes_down).count()
}
