//! The formats of texts that upstream checks; others say nothing.
//!
//! Rules: upstream `kube-openapi/pkg/validation/strfmt` and the supported formats of
//! `apiextensions-apiserver/pkg/apiserver/validation/formats.go`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use base64::Engine;
use jiff::Timestamp;
use jiff::civil::Date;
use regex::Regex;

use crate::api::meta::names;

/// What is checked.
const KNOWN: [&str; 28] = [
    "bsonobjectid",
    "byte",
    "cidr",
    "creditcard",
    "date",
    "date-time",
    "datetime",
    "duration",
    "email",
    "hexcolor",
    "hostname",
    "ipv4",
    "ipv6",
    "isbn",
    "isbn10",
    "isbn13",
    "k8s-long-name",
    "k8s-short-name",
    "mac",
    "password",
    "rgbcolor",
    "ssn",
    "uri",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "int-or-string",
];

/// True for a format of texts that upstream knows.
pub fn is_known(format: &str) -> bool {
    KNOWN.contains(&format)
}

/// False where the text is not of the format.
pub(super) fn is_valid(format: &str, text: &str) -> bool {
    match format {
        "bsonobjectid" => text.len() == 24 && is_hex(text),
        "uri" => is_uri(text),
        "email" => is_email(text),
        "hostname" => text.len() <= 255 && text.split('.').all(is_host_label),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some('3')),
        "uuid4" => is_uuid(text, Some('4')),
        "uuid5" => is_uuid(text, Some('5')),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "date" => text.len() == 10 && text.parse::<Date>().is_ok(),
        "datetime" | "date-time" => is_date_time(text),
        "duration" => is_duration(text),
        "creditcard" => is_card(text),
        "isbn" => is_isbn(text, 10) || is_isbn(text, 13),
        "isbn10" => is_isbn(text, 10),
        "isbn13" => is_isbn(text, 13),
        "ssn" => {
            static SSN: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\d{3}[- ]?\d{2}[- ]?\d{4}$").expect("valid"));
            SSN.is_match(text)
        }
        "hexcolor" => {
            let digits = text.strip_prefix('#').unwrap_or(text);
            matches!(digits.len(), 3 | 6) && is_hex(digits)
        }
        "rgbcolor" => is_rgb(text),
        "k8s-short-name" => names::dns1123_label(text).is_empty(),
        "k8s-long-name" => names::dns1123_subdomain(text).is_empty(),
        _ => true,
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// What Go's `url.ParseRequestURI` takes: a scheme or an absolute path.
fn is_uri(text: &str) -> bool {
    if text.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return false;
    }
    if text.starts_with('/') {
        return true;
    }
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let first = scheme.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    let plain = scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    first && plain && !rest.is_empty()
}

fn is_email(text: &str) -> bool {
    // An address with a name before it is one as well.
    let address = text.rsplit_once('<').and_then(|(_, a)| a.strip_suffix('>')).unwrap_or(text);
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let clean = |part: &str| !part.is_empty() && !part.contains(['@', ' ', '<', '>', ',', ';', '(', ')']);
    let dots = |part: &str| !part.starts_with('.') && !part.ends_with('.') && !part.contains("..");
    clean(local) && clean(domain) && dots(local) && dots(domain)
}

fn is_host_label(label: &str) -> bool {
    let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    label.len() <= 63
        && ends(label.bytes().next())
        && ends(label.bytes().last())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let max = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.bytes().all(|b| b.is_ascii_digit()) && length.parse::<u8>().is_ok_and(|l| l <= max)
}

fn is_mac(text: &str) -> bool {
    let by = |sign: char, digits: usize| {
        let parts: Vec<&str> = text.split(sign).collect();
        let bytes = parts.len() * digits / 2;
        matches!(bytes, 6 | 8 | 20) && parts.iter().all(|p| p.len() == digits && is_hex(p))
    };
    by(':', 2) || by('-', 2) || by('.', 4)
}

fn is_uuid(text: &str, version: Option<char>) -> bool {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let dashed = text.len() == 36 && [8, 13, 18, 23].iter().all(|i| text.as_bytes()[*i] == b'-');
    let formed = digits.len() == 32 && is_hex(&digits) && (dashed || text.len() == 32);
    let kind = version.is_none_or(|v| digits.chars().nth(12) == Some(v));
    let variant = version.is_none_or(|v| v == '3' || digits.chars().nth(16).is_some_and(|c| "89abAB".contains(c)));
    formed && kind && variant
}

fn is_date_time(text: &str) -> bool {
    static FORM: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:?\d{2})?$").expect("valid")
    });
    if !FORM.is_match(text) {
        return false;
    }
    let zoned = text.ends_with(['Z', 'z']) || text[19..].contains(['+', '-']);
    let whole = if zoned { text.to_owned() } else { format!("{text}Z") };
    whole.parse::<Timestamp>().is_ok()
}

