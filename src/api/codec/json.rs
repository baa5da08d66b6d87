//! JSON text to a value, with every duplicate field found.
//!
//! **Invariant:** of duplicate fields the last one counts, as in upstream's decoder.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{MAX_DEPTH, MAX_STRICT_ERRORS};

/// A parsed body.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// What it holds.
    pub value: Value,
    /// Paths of fields that stand there more than once, as `spec.foo` or `items[0].name`.
    pub duplicates: Vec<String>,
    /// For each of them, how many fields of the text are before it that are none.
    pub places: Vec<usize>,
}

/// Why a text is no JSON.
#[derive(Debug, thiserror::Error)]
#[error("json parse error: {0}")]
pub struct JsonError(#[from] serde_json::Error);

/// Parses one JSON value and nothing behind it.
pub fn parse(bytes: &[u8]) -> Result<Parsed, JsonError> {
    parse_at(bytes, 0)
}

/// The same for a text that stands `depth` levels deep in a body.
pub(super) fn parse_at(bytes: &[u8], depth: usize) -> Result<Parsed, JsonError> {
    let mut told = Told::default();
    let mut decoder = serde_json::Deserializer::from_slice(bytes);
    let value = Node { told: &mut told, depth }.deserialize(&mut decoder)?;
    decoder.end()?;
    Ok(told.of(value))
}

/// Encodes a value. A JSON value always encodes.
pub fn to_vec(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a JSON value serializes")
}

/// What is noted on the way through a text.
#[derive(Default)]
pub(super) struct Told {
    duplicates: Vec<String>,
    places: Vec<usize>,
    fields: usize,
}

impl Told {
    pub(super) fn of(self, value: Value) -> Parsed {
        Parsed { value, duplicates: self.duplicates, places: self.places }
    }
}

/// Builds a value from any self-describing format, and notes duplicate fields.
pub(super) struct Node<'a> {
    pub(super) told: &'a mut Told,
    pub(super) depth: usize,
}

impl Node<'_> {
    fn below<E: serde::de::Error>(&mut self) -> Result<Node<'_>, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format_args!("exceeded max depth of {MAX_DEPTH}")));
        }
        Ok(Node { told: self.told, depth: self.depth + 1 })
    }

    /// Puts `part` before the duplicates that were found below it.
    fn prefix(&mut self, since: usize, part: impl Fn() -> String) {
        for path in &mut self.told.duplicates[since..] {
            let dot = if path.starts_with('[') { "" } else { "." };
            *path = format!("{}{dot}{path}", part());
        }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let before = self.told.duplicates.len();
            let Some(item) = seq.next_element_seed(self.below()?)? else { return Ok(Value::Array(items)) };
            self.prefix(before, || format!("[{}]", items.len()));
            items.push(item);
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(Key(key)) = map.next_key()? {
            let before = self.told.duplicates.len();
            let place = self.told.fields;
            self.told.fields += 1;
            let value = map.next_value_seed(self.below()?)?;
            self.prefix(before, || key.clone());
            match members.entry(key) {
                serde_json::map::Entry::Vacant(free) => {
                    free.insert(value);
                }
                serde_json::map::Entry::Occupied(mut taken) => {
                    // It was no field of its own after all, also for what was found below it. Found out only now, because
                    // looking before would be a second look for every key.
                    self.told.fields -= 1;
                    self.told.places[before..].iter_mut().for_each(|place| *place -= 1);
                    if self.told.duplicates.len() < MAX_STRICT_ERRORS {
                        self.told.duplicates.push(taken.key().clone());
                        self.told.places.push(place);
                    }
                    taken.insert(value);
                }
            }
        }
        Ok(Value::Object(members))
    }
}

