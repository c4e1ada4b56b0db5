//! Reading what the outbox still keeps: rows that the relay has passed, and where they went.

pub(in crate::outbox) mod ahead;
pub(in crate::outbox) mod contents;
pub(in crate::outbox) mod page_size;
pub(in crate::outbox) mod passed_pages;
pub(in crate::outbox) mod relayed;
pub(in crate::outbox) mod traced;
