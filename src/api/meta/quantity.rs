//! Quantities: fixed-point numbers with SI, binary or exponent suffixes, as `resource.Quantity`.
//!
//! Kept as nano-units in an `i128`; the largest magnitude is 2^63-1 units, as upstream caps it.

use std::fmt;

const NANO: i128 = 1_000_000_000;
const MAX: i128 = i64::MAX as i128 * NANO;

/// How a quantity was written, and is written back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `1k`, `500m`.
    DecimalSi,
    /// `1Ki`.
    BinarySi,
    /// `1e3`.
    DecimalExponent,
}

/// An exact number with its written form.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

/// Why a text is not a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct QuantityError;

const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

impl Quantity {
    /// Whole units, written in decimal.
    pub fn units(n: i64) -> Self {
        Self { nano: n as i128 * NANO, format: Format::DecimalSi }
    }

    /// Thousandths, written in decimal.
    pub fn milli(n: i64) -> Self {
        Self { nano: n as i128 * (NANO / 1000), format: Format::DecimalSi }
    }

    /// Bytes, written with binary suffixes.
    pub fn bytes(n: i64) -> Self {
        Self { nano: n as i128 * NANO, format: Format::BinarySi }
    }

    /// Exact, in nano-units; written with binary suffixes where it is a number of kibibytes.
    pub fn of_nanos(nano: i128) -> Self {
        let format = if nano % (1024 * NANO) == 0 { Format::BinarySi } else { Format::DecimalSi };
        Self { nano: nano.clamp(-MAX, MAX), format }
    }

    /// Parses upstream's grammar; what is finer than nano is rounded up, as upstream rounds.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (negative, body) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = body.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(body.len());
        let (number, suffix) = body.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(QuantityError);
        }
        let (format, ten, two) = Self::suffix(suffix)?;
        // value = digits * 10^(ten - fraction.len()) * 2^two, in nano-units.
        let digits = whole.trim_start_matches('0').to_owned() + fraction;
        let digits = digits.trim_start_matches('0');
        let mut exponent = ten - fraction.len() as i32 + 9;
        let mut nano: i128 = if digits.is_empty() {
            0
        } else {
            digits.get(..30.min(digits.len())).and_then(|d| d.parse().ok()).ok_or(QuantityError)?
        };
        exponent += digits.len().saturating_sub(30) as i32;
        nano = match nano.checked_mul(1i128 << two) {
            Some(n) => n,
            None => MAX,
        };
        while exponent > 0 && nano < MAX && nano != 0 {
            nano = nano.saturating_mul(10);
            exponent -= 1;
        }
        while exponent < 0 && nano != 0 {
            let up = nano % 10 != 0;
            nano = nano / 10 + i128::from(up);
            exponent += 1;
            if nano == 1 && up && exponent < 0 {
                break;
            }
        }
        nano = nano.min(MAX);
        Ok(Self { nano: if negative { -nano } else { nano }, format })
    }

    fn suffix(suffix: &str) -> Result<(Format, i32, u32), QuantityError> {
        if let Some((_, ten)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
            return Ok((Format::DecimalSi, *ten, 0));
        }
        if let Some((_, two)) = BINARY.iter().find(|(s, _)| *s == suffix) {
            return Ok((Format::BinarySi, 0, *two));
        }
        let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError)?;
        let ten: i32 = exponent.parse().map_err(|_| QuantityError)?;
        if (-1000..=1000).contains(&ten) { Ok((Format::DecimalExponent, ten, 0)) } else { Err(QuantityError) }
    }

    /// Whole units, rounded up.
    pub fn value(&self) -> i64 {
        ceil_div(self.nano, NANO)
    }

    /// Thousandths, rounded up.
    pub fn milli_value(&self) -> i64 {
        ceil_div(self.nano, NANO / 1000)
    }

    /// Nano-units, exact: for comparing and adding.
    pub fn nanos(&self) -> i128 {
        self.nano
    }

    /// The sum, written as the first.
    pub fn plus(self, other: Quantity) -> Self {
        let format = if self.nano == 0 { other.format } else { self.format };
        Self { nano: (self.nano + other.nano).clamp(-MAX, MAX), format }
    }

    /// The difference, written as the first.
    pub fn minus(self, other: Quantity) -> Self {
        self.plus(Self { nano: -other.nano, format: other.format })
    }

    /// True below zero.
    pub fn is_negative(&self) -> bool {
        self.nano < 0
    }
}

fn ceil_div(n: i128, by: i128) -> i64 {
    let q = n.div_euclid(by) + i128::from(n.rem_euclid(by) != 0);
    q.clamp(i64::MIN as i128, i64::MAX as i128) as i64
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, the largest suffix that keeps the number whole.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.nano;
        if n == 0 {
            return f.write_str("0");
        }
        if self.format == Format::BinarySi && n % NANO == 0 && (n / NANO).abs() >= 1024 {
            let mut units = n / NANO;
            let mut suffix = "";
            for (s, _) in BINARY {
                if units % 1024 != 0 {
                    break;
                }
                units /= 1024;
                suffix = s;
            }
            return write!(f, "{units}{suffix}");
        }
        let (mut value, mut ten) = (n, -9);
        while value % 1000 == 0 && ten < 18 {
            value /= 1000;
            ten += 3;
        }
        if self.format == Format::DecimalExponent {
            return if ten == 0 { write!(f, "{value}") } else { write!(f, "{value}e{ten}") };
        }
        let suffix = DECIMAL.iter().find(|(_, t)| *t == ten).map_or("", |(s, _)| s);
        write!(f, "{value}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("0", "0")]
    #[test_case("0.5", "500m")]
    #[test_case("1.5Gi", "1536Mi")]
    #[test_case("1024Ki", "1Mi")]
    #[test_case("1000", "1k")]
    #[test_case("1000m", "1")]
    #[test_case("100000000", "100M")]
    #[test_case("1e3", "1e3")]
    #[test_case("12e6", "12e6")]
    #[test_case("-1.5", "-1500m")]
    #[test_case("0.1n", "1n"; "finer than nano rounds up")]
    #[test_case("512Mi", "512Mi")]
    #[test_case("0.5Ki", "512")]
    #[test_case("+2", "2")]
    #[test_case(".5", "500m")]
    #[test_case("1E", "1E")]
    fn canonical(text: &str, want: &str) {
        assert_eq!(Quantity::parse(text).unwrap().to_string(), want);
    }

    #[test_case(""; "empty")]
    #[test_case("."; "dot")]
    #[test_case("1x")]
    #[test_case("1.2.3")]
    #[test_case("1 Gi"; "space")]
    #[test_case("e3"; "no digits")]
    #[test_case("1e-2147483648"; "no exponent's magnitude")]
    fn refused(text: &str) {
        assert!(Quantity::parse(text).is_err());
    }

    #[test]
    fn rounds_up_and_compares() {
        assert_eq!(Quantity::parse("100m").unwrap().value(), 1);
        assert_eq!(Quantity::parse("1500m").unwrap().milli_value(), 1500);
        assert!(Quantity::parse("1Gi").unwrap() > Quantity::parse("1G").unwrap());
        assert_eq!(Quantity::parse("1").unwrap(), Quantity::parse("1000m").unwrap());
        assert_eq!(Quantity::parse("9999999999999999999999").unwrap().value(), i64::MAX);
    }
}
