//! OpenAPI v2 as protobuf: the `Document` message of gnostic, which Go's clients ask `/openapi/v2` for.
//!
//! In: the parts of the document in JSON. Out: the message's bytes. The messages are a table of JSON names and numbers
//! (facts of `openapiv2/OpenAPIv2.proto`); what a document of ours never has, is not in it.
//!
//! **Invariant:** members whose names begin with `x-` become vendor extensions; values of any type travel as YAML, of
//! which JSON is a part.

use serde_json::Value;

use super::wire::Writer;
use crate::api::value::ValueExt;

/// How a member is written.
enum Form {
    Text,
    Flag,
    /// A text or a list of texts, each a field of its own.
    Texts,
    /// A list of values of any type.
    Anys,
    Any,
    One(&'static Message),
    Many(&'static Message),
    /// An object whose members are messages, each with its name.
    Named(&'static Message),
    /// Within a message that holds nothing else, as its field 1.
    Wrapped(&'static Form),
    /// A schema, or a boolean in its place.
    SchemaOrFlag,
    /// A list of parameters; a kind of parameter is a message of its own.
    Parameters,
}

/// A message: its members by JSON name, and the number of its vendor extensions.
struct Message {
    members: &'static [(&'static str, u32, Form)],
    extensions: u32,
}

static INFO: Message = Message { members: &[("title", 1, Form::Text), ("version", 2, Form::Text)], extensions: 7 };

static SCHEMA: Message = Message {
    members: &[
        ("$ref", 1, Form::Text),
        ("format", 2, Form::Text),
        ("title", 3, Form::Text),
        ("description", 4, Form::Text),
        ("default", 5, Form::Any),
        ("required", 19, Form::Texts),
        ("enum", 20, Form::Anys),
        ("additionalProperties", 21, Form::SchemaOrFlag),
        ("type", 22, Form::Wrapped(&Form::Texts)),
        ("items", 23, Form::Wrapped(&Form::One(&SCHEMA))),
        ("allOf", 24, Form::Many(&SCHEMA)),
        ("properties", 25, Form::Wrapped(&Form::Named(&SCHEMA))),
    ],
    extensions: 31,
};

static RESPONSE: Message = Message {
    members: &[("description", 1, Form::Text), ("schema", 2, Form::Wrapped(&Form::One(&SCHEMA)))],
    extensions: 5,
};

/// A response stands where a reference to one could stand.
static RESPONSE_VALUE: Message = Message { members: &[("", 1, Form::One(&RESPONSE))], extensions: 0 };

static OPERATION: Message = Message {
    members: &[
        ("tags", 1, Form::Texts),
        ("description", 3, Form::Text),
        ("operationId", 5, Form::Text),
        ("produces", 6, Form::Texts),
        ("consumes", 7, Form::Texts),
        ("parameters", 8, Form::Parameters),
        ("responses", 9, Form::Wrapped(&Form::Named(&RESPONSE_VALUE))),
    ],
    extensions: 13,
};

static PATH_ITEM: Message = Message {
    members: &[
        ("get", 2, Form::One(&OPERATION)),
        ("put", 3, Form::One(&OPERATION)),
        ("post", 4, Form::One(&OPERATION)),
        ("delete", 5, Form::One(&OPERATION)),
        ("patch", 7, Form::One(&OPERATION)),
        ("parameters", 9, Form::Parameters),
    ],
    extensions: 10,
};

static BODY_PARAMETER: Message = Message {
    members: &[
        ("description", 1, Form::Text),
        ("name", 2, Form::Text),
        ("in", 3, Form::Text),
        ("required", 4, Form::Flag),
        ("schema", 5, Form::One(&SCHEMA)),
    ],
    extensions: 6,
};

static PATH_PARAMETER: Message = Message {
    members: &[
        ("required", 1, Form::Flag),
        ("in", 2, Form::Text),
        ("description", 3, Form::Text),
        ("name", 4, Form::Text),
        ("type", 5, Form::Text),
        ("uniqueItems", 19, Form::Flag),
    ],
    extensions: 22,
};

static QUERY_PARAMETER: Message = Message {
    members: &[
        ("required", 1, Form::Flag),
        ("in", 2, Form::Text),
        ("description", 3, Form::Text),
        ("name", 4, Form::Text),
        ("type", 6, Form::Text),
        ("uniqueItems", 20, Form::Flag),
    ],
    extensions: 23,
};

/// The whole document: `info` and the members of `paths` and `definitions`, and the shared `parameters`, which are asked
/// for when the paths are written.
pub fn document<P: Iterator<Item = (String, Value)>>(
    info: &Value,
    paths: impl Iterator<Item = (String, Value)>,
    definitions: impl Iterator<Item = (String, Value)>,
    parameters: impl FnOnce() -> P,
) -> Vec<u8> {
    let mut w = Writer::new();
    w.text(1, "2.0");
    w.message(2, |w| message(w, &INFO, info));
    w.message(8, |w| paths.for_each(|(name, item)| named(w, 2, &name, |w| message(w, &PATH_ITEM, &item))));
    w.message(9, |w| definitions.for_each(|(name, schema)| named(w, 1, &name, |w| message(w, &SCHEMA, &schema))));
    let mut parameters = parameters().peekable();
    if parameters.peek().is_some() {
        w.message(10, |w| parameters.for_each(|(name, value)| named(w, 1, &name, |w| own_parameter(w, &value))));
    }
    w.finish()
}

fn message(w: &mut Writer, of: &Message, value: &Value) {
    for (name, member) in value.as_object().into_iter().flatten() {
        match of.members.iter().find(|(known, ..)| known == name) {
            Some((_, number, form)) => write(w, *number, form, member),
            None if name.starts_with("x-") => named(w, of.extensions, name, |w| any(w, member)),
            None => {}
        }
    }
    // A message around another of the same JSON.
    if let [("", number, Form::One(inner))] = of.members {
        w.message(*number, |w| message(w, inner, value));
    }
}

fn write(w: &mut Writer, number: u32, form: &Form, value: &Value) {
    match form {
        Form::Text => w.text(number, value.as_str().unwrap_or_default()),
        Form::Flag => w.varint(number, u64::from(value.as_bool().unwrap_or_default())),
        Form::Texts => match value {
            Value::Array(texts) => texts.iter().filter_map(Value::as_str).for_each(|text| w.text(number, text)),
            one => w.text(number, one.as_str().unwrap_or_default()),
        },
        Form::Any => w.message(number, |w| any(w, value)),
        Form::Anys => value.items_at("").iter().for_each(|value| w.message(number, |w| any(w, value))),
        Form::One(inner) => w.message(number, |w| message(w, inner, value)),
        Form::Many(inner) => {
            value.items_at("").iter().for_each(|value| w.message(number, |w| message(w, inner, value)))
        }
        Form::Named(inner) => {
            for (name, value) in value.as_object().into_iter().flatten() {
                named(w, number, name, |w| message(w, inner, value));
            }
        }
        Form::Wrapped(form) => w.message(number, |w| write(w, 1, form, value)),
        Form::SchemaOrFlag => w.message(number, |w| match value {
            Value::Bool(flag) => w.varint(2, u64::from(*flag)),
            schema => w.message(1, |w| message(w, &SCHEMA, schema)),
        }),
        Form::Parameters => value.items_at("").iter().for_each(|p| w.message(number, |w| parameter(w, p))),
    }
}

/// ParametersItem → Parameter, or a reference to one.
fn parameter(w: &mut Writer, value: &Value) {
    match value.str_at("/$ref") {
        Some(reference) => w.message(2, |w| w.text(1, reference)),
        None => w.message(1, |w| own_parameter(w, value)),
    }
}

/// Parameter → the message of its place.
fn own_parameter(w: &mut Writer, value: &Value) {
    match value.str_at("/in") {
        Some("body") => w.message(1, |w| message(w, &BODY_PARAMETER, value)),
        Some("path") => w.message(2, |w| w.message(4, |w| message(w, &PATH_PARAMETER, value))),
        _ => w.message(2, |w| w.message(3, |w| message(w, &QUERY_PARAMETER, value))),
    }
}

fn named(w: &mut Writer, number: u32, name: &str, value: impl FnOnce(&mut Writer)) {
    w.message(number, |w| {
        w.text(1, name);
        w.message(2, value);
    });
}

/// gnostic's `Any`: YAML in field 2.
fn any(w: &mut Writer, value: &Value) {
    w.text(2, &format!("{value}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Bytes of a message, written out by hand: number, length, content.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, content.len() as u8], content].concat()
    }

    #[test]
    fn a_schema_with_an_extension() {
        let schema = json!({"type": "object", "x-k": ["a"], "additionalProperties": {"type": "string"}});
        let definitions = [("N".to_owned(), schema)].into_iter();
        let got = document(&json!({"title": "t"}), std::iter::empty(), definitions, std::iter::empty);
        // Numbers above 15 take two bytes of tag.
        let wide = |number: u16, content: &[u8]| {
            let tag = number << 3 | 2;
            [&[(tag & 0x7f) as u8 | 0x80, (tag >> 7) as u8, content.len() as u8], content].concat()
        };
        let text = |t: &str| wide(22, &field(1, t.as_bytes()));
        let extension = wide(31, &[field(1, b"x-k"), field(2, &field(2, b"[\"a\"]\n"))].concat());
        let schema = [text("object"), extension, wide(21, &field(1, &text("string")))].concat();
        let definition = field(1, &[field(1, b"N"), field(2, &schema)].concat());
        let want = [field(1, b"2.0"), field(2, &field(1, b"t")), field(8, b""), field(9, &definition)].concat();
        assert_eq!(got, want);
    }

    #[test]
    fn parameters_by_their_places() {
        let write = |value: Value| {
            let mut w = Writer::new();
            parameter(&mut w, &value);
            w.finish()
        };
        let query = [field(2, b"query"), field(4, b"q")].concat();
        assert_eq!(write(json!({"in": "query", "name": "q"})), field(1, &field(2, &field(3, &query))));
        let body = [field(3, b"body"), field(2, b"body")].concat();
        assert_eq!(write(json!({"in": "body", "name": "body"})), field(1, &field(1, &body)));
        assert_eq!(write(json!({"$ref": "#/parameters/q"})), field(2, &field(1, b"#/parameters/q")));
        let shared = || [("q".to_owned(), json!({"in": "query", "name": "q"}))].into_iter();
        let got = document(&json!({}), std::iter::empty(), std::iter::empty(), shared);
        let definition = [field(1, b"q"), field(2, &field(2, &field(3, &query)))].concat();
        assert!(got.ends_with(&field(10, &field(1, &definition))));
    }
}
