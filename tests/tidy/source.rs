//! A Rust file as text: what of it is code, what it imports, where it may panic. Never what that means.

/// A Rust file.
pub struct Source {
    pub path: String,
    pub text: String,
    /// The text without comments, without what strings hold, and without the module of unit tests; the
    /// lines are the same.
    pub code: String,
    /// The same with the tests.
    code_and_tests: String,
    /// Like `code`, with what strings hold.
    pub with_strings: String,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        // Modules that are compiled for tests alone.
        let is_test = ["/tests.rs", "/fuzz.rs"]
            .iter()
            .any(|end| path.ends_with(end))
            || ["/fuzz/", "/conformance/"]
                .iter()
                .any(|folder| path.contains(folder));
        let code_and_tests = without_words(text, Strings::Blank);
        let nothing = || "\n".repeat(text.lines().count());
        let (code, with_strings) = match is_test {
            true => (nothing(), nothing()),
            false => {
                let tests = lines_of_tests(&code_and_tests);
                let with_strings = without_words(text, Strings::Kept);
                let lines = (1..).zip(with_strings.lines());
                let lines = lines.map(|(number, line)| match tests.contains(&number) {
                    true => "",
                    false => line,
                });
                (
                    without_tests(code_and_tests.clone()),
                    lines.collect::<Vec<_>>().join("\n"),
                )
            }
        };
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            code,
            code_and_tests,
            with_strings,
        }
    }

    /// The names of the tests, with their lines: functions below an attribute, and what the macros that make tests
    /// are given.
    pub fn tests(&self) -> Vec<(usize, &str)> {
        const ATTRIBUTES: &[&str] = &["#[test]", "#[tokio::test"];
        const MACROS: &[&str] = &["both!", "trials!", "older_copies!", "ends!"];
        let code = &*self.code_and_tests;
        let functions =
            line_starts(code, ATTRIBUTES).filter_map(|at| Some(at + code[at..].find("fn ")? + 3));
        let functions = functions.map(|at| (at, word_at(code, at)));
        let given = line_starts(code, MACROS).flat_map(|at| {
            let end = end_of_item(code, at);
            words(code, at, end).skip(1)
        });
        functions
            .chain(given)
            .map(|(at, name)| (line_of(code, at), name))
            .collect()
    }

    /// The top-level module that the file belongs to.
    pub fn module(&self) -> &str {
        let path = self.path.trim_start_matches("src/");
        path.split(['/', '.']).next().unwrap_or(path)
    }

    /// How many modules deep the file is, from 1.
    fn depth(&self) -> usize {
        let path = self
            .path
            .trim_end_matches("/mod.rs")
            .trim_start_matches("src/");
        path.split('/').count()
    }

    pub fn lines_with(&self, texts: &[&str]) -> Vec<usize> {
        lines_where(&self.code, |line| {
            texts.iter().any(|text| line.contains(text))
        })
    }

    pub fn lines_with_word(&self, word: &str) -> Vec<usize> {
        lines_where(&self.code, |line| has_word(line, word))
    }

    /// The public structs with a public field that are not `#[non_exhaustive]`.
    pub fn open_structs(&self) -> Vec<usize> {
        let lines: Vec<&str> = self.code.lines().collect();
        let is_open = |at: usize| {
            let before = lines[..at].iter().rev();
            let mut attributes = before.take_while(|l| l.trim().is_empty() || l.starts_with("#["));
            let mut fields = lines[at..].iter().take_while(|line| **line != "}");
            !attributes.any(|line| line.contains("non_exhaustive"))
                && fields.any(|line| line.starts_with("    pub "))
        };
        let structs = lines_where(&self.code, |line| {
            line.starts_with("pub struct ") && line.ends_with('{')
        });
        structs.into_iter().filter(|at| is_open(at - 1)).collect()
    }

    /// Every module of this crate's root that is named, with its line.
    pub fn imports_from_the_root(&self) -> Vec<(usize, String)> {
        self.imports_from(&[])
    }

    /// Everything within a module that is named, with its line. The module is given by its path from the root.
    pub fn imports_from(&self, module: &[&str]) -> Vec<(usize, String)> {
        let mut imports = Vec::new();
        for above in 0..=module.len() {
            // The first `above` modules of the path lead to a parent of this file, or to the root.
            let up = "super::".repeat(self.depth().saturating_sub(above));
            let root = (above == 0).then_some("crate::");
            for start in root.into_iter().chain((!up.is_empty()).then_some(&*up)) {
                let begins = |(at, _): &(usize, &str)| {
                    !self.code[..*at].ends_with(|c: char| {
                        c.is_alphanumeric() || c == '_' || c == '$' || c == ':'
                    })
                };
                for (at, start) in self.code.match_indices(start).filter(begins) {
                    self.named_within(at + start.len(), &module[above..], &mut imports);
                }
            }
        }
        imports
    }

    /// Adds what stands behind `module` in the path or the group of paths at `start`.
    fn named_within(&self, start: usize, module: &[&str], imports: &mut Vec<(usize, String)>) {
        for at in heads(&self.code, start) {
            let name: String = self.code[at..].chars().take_while(is_of_a_word).collect();
            let end = at + name.len();
            match module {
                [] if name != "self" && name != "super" && !name.is_empty() => {
                    imports.push((line_of(&self.code, at), name));
                }
                [first, rest @ ..] if name == *first && self.code[end..].starts_with("::") => {
                    self.named_within(end + 2, rest, imports);
                }
                _ => {}
            }
        }
    }

    /// The lines in which an `#[allow(clippy::...)]` with a reason permits to panic.
    pub fn allowed_panics(&self) -> Vec<usize> {
        let mut allowed = Vec::new();
        for name in ["unwrap_used", "expect_used"] {
            for (at, _) in self
                .code
                .match_indices(&format!("#[allow(clippy::{name})]"))
            {
                let line = line_of(&self.code, at);
                let says_why = self
                    .text
                    .lines()
                    .nth(line - 1)
                    .is_some_and(|l| l.contains(")] // "));
                if says_why {
                    allowed.extend(line + 1..=line_of(&self.code, end_of_item(&self.code, at)));
                }
            }
        }
        allowed
    }
}

