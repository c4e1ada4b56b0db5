//! What a lane does when its stream refuses a row, or takes nothing. Never sends except through the lane.

use std::time::{Duration, Instant};

use super::{
    BlockedOn, Cause, Cursor, DENIAL_DELAY, FIRST_PAUSE, Fault, Item, LONGEST_PAUSE, Refusal,
    RelayLane, Settled,
};

/// How long a server that answers may take.
const READ_BACK: Duration = Duration::from_secs(2);

impl<C: Cursor> RelayLane<C> {
    /// Handles one row that was refused on its own: it is parked, or returned to be sent again.
    pub(super) async fn refused(
        &self,
        item: Item,
        refusal: Refusal,
    ) -> Result<(Option<Item>, Settled), Fault> {
        match refusal {
            Refusal::Permanent { .. } | Refusal::DuplicateId(_) => {
                let parked = self
                    .context
                    .parked_keys
                    .refuse(item.row, refusal.to_string());
                self.context
                    .park(vec![item.note.origin], vec![parked])
                    .await?;
                Ok((None, Settled::Changed))
            }
            Refusal::Closed(cause) if cause.is_of_subject => {
                self.context.close_name(&item.row.name, &cause);
                Ok((Some(item), Settled::Changed))
            }
            Refusal::Closed(cause) => Ok((Some(item), Settled::Closed(cause))),
            refusal => Err(self.unconfirmed(refusal, 1).await),
        }
    }

    /// Retries the first row until the stream takes it, or until other streams have waited long enough.
    pub(super) async fn hold(&mut self, mut cause: Cause) -> Result<(), Fault> {
        let began = Instant::now();
        let mut pause = FIRST_PAUSE;
        let place = self.place();
        loop {
            let reason = &cause.reason;
            self.context
                .issues
                .begin(&place, cause.kind, reason, cause.cure);
            let stall_timeout = self.context.stall_timeout();
            if began.elapsed() >= stall_timeout
                && (self.context.parked_keys.feeds_several() || stall_timeout.is_zero())
            {
                self.context
                    .parked_keys
                    .close_stream(&self.lane.stream, reason);
                // Rows are parked in large batches again.
                self.size = self.most;
                return Ok(());
            }
            tokio::select! {
                () = self.context.stop.cancelled() => return Err(Fault::Stopped),
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            if self.is_silent {
                self.is_silent = self.is_silent_still().await?;
                if self.is_silent {
                    continue;
                }
            }
            let first = self.again.pop_front().into_iter().collect();
            match self.one_by_one(first).await? {
                Settled::Stored => return Ok(()),
                Settled::Changed => {}
                Settled::Closed(now) => cause = now,
            }
        }
    }

    /// Whether the stream still confirms nothing.
    async fn is_silent_still(&self) -> Result<bool, Fault> {
        match self.context.bus.stream_state(&self.lane.stream).await? {
            Some(state) => Ok(!state.confirms),
            None => Err(Fault::Gone {
                stream: self.lane.stream.clone(),
            }),
        }
    }

    /// The stream has taken a row.
    pub(super) fn is_open(&mut self) {
        self.size = (self.size * 2).min(self.most);
        if !self.context.parked_keys.is_closed_stream(&self.lane.stream) {
            self.context.issues.end(&self.place());
        }
    }

    fn place(&self) -> String {
        BlockedOn::Stream(self.lane.stream.clone()).to_string()
    }

    pub(super) async fn is_for_want_of_permission(&self, items: &[Item]) -> bool {
        tokio::time::sleep(DENIAL_DELAY).await;
        let is_denied = |item: &Item| self.context.bus.is_denied(&item.row.name);
        items.iter().any(is_denied)
    }

    /// The fault when this many events are not confirmed. A server that answers but has not stored them cannot
    /// write.
    pub(super) async fn unconfirmed(&self, refusal: Refusal, sent: usize) -> Fault {
        let stream = self.lane.stream.clone();
        match refusal {
            Refusal::NoAck { stream } => Fault::NoAck { stream },
            Refusal::Moved => Fault::Moved {
                subject: format!("a subject of stream {stream}"),
            },
            Refusal::NoAnswer { after } => match self.read_back().await {
                Some(stored) if stored < sent as u64 => Fault::Unwritten {
                    stream,
                    sent,
                    stored,
                    after,
                },
                _ => Fault::Unconfirmed { stream, refusal },
            },
            _ => Fault::Unconfirmed { stream, refusal },
        }
    }

    /// How many messages the stream has stored since the last one confirmed here, if its server answers.
    async fn read_back(&self) -> Option<u64> {
        let looking = self.context.bus.stream_state(&self.lane.stream);
        let state = tokio::time::timeout(READ_BACK, looking)
            .await
            .ok()?
            .ok()??;
        let is_same = state.incarnation == self.lane.ledger.incarnation();
        is_same.then(|| state.last_sequence.saturating_sub(self.last_sequence))
    }
}
