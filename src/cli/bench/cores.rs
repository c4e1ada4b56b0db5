//! How long this process has a core, in a measurement and in its two limits.

use crate::cli::process;

/// How long this process has had a core, by and by.
#[derive(Default)]
pub(super) struct Cores(Vec<f64>);

impl Cores {
    pub(super) fn look(&mut self) {
        self.0.extend(process::core_seconds_of_this());
    }

    /// In the measurement, and in both limits together, when it was looked before and after each.
    pub(super) fn of_three(self) -> Option<[f64; 2]> {
        let [start, before, worked, after]: [f64; 4] = self.0.try_into().ok()?;
        Some([worked - before, before - start + after - worked])
    }
}
