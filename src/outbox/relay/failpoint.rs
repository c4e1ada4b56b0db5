//! The points at which a test can stop a relay permanently, as if its process had died there. Without the feature
//! `failpoints` nothing is compiled at them. Never changes what a relay does otherwise.

// Without the feature, only this crate names the points.
#![cfg_attr(not(feature = "failpoints"), allow(unreachable_pub))]

#[cfg(feature = "failpoints")]
pub(super) use armed::reach;
#[cfg(feature = "failpoints")]
pub use armed::{Armed, arm};

/// A point between the outbox and the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Point {
    /// A page with rows in it was read; none of them is sent.
    Fetched,
    /// The members of a batch are sent. Its commit is not, nor are the few rows that go without a batch.
    MembersSent,
    /// The stream has answered; the relay has not processed the answer.
    Answered,
    /// The keeper has noted what was confirmed; nothing of it is in the database.
    Noted,
    /// A checkpoint is about to be written: for a confirmation, for a stream's end or for the lease alone.
    Checkpoint,
    /// The checkpoint is written, and nothing has been done since.
    Checkpointed,
}

#[cfg(feature = "failpoints")]
impl Point {
    /// All points, in the order in which an event passes them.
    pub const ALL: [Self; 6] = [
        Self::Fetched,
        Self::MembersSent,
        Self::Answered,
        Self::Noted,
        Self::Checkpoint,
        Self::Checkpointed,
    ];
}

/// Does nothing: no point is armed without the feature.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(super) fn reach(_owner: &str, _point: Point) -> std::future::Ready<()> {
    std::future::ready(())
}

#[cfg(feature = "failpoints")]
mod armed {
    //! The armed points of the whole process, by the name of the relay's owner, which is unique.

    use std::{
        collections::HashMap,
        sync::{Mutex, MutexGuard, PoisonError},
    };

    use tokio_util::sync::CancellationToken;

    use super::Point;

    static ARMED: Mutex<Option<HashMap<String, Trap>>> = Mutex::new(None);

    struct Trap {
        point: Point,
        /// How many passes remain until the relay is stopped.
        passes: usize,
        sprung: CancellationToken,
        freed: CancellationToken,
    }

    /// An armed point; disarmed on drop. A relay that was stopped stays stopped.
    #[derive(Debug)]
    pub struct Armed {
        owner: String,
        sprung: CancellationToken,
        freed: CancellationToken,
    }

    /// Stops the relay of this owner when it reaches the point for the `nth` time, counted from 1. From then on the
    /// relay passes no other point either, so that nothing more is written.
    ///
    /// The test must then abort the relay's task: that is the relay's death.
    #[must_use]
    pub fn arm(owner: &str, point: Point, nth: usize) -> Armed {
        let (sprung, freed) = (CancellationToken::new(), CancellationToken::new());
        let trap = Trap {
            point,
            passes: nth.saturating_sub(1),
            sprung: sprung.clone(),
            freed: freed.clone(),
        };
        let owner = owner.to_owned();
        traps().get_or_insert_default().insert(owner.clone(), trap);
        Armed {
            owner,
            sprung,
            freed,
        }
    }

    impl Armed {
        /// Completes when the relay has been stopped.
        pub async fn reached(&self) {
            self.sprung.cancelled().await;
        }

        /// Lets the relay continue from where it was stopped.
        pub fn let_go(self) {
            self.freed.cancel();
        }
    }

    impl Drop for Armed {
        fn drop(&mut self) {
            if let Some(traps) = traps().as_mut() {
                traps.remove(&self.owner);
            }
        }
    }

    /// Stops the relay at this point when it is armed.
    pub(in crate::outbox::relay) async fn reach(owner: &str, point: Point) {
        if let Some(freed) = caught(owner, point) {
            freed.cancelled().await;
        }
    }

    /// The token that a relay which is stopped here waits for.
    fn caught(owner: &str, point: Point) -> Option<CancellationToken> {
        let mut traps = traps();
        let trap = traps.as_mut()?.get_mut(owner)?;
        if !trap.sprung.is_cancelled() {
            if trap.point != point {
                return None;
            }
            if trap.passes > 0 {
                trap.passes -= 1;
                return None;
            }
            trap.sprung.cancel();
        }
        Some(trap.freed.clone())
    }

    fn traps() -> MutexGuard<'static, Option<HashMap<String, Trap>>> {
        ARMED.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
