//! Detects connections of the pool that have lost their server. Probes over a new connection beside the pool; never
//! sends anything on a connection that is in use.
//!
//! A network that drops packets notifies neither end. A client that waits for an answer then waits for as long as the
//! kernel believes in the connection: a quarter of an hour and longer. A deadline alone cannot tell this from a
//! statement that waits for a lock, or from a slow handler. So when an answer takes longer than [`SUSPECT`], a new
//! connection asks the server what it does for this client. No probe is sent as long as answers arrive.

use std::{collections::BTreeSet, io, pin::pin, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use sqlx::Connection;
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};

use super::{
    Outbox, OutboxError, Store,
    store::{
        leased_connection::LeasedConnection,
        sessions::{Backend, Session},
    },
};
use crate::{error_text::said, task::ticks::Ticks};

/// How long an answer may take before the link is probed.
const SUSPECT: Duration = Duration::from_secs(3);
/// The interval of further probes while none is answered: the packets of an earlier probe may be lost.
const AGAIN: Duration = Duration::from_secs(1);
/// How long one probe may take, and how many may run at once.
const PATIENCE: Duration = Duration::from_secs(8);
const LOOKS: usize = 8;
/// How long to wait for the probes that began before the first answered one.
const TOGETHER: Duration = Duration::from_millis(500);
/// How old a probe may be to serve another waiter: that waiter's statement was sent before the probe.
const SHARED: Duration = Duration::from_secs(2);
/// Extra time, because an answer may still be on its way.
const GRACE: Duration = Duration::from_millis(500);

/// What is known of the link to the database.
#[derive(Debug, Default)]
pub(in crate::outbox) struct Link {
    looked: Mutex<Option<Seen>>,
    /// How many connections were found to have lost their server.
    lost: watch::Sender<u64>,
    /// Notices for all connections of the pool that an answer takes long.
    pub(in crate::outbox) ticks: Ticks,
}

/// The result of a probe.
#[derive(Debug, Clone)]
struct Seen {
    /// When the probe began.
    at: Instant,
    /// An earlier probe was not answered: the link has lost packets since.
    is_overtaken: bool,
    sessions: Vec<Session>,
}

/// What a caller waits for.
#[derive(Debug, Clone, Copy)]
pub(in crate::outbox) enum Waits {
    /// The answer to a statement of the outbox, in this transaction if that is known.
    Statement(Option<Backend>),
    /// A handler, which may use its transaction, or do something else.
    Handler(Option<Backend>),
}

/// The error for a connection that has lost its server while the database is up.
pub(in crate::outbox) fn lost() -> sqlx::Error {
    let why = "an answer of the database was lost: the database answers on a new connection, and does not run the \
               statement";
    sqlx::Error::Io(io::Error::new(io::ErrorKind::NotConnected, why))
}

/// Whether an error is that of `lost`.
pub(in crate::outbox) fn is_lost(error: &OutboxError) -> bool {
    let OutboxError::Database(error) = error else {
        return false;
    };
    matches!(error.sqlx(), sqlx::Error::Io(error) if error.kind() == io::ErrorKind::NotConnected)
}

impl<DB: Store> Outbox<DB> {
    /// Waits for work on a connection of the pool; `None` when the connection has lost its server. The caller must then
    /// close it.
    pub(in crate::outbox) async fn attend<T>(
        &self,
        waits: Waits,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        if !DB::IS_REMOTE {
            return Some(work.await);
        }
        let mut work = pin!(work);
        let mut lost = self.shared.link.lost.subscribe();
        if let Some(done) = self.shared.link.ticks.within(SUSPECT, work.as_mut()).await {
            return Some(done);
        }
        let mut is_lossy = lost.has_changed().unwrap_or(false);
        loop {
            let seen = tokio::select! {
                done = &mut work => return Some(done),
                seen = self.look() => seen,
            };
            is_lossy |= seen.is_overtaken || lost.has_changed().unwrap_or(false);
            if waits.go_on(&seen.sessions, is_lossy) {
                // A loss that another waiter finds meanwhile concerns this one, too.
                tokio::select! {
                    done = &mut work => return Some(done),
                    Ok(()) = lost.changed(), if !is_lossy => is_lossy = true,
                    () = sleep(SUSPECT) => {}
                }
                continue;
            }
            if let Ok(done) = timeout(GRACE, &mut work).await {
                return Some(done);
            }
            self.shared.link.lost.send_modify(|lost| *lost += 1);
            // The idle connections are dead as well, and the pool would wait for each of them.
            self.sweep();
            if let Some(backend) = waits.backend() {
                let outbox = self.clone();
                tokio::spawn(async move {
                    let ended = timeout(PATIENCE, outbox.end_abandoned(backend)).await;
                    tracing::debug!(?ended, ?backend, "abandoned transaction ended");
                });
            }
            tracing::warn!(
                database = DB::KIND,
                ?waits,
                "database connection lost: it is closed"
            );
            return None;
        }
    }