/// The places of the first names in a path or a group of paths, such as `a` and `c` in `{a::b, c}`.
fn heads(code: &str, start: usize) -> Vec<usize> {
    if !code[start..].starts_with('{') {
        return vec![start];
    }
    let (mut heads, mut depth, mut is_new) = (Vec::new(), 0, false);
    for (at, c) in code[start..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            c if is_new && depth == 1 && is_of_a_word(&c) => heads.push(start + at),
            _ => {}
        }
        match depth {
            0 => break,
            1 if c == ',' || c == '{' => is_new = true,
            _ if !c.is_whitespace() => is_new = false,
            _ => {}
        }
    }
    heads
}

/// What becomes of the strings of a text.
#[derive(Clone, Copy, PartialEq)]
enum Strings {
    Blank,
    Kept,
}

/// The text with spaces in place of comments, and of what stands in strings.
fn without_words(text: &str, strings: Strings) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |place: usize| chars.get(place).copied().unwrap_or('\0');
    let mut code = String::with_capacity(text.len());
    let mut place = 0;
    while place < chars.len() {
        let end = match (at(place), at(place + 1)) {
            ('/', '/') => ends(&chars, place, |rest| rest[0] == '\n'),
            ('/', '*') => end_of_comment(&chars, place),
            ('"', _) => end_of_string(&chars, place),
            ('r', '"' | '#') if place == 0 || !is_of_a_word(&at(place - 1)) => {
                end_of_raw_string(&chars, place)
            }
            ('\'', '\\') => ends(&chars, place + 3, |rest| rest[0] == '\'') + 1,
            ('\'', _) if at(place + 2) == '\'' => place + 3,
            _ => place,
        };
        if end == place {
            code.push(at(place));
            place += 1;
        }
        let is_kept = strings == Strings::Kept && !matches!(at(place), '/' | '\'');
        for c in &chars[place..end.clamp(place, chars.len())] {
            code.push(if *c == '\n' || is_kept { *c } else { ' ' });
        }
        place = place.max(end);
    }
    code
}

