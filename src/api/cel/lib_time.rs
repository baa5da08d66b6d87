//! Times and durations.
//!
//! **Invariant:** times are within the years 1 to 9999.

use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};

use super::funcs::{Res, Row, fail, no_overload};
use super::value::Val;

const OF_TIME: &[&str] = &["timestamp.() int", "timestamp.(string) int"];
const OF_BOTH: &[&str] = &["timestamp.() int", "timestamp.(string) int", "duration.() int"];

/// FUNCTIONS of this library.
pub const ROWS: &[Row] = &[
    Row {
        name: "timestamp",
        decls: &["(timestamp) timestamp", "(string) timestamp", "(int) timestamp"],
        run: timestamp,
    },
    Row { name: "duration", decls: &["(duration) duration", "(string) duration", "(int) duration"], run: duration },
    Row { name: "getFullYear", decls: OF_TIME, run: |a| of_time(a, |z| z.year().into()) },
    Row { name: "getMonth", decls: OF_TIME, run: |a| of_time(a, |z| i64::from(z.month()) - 1) },
    Row { name: "getDayOfYear", decls: OF_TIME, run: |a| of_time(a, |z| i64::from(z.day_of_year()) - 1) },
    Row { name: "getDayOfMonth", decls: OF_TIME, run: |a| of_time(a, |z| i64::from(z.day()) - 1) },
    Row { name: "getDate", decls: OF_TIME, run: |a| of_time(a, |z| z.day().into()) },
    Row { name: "getDayOfWeek", decls: OF_TIME, run: |a| of_time(a, |z| z.weekday().to_sunday_zero_offset().into()) },
    Row { name: "getHours", decls: OF_BOTH, run: |a| of_both(a, 3_600 * SECOND, |z| z.hour().into()) },
    Row { name: "getMinutes", decls: OF_BOTH, run: |a| of_both(a, 60 * SECOND, |z| z.minute().into()) },
    Row { name: "getSeconds", decls: OF_BOTH, run: |a| of_both(a, SECOND, |z| z.second().into()) },
    Row { name: "getMilliseconds", decls: OF_BOTH, run: milliseconds },
];

const SECOND: i64 = 1_000_000_000;
/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// True for a time that can be said.
pub fn in_range(t: Timestamp) -> bool {
    SECONDS.contains(&t.as_second())
}

/// Reads a time as RFC 3339 writes it, which is more narrow than what the library takes.
pub fn parse_timestamp(text: &str) -> Option<Timestamp> {
    let b = text.as_bytes();
    let shape = b.len() >= 20 && b[4] == b'-' && b[7] == b'-' && b[10] == b'T' && b[13] == b':' && b[16] == b':';
    let zone = text.ends_with('Z') || b.len() >= 25 && matches!(b[b.len() - 6], b'+' | b'-');
    if !(shape && zone) {
        return None;
    }
    text.parse().ok().filter(|t| in_range(*t))
}

fn timestamp(a: &[Val]) -> Res {
    match a {
        [Val::Time(t)] => Ok(Val::Time(*t)),
        [Val::Str(s)] => match parse_timestamp(s) {
            Some(t) => Ok(Val::Time(t)),
            None => fail(format!("parsing time {s:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse")),
        },
        [Val::Int(i)] => match Timestamp::from_second(*i).ok().filter(|t| in_range(*t)) {
            Some(t) => Ok(Val::Time(t)),
            None => fail("timestamp overflow"),
        },
        _ => no_overload(),
    }
}

const UNITS: &[(&str, i64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 3_600 * SECOND),
];

/// Reads a duration as Go writes it: `1h30m`, `-1.5s`, `0`. In nanoseconds.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let unit = i128::from(UNITS.iter().find(|(name, _)| *name == &after[..unit_end])?.1);
        let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(i128::from(whole).checked_mul(unit)?)?;
        let digits = &fraction[..fraction.len().min(18)];
        if !digits.is_empty() {
            total = total.checked_add(digits.parse::<i128>().ok()? * unit / 10i128.pow(digits.len() as u32))?;
        }
        rest = &after[unit_end..];
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

fn duration(a: &[Val]) -> Res {
    match a {
        [Val::Duration(d)] => Ok(Val::Duration(*d)),
        [Val::Str(s)] => match parse_duration(s) {
            Some(d) => Ok(Val::Duration(d)),
            None => fail(format!("time: invalid duration {s:?}")),
        },
        [Val::Int(i)] => Ok(Val::Duration(*i)),
        _ => no_overload(),
    }
}

/// `1.5s`, as the language writes durations.
pub fn duration_text(nanos: i64) -> String {
    let (sign, n) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let (whole, fraction) = (n / SECOND as u64, n % SECOND as u64);
    let mut text = format!("{sign}{whole}");
    if fraction > 0 {
        text += format!(".{fraction:09}").trim_end_matches('0');
    }
    text + "s"
}

/// As RFC 3339 writes it, in UTC.
pub fn timestamp_text(t: Timestamp) -> String {
    t.to_string()
}

fn zoned(t: Timestamp, zone: Option<&str>) -> Result<Zoned, super::funcs::Error> {
    let Some(name) = zone else { return Ok(t.to_zoned(TimeZone::UTC)) };
    if let Some((hours, minutes)) = name.split_once(':') {
        let negative = hours.starts_with('-');
        let parsed = hours.trim_start_matches(['+', '-']).parse::<i32>().ok().zip(minutes.parse::<u8>().ok());
        if let Some((h, m)) = parsed.filter(|(h, m)| *h < 24 && *m < 60) {
            let seconds = (h * 60 + i32::from(m)) * 60;
            if let Ok(offset) = Offset::from_seconds(if negative { -seconds } else { seconds }) {
                return Ok(t.to_zoned(offset.to_time_zone()));
            }
        }
        return fail(format!("invalid time zone offset {name}"));
    }
    match name {
        "" | "UTC" | "Z" => Ok(t.to_zoned(TimeZone::UTC)),
        _ => match TimeZone::get(name) {
            Ok(zone) => Ok(t.to_zoned(zone)),
            Err(_) => fail(format!("unknown time zone {name}")),
        },
    }
}

fn of_time(a: &[Val], get: fn(&Zoned) -> i64) -> Res {
    match a {
        [Val::Time(t)] => Ok(Val::Int(get(&zoned(*t, None)?))),
        [Val::Time(t), Val::Str(zone)] => Ok(Val::Int(get(&zoned(*t, Some(zone))?))),
        _ => no_overload(),
    }
}

fn of_both(a: &[Val], unit: i64, get: fn(&Zoned) -> i64) -> Res {
    match a {
        [Val::Duration(d)] => Ok(Val::Int(d / unit)),
        _ => of_time(a, get),
    }
}

fn milliseconds(a: &[Val]) -> Res {
    match a {
        // Of the second that has begun, where all others count from the start.
        [Val::Duration(d)] => Ok(Val::Int(d / 1_000_000 % 1_000)),
        _ => of_time(a, |z| z.millisecond().into()),
    }
}
