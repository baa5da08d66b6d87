//! Numbers that may be percentages.

use serde_json::Value;

/// How a percentage becomes a whole number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// To the next larger one.
    Up,
    /// To the next smaller one.
    Down,
}

/// An `IntOrString`: a number as it is, `"25%"` of `total`. What reads as neither counts as nothing.
pub fn resolve(value: Option<&Value>, total: i64, round: Round) -> i64 {
    let Some(value) = value else { return 0 };
    if let Some(n) = value.as_i64() {
        return n;
    }
    let percent: Option<i64> = value.as_str().and_then(|s| s.strip_suffix('%')).and_then(|s| s.parse().ok());
    match (percent, round) {
        (None, _) => 0,
        (Some(p), Round::Up) => (p * total + 99).div_euclid(100),
        (Some(p), Round::Down) => (p * total).div_euclid(100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    #[test_case(json!(3), 10, Round::Up, 3)]
    #[test_case(json!("25%"), 10, Round::Up, 3)]
    #[test_case(json!("25%"), 10, Round::Down, 2)]
    #[test_case(json!("0%"), 10, Round::Up, 0)]
    #[test_case(json!("100%"), 7, Round::Down, 7)]
    #[test_case(json!("x"), 7, Round::Down, 0)]
    fn resolves(value: Value, total: i64, round: Round, want: i64) {
        assert_eq!(resolve(Some(&value), total, round), want);
    }
}