fn ends(chars: &[char], from: usize, is_end: impl Fn(&[char]) -> bool) -> usize {
    (from..chars.len())
        .find(|place| is_end(&chars[*place..]))
        .unwrap_or(chars.len())
}

fn end_of_comment(chars: &[char], start: usize) -> usize {
    let (mut depth, mut place) = (1, start + 2);
    while depth > 0 && place < chars.len() {
        match chars[place..] {
            ['/', '*', ..] => (depth, place) = (depth + 1, place + 2),
            ['*', '/', ..] => (depth, place) = (depth - 1, place + 2),
            _ => place += 1,
        }
    }
    place
}

fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut place = start + 1;
    while place < chars.len() && chars[place] != '"' {
        place += if chars[place] == '\\' { 2 } else { 1 };
    }
    place + 1
}

/// The end of a raw string; `start` when none begins there.
fn end_of_raw_string(chars: &[char], start: usize) -> usize {
    let marks = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(start + 1 + marks) != Some(&'"') {
        return start;
    }
    let close: Vec<char> = std::iter::once('"')
        .chain(std::iter::repeat_n('#', marks))
        .collect();
    ends(chars, start + 2 + marks, |rest| rest.starts_with(&close)) + close.len()
}

/// The code with spaces in place of what only tests compile.
fn without_tests(mut code: String) -> String {
    while let Some(start) = code.find("#[cfg(test)]") {
        let end = end_of_item(&code, start);
        let blank: String = code[start..end]
            .chars()
            .map(|c| if c == '\n' { '\n' } else { ' ' })
            .collect();
        code.replace_range(start..end, &blank);
    }
    code
}

/// The lines of what only tests compile, from 1.
fn lines_of_tests(code: &str) -> Vec<usize> {
    let (mut lines, mut from) = (Vec::new(), 0);
    while let Some(at) = code[from..].find("#[cfg(test)]") {
        let start = from + at;
        from = end_of_item(code, start);
        lines.extend(line_of(code, start)..=line_of(code, from));
    }
    lines
}

/// The end of the item or statement whose attribute stands at `start`: behind its `;` or its block.
fn end_of_item(code: &str, start: usize) -> usize {
    let mut depth = 0;
    for (at, c) in code[start..].char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        let end = start + at + c.len_utf8();
        let goes_on = code[end..].trim_start().starts_with(['.', ';', '?']);
        if depth == 0 && (c == ';' || c == '}' && !goes_on) {
            return end;
        }
    }
    code.len()
}

pub fn lines_where(text: &str, is_found: impl Fn(&str) -> bool) -> Vec<usize> {
    let lines = text.lines().zip(1..);
    lines
        .filter(|(line, _)| is_found(line))
        .map(|(_, number)| number)
        .collect()
}

fn line_of(text: &str, place: usize) -> usize {
    text[..place].matches('\n').count() + 1
}

/// The places at which a line begins with one of these texts.
fn line_starts(code: &str, texts: &[&str]) -> impl Iterator<Item = usize> {
    let begins = move |at: &usize| {
        let before = code[..*at].trim_end_matches(' ');
        before.is_empty() || before.ends_with('\n')
    };
    let found = texts.iter().flat_map(move |text| code.match_indices(*text));
    found.map(|(at, _)| at).filter(begins)
}

/// The words between two places, each with its place.
fn words(code: &str, start: usize, end: usize) -> impl Iterator<Item = (usize, &str)> {
    let begins = move |at: &usize| {
        let before = code[..*at].chars().next_back();
        !before.is_some_and(|c| is_of_a_word(&c))
    };
    let chars = code[start..end].char_indices();
    let of_words = chars.filter(|(_, c)| is_of_a_word(c));
    let starts = of_words.map(move |(at, _)| start + at).filter(begins);
    starts.map(|at| (at, word_at(code, at)))
}

fn word_at(code: &str, at: usize) -> &str {
    let rest = &code[at..];
    let end = rest.find(|c| !is_of_a_word(&c)).unwrap_or(rest.len());
    &rest[..end]
}

