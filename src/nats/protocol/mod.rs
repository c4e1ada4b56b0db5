//! What Tidings writes into NATS and reads back, and what a server writes for it. A text or a number of the wire stands
//! in one file of this folder, with its meaning, and nowhere else. Never sends anything.
//!
//! | file | what |
//! |---|---|
//! | [`api`] | the subjects of the JetStream API, and of acks |
//! | [`subjects`] | the subjects of Tidings: dead letters, retries, notices, status requests |
//! | [`names`] | streams, the bucket, consumers and their metadata |
//! | [`keys`] | the entries of the bucket |
//! | [`headers`] | the names of all headers, of Tidings and of the server |
//! | [`codes`] | the error codes and statuses of nats-server |
//!
//! The other files read and write with these texts: [`retry`], [`redrive`], [`dead_letter`] and [`replay_tag`] those of
//! Tidings, [`position`], [`server_headers`], [`pull_end`], [`permission`] and [`unreadable`] those of the server.
//! [`authorship`] decides which headers are trusted, and [`cures`] what helps against a refusal.
//!
//! `docs/reference/wire.md` describes the same for users, and the tests of this folder hold every text as it is there:
//! nothing that is stored may become unreadable by a rename.

pub(crate) mod api;
pub(crate) mod headers;
pub(crate) mod keys;
pub(crate) mod names;
pub(crate) mod redrive;
pub(crate) mod subjects;

pub(in crate::nats) mod authorship;
pub(in crate::nats) mod codes;
pub(in crate::nats) mod cures;
pub(in crate::nats) mod dead_letter;
pub(in crate::nats) mod permission;
pub(in crate::nats) mod position;
pub(in crate::nats) mod pull_end;
pub(in crate::nats) mod replay_tag;
pub(in crate::nats) mod retry;
pub(in crate::nats) mod server_headers;
pub(in crate::nats) mod unreadable;

#[cfg(test)]
mod tests;
