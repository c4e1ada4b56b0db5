//! Dead letters: stored once, found, redriven.

mod error_texts;
mod lost_dead_letters;
mod redeliveries;
mod redrives;
mod removed_subscribers;
