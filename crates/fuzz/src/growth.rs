//! Finds parsers whose time grows faster than the length of the input. Never limits the time for a short input.

use std::time::{Duration, Instant};

use super::{mutation::line_at, random::Random};

/// The two lengths that are compared, in bytes. A message has at most 64 KiB of headers, a row 400,000 bytes.
const LENGTHS: [usize; 2] = [32 * 1024, 128 * 1024];
/// A run below this time always passes, because delays of a busy machine are shorter than this.
const QUICK: Duration = Duration::from_millis(200);
/// The highest accepted ratio of the two times: it is 4 when the time grows linearly, and 16 when it grows with the
/// square.
const MOST: u32 = 9;
/// How many runs are measured; the shortest counts, because a busy machine delays some of them.
const TIMES: usize = 4;

/// Repeats one part of a seed, once for the shorter and once for the longer input.
pub(super) fn grown(random: &mut Random, seeds: &[&[u8]]) -> [Vec<u8>; 2] {
    let seed = *random.one_of(seeds);
    let at = random.below(seed.len() + 1);
    let part = match random.below(2) {
        0 => line_at(seed, at),
        _ => at..at + random.below((seed.len() - at).min(24) + 1),
    };
    let again = &seed[part.clone()];
    // A number in every copy makes all copies different.
    let numbered = (random.below(2) == 0).then(|| random.below(again.len() + 1));
    LENGTHS.map(|length| {
        let mut input = seed[..part.start].to_vec();
        for n in 0..length / again.len().max(4) {
            let (before, behind) = again.split_at(numbered.unwrap_or(0));
            input.extend_from_slice(before);
            if numbered.is_some() {
                input.extend_from_slice(n.to_string().as_bytes());
            }
            input.extend_from_slice(behind);
        }
        input.extend_from_slice(&seed[part.end..]);
        input
    })
}

/// Returns the times for both inputs when the longer one takes more than its share.
pub(super) fn is_slow(
    inputs: &[Vec<u8>; 2],
    mut takes: impl FnMut(&[u8]) -> bool,
) -> Option<[Duration; 2]> {
    let mut once = |input: &[u8]| {
        let began = Instant::now();
        takes(input);
        began.elapsed()
    };
    let mut least = [Duration::MAX; 2];
    for _ in 0..TIMES {
        for (least, input) in least.iter_mut().zip(inputs) {
            *least = once(input).min(*least);
        }
        let [short, long] = least;
        if long < QUICK || long < short * MOST {
            return None;
        }
    }
    Some(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quadratic_growth_is_found() {
        let inputs = [vec![b'a'; 4_000], vec![b'a'; 16_000]];
        let busy = |nanos: usize| {
            let began = Instant::now();
            while began.elapsed() < Duration::from_nanos(nanos as u64) {
                std::hint::spin_loop();
            }
            true
        };
        let square = is_slow(&inputs, |input| busy(input.len() * input.len()));
        assert!(square.is_some());
        let line = is_slow(&inputs, |input| busy(input.len() * 15_000));
        assert!(line.is_none(), "{line:?}");
    }
}
