//! `tidings subscribers` and `replay`.

mod commands;
mod issues;
mod replay;
