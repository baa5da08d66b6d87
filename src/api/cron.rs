//! Schedules of CronJobs: five fields, or a macro.
//!
//! Rules: robfig/cron v3's standard parser, which upstream uses. Times that a clock jumps over are left out; those that it
//! shows twice come twice.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// Years to look ahead for the next time: `0 0 30 2 *` has none.
const YEARS_AHEAD: i64 = 5;

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// At minutes.
    Fields(Box<Fields>),
    /// `@every`: again and again after so much time.
    Every(SignedDuration),
}

/// What each of the five fields allows, a bit each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// The day of the month or of the week is `*`: both must fit; otherwise one is enough.
    both_days: bool,
}

impl Schedule {
    /// Reads a schedule; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = match text.strip_prefix("TZ=").or(text.strip_prefix("CRON_TZ=")) {
            Some(rest) => rest.split_once(' ').map_or("", |(_, fields)| fields),
            None => text,
        };
        let plain = match text.strip_prefix('@') {
            None => text,
            Some("yearly" | "annually") => "0 0 1 1 *",
            Some("monthly") => "0 0 1 * *",
            Some("weekly") => "0 0 * * 0",
            Some("daily" | "midnight") => "0 0 * * *",
            Some("hourly") => "0 * * * *",
            Some(other) => {
                let every = other.strip_prefix("every ").and_then(duration);
                return every.map(Self::Every).ok_or_else(|| format!("unrecognized descriptor: {text}"));
            }
        };
        let fields: Vec<&str> = plain.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(format!("expected exactly 5 fields, found {}: {fields:?}", fields.len()));
        };
        let any = |f: &str| f.split(',').any(|part| matches!(part, "*" | "?" | "*/1" | "?/1"));
        Ok(Self::Fields(Box::new(Fields {
            minutes: field(minutes, 0, 59, 0, &[])?,
            hours: field(hours, 0, 23, 0, &[])?,
            days: field(days, 1, 31, 0, &[])?,
            months: field(months, 1, 12, 1, MONTHS)?,
            weekdays: field(weekdays, 0, 6, 0, DAYS)?,
            both_days: any(days) || any(weekdays),
        })))
    }

    /// The first time after `t`; none when there is none within some years.
    pub fn next(&self, t: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(delay) => {
                let whole = Timestamp::from_second(t.as_second()).ok()?;
                whole.checked_add(*delay).ok()
            }
            Self::Fields(fields) => fields.next(t, zone),
        }
    }
}

impl Fields {
    fn next(&self, t: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        // The next whole minute; zones' offsets are whole minutes nowadays.
        let start = Timestamp::from_second((t.as_second().div_euclid(60) + 1) * 60).ok()?;
        let mut z = start.to_zoned(zone.clone());
        let last = z.checked_add(YEARS_AHEAD.years()).ok()?;
        while z <= last {
            if !self.has_day(&z) {
                z = z.tomorrow().ok()?.start_of_day().ok()?;
            } else if !has(self.hours, z.hour()) {
                z = z.checked_add((60 - i64::from(z.minute())).minutes()).ok()?;
            } else if !has(self.minutes, z.minute()) {
                z = z.checked_add(1.minute()).ok()?;
            } else {
                return Some(z.timestamp());
            }
        }
        None
    }

    fn has_day(&self, z: &Zoned) -> bool {
        let day = has(self.days, z.day());
        let weekday = has(self.weekdays, z.weekday().to_sunday_zero_offset());
        let fits = if self.both_days { day && weekday } else { day || weekday };
        fits && has(self.months, z.month())
    }
}

fn has(bits: u64, n: i8) -> bool {
    bits >> n & 1 == 1
}

fn field(text: &str, min: u32, max: u32, base: u32, words: &[&str]) -> Result<u64, String> {
    text.split(',').try_fold(0, |bits, part| Ok(bits | part_of(part, min, max, base, words)?))
}