fn is_of_a_word(c: &char) -> bool {
    c.is_alphanumeric() || *c == '_'
}

pub fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let behind = line[at + word.len()..].chars().next();
        !before.is_some_and(|c| is_of_a_word(&c)) && !behind.is_some_and(|c| is_of_a_word(&c))
    })
}

#[test]
fn code_is_separated_from_comments_strings_and_tests() {
    let code = |text: &str| {
        let source = Source::new("src/x.rs", text);
        assert_eq!(source.code.lines().count(), text.lines().count());
        source.code.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(code("a // b \"\n\"c // d\" e"), "a e");
    assert_eq!(code("/* a /* b */ c */ d"), "d");
    assert_eq!(code("r#\"a\"b\"# c '\"' d 'e f r#g"), "c d 'e f r#g");
    assert_eq!(code(r#""a\"b" c '\'' d"#), "c d");
    assert_eq!(code("a;\n#[cfg(test)]\nmod t {\n    b;\n}\nc;"), "a; c;");
    let text =
        "a(\"b\"); // \"c\"\n#[cfg(test)]\nmod t {\n    d(\n\"e\"\n);\n}\nf('g', r#\"h\"#);\n";
    let source = Source::new("src/x.rs", text);
    let lines: Vec<&str> = source.with_strings.lines().map(str::trim).collect();
    assert_eq!(
        lines,
        ["a(\"b\");", "", "", "", "", "", "", "f(   , r#\"h\"#);"]
    );
}

#[test]
fn tests_are_found_below_attributes_and_in_macros() {
    let text = "both!(a_b, c_d);\n    both!(\n    e_f, // why\n);\n#[tokio::test(\"x\")]\nasync fn g_h() {}\n\
        #[cfg(test)]\nmod t {\n    #[test]\n    #[cfg(unix)]\n    fn i() {}\n    fn j() { both!(k) }\n}\n";
    let found = Source::new("src/x.rs", text);
    let mut found = found.tests();
    found.sort();
    assert_eq!(
        found,
        [(1, "a_b"), (1, "c_d"), (3, "e_f"), (6, "g_h"), (11, "i")]
    );
}

#[test]
fn imports_are_found_in_groups_and_through_parents() {
    let imports = |path, text| Source::new(path, text).imports_from_the_root();
    assert_eq!(
        imports("src/a.rs", "use crate::{\n    b::{C, d},\n    e,\n};"),
        [(2, "b".to_owned()), (3, "e".to_owned())]
    );
    assert_eq!(
        imports("src/a.rs", "use super::b::C;"),
        [(1, "b".to_owned())]
    );
    assert_eq!(imports("src/a/b.rs", "use super::c::D;"), []);
    assert_eq!(
        imports("src/a/b.rs", "use super::super::c::D;"),
        [(1, "c".to_owned())]
    );
    assert_eq!(
        imports("src/a/b.rs", "pub(in crate::a) fn f() {}"),
        [(1, "a".to_owned())]
    );
}

#[test]
fn imports_from_a_module_are_found_in_groups_and_through_parents() {
    let imports = |path, text| Source::new(path, text).imports_from(&["a"]);
    assert_eq!(
        imports("src/b.rs", "use crate::{\n    a::{c::D, E},\n    f,\n};"),
        [(2, "c".to_owned()), (2, "E".to_owned())]
    );
    assert_eq!(imports("src/a/b/c.rs", "use super::{super::d::E, f};"), []);
    assert_eq!(
        imports("src/a/b/c.rs", "use super::super::d::E;"),
        [(1, "d".to_owned())]
    );
    assert_eq!(
        imports("src/a/b.rs", "pub(in crate::a) fn f(d: super::D) {}"),
        [(1, "D".to_owned())]
    );
}

#[test]
fn an_allowed_panic_has_a_reason_and_ends_with_its_item() {
    let text = "fn f() {\n    #[allow(clippy::expect_used)] // why\n    let a = b\n        .expect(\"c\");\n    d.expect(\"e\");\n}\n#[allow(clippy::expect_used)]\nfn g() {}\n";
    assert_eq!(Source::new("src/x.rs", text).allowed_panics(), [3, 4]);
}
