//! `tidings publish`, `relay`, `migrate` and `outbox`.

mod adopt;
mod delayed;
mod migrate;
mod parked;
mod publish;
mod relay_failover;
mod relay_systemd;
mod relay_traces;
mod status;
