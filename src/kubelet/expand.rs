//! `$(NAME)` in env values, commands and arguments.
//!
//! Rules: upstream `third_party/forked/golang/expansion`: `$$` gives `$`, an unknown name stays as written.

/// Replaces `$(NAME)` by what `lookup` gives.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match rest.chars().next() {
            Some('$') => {
                out.push('$');
                rest = &rest[1..];
            }
            Some('(') => match rest.find(')') {
                Some(end) => {
                    let name = &rest[1..end];
                    match lookup(name) {
                        Some(value) => out.push_str(&value),
                        None => out.push_str(&format!("$({name})")),
                    }
                    rest = &rest[end + 1..];
                }
                None => {
                    out.push_str("$(");
                    rest = &rest[1..];
                }
            },
            _ => out.push('$'),
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("$(A)-$(B)", "1-2"; "two names")]
    #[test_case("$$(A)", "$(A)"; "escaped")]
    #[test_case("$$$(A)", "$1"; "escaped dollar, then a name")]
    #[test_case("$(NONE)", "$(NONE)"; "unknown stays")]
    #[test_case("$A $", "$A $"; "no parentheses")]
    #[test_case("$(A", "$(A"; "open")]
    #[test_case("ä$(A)ö", "ä1ö"; "beside wide characters")]
    #[test_case("$()", "$()"; "empty name")]
    fn expands(text: &str, want: &str) {
        let lookup = |n: &str| match n {
            "A" => Some("1".to_owned()),
            "B" => Some("2".to_owned()),
            _ => None,
        };
        assert_eq!(expand(text, lookup), want);
    }
}
