//! The compile errors of mistakes, and their texts: `tests/ui`. A text that has improved is accepted with
//! `TRYBUILD=overwrite cargo test --package tidings-compile-tests`.

use std::process::Command;

/// The text that rustc adds to ours changes from version to version, so the texts are compared with one version only.
const PINNED_WITH: &str = "rustc 1.95.";

#[test]
fn compile_errors_name_the_mistake() {
    let version = Command::new("rustc").arg("--version").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    if version.starts_with(PINNED_WITH) {
        trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
    } else {
        eprintln!("skipped: the messages are those of {PINNED_WITH}x, and this is {version}");
    }
}
