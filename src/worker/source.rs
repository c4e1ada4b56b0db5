//! One stream of a subscriber: pulls as much as there is capacity for, and passes it on. Never runs a handler.

mod look;
mod resume;

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{
    again::Again,
    answers::{acknowledge_again, hand_back, tell_progress},
    checkup::Checkup,
    crash_guard,
    floors::{Floor, Floors},
    in_flight_table::{InFlightTable, Taken, WentBack},
    intake::Intake,
    item::Item,
    lease::Handled,
};
use crate::{
    executor::{Delivery, PROGRESS},
    log::Lasting,
    nats::{
        Bus, BusError, ConsumerLook, ConsumerSpec, Deliveries, PullError, Pulled, Puller,
        PullerOptions,
    },
    observer::DeliveryEnd,
    position::Position,
};

/// How many deliveries are taken before the loop checks anything else.
const AT_A_TIME: usize = 64;
/// How often the consumer's ack floor is checked.
const LOOK: Duration = Duration::from_secs(2);
/// The first and the longest pause for a consumer that does not answer.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Source<I> {
    bus: Bus,
    deliveries: Deliveries,
    subscriber: Arc<str>,
    consumer: ConsumerSpec,
    order: Option<Order>,
    /// When the stream was created: in another stream the sequences mean nothing.
    created: Option<String>,
    again: Again,
    /// The last delivery here from the stream as it is now; messages below the first one were acknowledged before.
    seen: Option<Position>,
    /// Events up to this sequence were in flight at instances that died.
    suspect_to: u64,
    /// The sequence up to which everything was acknowledged at the last look, by any instance.
    floor: u64,
    looks: JoinSet<Result<ConsumerLook, BusError>>,
    /// The stream has this sequence, so the consumer does not begin beyond its end.
    within: u64,
    /// Where the consumer's ack floor is noted.
    floors: Option<Arc<Floors>>,
    checkup: Checkup,
    puller: Puller,
    in_flight: Arc<InFlightTable>,
    intake: I,
    to: mpsc::Sender<Item>,
    /// Acks of events that were handled here before.
    repeated: JoinSet<()>,
    /// While pulling is interrupted: when it is tried again.
    resume_at: Option<Instant>,
    pause: Duration,
    /// Throttle the log: pulling is interrupted, and the consumer cannot be set up.
    interrupted: Lasting,
    unset: Lasting,
}

/// Keeps the order of deliveries: none is taken behind one that was lost on its way.
struct Order {
    /// The consumer sequence of the next delivery.
    next: u64,
    /// The stream sequence from which deliveries start.
    from: u64,
}

impl Order {
    /// Whether another process has moved the consumer. Then the consumer's count begins again, while a lost delivery
    /// leaves a gap in it.
    fn was_reset(&self, delivery: &Delivery) -> bool {
        delivery.consumer_sequence < self.next || delivery.position.sequence < self.from
    }
}

impl<I: Intake> Source<I> {
    pub(super) async fn open(
        bus: &Bus,
        subscriber: &Arc<str>,
        consumer: ConsumerSpec,
        in_flight: Arc<InFlightTable>,
        intake: I,
        to: mpsc::Sender<Item>,
    ) -> Result<Self, BusError> {
        let created = bus.stream_created(&consumer.stream).await?;
        bus.check_consumer(&consumer).await?;
        let again = Again::open(bus, &consumer).await?;
        let (floor, now) = bus.ack_floor_now(&consumer).await?;
        // Any message at the floor was stored before this moment.
        let seen = now.map(|stored_at| Position {
            sequence: floor,
            stored_at,
        });
        let puller = puller(bus, &consumer).await?;
        let mut deliveries = Deliveries::new(bus, subscriber);
        if let Some(replay) = intake.replay() {
            deliveries.of_replay(replay);
        }
        Ok(Self {
            bus: bus.clone(),
            deliveries,
            subscriber: Arc::clone(subscriber),
            consumer,
            order: None,
            created,
            again,
            suspect_to: 0,
            seen,
            floor,
            looks: JoinSet::new(),
            within: 0,
            floors: None,
            checkup: Checkup::new(Instant::now()),
            puller,
            in_flight,
            intake,
            to,
            repeated: JoinSet::new(),
            resume_at: None,
            pause: FIRST_PAUSE,
            interrupted: Lasting::default(),
            unset: Lasting::default(),
        })
    }

    /// Identifies the stream by name and creation time: its sequences are valid only there.
    pub(super) fn stream_id(&self) -> String {
        let created = self.created.as_deref().unwrap_or_default();
        let stream = &self.consumer.stream;
        match self.intake.replay() {
            Some(replay) => format!("{stream} {created} {}", replay.tag.id),
            None => format!("{stream} {created}"),
        }
    }

    /// From now on notes how far the consumer is.
    pub(super) fn noting(mut self, floors: &Arc<Floors>) -> Self {
        self.floors = Some(Arc::clone(floors));
        self.note_floor();
        self
    }

