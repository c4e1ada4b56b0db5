//! The results of events at their subscribers: consumers, retries, dead letters, inbox. Never guesses an outcome.

use chrono::{DateTime, Utc};
use serde_json::Value;
use tidings_contract::{Name, Pattern};

use super::{
    TraceTarget,
    inventory::Inventory,
    report::{
        DeadLetterTrace, DeliveryTrace, InboxTrace, ReplayTrace, RetryTrace, StoredEvent,
        SubscriberTrace, TracedEvent,
    },
    search::{Search, ask},
    told::{Meant, Told},
};
use crate::{
    nats::{Bus, Durable, StartFrom, Waiting, filters, stream::streams::StreamSpec},
    operations::dead_letters::{
        DeadLetterSelection, DeadLetters, DeadLettersError, StoredDeadLetter,
    },
    policy::outcome::Cause,
    replay::Replay,
};

/// How many waiting messages, and how many dead letters, are read at most.
const MOST: usize = 100_000;

impl Search<'_> {
    /// Reads the events that wait for another attempt.
    pub(super) async fn read_retries(&mut self, inventory: &Inventory) {
        let Some(bus) = self.bus.clone() else {
            return;
        };
        let stream = StreamSpec::retries().name;
        let is_there = inventory.all.as_ref();
        if is_there.is_some_and(|all| !all.contains(&stream)) {
            return self.miss(&stream, "the stream does not exist");
        }
        let (mut next, mut read) = (1, 0);
        loop {
            let page = bus.page(&stream, ">", StartFrom::Sequence(next)).await;
            let page = match page {
                Ok(page) => page,
                Err(error) => {
                    let why = format!("not searched after {read} messages: {error}");
                    return self.miss_unseen(&stream, why);
                }
            };
            read += page.len();
            let Some(last) = page.last() else {
                return self.say(&stream, format!("all {read} messages"));
            };
            next = last.sequence.saturating_add(1);
            for waiting in page.iter().filter_map(Waiting::of) {
                self.waits(waiting);
            }
            if read >= MOST {
                return self.say(&stream, format!("only the first {read} messages"));
            }
        }
    }

    fn waits(&mut self, waiting: Waiting) {
        let meant = Meant::of(&waiting.envelope);
        let known = self.known(&meant, waiting.identity.as_deref());
        let event = match known {
            Some(id) => self.events.get_mut(&id),
            None if self.target.means(&waiting.envelope) => Some(self.meet(&waiting.envelope)),
            None => None,
        };
        let Some(event) = event else {
            return;
        };
        event.at(&waiting.subscriber).retry = Some(RetryTrace {
            failures: waiting.failures,
            first_failed_at: waiting.first_failed_at,
            due: waiting.due,
            redrives: waiting.redrives,
            since: waiting.stored_at,
        });
    }

    /// Reads the dead letters.
    pub(super) async fn read_letters(&mut self) {
        let Some(bus) = self.bus.clone() else {
            return;
        };
        let stream = StreamSpec::dead_letters().name;
        // One request without a retry: the dead-letter reader retries again and again, which would delay the search.
        match bus.upkeep(&stream).await {
            Ok(Some(_)) => {}
            Ok(None) => return self.miss(&stream, "the stream does not exist"),
            Err(error) => return self.miss_unseen(&stream, format!("not searched: {error}")),
        }
        let mut read = 0;
        match self.read_all_letters(&bus, &mut read).await {
            Ok(()) if read >= MOST => self.say(&stream, format!("only {read} dead letters")),
            Ok(()) => self.say(
                &stream,
                format!("{read} dead letters, all since the event was created"),
            ),
            Err(error) => {
                let why = format!("not searched after {read} dead letters: {error}");
                self.miss_unseen(&stream, why);
            }
        }
    }

    async fn read_all_letters(
        &mut self,
        bus: &Bus,
        read: &mut usize,
    ) -> Result<(), DeadLettersError> {
        let selection = DeadLetterSelection::default().since(self.earliest());
        let mut dead_letters = DeadLetters::new(bus).read(selection).await?;
        while *read < MOST
            && let Some(letter) = dead_letters.next().await?
        {
            *read += 1;
            self.is_given_up(&letter);
        }
        Ok(())
    }

    fn is_given_up(&mut self, letter: &StoredDeadLetter) {
        let Some(id) = letter.event else {
            return;
        };
        let is_meant = match self.target {
            TraceTarget::Event(event) => id == *event,
            TraceTarget::Key(key) => letter.key.as_ref() == Some(key),
            TraceTarget::Correlation(_) => false,
        };
        let meant = Meant {
            id,
            name: letter.name.clone(),
            version: letter.version,
            key: letter.key.clone(),
        };
        let known = self.known(&meant, letter.identity.as_deref());
        let event = match known {
            Some(id) => self.events.get_mut(&id),
            None if is_meant => {
                let (name, version) = (&letter.name, letter.version);
                let new = TracedEvent::named(id, name, version, letter.key.clone());
                Some(self.meet_one(new))
            }
            None => None,
        };
        let Some(event) = event else {
            return;
        };
        event
            .at(&letter.subscriber)
            .dead_letters
            .push(DeadLetterTrace {
                sequence: letter.sequence,
                at: letter.stored_at,
                cause: letter.cause.clone(),
                attempts: letter.attempts,
                error: letter.error.clone(),
                redrives: letter.redrives,
            });
    }

    /// Finds the known event that this is.
    fn known(&self, meant: &Meant, identity: Option<&str>) -> Option<Told> {
        let by_message = identity.and_then(|identity| {
            let has = |event: &TracedEvent| event.stored.iter().any(|at| at.identity == identity);
            let mut all = self.events.iter();
            all.find(|(_, event)| has(event)).map(|(told, _)| *told)
        });
        let by_name = || {
            let mut of_id = self.of_id(meant.id);
            let only = of_id.next().filter(|_| of_id.next().is_none())?;
            Some(only)
                .filter(|(_, event)| event.name == meant.name)
                .map(|(told, _)| *told)
        };
        by_message.or_else(|| self.like(meant)).or_else(by_name)
    }

    /// No dead letter of these events is older.
    fn earliest(&self) -> DateTime<Utc> {
        let known = self.events.values().map(TracedEvent::first_seen_at).min();
        match known {
            Some(known) => known.min(self.since()),
            None => self.since(),
        }
    }

    /// Queries the inbox, and evaluates the consumers.
    pub(super) async fn read_inbox(&mut self, inventory: &Inventory) {
        let all: Vec<Told> = self.events.keys().copied().collect();
        for told in all {
            let (id, is_one) = (told.0, self.of_id(told.0).count() == 1);
            let mut scopes: Vec<(String, Option<String>)> =
                ask!(self, records => records.scopes(id));
            let Some(event) = self.events.get_mut(&told) else {
                continue;
            };
            // The inbox has only ids: its entry belongs to the event that is stored.
            let is_stored = event.stored.iter().any(|stored| stored.is_there);
            if !is_stored && (!is_one || event.taken.is_some()) {
                scopes.clear();
            }
            for replay in &inventory.replays {
                if !covers(replay, event) {
                    continue;
                }
                event.at(&replay.subscriber).replays.push(ReplayTrace {
                    id: replay.id.to_string(),
                    created_at: Some(replay.created_at),
                    state: Some(replay.state),
                    inbox: None,
                });
            }
            for (scope, dead_lettered) in scopes {
                let remembered = Some(remembered(dead_lettered.as_deref()));
                match scope.split_once("/replay/") {
                    Some((subscriber, id)) => event.at(subscriber).replay(id).inbox = remembered,
                    None => event.at(&scope).inbox = remembered,
                }
            }
            let stored = event.stored.clone();
            for durable in &inventory.durables {
                let mut places = stored.iter().rev().filter(|at| at.stream == durable.stream);
                // The last stored copy was delivered last.
                let Some(place) = places.next().filter(|_| takes(durable, &event.name)) else {
                    continue;
                };
                let stream = inventory.streams.get(&durable.stream);
                let incarnation = stream.and_then(Option::as_ref).map(|s| &s.incarnation);
                let one = event.at(&durable.name);
                one.paused_until = durable.paused_until();
                one.delivery = match incarnation == Some(&place.incarnation) {
                    true => delivery(durable, place),
                    false => DeliveryTrace::Unknown {
                        why: "the event was in a stream that is gone, with its consumers"
                            .to_owned(),
                    },
                };
            }
            event
                .subscribers
                .sort_by(|a, b| a.subscriber.cmp(&b.subscriber));
        }
    }
}

