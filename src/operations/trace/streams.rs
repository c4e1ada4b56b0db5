//! Reads streams for the events of the search: first those known to have events of Tidings, then the others of the
//! account. Never decides how an event ended.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::ControlFlow,
};

use tidings_contract::Pattern;

use super::{
    TraceTarget,
    inventory::Inventory,
    report::StoredEvent,
    search::{Search, time},
};
use crate::{
    error_text::error_texts,
    nats::{Bus, Expanse, Read, ReaderError, Sighting, StartFrom},
};

impl Search<'_> {
    /// Reads the headers of the known streams.
    pub(super) async fn read_streams(&mut self, inventory: &Inventory) {
        let Some(bus) = self.bus.clone() else {
            return;
        };
        for (name, stream) in &inventory.streams {
            let Some(stream) = stream else {
                self.miss(name, "the stream does not exist");
                continue;
            };
            match self.read_stream(&bus, name, stream).await {
                (_, Ok(read)) => self.say(name, said(&read)),
                (_, Err(error)) => {
                    let why = error_texts(&error).join(": ");
                    self.miss_unseen(name, format!("not searched to its end: {why}"));
                }
            }
        }
    }

    /// Reads the headers of one stream; returns how many events were found, and what was read.
    async fn read_stream(
        &mut self,
        bus: &Bus,
        name: &str,
        stream: &Expanse,
    ) -> (usize, Result<Read, ReaderError>) {
        let start = StartFrom::Time(self.since());
        let is_one = matches!(self.target, TraceTarget::Event(_));
        let (target, limit) = (self.target, self.trace.limit);
        let mut found: VecDeque<Sighting> = VecDeque::new();
        let see = |sighting: Sighting| {
            if target.means(&sighting.envelope) {
                found.push_back(sighting);
                if found.len() > limit {
                    found.pop_front();
                }
            }
            match is_one && !found.is_empty() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let most = self.trace.messages;
        let read = bus.seek(name, start, stream.last, most, see).await;
        let count = found.len();
        for sighting in found {
            let stored = StoredEvent::of(name, stream, &sighting);
            self.meet(&sighting.envelope).stored.push(stored);
        }
        (count, read)
    }

    /// Reads the headers of the streams that are not named anywhere: the event may be there nonetheless. When its row
    /// is known, the server reports which of these streams take the event.
    pub(super) async fn read_others(&mut self, inventory: &mut Inventory) {
        let Some(bus) = self.bus.clone() else {
            return;
        };
        let mut others = std::mem::take(&mut inventory.others);
        if let Some(taking) = self.taking(&bus).await {
            others.retain(|name| taking.contains(name));
        }
        let (mut without, mut unread) = (Vec::new(), Vec::new());
        let mut messages = 0;
        for name in others {
            let stream = match bus.expanse(&name).await {
                Ok(Some(stream)) => stream,
                // It was deleted in the meantime.
                Ok(None) => continue,
                Err(error) => {
                    unread.push((name, error_texts(&error).join(": ")));
                    continue;
                }
            };
            match self.read_stream(&bus, &name, &stream).await {
                (0, Ok(read)) => {
                    messages += read.messages;
                    without.push(name);
                }
                (found, read) => {
                    match read {
                        Ok(read) => self.say(&name, said(&read)),
                        Err(error) => unread.push((name.clone(), error_texts(&error).join(": "))),
                    }
                    if found > 0 {
                        inventory.streams.insert(name, Some(stream));
                    }
                }
            }
            if matches!(self.target, TraceTarget::Event(_)) && !self.is_anywhere_else() {
                break;
            }
        }
        if !without.is_empty() {
            let names = named(&without);
            let what = format!("{names}: {messages} messages, none of which matches");
            self.say("other streams", what);
        }
        // When the event was found, the unread streams do not matter: streams of other applications need not be
        // readable.
        let is_missed = match self.target {
            TraceTarget::Event(_) => self.is_anywhere_else(),
            _ => self.events.is_empty(),
        };
        for (name, why) in unread {
            let why = format!("not searched: {why}");
            if is_missed {
                self.miss_unseen(&name, why);
                inventory.unseen.insert(name);
            } else {
                self.miss(&name, why);
            }
        }
    }

    /// The streams that take the events whose rows are known; `None` when no row is known, when more events are
    /// searched for, or when the server does not answer.
    async fn taking(&self, bus: &Bus) -> Option<BTreeSet<String>> {
        if !matches!(self.target, TraceTarget::Event(_)) || self.events.is_empty() {
            return None;
        }
        let mut taking = BTreeSet::new();
        for event in self.events.values() {
            let name = Pattern::parse(&event.name).ok()?;
            taking.extend(bus.streams_taking(&name).await.ok()?);
        }
        Some(taking)
    }
}

/// The names of streams, at most as many as are readable in a line.
fn named(names: &[String]) -> String {
    const MOST: usize = 20;
    match names.len().saturating_sub(MOST) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names[..MOST].join(", ")),
    }
}

fn said(read: &Read) -> String {
    let Some((from, to)) = read.from.zip(read.to) else {
        return "no message was stored in the time that was searched".to_owned();
    };
    let Read {
        messages, is_cut, ..
    } = read;
    let more = match is_cut {
        true => "; earlier messages were not read",
        false => "",
    };
    format!(
        "{messages} messages, of {} to {}{more}",
        time(from),
        time(to)
    )
}
