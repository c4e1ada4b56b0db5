//! Postgres behind a pooler.

mod pooler;
