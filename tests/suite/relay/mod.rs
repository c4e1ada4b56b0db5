//! The relay: from the outbox into streams, in order and once, through faults and refusals.

mod adjusting;
mod crashes;
mod discarded_events;
mod duplicate_id_boundaries;
mod duplicate_ids;
mod faults;
mod final_status;
mod full_disk;
mod fuzz;
mod idle;
mod issues;
mod order;
mod parked_lists;
mod poison_events;
mod refusals;
mod restored_order;
mod resume;
mod stream_losses;
mod unparking;
