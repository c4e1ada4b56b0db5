//! How a command ends that shows a state: as `tidings doctor` judges it. Never judges by itself.

use tidings::{
    doctor::Unseen,
    judge::{Component, Finding, Health, Verdict},
};

use super::report::{Exit, Outcome, Report};

/// The worst finding, unless it is a notice.
pub(super) fn worst(verdict: &Verdict) -> Option<&Finding> {
    let worst = verdict.findings.first();
    worst.filter(|worst| worst.status >= Health::Danger)
}

/// Ends with 1 when something is in danger or worse, else with 3 when something could not be seen.
pub(super) fn ends(verdict: &Verdict) -> Outcome {
    if let Some(finding) = worst(verdict) {
        let whose = match finding.component {
            Component::Subscriber => format!("{}: ", finding.of),
            _ => String::new(),
        };
        let what = format!("{whose}{}", finding.cause);
        return Err(Report::new(Exit::Failed, what).cure(&finding.cure));
    }
    let Some(Unseen {
        what, why, cure, ..
    }) = verdict.unseen.first()
    else {
        return Ok(());
    };
    let what = format!("not everything could be seen: {what}: {why}");
    Err(Report::new(Exit::Unreachable, what).cure(cure))
}
