//! `tidings doctor`: each state is produced, and found by its kind with cause, cure and exit code.

mod handlers;
mod lost;
mod outbox;
mod preflight;
mod servers;
mod subscribers;
mod workers;
mod working;

use serde_json::Value;
use tidings::judge::IssueKind;
use tidings_test_support::DEADLINE;

use crate::support::{Ended, World};

/// What one run of the doctor has said.
struct Said {
    code: Option<i32>,
    verdict: Value,
}

impl Said {
    fn of(ended: &Ended) -> Self {
        let verdict: Value = serde_json::from_str(&ended.stdout).expect(&ended.stdout);
        assert!(!ended.stderr.contains("error: "), "{ended:?}");
        for finding in verdict["findings"].as_array().unwrap() {
            for part in ["kind", "cause", "cure"] {
                assert!(!finding[part].as_str().unwrap().is_empty(), "{finding}");
            }
            assert_ne!(finding["kind"], "unknown", "{finding}");
        }
        Self {
            code: ended.code,
            verdict,
        }
    }

    fn finding(&self, id: &str) -> Option<&Value> {
        let findings = self.verdict["findings"].as_array().unwrap();
        findings.iter().find(|finding| finding["id"] == id)
    }

    fn unseen(&self, what: &str) -> Option<&Value> {
        let unseen = self.verdict["unseen"].as_array().unwrap();
        unseen.iter().find(|unseen| unseen["what"] == what)
    }
}

impl World {
    async fn doctor(&self) -> Said {
        Said::of(&self.run(&["doctor", "--json"]).await)
    }

    /// Runs the doctor until this holds.
    async fn says(&self, what: &str, holds: impl Fn(&Said) -> bool) -> Said {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let said = self.doctor().await;
            if holds(&said) {
                return said;
            }
            let is_over = tokio::time::Instant::now() >= deadline;
            assert!(!is_over, "never said {what}: {}", said.verdict);
            // real time: the relay and the servers are other processes
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// Runs the doctor until it finds this with this status, and ends with this code.
    async fn finds(&self, id: &str, status: &str, code: i32) -> Value {
        let holds = |said: &Said| {
            let finding = said.finding(id);
            said.code == Some(code) && finding.is_some_and(|finding| finding["status"] == status)
        };
        let said = self.says(id, holds).await;
        said.finding(id).unwrap().clone()
    }

    async fn commits(&self, name: &str, text: &str) {
        let data = format!(r#"{{"id":"ada","name":"{text}"}}"#);
        self.ok(&["publish", name, "--key", "ada", "--data", &data])
            .await;
    }
}

fn has(finding: &Value, part: &str, text: &str) {
    let told = finding[part].as_str().unwrap_or_default();
    assert!(
        told.contains(text),
        "{text:?} is not in {part} of {finding}"
    );
}

#[test]
fn every_kind_is_documented_with_its_runbook() {
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let page = std::fs::read_to_string(docs.join("operate/doctor.md")).unwrap();
    let (_, table) = page.split_once("## Kinds").unwrap();
    let mut rows = table.lines().filter(|line| line.starts_with("| `"));
    for kind in IssueKind::ALL {
        if *kind == IssueKind::Unknown {
            continue;
        }
        let row = rows.next().unwrap();
        let start = format!("| `{kind}` | {} |", kind.meaning());
        let runbook = row
            .strip_prefix(&start)
            .expect(row)
            .trim_end_matches('|')
            .trim();
        let Some(file) = kind.runbook() else {
            assert_eq!(runbook, "", "{row}");
            continue;
        };
        let text = std::fs::read_to_string(docs.join("runbooks").join(file)).unwrap();
        let title = text.lines().next().unwrap().trim_start_matches("# ");
        assert_eq!(runbook, format!("[{title}](../runbooks/{file})"));
    }
    assert_eq!(rows.next(), None, "the table has a kind that there is not");
}
