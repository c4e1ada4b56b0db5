//! What a stream has lost: verify, repair, republish.

mod concurrent;
mod duplicate_rows;
mod republishing;
mod verify;
