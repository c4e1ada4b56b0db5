//! The mistakes that the compiler finds, and the words that it finds for them: `tests/ui`. A message that
//! has changed for the better is accepted with `TRYBUILD=overwrite cargo test --test compile`.

#![cfg(all(feature = "postgres", feature = "sqlite"))] // some words list what implements a trait

use std::process::Command;

/// What rustc says around our own words changes from version to version, so they are compared on one.
const PINNED_WITH: &str = "rustc 1.95.";

#[test]
fn mistakes_are_refused_in_words_that_name_them() {
    let version = Command::new("rustc").arg("--version").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    if version.starts_with(PINNED_WITH) {
        trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
    } else {
        eprintln!("skipped: the messages are those of {PINNED_WITH}x, and this is {version}");
    }
}
