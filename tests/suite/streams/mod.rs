//! Streams, consumers and the bucket: how they are declared, and settings that another tool changed.

mod bucket_settings;
mod consumer_settings;
mod declaring;
mod limits;
mod no_acks;
mod stream_settings;
