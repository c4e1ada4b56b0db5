//! What two errors have in common when they differ only in numbers, ids and quoted texts. Never reads a clock and never
//! depends on the process: the same error always has the same fingerprint.

use uuid::Uuid;

/// How many characters of the normalised text are hashed.
const COUNTS: usize = 512;
/// A word of at least this many letters and digits, mixed, is an id.
const ID_LENGTH: usize = 8;
/// A word of at least this many hexadecimal digits, including a decimal digit, is not an ordinary word.
const HEX_LENGTH: usize = 6;
/// Replaces each variable part.
const ANY: char = '#';

/// Twelve hexadecimal digits, the same for errors of one kind.
pub(crate) fn fingerprint(cause: &str, error: &str) -> String {
    let kind: String = normalised(error).chars().take(COUNTS).collect();
    let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{cause}\n{kind}").as_bytes());
    // The first bytes are plain SHA-1; the version bits come after them.
    let mut text = hash.simple().to_string();
    text.truncate(12);
    text
}

/// The text with numbers, UUIDs, hexadecimal texts, ids and quoted texts replaced.
fn normalised(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.trim();
    // Quotes without an end. Each kind is searched for only once: no later quote of that kind has an end either.
    let mut endless = [None; 3];
    while let Some(c) = rest.chars().next() {
        let (length, is_any) = match c {
            '"' | '`' | '\''
                if !endless.contains(&Some(c)) && !out.ends_with(char::is_alphanumeric) =>
            {
                match quoted(rest, c) {
                    Some(length) => (length, true),
                    None => {
                        endless.rotate_right(1);
                        endless[0] = Some(c);
                        (c.len_utf8(), false)
                    }
                }
            }
            c if c.is_alphanumeric() => match uuid(rest) {
                Some(length) => (length, true),
                None => {
                    let end = rest.find(|c: char| !c.is_alphanumeric());
                    let length = end.unwrap_or(rest.len());
                    (length, differs(&rest[..length]))
                }
            },
            c => (c.len_utf8(), false),
        };
        let (part, behind) = rest.split_at(length);
        rest = behind;
        match is_any {
            true => put_any(&mut out),
            false if part.chars().all(char::is_whitespace) => {
                if !out.ends_with(' ') {
                    out.push(' ');
                }
            }
            false => out.push_str(part),
        }
    }
    out
}

/// Appends the replacement; the parts of `10.0.0.1:80`, `1.5` and `12:30` are merged into one.
fn put_any(out: &mut String) {
    let joint = |c: char| matches!(c, '.' | ',' | ':' | '-' | '_' | '/' | '+');
    let before = out.strip_suffix(joint).unwrap_or(out);
    if before.ends_with(ANY) {
        out.truncate(before.len());
    } else {
        out.push(ANY);
    }
}

/// The length of the quoted text that begins here; `None` when it does not end. An apostrophe within a word is not a
/// quote.
fn quoted(text: &str, quote: char) -> Option<usize> {
    let mut ends = text
        .match_indices(quote)
        .map(|(at, _)| at + quote.len_utf8());
    ends.next()?;
    ends.find(|end| quote != '\'' || !text[*end..].starts_with(char::is_alphanumeric))
}

/// The length of the UUID that begins here.
fn uuid(text: &str) -> Option<usize> {
    const LENGTH: usize = 36;
    let head = text.get(..LENGTH)?;
    let ends = !text[LENGTH..].starts_with(char::is_alphanumeric);
    (ends && Uuid::try_parse(head).is_ok()).then_some(LENGTH)
}

/// Whether a word is a number, with or without a unit, a hexadecimal text or an id.
fn differs(word: &str) -> bool {
    if word.starts_with(char::is_numeric) {
        return true;
    }
    let length = word.chars().count();
    let is_hex = length >= HEX_LENGTH && word.chars().all(|c| c.is_ascii_hexdigit());
    (is_hex || length >= ID_LENGTH) && word.contains(char::is_numeric)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn details_that_differ_between_failures_are_left_out() {
        for (text, expected) in [
            ("timeout after 30s", "timeout after #"),
            ("timeout  after 1.5s\n", "timeout after #"),
            ("connect 10.0.0.7:5432: refused", "connect #: refused"),
            ("at 2026-11-21T09:30:00.5Z", "at #"),
            ("no user \"Zo\u{eb} 'x' 7\"", "no user #"),
            ("key 'a b' can't be 'c'", "key # can't be #"),
            ("it's Ada's", "it's Ada's"),
            ("an open \"quote", "an open \"quote"),
            (
                "user 6F9619FF-8B86-D011-B42D-00CF4FC964FF is gone",
                "user # is gone",
            ),
            ("user abcdefab-abcd-abcd-abcd-abcdefabcdef", "user #"),
            ("commit a1b2c3d at 0xdeadbeef", "commit # at #"),
            (
                "charge ch_3MtwBwLkdIwHu7ix0x declined",
                "charge ch_# declined",
            ),
            ("utf8 and sha256 are words", "utf8 and sha256 are words"),
            ("decade facade", "decade facade"),
        ] {
            assert_eq!(normalised(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_fingerprint_never_changes() {
        assert_eq!(
            fingerprint("exhausted", "timeout after 30s"),
            "57147553f8d9"
        );
    }

    #[test]
    fn another_cause_or_text_is_another_fingerprint() {
        let one = fingerprint("exhausted", "timeout");
        assert_ne!(one, fingerprint("rejected", "timeout"));
        assert_ne!(one, fingerprint("exhausted", "refused"));
    }

    proptest! {
        #[test]
        fn any_text_has_a_fingerprint(text in any::<String>()) {
            let print = fingerprint("rejected", &text);
            prop_assert!(print.len() == 12 && print.bytes().all(|b| b.is_ascii_hexdigit()));
            prop_assert_eq!(&print, &fingerprint("rejected", &format!(" {text}\n")));
        }

        #[test]
        fn numbers_ids_and_quoted_texts_do_not_count(
            a in any::<u64>(), b in -1e9f64..1e9, id in any::<u128>(), quoted in "[^\"]{0,20}",
        ) {
            let b = b.abs();
            let id = Uuid::from_u128(id);
            let text = format!("row {a} of {id}: \"{quoted}\" took {b}ms");
            let other = "row 7 of 00000000-0000-0000-0000-000000000000: \"x\" took 2ms";
            prop_assert_eq!(fingerprint("exhausted", &text), fingerprint("exhausted", other));
        }
    }

    #[test]
    fn fuzz_errors_that_are_grouped() {
        let seeds = [
            "no user \"Zo\u{eb} 'x' 7\": key `a b` can't be 'c' at 10.0.0.7:5432",
            "user 6F9619FF-8B86-D011-B42D-00CF4FC964FF is gone, charge ch_3MtwBwLkdIwHu7ix0x declined",
            // Each quote of such a text was searched for to the end of the text.
            "'a 'a 'a 'a ",
            "\"`'",
        ];
        tidings_fuzz::fuzz_text("error that is grouped", &seeds, |text| {
            let print = fingerprint("exhausted", text);
            assert_eq!(print, fingerprint("exhausted", &format!(" {text}\n")));
            normalised(text).contains(ANY)
        });
    }
}
