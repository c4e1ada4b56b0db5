//! The inbox: an effect in a database happens once.

mod batch_crashes;
mod connection_state;
mod database_outages;
mod effects;
mod ended_transactions;
mod retries_and_repairs;
mod ring;
mod shared_connections;