    fn note_floor(&self) {
        let (created, sequence, seen) = (self.created.clone(), self.floor, self.seen);
        if let Some(floors) = &self.floors {
            let floor = Floor {
                created,
                sequence,
                seen,
            };
            floors.note(&self.consumer.stream, floor);
        }
    }

    /// Whether the stream is still the one that was created then.
    pub(super) fn is_of(&self, incarnation: &str) -> bool {
        self.created.as_deref() == Some(incarnation)
    }

    /// What is in flight of this stream.
    pub(super) fn in_flight(&self) -> &Arc<InFlightTable> {
        &self.in_flight
    }

    /// Keeps the order of the stream: begins at the ack floor, and begins there again when a delivery is missing.
    /// Events that the previous instance has handled above the floor are only acknowledged.
    pub(super) async fn ordered(
        mut self,
        handled: &Handled,
        unclean: u32,
    ) -> Result<Self, BusError> {
        if unclean >= crash_guard::UNCLEAN {
            self.suspect_to = self.bus.delivered_up_to(&self.consumer).await?;
        }
        let known = handled.get(&self.stream_id()).cloned().unwrap_or_default();
        if let Some(in_flight) = Arc::get_mut(&mut self.in_flight) {
            in_flight.alone(known);
        }
        self.rewind().await?;
        Ok(self)
    }

    /// Runs until it is told to stop, then hands back what was on its way. Returns its stream and what it had in
    /// flight. With order, it halts the whole subscriber when another process resets the consumer: the events in flight
    /// would come before older ones.
    pub(super) async fn run(
        mut self,
        stop: CancellationToken,
        halt: CancellationToken,
    ) -> (String, Arc<InFlightTable>) {
        let mut progress = tokio::time::interval(PROGRESS);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let in_flight = Arc::clone(&self.in_flight);
        loop {
            self.again.look();
            self.ask().await;
            let interrupted = self.resume_at;
            tokio::select! {
                () = stop.cancelled() => break,
                pulled = self.puller.next(), if interrupted.is_none() => {
                    if self.take_all(pulled).await.is_break() {
                        stop.cancel();
                        halt.cancel();
                    }
                }
                () = in_flight.freed(), if interrupted.is_none() => {}
                () = until(interrupted), if interrupted.is_some() => self.resume().await,
                Some(_) = self.repeated.join_next() => {}
                Some(looked) = self.looks.join_next() => self.note_look(looked).await,
                _ = looks.tick() => self.look_at_consumer(),
                _ = progress.tick() => {
                    tell_progress(&self.subscriber, &in_flight, PROGRESS / 2).await;
                }
            }
        }
        let stream_id = self.stream_id();
        self.close().await;
        (stream_id, in_flight)
    }

    /// Requests as much as there is capacity for.
    async fn ask(&mut self) {
        if self.resume_at.is_some() {
            return;
        }
        let (free, capacity) = self.in_flight.free();
        let bytes_free = self.in_flight.bytes_free();
        if let Err(error) = self.puller.ask(free, capacity, bytes_free).await {
            self.interrupt(&error);
        }
    }

    /// Takes the pulled message, and others that have arrived by then: the loop checks its other branches once for all
    /// of them.
    async fn take_all(&mut self, first: Result<Option<Pulled>, PullError>) -> ControlFlow<()> {
        let mut pulled = Some(first);
        for left in (0..AT_A_TIME).rev() {
            match pulled {
                Some(Ok(Some(message))) => self.take(message).await?,
                Some(Err(error)) => self.interrupt(&error),
                Some(Ok(None)) | None => break,
            }
            if left == 0 || self.resume_at.is_some() {
                break;
            }
            pulled = self.puller.next_now();
        }
        ControlFlow::Continue(())
    }

