//! The units of `deploy/systemd`.

use std::{fs, path::PathBuf, process::Command};

use crate::{files, text};

/// The most that `systemd-analyze security` may give a unit: 100 is no protection at all, and 20 is "OK".
const MOST_EXPOSED: &str = "20";

/// The value of a setting; the last one counts.
fn setting<'a>(unit: &'a str, name: &str) -> Option<&'a str> {
    let mut values = unit
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    values.next_back()
}

fn units() -> Vec<String> {
    files("deploy/systemd", &[".service"])
}

#[test]
fn units_wait_for_ready_and_are_watched() {
    for path in units() {
        let unit = text(&path);
        assert_eq!(setting(&unit, "Type"), Some("notify"), "{path}");
        assert_eq!(setting(&unit, "NotifyAccess"), Some("main"), "{path}");
        let watchdog: u64 = setting(&unit, "WatchdogSec").unwrap().parse().unwrap();
        assert!((15..=120).contains(&watchdog), "{path}");
        let stop: u64 = setting(&unit, "TimeoutStopSec").unwrap().parse().unwrap();
        // A drain, and what follows it.
        assert!(stop > 25 + 3 + 15, "{path}");
        assert_eq!(setting(&unit, "StartLimitIntervalSec"), Some("0"), "{path}");
    }
}

#[test]
fn units_are_valid_and_hardened() {
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        eprintln!("skipped: no systemd-analyze on this machine");
        return;
    }
    for path in units() {
        let file = with_a_program_that_exists(&path);
        let analyze = |arguments: &[&str]| {
            let mut command = Command::new("systemd-analyze");
            let output = command.args(arguments).arg(&file).output().unwrap();
            let said = [output.stdout, output.stderr].concat();
            (output.status.success(), String::from_utf8(said).unwrap())
        };
        let (is_valid, said) = analyze(&["verify", "--man=no", "--recursive-errors=no"]);
        assert!(is_valid && said.trim().is_empty(), "{path}: {said}");
        let threshold = format!("--threshold={MOST_EXPOSED}");
        let (is_hardened, said) =
            analyze(&["security", "--offline=true", "--no-pager", &threshold]);
        assert!(is_hardened, "{path}: {said}");
    }
}

/// The unit in a folder of its own, with a program that every machine has: `verify` looks for it.
fn with_a_program_that_exists(path: &str) -> PathBuf {
    let (_, name) = path.rsplit_once('/').unwrap();
    let folder = std::env::temp_dir().join(format!("tidings-units-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let unit = text(path);
    let program = setting(&unit, "ExecStart").unwrap();
    let (program, _) = program.split_once(' ').unwrap();
    // An instance, where the unit is a template.
    let file = folder.join(name.replace("@.", "@welcome-email."));
    fs::write(&file, unit.replace(program, "/bin/true")).unwrap();
    file
}
