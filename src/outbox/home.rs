//! Which NATS an outbox is relayed into, and whether the tables have this program's version. Never changes to another
//! NATS by itself, once the first one has confirmed events.
//!
//! A stream is identified by its name and its time of creation, which survives restarts, failovers and the move of a
//! server. Only when none of the known streams exists here does the identity of the server decide: the name of a
//! cluster, or the configured name of a single server.

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::{
    Outbox, OutboxError, Store,
    operate::Operation,
    store::{
        Position, Statements,
        home::{Home, StoredHome},
        names::Names,
    },
};
use crate::{
    nats::{Bus, BusError, NatsIdentity},
    policy::start::shifted,
};

/// The cure when this is another NATS.
pub(super) const USE_NATS: &str = "use another --nats-url; or, to relay the outbox into this NATS from now on, \
                                   tidings outbox use-nats";
/// The largest assumed difference between the clocks of two servers.
const SLACK: TimeDelta = TimeDelta::minutes(1);

/// The move of an outbox to another NATS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NatsMove {
    /// The NATS that it was relayed into, if that is known.
    pub before: Option<NatsIdentity>,
    /// The NATS that it is relayed into from now on.
    pub now: NatsIdentity,
    /// The streams that hold its events in the former NATS, and are missing here or different.
    pub streams: Vec<String>,
}

/// Why an outbox is not used with this NATS.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ElsewhereError {
    /// This is not the NATS that the outbox is relayed into.
    #[error("{0}")]
    Elsewhere(String),
    /// NATS does not answer.
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl Home {
    /// Checks that this NATS is the recorded one; returns what to store of it, when that has changed.
    pub(super) async fn check(&self, bus: &Bus) -> Result<Option<StoredHome>, ElsewhereError> {
        let here = bus.identity();
        let mut found = Vec::new();
        for (stream, position) in &self.streams {
            let state = bus.stream_state(stream).await?;
            let created = state.map(|state| state.incarnation);
            found.push((&**stream, position, created));
        }
        judge(self.stored.as_ref(), &here, &found).map_err(ElsewhereError::Elsewhere)?;
        let is_kept = self
            .stored
            .as_ref()
            .is_some_and(|stored| stored.nats == here);
        Ok((!is_kept).then(|| StoredHome {
            nats: here,
            accepted: self.accepted(),
        }))
    }

    fn accepted(&self) -> BTreeMap<String, String> {
        self.stored
            .as_ref()
            .map(|stored| stored.accepted.clone())
            .unwrap_or_default()
    }
}

/// Whether this is the NATS that the outbox is relayed into, by its recorded identity and by the streams found here.
fn judge(
    stored: Option<&StoredHome>,
    here: &NatsIdentity,
    found: &[(&str, &Position, Option<String>)],
) -> Result<(), String> {
    let accepted = |stream: &str| stored.and_then(|stored| stored.accepted.get(stream));
    let is_known = |(stream, was, now): &(&str, &Position, Option<String>)| {
        now.as_ref()
            .is_some_and(|now| *now == was.incarnation || accepted(stream) == Some(now))
    };
    if found.is_empty() || found.iter().any(is_known) {
        return Ok(());
    }
    let mut others = found.iter();
    let other = others.find(|(_, was, now)| now.as_ref().is_some_and(|now| was_there(was, now)));
    if let Some((stream, was, Some(now))) = other {
        return Err(format!(
            "this is not the NATS that the outbox is relayed into: stream {stream} was created at {now} here, and \
             existed before the relay wrote into the one created at {}{}",
            was.incarnation,
            stored
                .map(|stored| format!(", in {}", stored.nats))
                .unwrap_or_default(),
        ));
    }
    match stored {
        Some(stored) if !stored.nats.is_same(here) => Err(format!(
            "this is not the NATS that the outbox is relayed into: that is {}, and this is {here}, which has none of \
             its streams",
            stored.nats
        )),
        _ => Ok(()),
    }
}

/// Whether a stream existed already while the relay wrote into another one of its name.
pub(super) fn was_there(was: &Position, now: &str) -> bool {
    let time = |text: &str| DateTime::parse_from_rfc3339(text).map(|time| time.with_timezone(&Utc));
    let (Ok(known), Ok(now)) = (time(&was.incarnation), time(now)) else {
        return false;
    };
    now < known || was.since.is_some_and(|since| now < shifted(since, -SLACK))
}

