//! What systemd passes to a service in the environment; no setting of the program.

use std::{ffi::OsString, time::Duration};

/// How systemd wants to be told of the service.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SystemdSettings {
    /// The socket: a path, or an abstract name after `@`.
    pub(crate) socket: OsString,
    /// The interval of the watchdog.
    pub(crate) watchdog: Option<Duration>,
}

/// The variables of systemd, which are for one process only: `WATCHDOG_PID` names it.
pub(super) fn of(
    variable: impl Fn(&str) -> Option<OsString>,
    process: u32,
) -> Option<SystemdSettings> {
    let socket = variable("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())?;
    let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
    let is_watched = number("WATCHDOG_PID").is_none_or(|watched| watched == u64::from(process));
    let interval = number("WATCHDOG_USEC").filter(|_| is_watched);
    Some(SystemdSettings {
        socket,
        watchdog: interval.map(Duration::from_micros),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_variables(variables: &[(&str, &str)]) -> Option<SystemdSettings> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(one, _)| *one == name);
            found.map(|(_, value)| OsString::from(value))
        };
        of(variable, 7)
    }

    #[test]
    fn without_a_socket_nothing_is_sent() {
        assert_eq!(of_variables(&[("WATCHDOG_USEC", "30000000")]), None);
        assert_eq!(of_variables(&[("NOTIFY_SOCKET", "")]), None);
    }

    #[test]
    fn a_watchdog_is_for_the_process_that_it_names() {
        let socket = ("NOTIFY_SOCKET", "@tidings");
        let interval = |more: &[(&str, &str)]| {
            let variables = [&[socket], more].concat();
            of_variables(&variables).unwrap().watchdog
        };
        let usec = ("WATCHDOG_USEC", "30000000");
        let thirty = Some(Duration::from_secs(30));
        assert_eq!(interval(&[]), None);
        assert_eq!(interval(&[usec]), thirty);
        assert_eq!(interval(&[usec, ("WATCHDOG_PID", "7")]), thirty);
        assert_eq!(interval(&[usec, ("WATCHDOG_PID", "8")]), None);
    }
}
