//! Times as people read them: `5m12s`, `3d4h`.
//!
//! Rules: `apimachinery/pkg/util/duration` `HumanDuration`.

use jiff::Timestamp;

/// Seconds in few signs; the older, the coarser.
pub fn human(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |a: i64, unit_a: &str, b: i64, unit_b: &str| {
        if b == 0 { format!("{a}{unit_a}") } else { format!("{a}{unit_a}{b}{unit_b}") }
    };
    match seconds {
        s if s < -1 => "<invalid>".into(),
        s if s < 0 => "0s".into(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, "h", s % HOUR / MINUTE, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, "d", s % DAY / HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, "y", s % YEAR / DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

/// How long ago an RFC 3339 time was.
pub fn since(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(then) => human(now.as_second() - then.as_second()),
        Err(_) => "<unknown>".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case(0, "0s")]
    #[test_case(119, "119s")]
    #[test_case(120, "2m")]
    #[test_case(312, "5m12s")]
    #[test_case(3600, "60m")]
    #[test_case(4 * 3600 + 60, "4h1m")]
    #[test_case(30 * 3600, "30h")]
    #[test_case(3 * 86400 + 3600, "3d1h")]
    #[test_case(9 * 86400, "9d")]
    #[test_case(3 * 365 * 86400, "3y")]
    #[test_case(-5, "<invalid>")]
    fn durations(seconds: i64, want: &str) {
        assert_eq!(human(seconds), want);
    }

    #[test]
    fn what_is_no_time_is_unknown() {
        assert_eq!(since("x", Timestamp::UNIX_EPOCH), "<unknown>");
    }
}
