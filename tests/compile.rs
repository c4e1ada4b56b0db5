//! The mistakes that the compiler finds, and the words that it finds for them: `tests/ui`. A changed
//! message is looked at and, when it is better, accepted with `TRYBUILD=overwrite cargo test --test compile`.

#[test]
fn mistakes_are_refused_in_words_that_name_them() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
