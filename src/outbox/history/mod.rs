//! Reading the log that the outbox keeps: all of it, the rows that the relay has passed, and where they went.

pub(in crate::outbox) mod ahead;
pub(in crate::outbox) mod contents;
pub(in crate::outbox) mod passed_pages;
pub(in crate::outbox) mod relayed;
pub(in crate::outbox) mod traced;
