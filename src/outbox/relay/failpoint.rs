//! The places at which a test can stop a relay for ever, as if its process had died there. Without the
//! feature `failpoints` nothing is compiled at them. Never changes what a relay does otherwise.

// Without the feature the points are named in this crate only.
#![cfg_attr(not(feature = "failpoints"), allow(unreachable_pub))]

#[cfg(feature = "failpoints")]
pub(super) use armed::reach;
#[cfg(feature = "failpoints")]
pub use armed::{Armed, arm};

/// A place between the outbox and the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Point {
    /// A page with rows in it was read; none of them is on its way.
    Fetched,
    /// The members of a batch are sent; its commit, or the few rows that go without one, are not.
    MembersSent,
    /// The stream has answered; nobody has taken note of it.
    Answered,
    /// It was noted what was confirmed; nothing of it is written down.
    Noted,
    /// A checkpoint is about to be written: one of a confirmation, of a stream's end or of the lease alone.
    Checkpoint,
    /// It is written, and nothing else has been done since.
    Checkpointed,
}

#[cfg(feature = "failpoints")]
impl Point {
    /// All of them, in the order in which an event comes by.
    pub const ALL: [Self; 6] = [
        Self::Fetched,
        Self::MembersSent,
        Self::Answered,
        Self::Noted,
        Self::Checkpoint,
        Self::Checkpointed,
    ];
}

/// The relay comes by a point.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(super) fn reach(_owner: &str, _point: Point) -> std::future::Ready<()> {
    std::future::ready(())
}

#[cfg(feature = "failpoints")]
mod armed {
    //! What is armed, for the whole process: by the name of the relay's owner, which no two have.

    use std::{
        collections::HashMap,
        sync::{Mutex, MutexGuard, PoisonError},
    };

    use tokio_util::sync::CancellationToken;

    use super::Point;

    static ARMED: Mutex<Option<HashMap<String, Trap>>> = Mutex::new(None);

    struct Trap {
        point: Point,
        /// How often it is still passed.
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

    /// Stops the relay of this owner when it comes by the point for the `nth` time, counted from 1. From
    /// then on it passes no other point either, so that nothing more is written down.
    ///
    /// The relay's task has to be aborted then: that is its death.
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
        /// Ends when the relay has been stopped.
        pub async fn reached(&self) {
            self.sprung.cancelled().await;
        }

        /// Lets the relay go on from where it was stopped.
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

    /// The relay comes by a point.
    pub(in crate::outbox::relay) async fn reach(owner: &str, point: Point) {
        if let Some(freed) = caught(owner, point) {
            freed.cancelled().await;
        }
    }

    /// What a relay that is stopped here has to wait for.
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
