//! `tidings dead-letters`.

mod commands;
mod redrive_results;
