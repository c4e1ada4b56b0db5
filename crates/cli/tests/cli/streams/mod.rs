//! `tidings streams`, `tail` and `verify`.

mod apply;
mod tail;
mod verify;
