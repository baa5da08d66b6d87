//! Time as a value that can be injected.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use jiff::Timestamp;

/// Where "now" comes from.
pub trait Clock: Send + Sync {
    /// The wall clock, UTC. Somebody may set it, an hour forward or back.
    fn now(&self) -> Timestamp;

    /// Seconds since some moment, which nobody sets: how long something lasts in this process is measured by these.
    fn ticks(&self) -> i64;
}

/// Where the machine's ticks begin.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A shared clock.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn ticks(&self) -> i64 {
        i64::try_from(START.elapsed().as_secs()).unwrap_or(i64::MAX)
    }
}

/// A clock that tests move by hand.
#[derive(Debug, Default)]
pub struct ManualClock {
    wall: AtomicI64,
    ticks: AtomicI64,
}

impl ManualClock {
    /// A clock that stands at `seconds` since the epoch.
    pub fn at(seconds: i64) -> Self {
        Self { wall: AtomicI64::new(seconds), ticks: AtomicI64::new(0) }
    }

    /// Time passes.
    pub fn advance(&self, seconds: i64) {
        self.ticks.fetch_add(seconds, Ordering::SeqCst);
        self.set_by(seconds);
    }

    /// Somebody sets the clock by so many seconds; no time passes.
    pub fn set_by(&self, seconds: i64) {
        self.wall.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.wall.load(Ordering::SeqCst)).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn ticks(&self) -> i64 {
        self.ticks.load(Ordering::SeqCst)
    }
}

/// RFC 3339 in whole seconds, as `metav1.Time` is written.
pub fn rfc3339(t: Timestamp) -> String {
    written(t, false)
}

/// RFC 3339 with microseconds, as `metav1.MicroTime` is written.
pub fn rfc3339_micro(t: Timestamp) -> String {
    written(t, true)
}

/// By hand, because several times stand in every object that is written, and a format that is read anew costs more than
/// all the digits.
fn written(t: Timestamp, micros: bool) -> String {
    let at = jiff::tz::Offset::UTC.to_datetime(t);
    let mut out = String::with_capacity(27);
    // Years of four digits are all that RFC 3339 has; others keep their sign, as before.
    if !(0..=9999).contains(&at.year()) {
        return t.strftime(if micros { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" }).to_string();
    }
    let (year, month, day) = (at.year() as u32, at.month() as u32, at.day() as u32);
    let (hour, minute, second) = (at.hour() as u32, at.minute() as u32, at.second() as u32);
    for (n, digits, behind) in
        [(year, 4, '-'), (month, 2, '-'), (day, 2, 'T'), (hour, 2, ':'), (minute, 2, ':'), (second, 2, '.')]
    {
        push_digits(&mut out, n, digits);
        out.push(behind);
    }
    match micros {
        true => push_digits(&mut out, at.subsec_nanosecond() as u32 / 1000, 6),
        false => drop(out.pop()),
    }
    out.push('Z');
    out
}

fn push_digits(out: &mut String, n: u32, digits: u32) {
    for place in (0..digits).rev() {
        out.push((b'0' + (n / 10u32.pow(place) % 10) as u8) as char);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("2026-11-28T01:02:03.004005678Z", "2026-11-28T01:02:03Z", "2026-11-28T01:02:03.004005Z")]
    #[test_case("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000000Z")]
    #[test_case("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z")]
    #[test_case("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59Z", "1969-12-31T23:59:59.500000Z")]
    #[test_case("9999-12-30T21:59:59Z", "9999-12-30T21:59:59Z", "9999-12-30T21:59:59.000000Z")]
    fn times_are_written_as_upstream_does(time: &str, seconds: &str, micros: &str) {
        let t: Timestamp = time.parse().unwrap();
        assert_eq!((rfc3339(t).as_str(), rfc3339_micro(t).as_str()), (seconds, micros));
        assert_eq!(rfc3339(t), t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        assert_eq!(rfc3339_micro(t), t.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string());
    }
}
