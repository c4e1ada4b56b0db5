//! The scope of a call, with an observer that notes what it is told.

use std::sync::Mutex;

use chrono::DateTime;
use tidings_contract::Envelope;
use tokio_util::sync::CancellationToken;
use tracing::subscriber::NoSubscriber;

use super::*;
use crate::handler::context::Cancelled;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn facts() -> Arc<Facts> {
    let envelope = Envelope::raw("user.created", 1, None, "{}").unwrap();
    Arc::new(Facts {
        envelope: Arc::new(envelope),
        subscriber: "welcome".into(),
        stream: "EVENTS".into(),
        sequence: 7,
        stored_at: DateTime::UNIX_EPOCH,
        attempt: 2,
        first_failed_at: None,
        redrives: 0,
        redriven_from: 0,
        timeout: std::time::Duration::from_secs(1),
        cancelled: Cancelled::by(&CancellationToken::new()),
        replay: None,
    })
}

/// Notes what it is told.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl TraceObserver for Notes {
    fn attempt(&self, attempt: &Attempt<'_>) -> Option<Box<dyn AttemptScope>> {
        let [one, ..] = attempt.deliveries else {
            return None;
        };
        self.note(format!("{} {}", attempt.subscriber, one.sequence));
        Some(Box::new(self.clone()))
    }
}

impl AttemptScope for Notes {
    fn step(&mut self, step: &mut dyn FnMut()) {
        self.note("enter");
        step();
        self.note("leave");
    }

    fn context(&self) -> Option<TraceContext> {
        Some(TraceContext::new(PARENT, None))
    }

    fn ended(self: Box<Self>, end: &AttemptEnd) {
        self.note(format!("{:?} {} {:?}", end.outcome, end.failed, end.error));
    }
}

fn begin(notes: &Notes, events: usize) -> Scope {
    let deliveries: Vec<_> = (0..events).map(|_| facts()).collect();
    let scope = Scope::begin(&deliveries, events > 1, Some(notes));
    assert_eq!(notes.take(), ["welcome 7", "enter", "leave"]);
    scope
}

#[tokio::test]
async fn each_poll_is_inside_and_the_end_is_noted_once() {
    let notes = Notes::default();
    let mut scope = begin(&notes, 1);
    let mut polls = 0;
    let work = std::future::poll_fn(|cx| {
        polls += 1;
        cx.waker().wake_by_ref();
        match polls {
            1 => std::task::Poll::Pending,
            _ => std::task::Poll::Ready(7),
        }
    });
    assert_eq!(scope.around(work).await, 7);
    scope.end("retry", Some("timeout"));
    let noted = ["enter", "leave", "enter", "leave"];
    let noted = noted.map(str::to_owned).into_iter();
    let end = "Some(\"retry\") 1 Some(\"timeout\")".to_owned();
    assert_eq!(notes.take(), noted.chain([end]).collect::<Vec<_>>());
}

#[test]
fn a_panic_is_an_end_and_a_dropped_scope_is_none() {
    let notes = Notes::default();
    drop(begin(&notes, 1));
    assert_eq!(notes.take(), Vec::<String>::new());
    let scope = begin(&notes, 1);
    let panicking = std::panic::AssertUnwindSafe(|| {
        let _scope = scope;
        panic!("of a handler");
    });
    assert!(std::panic::catch_unwind(panicking).is_err());
    assert_eq!(notes.take(), ["None 1 Some(\"panic\")"]);
}

#[test]
fn a_batch_counts_what_has_failed() {
    let notes = Notes::default();
    let done = || Ok(Handled::Done);
    let one = Attempted::Each(vec![done(), Err(Failure::reject("x")), done()]);
    let all = Attempted::Together(vec![done(), Ok(Handled::Already)], Failure::retry("x"));
    for (attempted, expected) in [
        (
            Attempted::Each(vec![done(), done()]),
            "Some(\"ack\") 0 None",
        ),
        (one, "None 1 Some(\"rejected\")"),
        (all, "None 1 Some(\"retry\")"),
    ] {
        begin(&notes, 2).end_batch(&attempted);
        assert_eq!(notes.take(), [expected]);
    }
}

#[test]
fn a_step_that_the_observer_leaves_out_is_run() {
    struct Lazy;
    impl TraceObserver for Lazy {
        fn attempt(&self, _: &Attempt<'_>) -> Option<Box<dyn AttemptScope>> {
            Some(Box::new(Self))
        }
    }
    impl AttemptScope for Lazy {
        fn step(&mut self, _: &mut dyn FnMut()) {}
        fn ended(self: Box<Self>, _: &AttemptEnd) {}
    }
    let mut scope = Scope::begin(&[facts()], false, Some(&Lazy));
    assert_eq!(scope.inside(|| 7), 7);
}

#[test]
fn without_a_log_and_an_observer_there_is_no_span() {
    let begin = || Scope::begin(&[facts()], false, None);
    let scope = tracing::subscriber::with_default(NoSubscriber::default(), begin);
    assert!(scope.span.is_disabled() && scope.observed.is_none());
}
