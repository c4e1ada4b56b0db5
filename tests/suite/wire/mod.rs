//! Messages of other publishers, as they arrive.

mod cloudevents;
mod delete_markers;
mod forged_headers;
mod unreadable_messages;
