//! The outbox: what is written into it, by the library, by SQL and by other producers.

mod bulk;
mod delayed_events;
mod dropped_futures;
mod foreign_producers;
mod invalid_rows;
mod invalid_times;
mod publishing;
mod row_ids;
mod rules;
mod sql_function;