    /// Takes a connection of the pool and begins a transaction on it. Does not wait for a dead connection: the pool
    /// pings each connection before it hands it out, and would wait for that answer.
    pub(in crate::outbox) async fn begin_attended(
        &self,
        statement: &'static str,
    ) -> Result<LeasedConnection<DB>, sqlx::Error> {
        self.begin_on(self.take().await, statement).await
    }

    /// Begins a transaction on a connection that the pool has handed out.
    pub(in crate::outbox) async fn begin_on(
        &self,
        taken: Result<LeasedConnection<DB>, sqlx::Error>,
        statement: &'static str,
    ) -> Result<LeasedConnection<DB>, sqlx::Error> {
        let mut taken = taken?;
        match self
            .attend(Waits::Statement(None), taken.open(statement))
            .await
        {
            Some(begun) => begun.map(|()| taken),
            // Dropping it closes the connection, because `is_asked` is set.
            None => Err(lost()),
        }
    }

    /// Takes a connection of the pool, as soon as it has one.
    pub(in crate::outbox) async fn leased(&self) -> Result<LeasedConnection<DB>, sqlx::Error> {
        LeasedConnection::from(&self.shared.pool, &self.shared.link.ticks).await
    }

    async fn take(&self) -> Result<LeasedConnection<DB>, sqlx::Error> {
        let (pool, ticks) = (&self.shared.pool, &self.shared.link.ticks);
        if !DB::IS_REMOTE {
            return self.leased().await;
        }
        let until = Instant::now() + pool.options().get_acquire_timeout();
        let mut patience = SUSPECT;
        loop {
            let mut taking = pin!(self.leased());
            let suspect = patience.min(until.saturating_duration_since(Instant::now()));
            if let Some(taken) = ticks.within(suspect, taking.as_mut()).await {
                return taken;
            }
            let seen = tokio::select! {
                taken = &mut taking => return taken,
                seen = self.look() => seen,
                () = sleep_until(until) => return Err(sqlx::Error::PoolTimedOut),
            };
            if !seen.is_overtaken && pool.num_idle() > 0 {
                // The pool has idle connections and hands out none: it waits for a dead one.
                self.sweep();
            }
            // Trying again gives up the place in the pool's queue. That helps only when the pool waits for a dead
            // connection, so it is done ever more rarely.
            patience *= 2;
        }
    }

    /// Closes the idle connections of the pool.
    fn sweep(&self) {
        while let Some(idle) = self.shared.pool.try_acquire() {
            drop(idle.detach());
        }
    }

    /// Has the server end a transaction that its client has abandoned. The server may never learn that the connection
    /// is gone, and the transaction keeps its locks until then: the redelivered event would wait for them. Returns
    /// whether the server was running a statement of it.
    pub(in crate::outbox) async fn end_abandoned(
        &self,
        backend: Backend,
    ) -> Result<bool, sqlx::Error> {
        let mut connection = self.connect().await?;
        let was_running = DB::end_session(&mut connection, backend).await?;
        // The answer has arrived: nothing more is needed from this connection.
        let _ = timeout(GRACE, connection.close()).await;
        Ok(was_running)
    }

    /// Asks the server what it does, over new connections, until one of them is answered, however long that takes.
    /// Concurrent callers share a probe.
    async fn look(&self) -> Seen {
        let wanted = Instant::now();
        let mut looked = self.shared.link.looked.lock().await;
        if let Some(seen) = looked.as_ref().filter(|seen| seen.at + SHARED >= wanted) {
            return seen.clone();
        }
        let seen = self.look_again_and_again().await;
        if seen.is_overtaken {
            self.sweep();
        }
        *looked = Some(seen.clone());
        seen
    }

