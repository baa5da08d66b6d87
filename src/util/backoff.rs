//! Exponential backoff with a cap, as a value: no sleeping here.

use std::time::Duration;

/// A doubling delay between `base` and `cap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// First delay.
    pub base: Duration,
    /// Largest delay.
    pub cap: Duration,
}

impl Backoff {
    /// One second doubling to thirty: restarting a part of the process.
    pub const RESTART: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(30) };
    /// Five milliseconds doubling to a thousand seconds: upstream's default rate limiter of work queues.
    pub const QUEUE: Backoff = Backoff { base: Duration::from_millis(5), cap: Duration::from_secs(1000) };
    /// Ten seconds doubling to five minutes: a container that keeps failing, an image that will not pull.
    pub const CONTAINER: Backoff = Backoff { base: Duration::from_secs(10), cap: Duration::from_secs(300) };

    /// The delay before attempt `failures + 1`, `failures` counted from 1; zero failures wait for nothing.
    pub fn delay(&self, failures: u32) -> Duration {
        match failures {
            0 => Duration::ZERO,
            n => self.base.saturating_mul(1u32.checked_shl(n - 1).unwrap_or(u32::MAX)).min(self.cap),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_cap_and_stays_there() {
        let b = Backoff::CONTAINER;
        assert_eq!(b.delay(0), Duration::ZERO);
        assert_eq!(b.delay(1), Duration::from_secs(10));
        assert_eq!(b.delay(2), Duration::from_secs(20));
        assert_eq!(b.delay(6), Duration::from_secs(300));
        assert_eq!(b.delay(200), Duration::from_secs(300));
    }
}
