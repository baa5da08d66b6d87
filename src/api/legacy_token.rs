//! Tokens of accounts in Secrets: when one was used last, and that one is not taken any more.
//!
//! The API notes the first, the token cleaner the second. Rules: upstream `pkg/serviceaccount/legacy.go`.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// On a Secret: the day on which its token was used last.
pub const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// On a Secret: the day since which its token is not taken.
pub const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

const FORMAT: &str = "%Y-%m-%d";

/// A time's day, UTC.
pub fn day(time: Timestamp) -> Date {
    time.to_zoned(TimeZone::UTC).date()
}

/// As the labels have it.
pub fn text(day: Date) -> String {
    day.strftime(FORMAT).to_string()
}

/// From a label; none when it is no day.
pub fn parse(text: &str) -> Option<Date> {
    Date::strptime(FORMAT, text).ok()
}

/// True when the label says that the token was used today; or tomorrow, by a server whose clock is ahead.
pub fn is_noted(label: Option<&str>, today: Date) -> bool {
    let noted = label.and_then(parse);
    noted.is_some_and(|noted| noted == today || noted == today.saturating_add(1.day()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case(None => false; "never")]
    #[test_case(Some("2025-12-31") => false; "yesterday")]
    #[test_case(Some("2026-01-01") => true; "today")]
    #[test_case(Some("2026-01-02") => true; "by a clock that is ahead")]
    #[test_case(Some("today") => false)]
    fn noted(label: Option<&str>) -> bool {
        is_noted(label, day("2026-01-01T23:59:59Z".parse().unwrap()))
    }

    #[test]
    fn days_are_written_as_they_are_read() {
        assert_eq!(parse("2026-01-01").map(text).as_deref(), Some("2026-01-01"));
    }
}
