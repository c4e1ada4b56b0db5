//! Nearly valid bytes: mutations of seeds. Never calls a parser.

use super::random::Random;

/// The longest mutated input, in bytes.
const MAX_BYTES: usize = 4096;
/// The range of `PIECES` that holds numbers.
const NUMBERS: std::ops::Range<usize> = 1..20;

/// Pieces that parsers often handle wrongly.
static PIECES: &[&[u8]] = &[
    b"",
    b"0",
    b"-0",
    b"-1",
    b"1",
    b"255",
    b"256",
    b"65535",
    b"65536",
    b"2147483647",
    b"2147483648",
    b"-2147483649",
    b"4294967295",
    b"4294967296",
    b"9223372036854775807",
    b"9223372036854775808",
    b"-9223372036854775808",
    b"18446744073709551615",
    b"18446744073709551616",
    b"340282366920938463463374607431768211455",
    b"1e999",
    b"NaN",
    b"infinity",
    b"null",
    b"true",
    b"{}",
    b"[]",
    b"\"\"",
    b"\\u0000",
    b"\\ud800",
    b"\r\n",
    b"\r\n\r\n",
    b": ",
    b".",
    b"..",
    b"*",
    b">",
    b"%",
    b"%00",
    b"%zz",
    b"%ff",
    b"\0",
    b"\x7f",
    b"\xff",
    b"\xc3\x28",
    b"+262142-12-31T23:59:59.999999999Z",
    b"-262143-01-01T00:00:00Z",
    b"9999-12-31T23:59:60Z",
    b"0000-01-01T00:00:00+23:59",
    "\u{202e}\u{200b}".as_bytes(),
    "\u{e9}".as_bytes(),
    "\u{1f600}".as_bytes(),
    "\u{85}\u{a0}\u{2028}".as_bytes(),
    "\u{130}\u{df}\u{212a}".as_bytes(),
];

/// Returns a seed with a few mutations, or sometimes random bytes.
pub(super) fn mutated(random: &mut Random, seeds: &[&[u8]]) -> Vec<u8> {
    let mut input = match seeds.is_empty() || random.below(32) == 0 {
        true => (0..random.below(64)).map(|_| random.byte()).collect(),
        false => random.one_of(seeds).to_vec(),
    };
    for _ in 0..=random.below(4) {
        mutate(random, &mut input, seeds);
    }
    input.truncate(MAX_BYTES);
    input
}

/// Mutates a text that is part of a larger value.
pub(super) fn mutate_text(random: &mut Random, text: &mut String) {
    let mut bytes = std::mem::take(text).into_bytes();
    mutate(random, &mut bytes, &[]);
    bytes.truncate(MAX_BYTES);
    *text = String::from_utf8_lossy(&bytes).into_owned();
}

fn mutate(random: &mut Random, input: &mut Vec<u8>, seeds: &[&[u8]]) {
    let at = random.below(input.len() + 1);
    let end = at + random.below(input.len() - at + 1);
    match random.below(11) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = random.byte(),
        2 => drop(input.drain(at..end)),
        3 => {
            let again = input[at..end].to_vec();
            input.splice(at..at, again);
        }
        4 => input.truncate(at),
        5 => drop(input.splice(at..at, random.one_of(PIECES).iter().copied())),
        6 => replace_number(random, input, at),
        7 if !seeds.is_empty() => {
            let other = *random.one_of(seeds);
            let from = random.below(other.len() + 1);
            input.splice(at.., other[from..].iter().copied());
        }
        8 if !seeds.is_empty() => put_line(random, input, seeds),
        9 => {
            // From here to the end of the line: usually a value.
            let end = (at..input.len()).find(|at| input[*at] == b'\n');
            let piece = random.one_of(PIECES);
            input.splice(at..end.unwrap_or(input.len()), piece.iter().copied());
        }
        _ => drop(input.splice(at..end, random.one_of(PIECES).iter().copied())),
    }
}

/// Replaces the number at or after a position: numbers cause most failures of parsers.
fn replace_number(random: &mut Random, input: &mut Vec<u8>, at: usize) {
    let Some(begin) = (at..input.len()).find(|at| input[*at].is_ascii_digit()) else {
        return;
    };
    let end = (begin..input.len()).find(|at| !input[*at].is_ascii_digit());
    let number = random.one_of(&PIECES[NUMBERS]);
    input.splice(begin..end.unwrap_or(input.len()), number.iter().copied());
}

/// Inserts a line of a seed before another line, or replaces that line.
fn put_line(random: &mut Random, input: &mut Vec<u8>, seeds: &[&[u8]]) {
    let seed = *random.one_of(seeds);
    let line = line_at(seed, random.below(seed.len() + 1));
    let place = line_at(input, random.below(input.len() + 1));
    let line = seed[line].to_vec();
    match random.below(2) {
        0 => input.splice(place, line),
        _ => input.splice(place.start..place.start, line),
    };
}

/// The range of the line around a position, including its line end.
pub(super) fn line_at(text: &[u8], at: usize) -> std::ops::Range<usize> {
    let before = text[..at].iter().rposition(|byte| *byte == b'\n');
    let behind = text[at..].iter().position(|byte| *byte == b'\n');
    before.map_or(0, |before| before + 1)..behind.map_or(text.len(), |behind| at + behind + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_many_and_the_same_each_time() {
        let inputs = || {
            let mut random = Random::new("x");
            (0..500)
                .map(|_| mutated(&mut random, &[b"user.created 17 {}\n\nb"]))
                .collect::<Vec<_>>()
        };
        let mut first = inputs();
        assert_eq!(first, inputs());
        first.sort();
        first.dedup();
        assert!(first.len() > 350, "{}", first.len());
    }
}
