//! Field selectors: `metadata.name=a,status.phase!=Running`.
//!
//! Rules: upstream `apimachinery/pkg/fields`; which fields a kind knows stands in its row.

use std::fmt;

use super::labels::SelectorError;

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// Field path, as `spec.nodeName`.
    pub field: String,
    /// Value to compare with.
    pub value: String,
    /// False for `!=`.
    pub equal: bool,
}

/// All terms must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector(pub Vec<Term>);

impl FieldSelector {
    /// Parses the query form. `\,`, `\=` and `\\` are escapes.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            let (field, value, equal) = part
                .split_once("!=")
                .map(|(f, v)| (f, v, false))
                .or_else(|| part.split_once("==").map(|(f, v)| (f, v, true)))
                .or_else(|| part.split_once('=').map(|(f, v)| (f, v, true)))
                .ok_or_else(|| SelectorError(format!("invalid selector: '{text}'; can't understand '{part}'")))?;
            terms.push(Term { field: field.trim().to_owned(), value: unescape(value)?, equal });
        }
        Ok(Self(terms))
    }

    /// True when it selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Evaluates with a look-up of field values; a field that the object does not have is "".
    pub fn matches<'a>(&self, field: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|t| (field(&t.field).unwrap_or("") == t.value) == t.equal)
    }

    /// The value that `field` must have, where the selector says so.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|t| t.equal && t.field == field).map(|t| t.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, t) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let op = if t.equal { "=" } else { "!=" };
            let value = t.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{}{op}{value}", t.field)?;
        }
        Ok(())
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(text: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                other => {
                    return Err(SelectorError(format!(
                        "invalid field selector: invalid escape sequence '\\{}' in '{text}'",
                        other.map(String::from).unwrap_or_default()
                    )));
                }
            },
            '=' => return Err(SelectorError(format!("invalid field selector: unescaped character in value: {text}"))),
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_known_and_missing_fields() {
        let s = FieldSelector::parse("spec.nodeName=n1,status.phase!=Failed,gone=").unwrap();
        assert!(s.matches(|f| match f {
            "spec.nodeName" => Some("n1"),
            _ => None,
        }));
        assert!(!s.matches(|_| None));
        assert_eq!(s.exact("spec.nodeName"), Some("n1"));
    }

    #[test]
    fn escapes_go_both_ways() {
        let s = FieldSelector::parse(r"a=x\,y\=z").unwrap();
        assert_eq!(s.0[0].value, "x,y=z");
        assert_eq!(FieldSelector::parse(&s.to_string()).unwrap(), s);
        assert!(FieldSelector::parse("a").is_err());
        assert!(FieldSelector::parse(r"a=\q").is_err());
    }
}
