//! Requests that are open until they are confirmed, under numbers that are never reused. Never decides when a request
//! is late.

use std::{fmt, num::ParseIntError, str::FromStr};

/// Finds open requests by number, without hashing.
pub(in crate::nats) struct Unconfirmed<T> {
    places: Vec<Place<T>>,
    /// The free slots; the slot that was freed last is at the end.
    free: Vec<u32>,
}

struct Place<T> {
    /// How many requests it held before.
    round: u32,
    what: Option<T>,
}

/// Identifies an open request: its slot, and how many requests that slot held before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nats) struct Number {
    place: u32,
    round: u32,
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = u64::from(self.round) << 32 | u64::from(self.place);
        write!(f, "{number}")
    }
}

impl FromStr for Number {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number: u64 = text.parse()?;
        let half = |number: u64| u32::try_from(number & u64::from(u32::MAX)).unwrap_or_default();
        Ok(Self {
            place: half(number),
            round: half(number >> 32),
        })
    }
}

impl<T> Default for Unconfirmed<T> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Unconfirmed<T> {
    pub(in crate::nats) fn add(&mut self, what: T) -> Number {
        let place = self.free.pop().unwrap_or_else(|| {
            let (round, what) = (0, None);
            self.places.push(Place { round, what });
            u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
        });
        let free = &mut self.places[place as usize];
        free.what = Some(what);
        let round = free.round;
        Number { place, round }
    }

    /// The request with this number, if it is still open.
    pub(in crate::nats) fn get(&mut self, number: Number) -> Option<&mut T> {
        let place = self.places.get_mut(number.place as usize)?;
        place.what.as_mut().filter(|_| place.round == number.round)
    }

    /// Removes the request with this number, if it is still open.
    pub(in crate::nats) fn remove(&mut self, number: Number) -> Option<T> {
        let place = self.places.get_mut(number.place as usize)?;
        if place.round != number.round {
            return None;
        }
        let what = place.leave()?;
        self.free.push(number.place);
        Some(what)
    }

    /// Removes all requests that match a condition.
    pub(in crate::nats) fn remove_if(&mut self, is_so: impl Fn(&T) -> bool) -> Vec<T> {
        let mut removed = Vec::new();
        for (number, place) in (0..).zip(&mut self.places) {
            if place.what.as_ref().is_some_and(&is_so) {
                removed.extend(place.leave());
                self.free.push(number);
            }
        }
        removed
    }
}

impl<T> Place<T> {
    fn leave(&mut self) -> Option<T> {
        let what = self.what.take()?;
        self.round = self.round.wrapping_add(1);
        Some(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_means_one_thing_only() {
        let mut open = Unconfirmed::default();
        let a = open.add("a");
        assert_eq!(open.get(a), Some(&mut "a"));
        assert_eq!(open.remove(a), Some("a"));
        let b = open.add("b");
        assert_eq!(a.place, b.place, "the place is used again");
        assert_eq!(open.get(a), None);
        assert_eq!(open.remove(a), None, "its confirmation came late");
        assert_eq!(open.remove(b.to_string().parse().unwrap()), Some("b"));
        let unknown = Number { place: 7, round: 0 };
        assert_eq!(open.remove(unknown), None);
    }

    #[test]
    fn late_confirmations_free_their_slots() {
        let mut open = Unconfirmed::default();
        let numbers: Vec<_> = (0..5).map(|what| open.add(what)).collect();
        assert_eq!(open.remove_if(|what| what % 2 == 1), [1, 3]);
        assert_eq!(open.remove(numbers[1]), None);
        assert_eq!(open.remove(numbers[2]), Some(2));
        for what in 5..8 {
            open.add(what);
        }
        assert_eq!(open.places.len(), 5);
        assert_eq!(open.remove_if(|_| true), [0, 7, 5, 6, 4]);
    }
}
