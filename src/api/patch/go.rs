//! Values as Go prints them with `%v`, for messages that people know from upstream.

use std::fmt;

use serde_json::Value;

/// Prints `map[a:1 b:[x y]]`, keys sorted.
pub struct GoFmt<'a>(pub &'a Value);

impl fmt::Display for GoFmt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Null => f.write_str("<nil>"),
            Value::String(text) => f.write_str(text),
            Value::Bool(_) | Value::Number(_) => write!(f, "{}", self.0),
            Value::Array(items) => list(f, items),
            Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_by_key(|(k, _)| k.as_str());
                f.write_str("map[")?;
                for (i, (key, value)) in entries.into_iter().enumerate() {
                    let space = if i > 0 { " " } else { "" };
                    write!(f, "{space}{key}:{}", GoFmt(value))?;
                }
                f.write_str("]")
            }
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, items: &[Value]) -> fmt::Result {
    f.write_str("[")?;
    for (i, item) in items.iter().enumerate() {
        let space = if i > 0 { " " } else { "" };
        write!(f, "{space}{}", GoFmt(item))?;
    }
    f.write_str("]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn prints_as_go() {
        let v = json!({"b": [1, "x", null], "a": {"c": true}});
        assert_eq!(GoFmt(&v).to_string(), "map[a:map[c:true] b:[1 x <nil>]]");
    }
}