fn part_of(part: &str, min: u32, max: u32, base: u32, words: &[&str]) -> Result<u64, String> {
    let value = |text: &str| -> Result<u32, String> {
        let word = words.iter().position(|w| w.eq_ignore_ascii_case(text));
        match word {
            Some(i) => Ok(u32::try_from(i).unwrap_or(0) + base),
            None => text.parse().map_err(|_| format!("failed to parse int from {text}")),
        }
    };
    let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
    let (first, last) = match range.split_once('-') {
        _ if matches!(range, "*" | "?") => (min, max),
        Some((first, last)) => (value(first)?, value(last)?),
        None if step.is_some() => (value(range)?, max),
        None => (value(range)?, value(range)?),
    };
    if first < min {
        return Err(format!("beginning of range ({first}) below minimum ({min}): {part}"));
    }
    if last > max {
        return Err(format!("end of range ({last}) above maximum ({max}): {part}"));
    }
    if first > last {
        return Err(format!("beginning of range ({first}) beyond end of range ({last}): {part}"));
    }
    let step = match step.map(str::parse::<usize>) {
        None => 1,
        Some(Ok(0)) => return Err(format!("step of range should be a positive number: {part}")),
        Some(Err(_)) => return Err(format!("failed to parse int from {part}")),
        Some(Ok(step)) => step,
    };
    Ok((first..=last).step_by(step).fold(0, |bits, n| bits | 1 << n))
}

/// A duration in Go's form, as `1h30m`; at least a second, in whole ones.
fn duration(text: &str) -> Option<SignedDuration> {
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let units = [("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
        let (unit, worth) = units.into_iter().find(|(u, _)| rest[digits..].starts_with(u))?;
        seconds += rest[..digits].parse::<f64>().ok()? * worth;
        rest = &rest[digits + unit.len()..];
    }
    let whole = (!text.is_empty()).then(|| seconds.max(1.0).floor())?;
    SignedDuration::try_from_secs_f64(whole).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("*/5 0-12/2 1,15 JAN-mar mon", true)]
    #[test_case("@hourly", true)]
    #[test_case("@every 1h30m", true)]
    #[test_case("@yearlyx", false)]
    #[test_case("@every x", false; "no duration")]
    #[test_case("* * * *", false; "four fields")]
    #[test_case("60 * * * *", false; "no such minute")]
    #[test_case("* * * * 7", false; "no such day")]
    #[test_case("*/0 * * * *", false; "no step")]
    #[test_case("5-3 * * * *", false; "backwards")]
    #[test_case("x * * * *", false; "no number")]
    fn schedules(text: &str, want: bool) {
        assert_eq!(Schedule::parse(text).is_ok(), want);
    }

    #[test_case("* * * * *", "UTC", "2026-01-01T00:00:30Z", Some("2026-01-01T00:01:00Z"); "each minute")]
    #[test_case("*/15 * * * *", "UTC", "2026-01-01T00:45:00Z", Some("2026-01-01T01:00:00Z"); "quarters")]
    #[test_case("30 3 * * 1", "UTC", "2026-01-01T00:00:00Z", Some("2026-01-05T03:30:00Z"); "Mondays")]
    #[test_case("0 0 13 * 5", "UTC", "2026-01-01T00:00:00Z", Some("2026-01-02T00:00:00Z"); "either day")]
    #[test_case("0 0 */2 * 5", "UTC", "2026-01-03T00:00:00Z", Some("2026-01-05T00:00:00Z"); "a step is no star")]
    #[test_case("0 0 31 * *", "UTC", "2026-01-31T00:00:00Z", Some("2026-03-31T00:00:00Z"); "long months")]
    #[test_case("0 0 29 2 *", "UTC", "2026-01-31T00:00:00Z", Some("2028-02-29T00:00:00Z"); "leap day")]
    #[test_case("0 0 30 2 *", "UTC", "2026-01-31T00:00:00Z", None; "never")]
    #[test_case("@every 90s", "UTC", "2026-01-01T00:00:00Z", Some("2026-01-01T00:01:30Z"); "every")]
    #[test_case("0 8 * * *", "Europe/Berlin", "2026-01-01T12:00:00Z", Some("2026-01-02T07:00:00Z"); "winter")]
    #[test_case("0 8 * * *", "Europe/Berlin", "2026-07-01T12:00:00Z", Some("2026-07-02T06:00:00Z"); "summer")]
    #[test_case("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", Some("2026-03-30T00:30:00Z"); "jumped over")]
    #[test_case("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", Some("2026-10-25T01:30:00Z"); "shown twice")]
    fn next_times(text: &str, zone: &str, after: &str, want: Option<&str>) {
        let zone = TimeZone::get(zone).unwrap();
        let next = Schedule::parse(text).unwrap().next(after.parse().unwrap(), &zone);
        assert_eq!(next.map(|t| t.to_string()), want.map(str::to_owned));
    }
}
