//! A ratchet on the size of files: 400 lines, and for the files that were larger when it was set, what they were then.

use std::collections::BTreeMap;

/// So many lines a file may have that is not in the list.
const MOST: usize = 400;

/// What differs between the files, with their numbers of lines, and the list of the larger ones.
pub fn differences<'a>(
    files: impl IntoIterator<Item = (&'a str, usize)>,
    list: &str,
) -> Vec<String> {
    let mut listed: BTreeMap<&str, usize> = entries(list).collect();
    let mut found = Vec::new();
    for (path, lines) in files {
        match listed.remove(path) {
            None if lines > MOST => found.push(format!(
                "{path}:{lines}: a file has at most {MOST} lines; split it"
            )),
            Some(_) if lines <= MOST => {
                found.push(format!(
                    "{path}:{lines}: take it off the list of large files"
                ));
            }
            Some(size) if lines > size => found.push(format!(
                "{path}:{lines}: it had {size} lines, and may not grow; split it"
            )),
            Some(size) if lines < size => {
                found.push(format!("{path}:{lines}: lower its entry from {size}"));
            }
            _ => {}
        }
    }
    let gone = listed.keys();
    found.extend(gone.map(|path| format!("{path}:1: there is no such file; remove its entry")));
    found
}

/// The paths and sizes of a list; a line that begins with `#` is a comment.
fn entries(list: &str) -> impl Iterator<Item = (&str, usize)> {
    let lines = list.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let (size, path) = line.split_once(' ').unwrap();
        (path, size.parse().unwrap())
    })
}

#[test]
fn a_file_that_differs_from_the_list_of_sizes_is_found() {
    let list = "# a comment\n450 a.rs\n";
    let of = |files: &[(&'static str, usize)]| differences(files.iter().copied(), list);
    assert_eq!(of(&[("a.rs", 450), ("b.rs", 400)]), Vec::<String>::new());
    for (files, words) in [
        (&[("a.rs", 451)][..], "may not grow"),
        (&[("a.rs", 449)], "lower its entry from 450"),
        (&[("a.rs", 400)], "take it off the list"),
        (&[], "no such file"),
        (&[("a.rs", 450), ("b.rs", 401)], "at most 400 lines"),
    ] {
        let found = of(files);
        assert!(
            found.len() == 1 && found[0].contains(words),
            "{words}: {found:?}"
        );
    }
}
