//! Makes foreign text safe for a terminal or JSON. Never decides what is printed, only how.
//!
//! Names, keys, payloads, errors and arguments may contain characters that a terminal obeys, that a viewer hides, or
//! that make one line look like another one: control characters of both sets, line and paragraph separators,
//! bidirectional controls (CVE-2021-42574), invisible characters and tags. [`neutral`] is the one place that knows
//! them; all output of the program passes it.

use std::{borrow::Cow, fmt::Write};

/// Whether a character changes how the text around it is shown, or is invisible.
pub(super) fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // soft hyphen, combining grapheme joiner, Arabic letter mark, Hangul fillers
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}'
            // Khmer inherent vowels, Mongolian selectors
            | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            // zero-width space; left-to-right and right-to-left mark. The joiners between them are part of several
            // scripts and control nothing.
            | '\u{200b}' | '\u{200e}' | '\u{200f}'
            // line and paragraph separator, embeddings, overrides
            | '\u{2028}'..='\u{202e}'
            // invisible operators, isolates, deprecated format characters
            | '\u{2060}'..='\u{206f}'
            // byte order mark, interlinear annotations
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            // musical format characters, tags
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// The text as it may be shown on one line. White space that breaks lines becomes a space; every other hostile
/// character becomes a replacement character, so that its presence is visible.
pub(super) fn neutral(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hostile) {
        return Cow::Borrowed(text);
    }
    let shown = |c| match c {
        '\t' | '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}' => ' ',
        c if is_hostile(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    Cow::Owned(text.chars().map(shown).collect())
}

/// The same for a text of several lines; the line breaks stay.
pub(super) fn neutral_lines(text: &str) -> String {
    let lines = text.split('\n').map(neutral);
    lines.collect::<Vec<_>>().join("\n")
}

/// A JSON document in which hostile characters are written as escapes. They occur only in its strings, so its value
/// stays the same. serde_json itself escapes only what JSON requires: the first 32 characters.
pub(super) fn json(document: &str) -> Cow<'_, str> {
    if !document.contains(is_hostile) {
        return Cow::Borrowed(document);
    }
    let mut escaped = String::with_capacity(document.len() + 64);
    for c in document.chars() {
        if !is_hostile(c) {
            escaped.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a String cannot fail.
            let _ = write!(escaped, "\\u{unit:04x}");
        }
    }
    Cow::Owned(escaped)
}

/// A line of the log. Only the colours that the program itself sets stay; all other escape sequences are replaced.
pub(super) fn log_line(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find('\u{1b}') {
        let (before, sequence) = rest.split_at(at);
        shown += &neutral_lines(before);
        let colour = colour(sequence);
        shown += if colour > 0 {
            &sequence[..colour]
        } else {
            "\u{fffd}"
        };
        rest = &sequence[colour.max(1)..];
    }
    shown + &neutral_lines(rest)
}

/// The length of the escape sequence at the start of a text, if it only sets colours; else 0.
fn colour(text: &str) -> usize {
    let Some(parameters) = text.strip_prefix("\u{1b}[") else {
        return 0;
    };
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';');
    match end {
        Some(end) if parameters[end..].starts_with('m') => 2 + end + 1,
        _ => 0,
    }
}