    async fn take(&mut self, message: Pulled) -> ControlFlow<()> {
        let message = match message.lacks_payload() {
            false => message,
            true => match Box::pin(self.deliveries.with_payload(message)).await {
                Ok(message) => message,
                // It is redelivered; the consumer's settings are corrected before that.
                Err(error) => {
                    self.interrupt(&PullError::Bus(error));
                    return ControlFlow::Continue(());
                }
            },
        };
        let Some((ack, mut delivery)) = self.deliveries.read(message) else {
            tracing::warn!(
                subscriber = &*self.subscriber,
                "stray message ignored: it is not from the consumer"
            );
            return ControlFlow::Continue(());
        };
        if let Some(order) = &mut self.order {
            if order.was_reset(&delivery) {
                self.tell_reset(delivery.position.sequence);
                self.in_flight.reset();
                return ControlFlow::Break(());
            }
            if delivery.consumer_sequence != order.next {
                let (wanted, found) = (order.next, delivery.consumer_sequence);
                tracing::info!(
                    subscriber = &*self.subscriber,
                    stream = self.consumer.stream,
                    wanted,
                    found,
                    "delivery lost: the consumer restarts at its ack floor"
                );
                self.begin_again().await;
                return ControlFlow::Continue(());
            }
            order.next = order.next.saturating_add(1);
        }
        if self.pause > FIRST_PAUSE {
            self.pause = FIRST_PAUSE;
            self.interrupted.is_over();
        }
        let ack = Arc::new(ack);
        let (mut taken, went_back) = self.in_flight.take(delivery.position, &ack);
        self.note_seen(delivery.position, went_back);
        let sequence = delivery.position.sequence;
        if taken == Taken::Handled
            && self.order.is_none()
            && self.again.was_reset(&delivery, self.seen()).await
        {
            self.tell_reset(sequence);
            self.in_flight.forget_handled();
            (self.seen, self.floor) = (Some(delivery.position), sequence.saturating_sub(1));
            // Looks that were started before do not count.
            self.looks = JoinSet::new();
            taken = Taken::New;
        }
        match taken {
            Taken::New => {
                let in_flight = Arc::clone(&self.in_flight);
                delivery.is_suspect =
                    delivery.delivered >= crash_guard::DELIVERIES || sequence <= self.suspect_to;
                let item = Item {
                    ack,
                    delivery,
                    in_flight,
                    waits_unhandled: false,
                };
                if let Some(item) = self.intake.admit(item).await {
                    // The runner takes what it can hold; when it has ended, so does this source.
                    let _ = self.to.send(item).await;
                }
            }
            Taken::Held => {
                tracing::debug!(sequence, "event redelivered while in flight");
            }
            Taken::Handled => {
                let ends = self.intake.ends();
                ends.tell(&delivery, DeliveryEnd::HandledBefore);
                let in_flight = Arc::clone(&self.in_flight);
                let again = acknowledge_again(ack, in_flight, delivery.position);
                self.repeated.spawn(again);
            }
        }
        ControlFlow::Continue(())
    }

    /// The highest sequence that was delivered.
    fn seen(&self) -> u64 {
        self.seen.map_or(self.floor, |seen| seen.sequence)
    }

    /// A message that was stored later has a higher sequence, unless the stream has gone back.
    fn note_seen(&mut self, at: Position, WentBack(went_back): WentBack) {
        let is_new = |seen: Position| at.sequence > seen.sequence || at.stored_at > seen.stored_at;
        if self.seen.is_none_or(is_new) {
            self.seen = Some(at);
        }
        if went_back {
            self.tell_went_back(at.sequence);
            self.forget_from(at.sequence);
        }
    }

    fn tell_went_back(&self, sequence: u64) {
        tracing::warn!(
            subscriber = &*self.subscriber,
            stream = self.consumer.stream,
            sequence,
            "stream rolled back: from this sequence on it has other messages than before, and they are handled; \
             `tidings verify` shows what it has lost"
        );
    }

    /// What was known of this sequence, and of higher ones, was about other messages.
    fn forget_from(&mut self, sequence: u64) {
        let before = sequence.saturating_sub(1);
        self.again.went_back(sequence);
        self.floor = self.floor.min(before);
        self.suspect_to = self.suspect_to.min(before);
        // Looks that were started before do not count.
        self.looks = JoinSet::new();
    }

    fn tell_reset(&self, sequence: u64) {
        tracing::warn!(
            subscriber = &*self.subscriber,
            stream = self.consumer.stream,
            sequence,
            "external reset detected: another client reset the consumer; events from this sequence on are handled again"
        );
    }

    /// Stops pulling. What the server has sent in the meantime is handed back at once. With order it stays where it is,
    /// because the next instance begins at the ack floor.
    async fn close(mut self) {
        let left = self.puller.close().await;
        if self.order.is_some() {
            return;
        }
        let read = left
            .into_iter()
            .filter_map(|pulled| self.deliveries.read(pulled));
        let (in_flight, ends) = (&self.in_flight, self.intake.ends());
        let back = read
            .map(|(ack, delivery)| (Arc::new(ack), delivery))
            .filter(|(ack, delivery)| in_flight.take(delivery.position, ack).0 == Taken::New)
            .map(|(ack, delivery)| {
                ends.tell(&delivery, DeliveryEnd::Returned);
                in_flight.let_go(delivery.position);
                ack
            });
        hand_back(&self.subscriber, back).await;
        // An event whose ack is not confirmed in time is redelivered, to an instance that pulls then.
        let repeated = async { while self.repeated.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LONGEST_PAUSE, repeated).await;
    }
}

/// Waits until a moment; never returns when there is none.
pub(super) async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

async fn puller(bus: &Bus, consumer: &ConsumerSpec) -> Result<Puller, BusError> {
    let options = PullerOptions {
        stream: consumer.stream.clone(),
        consumer: consumer.durable.clone(),
    };
    match Puller::open(bus, &options).await {
        Ok(puller) => Ok(puller),
        Err(PullError::Bus(error)) => Err(error),
        Err(PullError::Gone(reason)) => Err(BusError::Broken {
            subject: consumer.durable.clone(),
            reason,
        }),
    }
}
