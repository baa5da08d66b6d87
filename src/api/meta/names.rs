//! What names, label keys and label values may look like.
//!
//! Rules: upstream `apimachinery/pkg/util/validation`. Every function returns the reasons why not; none means valid.

const DNS1123_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS1123_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS1035_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// Longest DNS label, bytes.
pub const LABEL_MAX: usize = 63;
/// Longest DNS subdomain, bytes.
pub const SUBDOMAIN_MAX: usize = 253;

fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn ends_alphanumeric(s: &str) -> bool {
    let b = s.as_bytes();
    !b.is_empty() && b[0].is_ascii_alphanumeric() && b[b.len() - 1].is_ascii_alphanumeric()
}

fn is_dns_label(s: &str) -> bool {
    ends_alphanumeric(s) && s.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
}

fn check(s: &str, max: usize, ok: bool, why: &str) -> Vec<String> {
    let mut out = Vec::new();
    if s.len() > max {
        out.push(too_long(max));
    }
    if !ok {
        out.push(why.to_owned());
    }
    out
}

/// `my-name`, at most 63 bytes.
pub fn dns1123_label(s: &str) -> Vec<String> {
    check(s, LABEL_MAX, is_dns_label(s), DNS1123_LABEL)
}

/// `my.name`, at most 253 bytes.
pub fn dns1123_subdomain(s: &str) -> Vec<String> {
    check(s, SUBDOMAIN_MAX, s.split('.').all(is_dns_label), DNS1123_SUBDOMAIN)
}

/// The same where a label may start with an underscore and have more inside, as in `_http._tcp.my.name`.
pub fn dns1123_subdomain_with_underscore(s: &str) -> Vec<String> {
    let is_label = |l: &str| {
        let l = l.strip_prefix('_').unwrap_or(l);
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let ends = l.bytes().next().is_some_and(plain) && l.bytes().next_back().is_some_and(plain);
        ends && l.bytes().all(|c| plain(c) || matches!(c, b'-' | b'_'))
    };
    check(s, SUBDOMAIN_MAX, s.split('.').all(is_label), DNS1123_SUBDOMAIN)
}

/// `my-name` that starts with a letter, at most 63 bytes.
pub fn dns1035_label(s: &str) -> Vec<String> {
    check(s, LABEL_MAX, is_dns_label(s) && s.as_bytes()[0].is_ascii_lowercase(), DNS1035_LABEL)
}

/// A name that can stand in a path: no `/`, no `%`, not `.` or `..`.
pub fn path_segment(s: &str) -> Vec<String> {
    match s {
        "." | ".." => vec![format!("may not be '{s}'")],
        _ => ['/', '%'].iter().filter(|c| s.contains(**c)).map(|c| format!("may not contain '{c}'")).collect(),
    }
}

/// A label or annotation key: `name` or `prefix/name`.
pub fn qualified_name(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    let name = match s.split('/').collect::<Vec<_>>()[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                out.push("prefix part must be non-empty".to_owned());
            } else {
                out.extend(dns1123_subdomain(prefix).into_iter().map(|e| format!("prefix part {e}")));
            }
            name
        }
        _ => {
            return vec![
                "a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
                    .replacen("a valid label key", "a qualified name", 1),
            ];
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        out.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !is_loose(name) {
        out.push(QUALIFIED.to_owned());
    }
    out
}

/// A label value; the empty one is valid.
pub fn label_value(s: &str) -> Vec<String> {
    check(s, LABEL_MAX, s.is_empty() || is_loose(s), LABEL_VALUE)
}

fn is_loose(s: &str) -> bool {
    ends_alphanumeric(s) && s.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(dns1123_subdomain("a.b-c.d").is_empty());
        assert!(dns1123_subdomain_with_underscore("_http._tcp.a_b").is_empty());
        assert!(
            !dns1123_subdomain_with_underscore("a_").is_empty() && !dns1123_subdomain_with_underscore("").is_empty()
        );
        assert_eq!(dns1123_subdomain("A").len(), 1);
        assert_eq!(dns1123_label(&"a".repeat(64)), ["must be no more than 63 bytes"]);
        assert!(!dns1035_label("1a").is_empty());
        assert!(qualified_name("example.com/My_Name").is_empty());
        assert!(!qualified_name("a/b/c").is_empty());
        assert!(!qualified_name("/b").is_empty());
        assert!(label_value("").is_empty() && !label_value("-a").is_empty());
        assert_eq!(path_segment("a/b%"), ["may not contain '/'", "may not contain '%'"]);
    }
}
