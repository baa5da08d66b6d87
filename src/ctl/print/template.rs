//! Go templates, with kubectl's functions on top.

use std::collections::HashMap;

use base64::Engine;
use gtmpl_ng::{Context, FuncError, Template, Value as Go};
use serde_json::Value;

use crate::ctl::cx::Done;
use crate::ctl::fail::Failure;

/// The text that the template makes of the object.
pub fn render(text: &str, object: &Value) -> Done<String> {
    let bad = |e: &dyn std::fmt::Display| Failure::Plain(format!("error executing template {text:?}: {e}"));
    let malformed = |e: &dyn std::fmt::Display| {
        Failure::Plain(format!("error parsing template {text}, {}", without_column(&e.to_string())))
    };
    let mut template = Template::with_name("output");
    template.add_func("base64decode", decode);
    template.add_func("exists", exists);
    template.parse(text).map_err(|e| malformed(&e))?;
    template.render(&Context::from(go(object))).map_err(|e| bad(&e))
}

/// `template: output:1: unclosed action` of `template: output:1:8:15:unclosed action`: Go tells the line alone.
fn without_column(text: &str) -> String {
    let mut parts: Vec<&str> = text.splitn(6, ':').collect();
    let is_number = |part: &&str| part.trim().parse::<u32>().is_ok();
    if parts.len() == 6 && parts[2..5].iter().all(is_number) {
        parts.drain(3..5);
        return format!("{}:{}:{}: {}", parts[0], parts[1], parts[2], parts[3].trim_start());
    }
    text.to_owned()
}

fn decode(args: &[Go]) -> Result<Go, FuncError> {
    let [Go::String(text)] = args else { return Err(FuncError::Generic("base64decode takes one text".into())) };
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|e| FuncError::Generic(format!("base64decode: {e}")))?;
    Ok(Go::String(String::from_utf8_lossy(&bytes).into_owned()))
}

/// True when all keys lead somewhere: `exists .a "b" "c"`.
fn exists(args: &[Go]) -> Result<Go, FuncError> {
    let Some((mut at, keys)) = args.split_first() else { return Ok(Go::Bool(false)) };
    for key in keys {
        match (at, key) {
            (Go::Map(map) | Go::Object(map), Go::String(key)) => match map.get(key) {
                Some(below) => at = below,
                None => return Ok(Go::Bool(false)),
            },
            _ => return Ok(Go::Bool(false)),
        }
    }
    Ok(Go::Bool(true))
}

fn go(value: &Value) -> Go {
    match value {
        Value::Null => Go::Nil,
        Value::Bool(b) => Go::Bool(*b),
        Value::Number(n) => match n.as_i64() {
            Some(i) => i.into(),
            None => n.as_f64().unwrap_or_default().into(),
        },
        Value::String(text) => Go::String(text.clone()),
        Value::Array(items) => Go::Array(items.iter().map(go).collect()),
        Value::Object(map) => Go::Map(map.iter().map(|(k, v)| (k.clone(), go(v))).collect::<HashMap<_, _>>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    #[test]
    fn what_does_not_parse_is_told_as_go_tells_it() {
        let error = render("{{.nope", &json!({})).unwrap_err().to_string();
        assert_eq!(error, "error: error parsing template {{.nope, template: output:1: unclosed action");
    }

    #[test_case("{{.a.b}}", "1")]
    #[test_case("{{range .l}}<{{.}}>{{end}}", "<x><y>"; "range")]
    #[test_case("{{.s | base64decode}}", "hello"; "decodes")]
    #[test_case("{{if exists . \"a\" \"b\"}}yes{{end}}{{if exists . \"a\" \"c\"}}no{{end}}", "yes"; "exists")]
    fn renders(text: &str, want: &str) {
        let object = json!({"a": {"b": 1}, "l": ["x", "y"], "s": "aGVsbG8="});
        assert_eq!(render(text, &object).unwrap(), want);
    }
}
