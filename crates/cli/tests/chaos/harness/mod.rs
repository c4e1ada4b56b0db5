//! What a row of the table consists of: writers, a relay, workers, a fault, the comparison.

pub mod effects;
pub mod handling;
pub mod instance;
pub mod process;
pub mod table;
pub mod trial;
pub mod worker;
