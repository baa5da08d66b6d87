//! iSCSI targets, of pods' volumes and of persistent volumes.

use super::Field;

/// Bytes that a volume's name and its portal may have together when an initiator is named.
const NAME_AND_PORTAL_MAX: usize = 64;
const INVALID: &str = "must be valid format";

/// A target. Whose volume it is decides where its name's length is judged.
pub fn iscsi(field: &Field<'_>) {
    field.needs("targetPortal");
    if field.needs("iqn") {
        qualified(field, "iqn", "iqn");
    }
    if !(0..=255).contains(&field.int("lun").unwrap_or(0)) {
        field.at("lun").invalid("must be between 0 and 255, inclusive");
    }
    if (field.flag("chapAuthDiscovery") || field.flag("chapAuthSession")) && !field.has("secretRef") {
        field.errs.at("secretRef").required("");
    }
    if field.has("secretRef") {
        field.at("secretRef").needs("name");
    }
    if field.has("initiatorName") {
        // Upstream spells this path without the capital letter.
        qualified(field, "initiatorName", "initiatorname");
    }
}

/// True when a volume's name and its portal are too long together.
pub fn name_too_long(field: &Field<'_>, volume: &str) -> bool {
    field.has("initiatorName") && volume.len() + 1 + field.text("targetPortal").len() > NAME_AND_PORTAL_MAX
}

fn qualified(field: &Field<'_>, name: &str, shown: &str) {
    if !is_qualified(field.text(name)) {
        field.errs.at(shown).invalid(field.text(name), INVALID);
    }
}

/// `iqn.yyyy-mm.reversed.domain:name`, `eui.` and 16 letters or digits, or `naa.` and 32.
fn is_qualified(name: &str) -> bool {
    let fixed = |length: usize| {
        let rest: Vec<char> = name.chars().skip(3).collect();
        rest.len() == length + 1 && rest[1..].iter().all(char::is_ascii_alphanumeric)
    };
    match name.get(..3) {
        // Upstream looks for the pattern anywhere before the end.
        Some("iqn") => name.match_indices("iqn.").any(|(at, prefix)| is_dated_domain(&name[at + prefix.len()..])),
        Some("eui") => fixed(16),
        Some("naa") => fixed(32),
        _ => false,
    }
}

fn is_dated_domain(rest: &str) -> bool {
    let b = rest.as_bytes();
    let digits = |range: std::ops::Range<usize>| b.get(range).is_some_and(|d| d.iter().all(u8::is_ascii_digit));
    if !(digits(0..4) && b.get(4) == Some(&b'-') && digits(5..7) && b.get(7) == Some(&b'.')) {
        return false;
    }
    let Some((domain, name)) = rest[8..].split_once(':') else { return false };
    !domain.is_empty()
        && domain.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.'))
        && !name.is_empty()
        && !name.chars().any(|c| c.is_ascii_whitespace() || ",;*&$|".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("iqn.2001-04.com.example:storage", true)]
    #[test_case("iqn.2001-4.com.example:x", false; "a short month")]
    #[test_case("iqn.2001-04.com.example", false; "no name behind the domain")]
    #[test_case("iqn.2001-04.com.example:a b", false; "a blank")]
    #[test_case("eui.0123456789abcdef", true)]
    #[test_case("naa.0123456789abcdef", false; "a short number")]
    #[test_case("iqn.", false; "nothing behind")]
    fn names(name: &str, ok: bool) {
        assert_eq!(is_qualified(name), ok);
    }
}
