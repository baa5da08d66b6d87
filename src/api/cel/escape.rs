//! Names of fields that are no identifiers, as expressions write them: `a-b` is `a__dash__b`.
//!
//! Rules: upstream `apiserver/pkg/cel/escaping.go`.

/// Words that cannot be fields as they are.
const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Marks within a name and what they stand for.
const MARKS: &[(&str, &str)] = &[("__underscores__", "__"), ("__dot__", "."), ("__dash__", "-"), ("__slash__", "/")];

/// A field's name as expressions write it; none when they cannot.
pub fn escape(name: &str) -> Option<String> {
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let first = name.bytes().next()?;
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.' | b'/');
    if first.is_ascii_digit() || !name.bytes().all(plain) {
        return None;
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    'next: while let Some(c) = rest.chars().next() {
        for (mark, text) in MARKS {
            if let Some(after) = rest.strip_prefix(text) {
                out.push_str(mark);
                rest = after;
                continue 'next;
            }
        }
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    Some(out)
}

/// The name that an escaped one stands for.
pub fn unescape(name: &str) -> String {
    if let Some(word) = name.strip_prefix("__").and_then(|n| n.strip_suffix("__"))
        && RESERVED.contains(&word)
    {
        return word.to_owned();
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    'next: while let Some(c) = rest.chars().next() {
        for (mark, text) in MARKS {
            if let Some(after) = rest.strip_prefix(mark) {
                out.push_str(text);
                rest = after;
                continue 'next;
            }
        }
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("plain", Some("plain"))]
    #[test_case("a-b", Some("a__dash__b"))]
    #[test_case("a.b/c", Some("a__dot__b__slash__c"))]
    #[test_case("a__b", Some("a__underscores__b"))]
    #[test_case("namespace", Some("__namespace__"))]
    #[test_case("1a", None)]
    #[test_case("a b", None)]
    #[test_case("", None)]
    fn there_and_back(name: &str, want: Option<&str>) {
        assert_eq!(escape(name).as_deref(), want);
        if let Some(escaped) = want {
            assert_eq!(unescape(escaped), name);
        }
    }
}
