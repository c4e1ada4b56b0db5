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