impl<DB: Store> Outbox<DB> {
    /// Checks that the tables have the version that this program knows.
    ///
    /// # Errors
    /// [`OutboxError::Version`] when they are newer or older, [`OutboxError::NotMigrated`] without tables, else
    /// [`OutboxError::Database`].
    pub async fn check_version(&self) -> Result<(), OutboxError> {
        self.look_at_version().await.map(drop)
    }

    /// Checks the version; returns whether this role may read it.
    pub(super) async fn look_at_version(&self) -> Result<bool, OutboxError> {
        let names = &self.shared.names;
        let looking = async |connection: &mut DB::Connection| DB::version(connection, names).await;
        let found = self.operate(Operation::One, looking).await?;
        of_version::<DB>(names, found)?;
        Ok(found.is_some())
    }

    /// Relays the outbox into this NATS from now on, whichever it was before. What the former NATS has confirmed is
    /// missing here: the relay notices that, and a repair republishes what the outbox still keeps.
    ///
    /// # Errors
    /// [`OutboxError`] when the database fails; [`ElsewhereError::Bus`], within it, when NATS does not answer.
    ///
    /// # Cancel safety
    /// When the future is dropped, all of it has happened, or nothing. Calling it again has the same result as one call.
    pub async fn use_nats(&self, bus: &Bus) -> Result<NatsMove, OutboxError> {
        let plan = self.nats_move(bus).await?;
        let stored = StoredHome {
            nats: plan.0.now.clone(),
            accepted: plan.1,
        };
        let stored = text(&stored).map_err(OutboxError::database)?;
        let names = &self.shared.names;
        self.operate(Operation::One, async |connection| {
            DB::store_home(connection, names, &stored).await
        })
        .await?;
        Ok(plan.0)
    }

    /// Returns what [`Outbox::use_nats`] would do.
    ///
    /// # Errors
    /// As [`Outbox::use_nats`].
    pub async fn use_nats_dry_run(&self, bus: &Bus) -> Result<NatsMove, OutboxError> {
        Ok(self.nats_move(bus).await?.0)
    }

    async fn nats_move(
        &self,
        bus: &Bus,
    ) -> Result<(NatsMove, BTreeMap<String, String>), OutboxError> {
        let home = self.home().await?;
        let (mut others, mut accepted) = (Vec::new(), BTreeMap::new());
        for (stream, position) in &home.streams {
            let state = bus
                .stream_state(stream)
                .await
                .map_err(ElsewhereError::from)?;
            let created = state.map(|state| state.incarnation);
            if created.as_ref() != Some(&position.incarnation) {
                others.push(stream.clone());
            }
            accepted.extend(created.map(|created| (stream.clone(), created)));
        }
        let told = NatsMove {
            before: home.stored.map(|stored| stored.nats),
            now: bus.identity(),
            streams: others,
        };
        Ok((told, accepted))
    }

    /// Checks that this is the NATS that the outbox is relayed into. Runs before anything reads its streams or writes
    /// into them.
    pub(crate) async fn check_home(&self, bus: &Bus) -> Result<(), OutboxError> {
        self.check_version().await?;
        self.home().await?.check(bus).await?;
        Ok(())
    }

    /// The schema; on SQLite the prefix of its tables. Labels of metrics and subjects name the outbox by it.
    #[must_use]
    pub fn schema(&self) -> &str {
        self.shared.names.schema()
    }

    async fn home(&self) -> Result<Home, OutboxError> {
        let names = &self.shared.names;
        self.operate(Operation::One, async |connection| {
            DB::home(connection, names).await
        })
        .await
    }
}

