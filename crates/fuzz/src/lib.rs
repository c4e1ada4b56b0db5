//! Inputs for parsers of foreign text: mutations of seeds. Only for tests, never part of a service.
//!
//! `make test` feeds each parser a thousand inputs, the same ones in every run. `make fuzz` feeds it a million or more,
//! with overflow checks and a random seed that it prints. It also feeds pairs of long inputs, for which the parser's
//! time may grow no faster than the length. When a parser panics, its input is written to `crates/fuzz/seeds/PARSER/`,
//! and is a seed from then on.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests are tests

mod growth;
mod json;
mod mutation;
mod random;

use std::{
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::Value;

use random::{Random, hash};

/// The default number of inputs for each parser; `TIDINGS_FUZZ` overrides it.
const INPUTS: u64 = 1_000;
/// When a parser takes longer than this, the run stops and fails, so that `make fuzz` ends.
const LONGEST: Duration = Duration::from_secs(600);
/// One pair of long inputs is fed for this many others.
const LONG: u64 = 10_000;
/// The least percentage of inputs that a parser must accept: a parser that refuses every input at its first byte is not
/// tested.
const TAKEN: u64 = 2;

/// Feeds a parser with mutations of seeds, and prints how many inputs there were. `takes` returns whether the parser
/// accepted an input.
///
/// # Panics
/// When the parser panics, after printing the input; when it accepts too few inputs; when its time grows faster than
/// the length.
pub fn fuzz(parser: &str, seeds: &[&[u8]], takes: impl FnMut(&[u8]) -> bool) {
    let kept = kept(parser);
    let kept = kept.iter().map(Vec::as_slice);
    let seeds: Vec<&[u8]> = seeds.iter().copied().chain(kept).collect();
    Feeding::of(parser).feed(
        &seeds,
        |random| mutation::mutated(random, &seeds),
        |random| growth::grown(random, &seeds),
        takes,
    );
}

/// Like [`fuzz`], for a parser of text: invalid UTF-8 is replaced first.
pub fn fuzz_text(parser: &str, seeds: &[&str], mut takes: impl FnMut(&str) -> bool) {
    let seeds: Vec<&[u8]> = seeds.iter().map(|seed| seed.as_bytes()).collect();
    fuzz(parser, &seeds, |input| {
        takes(&String::from_utf8_lossy(input))
    });
}

/// Like [`fuzz`], for a parser of JSON: most inputs are valid JSON with other content than the seeds.
///
/// # Panics
/// As [`fuzz`], and when a seed is not JSON.
pub fn fuzz_json(parser: &str, seeds: &[&str], takes: impl FnMut(&[u8]) -> bool) {
    let kept = kept(parser);
    let kept = kept.iter().map(Vec::as_slice);
    let texts: Vec<&[u8]> = seeds
        .iter()
        .map(|seed| seed.as_bytes())
        .chain(kept)
        .collect();
    let trees = seeds.iter().map(|seed| match serde_json::from_str(seed) {
        Ok(tree) => tree,
        Err(error) => panic!("{parser}: {seed} is no JSON: {error}"),
    });
    let trees: Vec<Value> = trees.collect();
    Feeding::of(parser).feed(
        &texts,
        |random| match random.below(4) {
            0 => mutation::mutated(random, &texts),
            _ => json::mutated(random, &trees),
        },
        |random| match random.below(4) {
            0 => growth::grown(random, &texts),
            _ => json::grown(random, &trees),
        },
        takes,
    );
}

/// One parser, the number of its inputs, and the random seed.
struct Feeding<'a> {
    parser: &'a str,
    inputs: u64,
    seed: u64,
}

impl<'a> Feeding<'a> {
    fn of(parser: &'a str) -> Self {
        let number = |name: &str| env::var(name).ok().and_then(|text| text.parse().ok());
        Self {
            parser,
            inputs: number("TIDINGS_FUZZ").unwrap_or(INPUTS),
            seed: number("TIDINGS_FUZZ_SEED").unwrap_or(0),
        }
    }

    fn feed(
        &self,
        seeds: &[&[u8]],
        mut mutated: impl FnMut(&mut Random) -> Vec<u8>,
        grown: impl FnMut(&mut Random) -> [Vec<u8>; 2],
        mut takes: impl FnMut(&[u8]) -> bool,
    ) {
        let parser = self.parser;
        let mut random = Random::new((parser, self.seed));
        let (began, mut taken, mut count) = (Instant::now(), 0_u64, 0_u64);
        // The seeds themselves come first: an input that once failed is tried in every run.
        let mut plain: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.to_vec()).collect();
        while count < self.inputs && (!count.is_multiple_of(1024) || began.elapsed() < LONGEST) {
            let input = plain.pop().unwrap_or_else(|| mutated(&mut random));
            count += 1;
            taken += u64::from(self.give(&input, &mut takes));
        }
        let long = self.grow(&mut random, grown, &mut takes);
        println!(
            "fuzz {parser}: {count} inputs, {taken} taken, {long} long ones, {:.1} s, seed {}",
            began.elapsed().as_secs_f64(),
            self.seed
        );
        assert!(
            count == self.inputs,
            "{parser}: only {count} of {} inputs in {LONGEST:?}",
            self.inputs
        );
        assert!(
            taken * 100 >= count * TAKEN,
            "{parser}: only {taken} of {count} inputs are taken: give it better seeds"
        );
    }

    fn give(&self, input: &[u8], takes: &mut impl FnMut(&[u8]) -> bool) -> bool {
        match catch_unwind(AssertUnwindSafe(|| takes(input))) {
            Ok(is_taken) => is_taken,
            Err(panic) => {
                let (parser, seed) = (self.parser, self.seed);
                let path = keep(parser, input);
                let shown: String = String::from_utf8_lossy(input).chars().take(4096).collect();
                eprintln!(
                    "fuzz {parser}: panics at {shown:?}, kept as {} (seed {seed})",
                    path.display()
                );
                std::panic::resume_unwind(panic);
            }
        }
    }

    /// Feeds pairs of long inputs, and returns how many.
    fn grow(
        &self,
        random: &mut Random,
        mut grown: impl FnMut(&mut Random) -> [Vec<u8>; 2],
        takes: &mut impl FnMut(&[u8]) -> bool,
    ) -> u64 {
        let long = self.inputs / LONG;
        for _ in 0..long {
            let inputs = grown(random);
            let slow = growth::is_slow(&inputs, |input| self.give(input, takes));
            let [_, input] = &inputs;
            let shown: String = String::from_utf8_lossy(input).chars().take(400).collect();
            assert!(
                slow.is_none(),
                "{}: {slow:?} for an input and for one of four times its length, which begins with {shown:?}",
                self.parser
            );
        }
        long
    }
}

fn folder(parser: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("seeds")
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
    // A failed write loses nothing: the caller prints the input too.
    let _ = fs::create_dir_all(folder(parser)).and_then(|()| fs::write(&path, input));
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parser_that_panics_is_found() {
        let found = catch_unwind(|| {
            fuzz_text("of a test", &["17"], |text| match text {
                text if text.contains("2147483648") => panic!("found"),
                text => text.parse::<i64>().is_ok(),
            });
        });
        let _ = fs::remove_dir_all(folder("of a test"));
        assert!(found.is_err());
    }

    #[test]
    fn a_parser_that_takes_nothing_is_found() {
        let found = catch_unwind(|| fuzz_text("of another test", &["17"], |_| false));
        assert!(found.is_err());
    }
}
