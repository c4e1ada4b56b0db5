//! `tidings dead-letters redrive` reports what became of the events that it redrove.

use std::{sync::atomic::Ordering, time::Duration};

use serde_json::Value;

use super::commands::{broken, letters_are};

#[tokio::test]
async fn a_redrive_reports_handled_failed_and_open_events() {
    let (world, _bus, shop, service) = broken(5).await;
    let redrive = [
        "dead-letters",
        "redrive",
        "--all",
        "--json",
        "--wait",
        "60s",
    ];
    let ended = world.run(&redrive).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stderr.contains("5 of 5 redriven events failed again"),
        "{ended:?}"
    );
    let report: Value = serde_json::from_str(ended.stdout.lines().next().unwrap()).unwrap();
    let counts = |report: &Value| {
        ["redriven", "handled", "failed_again", "open"].map(|count| report[count].as_u64().unwrap())
    };
    assert_eq!(counts(&report), [5, 0, 5, 0], "{report}");
    assert_eq!(report["dead_letters"], serde_json::json!([6, 7, 8, 9, 10]));

    shop.is_repaired.store(true, Ordering::SeqCst);
    let said = world
        .ok(&["dead-letters", "redrive", "6", "--wait", "60s"])
        .await;
    assert!(
        said.contains("1 handled, 0 failed again, 0 still open"),
        "{said}"
    );

    // No instance handles them.
    service.stop().await;
    let report = world
        .json(&[
            "dead-letters",
            "redrive",
            "--all",
            "--json",
            "--wait",
            "200ms",
        ])
        .await
        .remove(0);
    assert_eq!(counts(&report), [4, 0, 0, 4], "{report}");
    letters_are(&world, 0).await;
}

#[tokio::test]
async fn a_redrive_without_waiting_reports_what_it_knows() {
    let (world, _bus, _shop, service) = broken(3).await;
    service.stop().await;
    let began = std::time::Instant::now();
    let said = world
        .ok(&["dead-letters", "redrive", "--all", "--wait", "0s"])
        .await;
    assert!(
        said.contains("0 handled, 0 failed again, 3 still open"),
        "{said}"
    );
    assert!(began.elapsed() < Duration::from_secs(30));
    world
        .refused(2, &["dead-letters", "redrive", "--all", "--wait", "soon"])
        .await;
}
