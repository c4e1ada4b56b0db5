//! The checks at the start of a relay, which run beside it. A finding that refuses stops the relay as its user would.

use std::pin::pin;

use tokio_util::sync::CancellationToken;

use super::{Relay, RelayError};
use crate::{
    nats::{Bus, Role},
    outbox::{Outbox, Store},
    policy::{
        adjustment::RelayTuning,
        issue_kind::IssueKind,
        preflight::{Allowance, RelaySetup},
    },
    preflight::{LookedStream, PreflightRefusal, WITHIN, look_at_nats, tell, tell_unchecked},
    process::Process,
};

impl<DB: Store> Relay<DB> {
    /// Relays until `stop` is cancelled. Retries faults of database and NATS without limit, with pauses.
    ///
    /// Beside the start it checks how database and streams are [configured](crate::judge::CHECKS): each danger is one
    /// warning, and what cannot work ends the relay.
    ///
    /// # Errors
    /// [`RelayError`] when the relay can never work in its present setup.
    ///
    /// # Cancel safety
    /// When the future is dropped, the lease stays until it expires. The next relay finds what was sent.
    pub async fn run(self, bus: Bus, stop: CancellationToken) -> Result<(), RelayError> {
        let checking = check(
            self.outbox.clone(),
            self.figures(),
            self.allowance.clone(),
            bus.clone(),
            self.process.clone(),
        );
        let ending = stop.child_token();
        let process = self.process.clone();
        let mut relaying = pin!(self.relay(bus, ending.clone()));
        let refusal = tokio::select! {
            ended = &mut relaying => return ended,
            refusal = checking => refusal,
        };
        let Some(refusal) = refusal else {
            return relaying.await;
        };
        process.refuses(&refusal);
        ending.cancel();
        relaying.await?;
        Err(RelayError::Refused(refusal))
    }

    /// Silences checks of the start by the kinds that they find.
    ///
    /// ```no_run
    /// use tidings::{Outbox, Relay, judge::IssueKind};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let relay = Relay::new(Outbox::open("orders.db").await?).allow([IssueKind::OneCopy]);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn allow(mut self, kinds: impl IntoIterator<Item = IssueKind>) -> Self {
        self.allowance.kinds.extend(kinds);
        self
    }

    /// Starts also where a check of the start refuses it; the finding is a warning then.
    #[must_use]
    pub fn force(mut self) -> Self {
        self.allowance.is_forced = true;
        self
    }

    /// The settings that the checks look at.
    pub(crate) fn figures(&self) -> RelaySetup {
        let RelayTuning {
            lease,
            stall_timeout,
            retention,
            ..
        } = self.control.tuning();
        RelaySetup {
            schema: self.outbox.shared.names.schema().to_owned(),
            lease,
            stall_timeout,
            retention,
        }
    }
}

/// What cannot be seen in time is not checked: the relay itself reports why it cannot work.
async fn check<DB: Store>(
    outbox: Outbox<DB>,
    relay: RelaySetup,
    allowance: Allowance,
    bus: Bus,
    process: Process,
) -> Option<PreflightRefusal> {
    let looking = async {
        let seen = match outbox.preflight(false).await {
            Ok(seen) => seen,
            Err(error) => {
                tracing::debug!(%error, "preflight: the database is not checked");
                return None;
            }
        };
        process.uses(seen.streams.iter().map(String::as_str));
        let streams = seen.streams.into_iter().map(|name| LookedStream {
            name,
            role: Role::Events,
            is_fed: true,
        });
        let (mut figures, unchecked) = look_at_nats(&bus, streams.collect(), false).await;
        tell_unchecked(&unchecked);
        figures.database = Some(seen.figures);
        figures.relay = Some(relay);
        tell(&figures, &allowance, |found| process.has_concerns(found))
    };
    match tokio::time::timeout(WITHIN, looking).await {
        Ok(refusal) => refusal,
        Err(_) => {
            tracing::debug!(within = ?WITHIN, "preflight: no answer in time");
            None
        }
    }
}
