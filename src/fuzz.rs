//! Inputs for parsers of text that others wrote: mutations of seeds. Only for tests, and never part of a service.
//!
//! `make test` gives each parser a few thousand, always the same ones; `make fuzz` a million or more, with overflow
//! checks, from another beginning each time, which it prints. An input that a parser panics at is written to
//! `tests/seeds/PARSER/`, and is a seed from then on.

use std::{
    env, fs,
    hash::{DefaultHasher, Hash, Hasher},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    time::{Duration, Instant},
};

/// How many inputs each parser gets: `TIDINGS_FUZZ`.
const INPUTS: u64 = 2_000;
/// A parser is given up after this time, and it says so: `make fuzz` ends.
const LONGEST: Duration = Duration::from_secs(600);
/// The longest input, in bytes.
const MAX_BYTES: usize = 4096;

/// Pieces that parsers may stumble over.
const PIECES: [&[u8]; 44] = [
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
    b"18446744073709551615",
    b"18446744073709551616",
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
    b"\0",
    b"\x7f",
    b"\xff",
    b"\xc3\x28",
    "\u{202e}\u{200b}".as_bytes(),
    "\u{e9}".as_bytes(),
];

/// Feeds a parser with mutations of seeds; it says whether it took an input. Prints how many there were.
///
/// # Panics
/// When the parser does, with the input.
pub(crate) fn fuzz(parser: &str, seeds: &[&[u8]], mut takes: impl FnMut(&[u8]) -> bool) {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse().ok());
    let inputs = number("TIDINGS_FUZZ").unwrap_or(INPUTS);
    let begin: u64 = number("TIDINGS_FUZZ_SEED").unwrap_or(0);
    let mut random = Random::new((parser, begin));
    let kept = kept(parser);
    let seeds: Vec<&[u8]> = seeds
        .iter()
        .copied()
        .chain(kept.iter().map(Vec::as_slice))
        .collect();
    let (began, mut taken, mut count) = (Instant::now(), 0_u64, 0_u64);
    // First as they are: what once failed is tried each time.
    let plain = seeds.iter().map(|seed| seed.to_vec());
    let mut plain: Vec<Vec<u8>> = plain.collect();
    while count < inputs && (count % 1024 != 0 || began.elapsed() < LONGEST) {
        let input = plain.pop().unwrap_or_else(|| random.mutated(&seeds));
        count += 1;
        match catch_unwind(AssertUnwindSafe(|| takes(&input))) {
            Ok(is_taken) => taken += u64::from(is_taken),
            Err(panic) => {
                let path = keep(parser, &input);
                let shown = String::from_utf8_lossy(&input);
                eprintln!(
                    "fuzz {parser}: panics at {shown:?}, kept as {} (seed {begin})",
                    path.display()
                );
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!(
        "fuzz {parser}: {count} inputs, {taken} taken, {:.1} s, seed {begin}",
        began.elapsed().as_secs_f64()
    );
    assert!(
        count == inputs,
        "{parser}: only {count} of {inputs} inputs in {LONGEST:?}"
    );
}

/// The same for a parser of text; what is not UTF-8 becomes it.
pub(crate) fn fuzz_text(parser: &str, seeds: &[&str], mut takes: impl FnMut(&str) -> bool) {
    let seeds: Vec<&[u8]> = seeds.iter().map(|seed| seed.as_bytes()).collect();
    fuzz(parser, &seeds, |input| {
        takes(&String::from_utf8_lossy(input))
    });
}

fn folder(parser: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/seeds")
        .join(parser.replace(' ', "-"))
}

fn kept(parser: &str) -> Vec<Vec<u8>> {
    let files = fs::read_dir(folder(parser)).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = files.map(|file| file.path()).collect();
    paths.sort();
    paths
        .into_iter()
        .filter_map(|path| fs::read(path).ok())
        .collect()
}

fn keep(parser: &str, input: &[u8]) -> PathBuf {
    let path = folder(parser).join(format!("{:016x}", hash(input)));
    // The input is printed as well.
    let _ = fs::create_dir_all(folder(parser)).and_then(|()| fs::write(&path, input));
    path
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, quick, and the same everywhere.
struct Random(u64);

impl Random {
    fn new(seed: impl Hash) -> Self {
        Self(hash(seed))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below another one, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end as u64)).unwrap_or(0)
    }

    fn mutated(&mut self, seeds: &[&[u8]]) -> Vec<u8> {
        let mut input = match seeds.is_empty() || self.below(32) == 0 {
            true => (0..self.below(64))
                .map(|_| self.next().to_le_bytes()[0])
                .collect(),
            false => seeds[self.below(seeds.len())].to_vec(),
        };
        for _ in 0..=self.below(4) {
            self.mutate(&mut input, seeds);
        }
        input.truncate(MAX_BYTES);
        input
    }

    fn mutate(&mut self, input: &mut Vec<u8>, seeds: &[&[u8]]) {
        let at = self.below(input.len() + 1);
        let end = at + self.below(input.len() - at + 1);
        match self.below(9) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.next().to_le_bytes()[0],
            2 => drop(input.drain(at..end)),
            3 => {
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
            4 => input.truncate(at),
            5 => {
                let piece = PIECES[self.below(PIECES.len())];
                input.splice(at..at, piece.iter().copied());
            }
            6 => self.replace_number(input, at),
            7 if !seeds.is_empty() => {
                let other = seeds[self.below(seeds.len())];
                let from = self.below(other.len() + 1);
                input.splice(at.., other[from..].iter().copied());
            }
            _ => {
                let piece = PIECES[self.below(PIECES.len())];
                input.splice(at..end, piece.iter().copied());
            }
        }
    }

    /// The number at or behind a place becomes another one: most of what parsers trip over.
    fn replace_number(&mut self, input: &mut Vec<u8>, at: usize) {
        let Some(begin) = (at..input.len()).find(|at| input[*at].is_ascii_digit()) else {
            return;
        };
        let end = (begin..input.len()).find(|at| !input[*at].is_ascii_digit());
        let numbers = &PIECES[1..18];
        let number = numbers[self.below(numbers.len())];
        input.splice(begin..end.unwrap_or(input.len()), number.iter().copied());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_many_and_the_same_each_time() {
        let inputs = || {
            let mut random = Random::new("x");
            (0..500)
                .map(|_| random.mutated(&[b"user.created 17 {}"]))
                .collect::<Vec<_>>()
        };
        let mut first = inputs();
        assert_eq!(first, inputs());
        first.sort();
        first.dedup();
        assert!(first.len() > 400, "{}", first.len());
    }

    #[test]
    fn a_parser_that_panics_is_found() {
        let found = catch_unwind(|| {
            fuzz_text("of a test", &["17"], |text| {
                text.parse::<i64>()
                    .is_ok_and(|number| number.checked_mul(1).is_some())
                    && !text.contains("2147483648")
                    || text.contains("2147483648") && panic!("found")
            });
        });
        let _ = fs::remove_dir_all(folder("of a test"));
        assert!(found.is_err());
    }
}
