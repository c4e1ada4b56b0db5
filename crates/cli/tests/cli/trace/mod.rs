//! `tidings trace`.

mod partial;
mod path;
