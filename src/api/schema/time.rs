//! Times and durations in Go's written forms: `metav1.Time`, `metav1.MicroTime`, `metav1.Duration`.

use jiff::Timestamp;

const NANOS: i64 = 1_000_000_000;

/// Units of Go durations in nanoseconds, as `time.ParseDuration` knows them.
const UNITS: [(&str, i64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", NANOS),
    ("m", 60 * NANOS),
    ("h", 3600 * NANOS),
];

/// Reads RFC 3339 as strictly as Go does. `fraction` is the number of digits that must follow the seconds; none takes
/// any number.
pub fn parse_rfc3339(text: &str, fraction: Option<usize>) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let shape = b"0000-00-00T00:00:00";
    let like = |b: &u8, s: &u8| if *s == b'0' { b.is_ascii_digit() } else { b == s };
    if bytes.len() <= shape.len() || !bytes.iter().zip(shape).all(|(b, s)| like(b, s)) {
        return None;
    }
    let mut rest = &text[shape.len()..];
    let mut digits = 0;
    if let Some(after) = rest.strip_prefix('.') {
        digits = after.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return None;
        }
        rest = &after[digits..];
    }
    let zone = rest.as_bytes();
    let offset = |z: &[u8]| {
        z.len() == 6
            && matches!(z[0], b'+' | b'-')
            && z[3] == b':'
            && [1, 2, 4, 5].iter().all(|i| z[*i].is_ascii_digit())
    };
    if !(zone == b"Z" || offset(zone)) || fraction.is_some_and(|f| f != digits) {
        return None;
    }
    text.parse().ok()
}

/// True for a time, one that [`parse_rfc3339`] has read, that stands there as it would be written: in UTC, with so many
/// digits behind the seconds. No leap second: that is written as the one before.
pub fn is_canonical(text: &str, digits: usize) -> bool {
    let length = if digits == 0 { 20 } else { 21 + digits };
    text.len() == length && text.ends_with('Z') && text.get(17..19) != Some("60")
}

/// `2006-01-02T15:04:05Z`: what `metav1.Time` writes, whole seconds in UTC.
pub fn format_seconds(time: Timestamp) -> String {
    crate::util::clock::rfc3339(time)
}

/// `2006-01-02T15:04:05.000000Z`: what `metav1.MicroTime` writes.
pub fn format_micros(time: Timestamp) -> String {
    crate::util::clock::rfc3339_micro(time)
}

/// True for Go's zero time, 0001-01-01T00:00:00Z, which is written as null.
pub fn is_zero(time: Timestamp) -> bool {
    time.as_second() == -62_135_596_800 && time.subsec_nanosecond() == 0
}

/// Nanoseconds of a Go duration (`1h30m`, `-1.5s`); none when it is malformed or beyond 292 years.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total: i128 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let nanos = UNITS.iter().find(|(name, _)| *name == unit)?.1 as i128;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || whole.len() > 19 || fraction.contains('.') {
            return None;
        }
        total += if whole.is_empty() { 0 } else { whole.parse::<i128>().ok()? } * nanos;
        let kept = &fraction[..fraction.len().min(18)];
        if !kept.is_empty() {
            total += kept.parse::<i128>().ok()? * nanos / 10i128.pow(kept.len() as u32);
        }
        rest = tail;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// A duration as Go writes it: `1h30m0s`, `1.5s`, `100ms`, `0s`.
pub fn format_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let decimal = |n: u64, unit: u64| {
        let (whole, fraction) = (n / unit, n % unit);
        let digits = unit.ilog10() as usize;
        match fraction {
            0 => whole.to_string(),
            f => format!("{whole}.{}", format!("{f:0digits$}").trim_end_matches('0')),
        }
    };
    match n {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{n}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(n, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(n, 1_000_000)),
        _ => {
            let (seconds, nano) = (n / NANOS as u64, n % NANOS as u64);
            let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            let s = decimal(s * NANOS as u64 + nano, NANOS as u64);
            match (h, m) {
                (0, 0) => format!("{sign}{s}s"),
                (0, m) => format!("{sign}{m}m{s}s"),
                (h, m) => format!("{sign}{h}h{m}m{s}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("1h30m", "1h30m0s")]
    #[test_case("90s", "1m30s")]
    #[test_case("1.5s", "1.5s")]
    #[test_case("-100ms", "-100ms")]
    #[test_case("0", "0s")]
    #[test_case("1us", "1\u{b5}s"; "micro")]
    #[test_case("36h", "36h0m0s")]
    fn durations(text: &str, want: &str) {
        assert_eq!(parse_duration(text).map(format_duration).as_deref(), Some(want));
    }

    #[test_case(""; "empty")]
    #[test_case("5"; "no unit")]
    #[test_case("1x")]
    #[test_case("s")]
    #[test_case("99999999999h"; "too long")]
    fn no_durations(text: &str) {
        assert_eq!(parse_duration(text), None);
    }

    #[test_case("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z")]
    #[test_case("2026-01-02T03:04:05.999Z", "2026-01-02T03:04:05Z"; "fractions are cut off")]
    #[test_case("2026-01-02T03:04:05+01:30", "2026-01-02T01:34:05Z"; "in UTC")]
    #[test_case("2026-01-02T03:04:60Z", "2026-01-02T03:04:59Z"; "a leap second")]
    fn times(text: &str, want: &str) {
        let time = parse_rfc3339(text, None).unwrap();
        assert_eq!(format_seconds(time), want);
        assert_eq!(is_canonical(text, 0), text == want);
    }

    #[test]
    fn micro_times_have_six_digits() {
        let t = parse_rfc3339("2026-01-02T03:04:05.000120Z", Some(6)).unwrap();
        assert_eq!(format_micros(t), "2026-01-02T03:04:05.000120Z");
        assert!(is_canonical("2026-01-02T03:04:05.000120Z", 6) && !is_canonical("2026-01-02T03:04:05.000120+01:00", 6));
        assert!(parse_rfc3339("2026-01-02T03:04:05Z", Some(6)).is_none());
    }

    #[test_case("2026-01-02"; "no time")]
    #[test_case("2026-01-02 03:04:05Z"; "a space")]
    #[test_case("2026-01-02T03:04:05"; "no zone")]
    #[test_case("2026-13-02T03:04:05Z"; "no such month")]
    #[test_case("2026-01-02T03:04:05.Z"; "empty fraction")]
    fn no_times(text: &str) {
        assert!(parse_rfc3339(text, None).is_none());
    }
}