impl SubscriberTrace {
    /// The entry of a replay; creates one with the id alone when the replay is not known.
    fn replay(&mut self, id: &str) -> &mut ReplayTrace {
        let known = self.replays.iter().position(|replay| replay.id == id);
        let at = known.unwrap_or_else(|| {
            self.replays.push(ReplayTrace {
                id: id.to_owned(),
                created_at: None,
                state: None,
                inbox: None,
            });
            self.replays.len() - 1
        });
        &mut self.replays[at]
    }
}

/// What a row of the inbox states.
fn remembered(dead_lettered: Option<&str>) -> InboxTrace {
    let Some(note) = dead_lettered else {
        return InboxTrace::Handled;
    };
    let note: Value = serde_json::from_str(note).unwrap_or_default();
    let text = |name: &str| note.get(name).and_then(Value::as_str).unwrap_or_default();
    InboxTrace::DeadLettered {
        at: text("at").parse().ok(),
        cause: Cause::from(text("cause")),
        error: text("error").to_owned(),
    }
}

/// Whether an event is in the range of a replay, and its filters take it.
fn covers(replay: &Replay, event: &TracedEvent) -> bool {
    let same = |wanted: &Option<String>, is: Option<&str>| {
        wanted.as_deref().is_none_or(|wanted| is == Some(wanted))
    };
    let has = |place: &StoredEvent| {
        replay.ranges.iter().any(|range| {
            range.stream == place.stream
                && range.incarnation == place.incarnation
                && (range.first..=range.last).contains(&place.sequence)
                && range.names.contains(&event.name)
        })
    };
    same(&replay.request.key, event.key.as_deref())
        && same(&replay.request.correlation, Some(&event.correlation_id))
        && event.stored.iter().any(has)
}

