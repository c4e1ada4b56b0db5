//! Replays.

mod consumer_names;
mod effects;
mod ends;
mod faults;
mod handling;
mod order;
mod rehearsals;
mod requests;
mod stuck;
