//! The handlers that a subscriber calls for the events of a replay. Never calls one.

use std::collections::BTreeMap;

use super::{EventSubscriber, Route, SubscriberError, is_name};
use crate::replay::tag::Replaying;

/// Handlers that only a replay calls, instead of the live ones.
pub(super) struct Shadow<S> {
    name: String,
    routes: Vec<Route<S>>,
    /// They would never be called.
    has_shadows: bool,
}

impl<S: Send + Sync + 'static> EventSubscriber<S> {
    /// Does not call the handler that was added last for the events of a [replay](crate::replays::Replays): they are
    /// acknowledged, and counted as skipped. For an effect that must not happen again, such as sending a mail.
    #[must_use]
    pub fn skip_on_replay(mut self) -> Self {
        if let Some(last) = self.routes.last_mut() {
            last.skips_replays = true;
        }
        self
    }

    /// Adds handlers that only a replay with this shadow calls, instead of the live ones: to try a new version of a
    /// handler with the events of last week, or to fill a new table. Only the handlers of the subscriber that
    /// `handlers` returns are used; everything else is as configured for this subscriber.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use tidings::{Context, Event, EventSubscriber, Failure};
    /// # #[derive(Serialize, Deserialize, Event)]
    /// # #[event(name = "user.created", version = 1, key = id)]
    /// # struct UserCreated { id: u32 }
    /// async fn count(_: UserCreated, _: Context<()>) -> Result<(), Failure> {
    ///     Ok(())
    /// }
    ///
    /// async fn count_anew(_: UserCreated, _: Context<()>) -> Result<(), Failure> {
    ///     Ok(())
    /// }
    ///
    /// let subscriber = EventSubscriber::durable("statistics")
    ///     .on(count)
    ///     .shadow("v2", |shadow| shadow.on(count_anew));
    /// ```
    #[must_use]
    pub fn shadow(mut self, name: impl Into<String>, handlers: impl FnOnce(Self) -> Self) -> Self {
        let shadow = handlers(Self::durable(self.durable.clone()));
        self.shadows.push(Shadow {
            name: name.into(),
            routes: shadow.routes,
            has_shadows: !shadow.shadows.is_empty(),
        });
        self
    }

    /// The names of its shadows, and the names of the events that each handles.
    pub(crate) fn shadows(&self) -> BTreeMap<String, Vec<String>> {
        let shadows = self.shadows.iter().map(|shadow| {
            let names = shadow.routes.iter().map(|route| route.name.to_owned());
            let mut names: Vec<_> = names.collect();
            names.sort_unstable();
            names.dedup();
            (shadow.name.clone(), names)
        });
        shadows.collect()
    }

    /// The handlers that are called.
    pub(super) fn routes_of(&self, replay: Option<&Replaying>) -> &[Route<S>] {
        let Some(wanted) = replay.and_then(|replay| replay.tag.shadow.as_ref()) else {
            return &self.routes;
        };
        let shadow = self.shadows.iter().find(|shadow| shadow.name == *wanted);
        shadow.map_or(&[], |shadow| &shadow.routes)
    }

    /// All handlers, including those of its shadows.
    pub(super) fn all_routes(&self) -> impl Iterator<Item = &Route<S>> {
        let shadows = self.shadows.iter().flat_map(|shadow| &shadow.routes);
        self.routes.iter().chain(shadows)
    }

    pub(super) fn check_shadows(&self) -> Result<(), SubscriberError> {
        for (at, shadow) in self.shadows.iter().enumerate() {
            let same = |other: &Shadow<S>| other.name == shadow.name;
            let is_taken = self.shadows[..at].iter().any(same);
            let is_named = is_name(&shadow.name);
            if !is_named || is_taken || shadow.routes.is_empty() || shadow.has_shadows {
                return Err(SubscriberError::Shadow {
                    subscriber: self.durable.clone(),
                    shadow: shadow.name.clone(),
                });
            }
            self.unique(&shadow.routes)?;
        }
        Ok(())
    }
}