/// A key; YAML's numbers and booleans become their text.
pub(super) struct Key(pub(super) String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E>(self, v: &str) -> Result<Key, E> {
                Ok(Key(v.to_owned()))
            }

            fn visit_string<E>(self, v: String) -> Result<Key, E> {
                Ok(Key(v))
            }

            fn visit_bool<E>(self, v: bool) -> Result<Key, E> {
                Ok(Key(v.to_string()))
            }

            fn visit_i64<E>(self, v: i64) -> Result<Key, E> {
                Ok(Key(v.to_string()))
            }

            fn visit_u64<E>(self, v: u64) -> Result<Key, E> {
                Ok(Key(v.to_string()))
            }

            fn visit_f64<E>(self, v: f64) -> Result<Key, E> {
                Ok(Key(v.to_string()))
            }

            fn visit_unit<E>(self) -> Result<Key, E> {
                Ok(Key("null".to_owned()))
            }
        }
        deserializer.deserialize_any(KeyVisitor)
    }
}

/// The same JSON in lines, two spaces for each level, as Go's `json.Indent` lays it out. The input must be valid.
pub fn indent(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + 2 * depth, b' ');
    };
    let (mut depth, mut in_text, mut escaped, mut opened) = (0_usize, false, false, false);
    for &b in json {
        if in_text {
            out.push(b);
            (in_text, escaped) = (escaped || b != b'"', !escaped && b == b'\\');
            continue;
        }
        let closes = matches!(b, b'}' | b']');
        if b.is_ascii_whitespace() {
            continue;
        }
        if std::mem::take(&mut opened) && !closes {
            depth += 1;
            line(&mut out, depth);
        } else if closes && !matches!(out.last(), Some(b'{' | b'[')) {
            depth = depth.saturating_sub(1);
            line(&mut out, depth);
        }
        out.push(b);
        match b {
            b'"' => in_text = true,
            b'{' | b'[' => opened = true,
            b',' => line(&mut out, depth),
            b':' => out.push(b' '),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indents_as_go_does() {
        let compact = br#"{"a":[],"b":{"c":[1,"x,\"{y"],"d":{}},"e":null}"#;
        let want = "{\n  \"a\": [],\n  \"b\": {\n    \"c\": [\n      1,\n      \"x,\\\"{y\"\n    ],\n    \"d\": {}\n  },\n  \"e\": null\n}";
        assert_eq!(String::from_utf8(indent(compact)).unwrap(), want);
        let value: serde_json::Value = serde_json::from_slice(compact).unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&indent(compact)).unwrap(), value);
    }

    use serde_json::json;

    #[test]
    fn duplicates_are_found_at_every_depth_and_the_last_counts() {
        let text = br#"{"a":1,"a":2,"b":[{"c":{"d":1,"d":2}}],"a":3}"#;
        let got = parse(text).unwrap();
        assert_eq!(got.value, json!({"a": 3, "b": [{"c": {"d": 2}}]}));
        assert_eq!(got.duplicates, ["a", "b[0].c.d", "a"]);
    }

    #[test]
    fn not_all_duplicates_are_told() {
        let text = format!("{{{}\"z\":1}}", (0..300).map(|i| format!("\"k{}\":1,", i % 150)).collect::<String>());
        assert_eq!(parse(text.as_bytes()).unwrap().duplicates.len(), MAX_STRICT_ERRORS);
    }

    #[test]
    fn numbers_keep_their_kind() {
        let got = parse(b"[1, -1, 1.5, 18446744073709551615, 1e3]").unwrap();
        assert_eq!(got.value, json!([1, -1, 1.5, 18_446_744_073_709_551_615_u64, 1000.0]));
    }

    #[test]
    fn deep_bodies_are_refused() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let deep = open.repeat(10_000) + "1" + &close.repeat(10_000);
            assert!(parse(deep.as_bytes()).is_err());
            let fine = open.repeat(MAX_DEPTH - 1) + "1" + &close.repeat(MAX_DEPTH - 1);
            assert!(parse(fine.as_bytes()).is_ok());
        }
    }

    #[test]
    fn what_is_no_json() {
        for text in ["", "{", "{}{}", "{'a':1}", "nul", "\"\u{1}\"", "[1,]"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse(b"\"\xff\"").is_err());
    }
}