    async fn look_again_and_again(&self) -> Seen {
        let mut looks = FuturesUnordered::new();
        let mut open = BTreeSet::new();
        let mut is_overtaken = false;
        let mut again = interval(AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut number = 0_u64;
        let (first, at, sessions) = loop {
            tokio::select! {
                _ = again.tick(), if looks.len() < LOOKS => {
                    open.insert(number);
                    looks.push(self.look_once(number));
                    number += 1;
                }
                Some((number, at, seen)) = looks.next(), if !looks.is_empty() => {
                    open.remove(&number);
                    match seen {
                        Ok(Ok(sessions)) => break (number, at, sessions),
                        Ok(Err(error)) => tracing::debug!(error = said(&error), "database check failed"),
                        Err(_) => is_overtaken = true,
                    }
                }
            }
        };
        let earlier = async {
            while open.first().is_some_and(|open| *open < first) {
                let Some((number, ..)) = looks.next().await else {
                    break;
                };
                open.remove(&number);
            }
        };
        is_overtaken |= timeout(TOGETHER, earlier).await.is_err();
        Seen {
            at,
            is_overtaken,
            sessions,
        }
    }

    async fn look_once(
        &self,
        number: u64,
    ) -> (
        u64,
        Instant,
        Result<Result<Vec<Session>, sqlx::Error>, tokio::time::error::Elapsed>,
    ) {
        let at = Instant::now();
        let looking = async {
            let options = self.shared.pool.connect_options();
            let mut connection = DB::Connection::connect_with(&options).await?;
            let sessions = DB::sessions(&mut connection, &self.shared.names).await?;
            // The answer has arrived: nothing more is needed from this connection.
            let _ = timeout(GRACE, connection.close()).await;
            Ok(sessions)
        };
        (number, at, timeout(PATIENCE, looking).await)
    }
}

impl Waits {
    /// Whether the answer may still come, by what the server does. `is_lossy` when packets were lost since.
    fn go_on(self, sessions: &[Session], is_lossy: bool) -> bool {
        let session = |backend: Backend| sessions.iter().find(|session| session.pid == backend.pid);
        match self {
            Self::Statement(Some(backend)) => session(backend)
                .is_some_and(|session| session.is_running && session.began == Some(backend.began)),
            Self::Statement(None) => {
                let at_work = |session: &Session| session.is_running && session.is_ours;
                sessions.iter().any(at_work)
            }
            Self::Handler(Some(backend)) => {
                session(backend).is_some_and(|session| session.is_running || !is_lossy)
            }
            Self::Handler(None) => !is_lossy,
        }
    }

    fn backend(self) -> Option<Backend> {
        let (Self::Statement(backend) | Self::Handler(backend)) = self;
        backend
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGAN: i64 = 7;

    const fn session(pid: i32, is_running: bool) -> Session {
        Session {
            pid,
            began: Some(BEGAN),
            is_running,
            is_ours: true,
        }
    }

    const fn backend(pid: i32) -> Option<Backend> {
        Some(Backend { pid, began: BEGAN })
    }

    const SESSIONS: [Session; 2] = [session(1, true), session(2, false)];

    #[test]
    fn a_statement_is_waited_for_while_the_server_works_at_it() {
        assert!(Waits::Statement(backend(1)).go_on(&SESSIONS, true));
        assert!(!Waits::Statement(backend(2)).go_on(&SESSIONS, false));
        assert!(!Waits::Statement(backend(3)).go_on(&SESSIONS, false));
        assert!(Waits::Statement(None).go_on(&SESSIONS, false));
        assert!(!Waits::Statement(None).go_on(&SESSIONS[1..], false));
    }

    #[test]
    fn work_of_a_server_process_for_others_is_not_waited_for() {
        let other = Some(Backend { pid: 1, began: 8 });
        assert!(!Waits::Statement(other).go_on(&SESSIONS, false));
    }

    #[test]
    fn a_handler_is_waited_for_unless_answers_were_lost() {
        assert!(Waits::Handler(backend(1)).go_on(&SESSIONS, true));
        assert!(Waits::Handler(backend(2)).go_on(&SESSIONS, false));
        assert!(!Waits::Handler(backend(2)).go_on(&SESSIONS, true));
        assert!(!Waits::Handler(backend(3)).go_on(&SESSIONS, false));
    }
}
