//! Subscribers that are ordered by key, over several instances.

mod instances;
mod recreated_consumers;