/// Go's durations, and upstream's `3 days`.
fn is_duration(text: &str) -> bool {
    static GO: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^[-+]?(0|((\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h))+)$").expect("valid"));
    static WORDS: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r"^(\d+\s*(ns|nano|nanos?|nanoseconds?|us|µs|μs|micros?|microseconds?|ms|millis?|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|wks?|weeks?)\s*)+$",
        )
        .expect("valid")
    });
    GO.is_match(text) || WORDS.is_match(&text.to_lowercase())
}

fn is_card(text: &str) -> bool {
    let digits: Vec<u32> = text.chars().filter(|c| *c != '-' && *c != ' ').map_while(|c| c.to_digit(10)).collect();
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, d)| if i % 2 == 1 { if *d > 4 { d * 2 - 9 } else { d * 2 } } else { *d })
        .sum();
    (13..=16).contains(&digits.len())
        && text.chars().all(|c| c.is_ascii_digit() || c == '-' || c == ' ')
        && sum.is_multiple_of(10)
}

fn is_isbn(text: &str, length: usize) -> bool {
    let signs: Vec<char> = text.chars().filter(|c| *c != '-' && *c != ' ').collect();
    if signs.len() != length {
        return false;
    }
    let digit = |i: usize| match signs[i] {
        'X' | 'x' if length == 10 && i == 9 => Some(10),
        c => c.to_digit(10),
    };
    let Some(digits) = (0..length).map(digit).collect::<Option<Vec<u32>>>() else { return false };
    match length {
        10 => digits.iter().zip((1..=10).rev()).map(|(d, w)| d * w).sum::<u32>() % 11 == 0,
        _ => digits.iter().enumerate().map(|(i, d)| if i % 2 == 0 { *d } else { d * 3 }).sum::<u32>() % 10 == 0,
    }
}

fn is_rgb(text: &str) -> bool {
    let Some(inside) = text.strip_prefix("rgb(").and_then(|t| t.strip_suffix(')')) else { return false };
    let parts: Vec<&str> = inside.split(',').map(str::trim).collect();
    parts.len() == 3 && parts.iter().all(|p| p.parse::<u8>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("ipv4", &["1.2.3.4"], &["1.2.3", "::1"])]
    #[test_case("ipv6", &["::1"], &["1.2.3.4", "x"])]
    #[test_case("cidr", &["10.0.0.0/8", "fd00::/64"], &["10.0.0.0", "10.0.0.0/33", "10.0.0.0/+8"])]
    #[test_case("date", &["2024-01-31"], &["2024-13-01", "2024-1-1", "x"])]
    #[test_case("date-time", &["2024-01-01T00:00:00Z", "2024-01-01T00:00:00.5+02:00"], &["yesterday", "2024-01-01"])]
    #[test_case("duration", &["1h", "1h30m", "1.5s", "3 days", "0"], &["soon", "1 h x", ""])]
    #[test_case("byte", &["AAA=", ""], &["!", "AAA"])]
    #[test_case("uuid", &["11111111-2222-4333-8444-555555555555"], &["x", "1111"])]
    #[test_case("uuid5", &["11111111-2222-5333-8444-555555555555"], &["11111111-2222-4333-8444-555555555555"])]
    #[test_case("email", &["a@b.c", "A B <a@b.c>"], &["x", "@b", "a@", "a b@c"])]
    #[test_case("uri", &["http://x/y", "/path", "urn:a:b"], &["::", "x", "http://a b"])]
    #[test_case("hostname", &["a.b-c", "localhost"], &["-a", "a..b", ""])]
    #[test_case("mac", &["00:11:22:33:44:55", "0011.2233.4455"], &["00:11", "zz:11:22:33:44:55"])]
    #[test_case("creditcard", &["4111-1111-1111-1111"], &["4111111111111112", "x"])]
    #[test_case("isbn", &["0-306-40615-2", "978-0-306-40615-7"], &["0-306-40615-3", "1"])]
    #[test_case("ssn", &["111-22-3333"], &["1"])]
    #[test_case("hexcolor", &["#fff", "a0b1c2"], &["#ffff", "ggg"])]
    #[test_case("rgbcolor", &["rgb(1, 2,255)"], &["rgb(1,2)", "rgb(1,2,256)"])]
    #[test_case("bsonobjectid", &["507f1f77bcf86cd799439011"], &["507f"])]
    #[test_case("strange", &["anything"], &[])]
    fn formats(format: &str, good: &[&str], bad: &[&str]) {
        good.iter().for_each(|text| assert!(is_valid(format, text), "{text}"));
        bad.iter().for_each(|text| assert!(!is_valid(format, text), "{text}"));
    }
}
