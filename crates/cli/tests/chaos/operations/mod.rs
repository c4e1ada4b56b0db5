//! Faults during repairs and replays.

mod repair;
mod replays;
