//! The rules of event names at compile time. They equal those of `tidings_contract::Name`, which this crate cannot
//! depend on; a test compares the two.

/// Returns why `text` is not an event name, or `None` when it is one.
pub(crate) fn fault(text: &str) -> Option<&'static str> {
    let mut words = text.split('.');
    if text.len() > 200 {
        return Some("an event name has at most 200 bytes");
    }
    if words.clone().count() < 2 || !words.clone().all(is_word) {
        return Some(
            "an event name is two or more lower-case words joined by dots, such as \"user.created\"",
        );
    }
    match words.next() {
        Some("tidings" | "dead-letter") => {
            Some("an event name begins with neither \"tidings\" nor \"dead-letter\"")
        }
        _ => None,
    }
}

fn is_word(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_lowercase())
        && word
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_rules_are_those_of_the_contract(
            text in "[a-zA-Z0-9._ *>-]{0,24}|(tidings|dead-letter|user)\\.[a-z.]{0,8}|a\\.[a-z]{195,202}",
        ) {
            let known_here = super::fault(&text).is_none();
            prop_assert_eq!(known_here, tidings_contract::Name::parse(&text).is_ok());
        }
    }
}