impl TracedEvent {
    /// The entry of a subscriber.
    fn at(&mut self, subscriber: &str) -> &mut SubscriberTrace {
        let known = self.subscribers.iter();
        let mut known = known.map(|one| &one.subscriber);
        let at = known.position(|one| one == subscriber).unwrap_or_else(|| {
            let why =
                "no consumer of the subscriber takes the event's name in its stream now".to_owned();
            let new = SubscriberTrace::new(subscriber, DeliveryTrace::Unknown { why });
            self.subscribers.push(new);
            self.subscribers.len() - 1
        });
        &mut self.subscribers[at]
    }
}

/// Whether a consumer delivers events of a name.
fn takes(durable: &Durable, name: &str) -> bool {
    let filters = filters(&durable.config);
    let Ok(name) = Name::parse(name) else {
        return filters.is_empty();
    };
    let covers = |filter: &String| Pattern::parse(filter).is_ok_and(|one| one.covers(&name));
    filters.is_empty() || filters.iter().any(covers)
}

/// How far a consumer is, relative to a position of its stream.
fn delivery(durable: &Durable, place: &StoredEvent) -> DeliveryTrace {
    let (delivered, floor) = (durable.delivered(), durable.acknowledged());
    if let Some(beginning) = begins_behind(durable, place) {
        return DeliveryTrace::Before { beginning };
    }
    match place.sequence {
        sequence if sequence <= floor => DeliveryTrace::Acknowledged { floor },
        sequence if sequence <= delivered => DeliveryTrace::Delivered { floor, delivered },
        _ => DeliveryTrace::NotYet { delivered },
    }
}

/// Where a consumer starts, when that is after a position.
fn begins_behind(durable: &Durable, place: &StoredEvent) -> Option<String> {
    let setting = |name| durable.config.get(name);
    let policy = setting("deliver_policy").and_then(Value::as_str);
    let behind = |begin: DateTime<Utc>| place.stored_at.is_some_and(|at| at < begin);
    match policy? {
        "by_start_sequence" => {
            let begin = setting("opt_start_seq").and_then(Value::as_u64);
            let begin = begin.filter(|begin| place.sequence < *begin)?;
            Some(format!("at sequence {begin}"))
        }
        "by_start_time" => {
            let begin = setting("opt_start_time").and_then(Value::as_str)?;
            let begin = begin.parse().ok().filter(|begin| behind(*begin))?;
            Some(format!("with messages stored at {begin} or later"))
        }
        "new" if behind(durable.created) => {
            Some(format!("with messages stored after {}", durable.created))
        }
        _ => None,
    }
}
