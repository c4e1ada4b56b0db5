//! Whether a server is new enough, by the version that it states. Never asks the server.
//!
//! async-nats 0.51 has a check for that, which panics at a version with fewer than three numbers, or with numbers
//! larger than it can read. A server may state anything.

use crate::nats::Bus;

impl Bus {
    /// Whether the connected server has this version or a later one.
    pub(in crate::nats) fn is_at_least(&self, needed: [u64; 3]) -> bool {
        is_at_least(&self.server_version(), needed)
    }
}

/// Whether a version is this one or a later one. A missing number is 0; without the first number it is not a version.
pub(in crate::nats) fn is_at_least(version: &str, needed: [u64; 3]) -> bool {
    let mut stated = [0; 3];
    let mut rest = version.strip_prefix('v').unwrap_or(version);
    for (place, number) in stated.iter_mut().enumerate() {
        let end = rest.find(|c: char| !c.is_ascii_digit());
        let (digits, behind) = rest.split_at(end.unwrap_or(rest.len()));
        if digits.is_empty() {
            match place {
                0 => return false,
                _ => break,
            }
        }
        *number = digits.parse().unwrap_or(u64::MAX);
        match behind.strip_prefix('.') {
            Some(next) => rest = next,
            None => break,
        }
    }
    stated >= needed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_compared_number_by_number() {
        let needed = [2, 12, 1];
        for version in ["2.12.1", "v2.12.1", "2.12.10-beta.1", "2.13", "3", "2.15.1"] {
            assert!(is_at_least(version, needed), "{version}");
        }
        for version in [
            "", "2", "2.12", "2.12.0", "2.9.99", "1.99.9", "x2.15.1", ".3.3",
        ] {
            assert!(!is_at_least(version, needed), "{version}");
        }
    }

    #[test]
    fn fuzz_versions_of_servers() {
        let seeds = [
            "2.15.1",
            "v2.12.1-beta.2",
            "2",
            "2.",
            "99999999999999999999.1.1",
        ];
        tidings_fuzz::fuzz_text("version of a server", &seeds, |text| {
            let is_any = is_at_least(text, [0; 3]);
            assert!(is_any || !is_at_least(text, [2, 12, 1]));
            is_any
        });
    }
}
