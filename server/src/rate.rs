//! Rates and the token buckets that hold connections to them.

use std::num::NonZeroU64;
use std::time::Duration;

use engine::Nanos;

/// So many of something in a second. What a bucket holds when full is the worth of one second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(NonZeroU64);

impl Rate {
    /// `None` for 0, the command line's "off".
    #[must_use]
    pub fn per_second(count: u64) -> Option<Self> {
        NonZeroU64::new(count).map(Self)
    }

    /// The number in a second.
    pub(crate) fn count(self) -> u64 {
        self.0.get()
    }

    /// The time in which so many come in again, rounded up: never more than the rate.
    fn time_for(self, count: u64) -> Duration {
        let nanos = (u128::from(count) * 1_000_000_000).div_ceil(u128::from(self.0.get()));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// What a full bucket holds.
const BURST: Duration = Duration::from_secs(1);

/// Longest debt of a connection. A connection with a longer debt is closed, whatever the policy, so that no
/// connection holds a place for hours with one burst.
pub(crate) const MAX_DEBT: Duration = Duration::from_secs(5);

/// A token bucket, kept as the one point in time at which it is full again (the generic cell rate algorithm).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    full_at: Nanos,
}

impl Bucket {
    /// Takes what has been used already, into debt if need be: `Some` when the debt is paid, `None` without one.
    pub(crate) fn charge(&mut self, rate: Rate, count: u64, now: Nanos) -> Option<Nanos> {
        self.full_at = self.after(rate, count, now);
        let paid = Nanos(self.full_at.0.saturating_sub(BURST.as_nanos() as u64));
        (paid > now).then_some(paid)
    }

    /// Takes one if there is one.
    pub(crate) fn take(&mut self, rate: Rate, now: Nanos) -> bool {
        let after = self.after(rate, 1, now);
        let has_one = after <= now + BURST;
        if has_one {
            self.full_at = after;
        }
        has_one
    }

    /// A full bucket says nothing about the past.
    pub(crate) fn is_full(&self, now: Nanos) -> bool {
        self.full_at <= now
    }

    fn after(&self, rate: Rate, count: u64, now: Nanos) -> Nanos {
        let nanos = u64::try_from(rate.time_for(count).as_nanos()).unwrap_or(u64::MAX);
        Nanos(self.full_at.max(now).0.saturating_add(nanos))
    }
}

/// What becomes of a connection that is over its rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RatePolicy {
    /// Pause reading until the WebSocket is within its rate again. One that is 5 s ahead of its rate is
    /// closed all the same.
    #[default]
    Pause,
    /// Close 1008.
    Close,
}

/// What each WebSocket may send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Messages, pings and pongs in a second.
    pub messages: Option<Rate>,
    /// Bytes of TCP payload in a second.
    pub bytes: Option<Rate>,
    /// What comes of more.
    pub policy: RatePolicy,
}

impl Rates {
    /// Whether any is limited.
    pub(crate) fn is_on(&self) -> bool {
        self.messages.is_some() || self.bytes.is_some()
    }
}

/// A connection's two buckets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    messages: Bucket,
    bytes: Bucket,
}

impl Usage {
    /// Charges a read: `Some` when the connection is within its rates again, `None` when it still is.
    pub(crate) fn charge(&mut self, rates: &Rates, messages: u64, bytes: u64, now: Nanos) -> Option<Nanos> {
        let messages = rates.messages.and_then(|rate| self.messages.charge(rate, messages, now));
        let bytes = rates.bytes.and_then(|rate| self.bytes.charge(rate, bytes, now));
        messages.max(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Nanos {
        Nanos(n * 1_000_000)
    }

    fn rate(count: u64) -> Rate {
        Rate::per_second(count).expect("not zero")
    }

    #[test]
    fn a_second_s_worth_may_come_at_once() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.charge(rate(10), 10, ms(5000)), None);
        assert_eq!(bucket.charge(rate(10), 1, ms(5000)), Some(ms(5100)));
        assert_eq!(bucket.charge(rate(10), 5, ms(5100)), Some(ms(5600)));
        assert!(!bucket.is_full(ms(6500)) && bucket.is_full(ms(6600)));
    }

    #[test]
    fn what_is_refused_costs_nothing() {
        let mut bucket = Bucket::default();
        assert!(bucket.take(rate(2), ms(1000)) && bucket.take(rate(2), ms(1000)));
        assert!((0..100).all(|_| !bucket.take(rate(2), ms(1400))));
        assert!(bucket.take(rate(2), ms(1500)));
        assert!(!bucket.take(rate(2), ms(1500)));
    }

    #[test]
    fn the_slower_of_both_rates_holds() {
        let rates = Rates { messages: Some(rate(100)), bytes: Some(rate(1000)), policy: RatePolicy::Pause };
        let mut usage = Usage::default();
        assert_eq!(usage.charge(&rates, 1, 3000, ms(1000)), Some(ms(3000)));
        assert_eq!(usage.charge(&rates, 1000, 1, ms(3000)), Some(ms(12_000)));
    }

    #[test]
    fn no_count_overflows() {
        let mut bucket = Bucket::default();
        assert!(bucket.charge(rate(1), u64::MAX, ms(1)).is_some());
        assert!(bucket.charge(rate(1), u64::MAX, ms(1)).is_some());
    }
}
