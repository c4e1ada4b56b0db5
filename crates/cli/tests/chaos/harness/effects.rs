//! The effects of handlers: rows that they write in the transaction of the inbox, and their comparison with the
//! committed events. Never asks the inbox, nor a consumer.

use std::collections::{HashMap, HashSet};

use sqlx::{Postgres, Sqlite};

use crate::{support::Verdict, trial::Chaos};

/// The effect of one handler call. An effect that happened twice is two rows.
#[derive(Debug, Clone)]
pub struct Effect {
    pub event: String,
    pub key: String,
    pub count: i64,
    pub instance: i64,
}

/// A database that handlers write to.
pub trait Effects: Chaos {
    /// A table that numbers its rows in the order of the writes.
    const TABLE: &'static str;
    fn add(
        connection: &mut Self::Connection,
        effect: Effect,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
    /// The effects, in the order of the writes.
    fn effects(pool: &sqlx::Pool<Self>) -> impl Future<Output = Vec<Effect>> + Send;
    /// The number of effects, and the number of effects of one event; `None` when the database is unavailable.
    fn written(
        pool: &sqlx::Pool<Self>,
        event: &str,
    ) -> impl Future<Output = Option<(i64, i64)>> + Send;
}

const ADD: &str = "insert into effect (event, key, count, instance) values ($1, $2, $3, $4)";
const ALL: &str = "select event, key, count, instance from effect order by number";

const WRITTEN: &str =
    "select (select count(*) from effect), (select count(*) from effect where event = $1)";

macro_rules! effects {
    ($database:ty, $number:literal) => {
        impl Effects for $database {
            const TABLE: &'static str = concat!(
                "create table effect (number ",
                $number,
                ", event text not null, key text not null, count bigint not null, instance bigint not null)"
            );

            async fn add(connection: &mut Self::Connection, effect: Effect) -> Result<(), sqlx::Error> {
                let Effect { event, key, count, instance } = effect;
                let add = sqlx::query(ADD).bind(event).bind(key).bind(count).bind(instance);
                add.execute(connection).await.map(drop)
            }

            async fn effects(pool: &sqlx::Pool<Self>) -> Vec<Effect> {
                let all = sqlx::query_as(ALL).fetch_all(pool).await;
                let effect = |(event, key, count, instance)| Effect { event, key, count, instance };
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

/// Compares the committed events with their effects and dead letters.
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

/// Counts how often the number of a key decreases from one effect to the next.
fn inverted(effects: &[Effect]) -> usize {
    let mut last = HashMap::new();
    let goes_down = |effect: &&Effect| {
        let before = last.insert(effect.key.clone(), effect.count);
        before.is_some_and(|before| before >= effect.count)
    };
    effects.iter().filter(goes_down).count()
}
