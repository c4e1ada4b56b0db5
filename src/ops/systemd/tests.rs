//! When a process is ready, makes progress, and stops; and what the line of its status says.

use super::*;
use crate::{
    policy::issue_kind::IssueKind, preflight::PreflightRefusal, process::figures::RuntimeFigures,
};

fn figures(phase: Phase) -> ProcessFigures {
    ProcessFigures {
        at: chrono::Utc::now(),
        phase,
        runtime: RuntimeFigures::default(),
        ended_tasks: Vec::new(),
        refusals: Vec::new(),
        connections: Vec::new(),
        concerns: std::collections::BTreeMap::new(),
        stuck_after: None,
        relays: Vec::new(),
        subscribers: Vec::new(),
    }
}

fn seen(figures: &ProcessFigures) -> Look {
    look(figures, STUCK_AFTER)
}

/// A part that has been stuck for this kind of reason.
fn stuck(kind: IssueKind) -> Part {
    use crate::judge::Finding;
    let finding = Finding {
        id: "relay/kind".to_owned(),
        status: Health::Stuck,
        component: Component::Relay,
        of: "tidings".to_owned(),
        kind,
        since: None,
        for_s: None,
        facts: Default::default(),
        cause: "it waits\nREADY=1".to_owned(),
        cure: "see the log".to_owned(),
        command: None,
        runbook: None,
    };
    Part {
        component: Component::Relay,
        of: "tidings".to_owned(),
        status: Health::Stuck,
        finding: Some(finding),
        progress: Vec::new(),
    }
}

#[test]
fn a_worker_is_ready_from_its_start_to_its_drain() {
    assert!(!seen(&figures(Phase::Starting)).is_ready);
    let running = seen(&figures(Phase::Running));
    assert!(running.is_ready && !running.is_stopping && running.makes_progress);
    let draining = seen(&figures(Phase::Draining));
    assert!(draining.is_stopping && draining.makes_progress);
}

#[test]
fn a_worker_that_refuses_is_not_ready() {
    let mut refuses = figures(Phase::Running);
    refuses.refusals.push(PreflightRefusal {
        kind: IssueKind::SchemaOlder,
        cause: "the tables are older".to_owned(),
        cure: "tidings migrate".to_owned(),
    });
    let look = seen(&refuses);
    assert!(!look.is_ready);
    assert!(
        look.status.contains("the tables are older"),
        "{}",
        look.status
    );
}

#[test]
fn a_task_that_has_ended_is_no_progress() {
    let mut ended = figures(Phase::Running);
    ended.ended_tasks.push("status of welcome".to_owned());
    let look = seen(&ended);
    assert!(!look.makes_progress);
    assert!(look.status.contains("status of welcome"), "{}", look.status);
}

#[test]
fn only_what_a_restart_may_cure_is_no_progress() {
    for own in [
        IssueKind::RuntimeBlocked,
        IssueKind::TaskEnded,
        IssueKind::StandsStill,
        IssueKind::RelayInterrupted,
        IssueKind::NoProgress,
    ] {
        assert!(needs_restart(&stuck(own)), "{own}");
    }
    for outside in [
        IssueKind::NatsSilent,
        IssueKind::StorageFull,
        IssueKind::DatabaseUnreachable,
        IssueKind::DeniedNats,
        IssueKind::CircuitOpen,
        IssueKind::SlotsTaken,
    ] {
        assert!(!needs_restart(&stuck(outside)), "{outside}");
    }
    let degraded = Part {
        status: Health::Degraded,
        ..stuck(IssueKind::StandsStill)
    };
    assert!(!needs_restart(&degraded));
}

#[test]
fn a_status_is_one_line_with_the_worst_first() {
    let well = Part {
        status: Health::Ok,
        finding: None,
        ..stuck(IssueKind::StandsStill)
    };
    let line = status(&[well, stuck(IssueKind::StorageFull)]);
    assert!(line.starts_with("relay tidings: stuck"), "{line}");
    assert!(line.ends_with("| relay tidings: ok"), "{line}");
    assert!(!line.contains('\n'), "{line}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_socket_may_have_an_abstract_name() {
    use std::os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    };
    let name = format!("tidings-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let receiver = UnixDatagram::bind_addr(&address).unwrap();
    let socket = Socket::new(format!("@{name}").as_ref());
    socket.send("READY=1").unwrap();
    let mut message = [0; 16];
    let length = receiver.recv(&mut message).unwrap();
    assert_eq!(&message[..length], b"READY=1");
    drop(receiver);
    assert!(socket.send("READY=1").is_err());
    assert!(socket.send("").is_ok(), "nothing is nothing");
}
