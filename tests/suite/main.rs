//! The promises of Tidings, against a real nats-server and real databases. Most of the suite runs once
//! on Postgres and once on SQLite, from one text.

#![allow(unreachable_pub)] // one binary
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests are tests

mod support;

mod away;
mod batch_deaths;
mod batches;
mod bulk;
mod bus;
mod crashes;
mod dead_letters;
mod deaths;
mod delayed;
mod deleted;
mod ended;
mod faults;
mod flow;
mod fuzz;
mod given_back;
mod given_up;
mod idle;
mod inbox;
mod inbox_ring;
mod kept;
mod losses;
mod moves;
mod order;
mod outbox;
mod parked_keys;
mod permissions;
mod poison;
mod pooler;
mod producers;
mod refusals;
mod refused;
mod rehearsals;
mod repair;
mod replay_requests;
mod replays;
mod replays_ends;
mod replays_faults;
mod replays_once;
mod replays_order;
mod replays_stuck;
mod replays_test_kit;
mod replicas;
mod resets;
mod resume;
mod retries;
mod roles;
mod rollouts;
mod rows;
mod rules;
mod sql;
mod stalls;
mod starts;
mod storage;
mod streams;
mod stumbles;
mod subscriber;
mod subscribers;
mod test_kit;
mod trace;
mod trace_again;
mod unreadable;
mod upgrade;
mod verify;
mod worst_days;
