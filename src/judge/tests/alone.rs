//! An outbox that is judged alone is judged as by the doctor.

use super::*;

#[test]
fn an_outbox_alone_is_judged_as_by_the_doctor() {
    let mut expired = relayed();
    expired.lease.remaining_seconds = -60.0;
    for status in [relayed(), waiting(3), expired, Status::default()] {
        let alone = judge_outbox("tidings", &status, &[], at());
        assert_eq!(alone, judge(&outbox(Some(status), Vec::new())));
    }
}

#[test]
fn what_the_relay_reports_explains_why_nothing_is_confirmed() {
    let mut status = relayed();
    status.backlog = 3;
    status.stands_still = true;
    status.oldest_unpublished_seconds = Some(14.0);
    let silent = issue("relay", IssueKind::NatsSilent, ago(2));
    let relays = vec![relay(Some(3), vec![silent])];
    let verdict = judge(&outbox(Some(status.clone()), relays));
    let [found] = &verdict.findings[..] else {
        panic!("one finding: {verdict:#?}");
    };
    assert_eq!(
        (found.kind, found.status),
        (IssueKind::NatsSilent, Health::Stuck)
    );
    assert_eq!(found.for_s, Some(14), "since nothing is confirmed");
    let alone = judge(&outbox(Some(status), Vec::new()));
    assert_eq!(alone.findings[0].kind, IssueKind::StandsStill);
}
