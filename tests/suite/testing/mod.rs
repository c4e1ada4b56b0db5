//! The test kit.

mod replays;
mod test_worker;
