//! Rate limits, and their token buckets.

use std::num::NonZeroU64;
use std::time::Duration;

use engine::Nanos;

/// Rate limit per second. A full bucket holds one second's worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(NonZeroU64);

impl Rate {
    /// Creates a limit of `count` per second. `None` for 0, the command line's "off".
    #[must_use]
    pub fn per_second(count: u64) -> Option<Self> {
        NonZeroU64::new(count).map(Self)
    }

    /// Number per second.
    pub(crate) fn count(self) -> u64 {
        self.0.get()
    }

    /// Time in which `count` tokens are added, rounded up so that the rate is never exceeded.
    fn time_for(self, count: u64) -> Duration {
        let nanos = (u128::from(count) * 1_000_000_000).div_ceil(u128::from(self.0.get()));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// Time whose tokens a full bucket holds.
const BURST: Duration = Duration::from_secs(1);

/// Longest debt of a connection. A connection with a longer debt is closed, whatever the policy, so
/// that no connection holds a place for hours with one burst.
pub(crate) const MAX_DEBT: Duration = Duration::from_secs(5);

/// Token bucket, stored as the time at which it is full again (generic cell rate algorithm).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    full_at: Nanos,
}

impl Bucket {
    /// Takes tokens that have been used already, into debt where necessary. Returns the time at
    /// which the debt is paid; `None` without a debt.
    pub(crate) fn charge(&mut self, rate: Rate, count: u64, now: Nanos) -> Option<Nanos> {
        self.full_at = self.after(rate, count, now);
        let paid = Nanos(self.full_at.0.saturating_sub(BURST.as_nanos() as u64));
        (paid > now).then_some(paid)
    }

    /// Takes one token. Returns false if there is none.
    pub(crate) fn take(&mut self, rate: Rate, now: Nanos) -> bool {
        let after = self.after(rate, 1, now);
        let has_one = after <= now + BURST;
        if has_one {
            self.full_at = after;
        }
        has_one
    }

    /// Returns whether the bucket is full, so that it need not be kept.
    pub(crate) fn is_full(&self, now: Nanos) -> bool {
        self.full_at <= now
    }

    fn after(&self, rate: Rate, count: u64, now: Nanos) -> Nanos {
        let nanos = u64::try_from(rate.time_for(count).as_nanos()).unwrap_or(u64::MAX);
        Nanos(self.full_at.max(now).0.saturating_add(nanos))
    }
}

/// Policy for a connection that exceeds its rate limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RatePolicy {
    /// Pause reading until the WebSocket is within its rate again. One that is 5 s ahead of its
    /// rate is closed all the same.
    #[default]
    Pause,
    /// Close 1008.
    Close,
}

/// Rate limits of a WebSocket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Messages, pings and pongs per second.
    pub messages: Option<Rate>,
    /// Bytes per second, as TCP payload.
    pub bytes: Option<Rate>,
    /// Policy beyond the limits.
    pub policy: RatePolicy,
}

impl Rates {
    /// Returns whether a limit is set.
    pub(crate) fn is_on(&self) -> bool {
        self.messages.is_some() || self.bytes.is_some()
    }
}

/// Token buckets of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    messages: Bucket,
    bytes: Bucket,
}

impl Usage {
    /// Charges a read. Returns the time at which the connection is within its limits again; `None`
    /// where it is now.
    pub(crate) fn charge(
        &mut self,
        rates: &Rates,
        messages: u64,
        bytes: u64,
        now: Nanos,
    ) -> Option<Nanos> {
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
        let rates =
            Rates { messages: Some(rate(100)), bytes: Some(rate(1000)), policy: RatePolicy::Pause };
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