/// A line of the log that is a JSON object.
pub(super) fn log_object(line: &str) -> String {
    match line.strip_suffix('\n') {
        Some(object) => format!("{}\n", json(object)),
        None => json(line).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOSTILE: [char; 12] = [
        '\u{1b}',
        '\u{7f}',
        '\u{9b}',
        '\u{85}',
        '\u{200b}',
        '\u{202e}',
        '\u{2028}',
        '\u{2066}',
        '\u{feff}',
        '\u{e0041}',
        '\0',
        '\u{61c}',
    ];

    #[test]
    fn terminal_commands_are_replaced_and_scripts_stay() {
        for c in HOSTILE {
            let shown = neutral(&format!("a{c}b")).into_owned();
            assert!(!shown.contains(is_hostile), "{c:?} gives {shown:?}");
            assert_eq!(shown.chars().count(), 3);
        }
        let text = "Zo\u{eb} \u{645}\u{6cc}\u{200c}\u{62e} \u{1f468}\u{200d}\u{1f469}";
        assert_eq!(neutral(text), text);
        assert_eq!(neutral("a\r\nb\tc"), "a  b c");
        assert_eq!(neutral_lines("a\u{1b}\nb"), "a\u{fffd}\nb");
    }

    #[test]
    fn a_log_line_keeps_its_colours_and_nothing_else() {
        let line = "\u{1b}[2mtime\u{1b}[0m \u{1b}[31;1mERROR\u{1b}[0m a\u{1b}[2Jb\u{1b}]0;c\u{7}\u{202e}\n";
        let shown = "\u{1b}[2mtime\u{1b}[0m \u{1b}[31;1mERROR\u{1b}[0m a\u{fffd}[2Jb\u{fffd}]0;c\u{fffd}\u{fffd}\n";
        assert_eq!(log_line(line), shown);
        assert_eq!(log_line("ends in \u{1b}"), "ends in \u{fffd}");
        assert_eq!(log_object("{\"a\":\"\u{9b}\"}\n"), "{\"a\":\"\\u009b\"}\n");
    }

    proptest! {
        #[test]
        fn a_json_document_keeps_its_meaning_without_hostile_text(text in any::<String>(), at in 0..HOSTILE.len()) {
            let value = serde_json::json!({ "a": format!("{text}{}", HOSTILE[at]), &text: 1 });
            let document = serde_json::to_string(&value).unwrap();
            let escaped = json(&document);
            prop_assert!(!escaped.contains(is_hostile));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
        }

        #[test]
        fn a_neutral_text_is_one_line(text in any::<String>()) {
            prop_assert!(!neutral(&text).contains(is_hostile));
        }
    }

    #[test]
    fn fuzz_texts_of_others() {
        let hostile: String = HOSTILE.into_iter().collect();
        let seeds = [
            "\u{1b}[2mtime\u{1b}[0m \u{1b}[31;1mERROR\u{1b}[0m a\u{1b}[2Jb\u{1b}]0;c\u{7}\u{202e}\n",
            "{\"a\":\"\u{9b}\\u0000\"}\n",
            &hostile,
        ];
        tidings_fuzz::fuzz_text("text of others", &seeds, |text| {
            let shown = neutral(text);
            assert!(!shown.contains(is_hostile));
            assert_eq!(shown.chars().count(), text.chars().count());
            let lines = neutral_lines(text);
            assert!(!lines.contains(|c: char| c != '\n' && is_hostile(c)));
            assert_eq!(lines.matches('\n').count(), text.matches('\n').count());
            assert!(!json(text).contains(is_hostile));
            assert!(!log_object(text).contains(|c: char| c != '\n' && is_hostile(c)));
            // Only a sequence that sets a colour begins with an escape.
            let line = log_line(text);
            let mut parts = line.split('\u{1b}');
            let plain = |part: &str| !part.contains(|c: char| c != '\n' && is_hostile(c));
            assert!(parts.next().is_some_and(plain));
            for part in parts {
                let sets = part.strip_prefix('[').and_then(|part| part.split_once('m'));
                let (colour, rest) = sets.expect("a colour");
                assert!(colour.bytes().all(|b| b.is_ascii_digit() || b == b';') && plain(rest));
            }
            shown != text
        });
    }

    #[test]
    fn fuzz_documents_of_others() {
        let seeds = ["{\"a\":\"\u{9b}\u{202e}\",\"\u{e0041}\":[1,null]}", "[]"];
        tidings_fuzz::fuzz_json("document of others", &seeds, |document| {
            let text = String::from_utf8_lossy(document);
            let escaped = json(&text);
            assert!(!escaped.contains(is_hostile));
            let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
            let value = read(&text);
            assert!(value.is_none() || read(&escaped) == value);
            value.is_some()
        });
    }
}