pub(super) fn text(stored: &StoredHome) -> Result<String, sqlx::Error> {
    serde_json::to_string(stored).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// Checks the version of the tables, given their newest migration.
pub(super) fn of_version<DB: Statements>(
    names: &Names,
    found: Option<i32>,
) -> Result<(), OutboxError> {
    let known = names.version::<DB>();
    match found.map(|found| usize::try_from(found).unwrap_or(0)) {
        Some(found) if found > known => Err(OutboxError::Version {
            found,
            known,
            is_newer: true,
        }),
        Some(found) if found < known => Err(OutboxError::Version {
            found,
            known,
            is_newer: false,
        }),
        _ => Ok(()),
    }
}

/// The message for a version that does not match.
pub(super) fn version_sentence(found: usize, known: usize, is_newer: bool) -> String {
    match is_newer {
        true => format!(
            "the tables of the outbox are at version {found}, and this program knows {known}: use a newer Tidings"
        ),
        false => format!(
            "the tables of the outbox are at version {found}, and this program needs {known}: run `tidings migrate`"
        ),
    }
}

impl fmt::Display for NatsMove {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.before {
            Some(before) => write!(f, "from {before} to {}", self.now),
            None => write!(f, "to {}", self.now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREATED: &str = "2026-11-01T10:00:00Z";
    const LATER: &str = "2026-11-05T10:00:00Z";
    const EARLIER: &str = "2026-10-01T10:00:00Z";

    fn cluster(name: &str) -> NatsIdentity {
        NatsIdentity {
            cluster: Some(name.to_owned()),
            ..NatsIdentity::default()
        }
    }

    fn alone(name: Option<&str>, id: &str) -> NatsIdentity {
        NatsIdentity {
            server: name.map(str::to_owned),
            server_id: Some(id.to_owned()),
            ..NatsIdentity::default()
        }
    }

    /// Whether `here`, where the stream was created at `now`, is accepted as `stored`, where it was created at
    /// [`CREATED`].
    fn is_home(stored: &NatsIdentity, here: &NatsIdentity, now: Option<&str>) -> bool {
        let stored = StoredHome {
            nats: stored.clone(),
            ..StoredHome::default()
        };
        let was = Position::new(CREATED.to_owned(), 7);
        judge(
            Some(&stored),
            here,
            &[("EVENTS", &was, now.map(str::to_owned))],
        )
        .is_ok()
    }

    #[test]
    fn a_failover_a_restart_and_a_move_are_the_same_nats() {
        assert!(is_home(&cluster("a"), &cluster("a"), Some(CREATED)));
        assert!(is_home(&alone(None, "1"), &alone(None, "2"), Some(CREATED)));
        assert!(is_home(
            &alone(Some("n"), "1"),
            &cluster("a"),
            Some(CREATED)
        ));
    }

    #[test]
    fn a_server_that_has_lost_its_data_is_the_same_nats() {
        for now in [None, Some(LATER)] {
            assert!(is_home(&cluster("a"), &cluster("a"), now));
            assert!(is_home(&alone(Some("n"), "1"), &alone(Some("n"), "2"), now));
            assert!(is_home(&alone(None, "1"), &alone(None, "1"), now));
        }
    }

    #[test]
    fn another_or_unknown_cluster_or_server_is_not_the_same() {
        for now in [None, Some(LATER), Some(EARLIER)] {
            assert!(!is_home(&cluster("a"), &cluster("b"), now));
            assert!(!is_home(&cluster("a"), &alone(Some("n"), "1"), now));
            assert!(!is_home(
                &alone(Some("n"), "1"),
                &alone(Some("m"), "2"),
                now
            ));
            assert!(!is_home(&alone(None, "1"), &alone(None, "2"), now));
        }
    }

    #[test]
    fn an_older_stream_is_another_one_despite_its_name() {
        assert!(!is_home(&cluster("a"), &cluster("a"), Some(EARLIER)));
        let was = Position {
            since: LATER.parse().ok(),
            ..Position::new(CREATED.to_owned(), 7)
        };
        let between = Some("2026-11-03T10:00:00Z".to_owned());
        assert!(judge(None, &cluster("a"), &[("EVENTS", &was, between)]).is_err());
        assert!(judge(None, &cluster("a"), &[("EVENTS", &was, None)]).is_ok());
    }

    #[test]
    fn a_nats_that_an_operator_accepted_is_the_same() {
        let stored = StoredHome {
            nats: cluster("b"),
            accepted: BTreeMap::from([("EVENTS".to_owned(), EARLIER.to_owned())]),
        };
        let was = Position::new(CREATED.to_owned(), 7);
        let found = [("EVENTS", &was, Some(EARLIER.to_owned()))];
        assert!(judge(Some(&stored), &cluster("b"), &found).is_ok());
        assert!(judge(Some(&stored), &cluster("b"), &[]).is_ok());
    }
}
