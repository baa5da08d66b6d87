//! How results are shown: tables, YAML, JSON, names, templates.
//!
//! Flow: an object or a list in, text out; nothing here talks to the server.

pub mod columns;
pub mod tab;
pub mod table;
mod template;

use std::cell::Cell;

use serde_json::Value;
use serde_json::ser::{PrettyFormatter, Serializer};

use super::cx::{Done, put};
use super::fail::{Failure, os};
use super::mapper::{self, Resource};
use crate::api::codec::yaml;
pub use crate::api::go_json::{escape_html, sorted};
pub use crate::api::jsonpath;
use crate::api::meta::gvk;
use crate::api::value::ValueExt;
use crate::util::order::Arrange;
use columns::Columns;
use jsonpath::JsonPath;

/// `-o` and what belongs to it.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct PrintFlags {
    /// json, yaml, name, jsonpath=…, custom-columns=…, go-template=…, and -file forms of the last three
    #[arg(short = 'o', long)]
    pub output: Option<String>,
    /// The template of -o jsonpath or -o go-template
    #[arg(long)]
    pub template: Option<String>,
    /// Keep metadata.managedFields in json and yaml
    #[arg(long)]
    pub show_managed_fields: bool,
    /// A field that a template asks for may be missing
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub allow_missing_template_keys: bool,
    /// Objects that were shown.
    #[arg(skip)]
    documents: Cell<usize>,
}

/// How to print.
#[derive(Debug)]
pub enum Output {
    /// For people; `wide` has more columns.
    Human {
        /// `-o wide`.
        wide: bool,
    },
    /// YAML.
    Yaml,
    /// JSON, indented.
    Json,
    /// `pod/x`.
    Name,
    /// A JSONPath template.
    Path(JsonPath),
    /// What a JSONPath template finds, as JSON.
    PathAsJson(JsonPath),
    /// Own columns.
    Columns(Columns),
    /// A Go template.
    Template(String),
}

/// Formats of all verbs, and of `get`, which also makes tables.
const FORMATS: [&str; 10] = [
    "go-template",
    "go-template-file",
    "json",
    "jsonpath",
    "jsonpath-as-json",
    "jsonpath-file",
    "name",
    "template",
    "templatefile",
    "yaml",
];
const OF_TABLES: [&str; 3] = ["custom-columns", "custom-columns-file", "wide"];
/// Formats that take no argument behind `=`.
const PLAIN: [&str; 4] = ["json", "name", "wide", "yaml"];

impl PrintFlags {
    /// Reads the flags of a verb that shows objects.
    pub fn output(&self) -> Done<Output> {
        let name = self.output.as_deref().unwrap_or_default();
        let name = name.split_once('=').map_or(name, |(name, _)| name);
        if !name.is_empty() && !FORMATS.contains(&name) {
            return Err(unknown(name, &FORMATS));
        }
        self.tables(false)
    }

    /// Reads the flags of a verb that makes tables too.
    pub fn tables(&self, no_headers: bool) -> Done<Output> {
        let Some(text) = self.output.as_deref().filter(|o| !o.is_empty()) else {
            return match &self.template {
                Some(template) => Ok(Output::Template(template.clone())),
                None => Ok(Output::Human { wide: false }),
            };
        };
        let (name, argument) = match text.split_once('=') {
            Some((name, argument)) => (name, Some(argument.to_owned())),
            None => (text, self.template.clone()),
        };
        let mut all = [&FORMATS[..], &OF_TABLES].concat();
        all.sort_unstable();
        if argument.is_some() && text.contains('=') && PLAIN.contains(&name) {
            return Err(unknown(text, &all));
        }
        let given = |what: &str| {
            let missing = match what {
                "custom columns" => "custom-columns format specified but no custom columns given".to_owned(),
                what => format!("template format specified but no {what} given"),
            };
            argument.clone().filter(|a| !a.is_empty()).ok_or(Failure::Plain(missing))
        };
        let file = || -> Done<String> {
            let path = given("file")?;
            std::fs::read_to_string(&path)
                .map_err(|e| Failure::Plain(format!("error reading template {path}, open {path}: {}", os(&e))))
        };
        let path = |text: &str| -> Done<JsonPath> {
            let mut path = JsonPath::parse(text).map_err(|e| Failure::Plain(e.to_string()))?;
            path.allow_missing = self.allow_missing_template_keys;
            Ok(path)
        };
        Ok(match name {
            "wide" => Output::Human { wide: true },
            "yaml" => Output::Yaml,
            "json" => Output::Json,
            "name" => Output::Name,
            "jsonpath" => Output::Path(path(&given("template")?)?),
            "jsonpath-as-json" => Output::PathAsJson(path(&given("template")?)?),
            "jsonpath-file" => Output::Path(path(&file()?)?),
            "custom-columns" => Output::Columns(Columns::parse(&given("custom columns")?, no_headers)?),
            "custom-columns-file" => Output::Columns(Columns::of_file(&file()?, no_headers)?),
            "go-template" | "template" => Output::Template(given("template")?),
            "go-template-file" | "templatefile" => Output::Template(file()?),
            other => return Err(unknown(other, &all)),
        })
    }

    /// Tells what was done to an object: the object itself with `-o`, else `pod/x created`.
    pub fn done(&self, resource: &Resource, object: &Value, verb: &str, dry: DryRun) -> Done {
        self.done_as(&resource.kind_name(), object, verb, dry)
    }

    /// The same for what has another kind than its resource (`scale.autoscaling`).
    pub fn done_as(&self, kind: &str, object: &Value, verb: &str, dry: DryRun) -> Done {
        let name = object.str_at("/metadata/name").unwrap_or_default();
        match self.output()? {
            Output::Human { .. } => put(&format!("{kind}/{name} {verb}{}\n", dry.suffix())),
            Output::Name => put(&format!("{kind}/{name}\n")),
            output => put(&self.document(&output, object)?),
        }
    }

    /// The text of an object or a list; YAML documents behind each other are parted.
    pub fn document(&self, output: &Output, object: &Value) -> Done<String> {
        let parted = matches!(output, Output::Yaml) && self.documents.replace(self.documents.get() + 1) > 0;
        let text = output.object(&self.shown(object))?;
        Ok(if parted { format!("---\n{text}") } else { text })
    }

    /// The object without what `-o yaml` leaves out.
    pub fn shown(&self, object: &Value) -> Value {
        let mut object = object.clone();
        if !self.show_managed_fields {
            omit_managed_fields(&mut object);
        }
        object
    }
}

fn unknown(name: &str, known: &[&str]) -> Failure {
    Failure::Plain(format!(
        "unable to match a printer suitable for the output format {name:?}, allowed formats are: {}",
        known.join(",")
    ))
}

/// Removes `metadata.managedFields` of an object and of a list's items.
pub fn omit_managed_fields(object: &mut Value) {
    object.remove_at("/metadata/managedFields");
    if let Some(Value::Array(items)) = object.get_mut("items") {
        items.iter_mut().for_each(omit_managed_fields);
    }
}

/// Whether a write is only tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DryRun {
    /// It is made.
    #[default]
    None,
    /// Nothing is sent.
    Client,
    /// The server does everything but store it.
    Server,
    /// Files are changed as they stand; no server is asked for anything.
    Local,
}

impl DryRun {
    /// Reads `--dry-run`: none, client, server; `unchanged` is the old bare form.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" | "none" | "false" => Ok(Self::None),
            "client" | "unchanged" | "true" => Ok(Self::Client),
            "server" => Ok(Self::Server),
            other => Err(format!("Invalid dry-run value ({other}). Must be \"none\", \"server\", or \"client\".")),
        }
    }

    /// What stands behind a message.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None | Self::Local => "",
            Self::Client => " (dry run)",
            Self::Server => " (server dry run)",
        }
    }

    /// The query parameter.
    pub fn query(self) -> &'static str {
        if self == Self::Server { "All" } else { "" }
    }

    /// True when nothing is sent.
    pub fn is_client(self) -> bool {
        matches!(self, Self::Client | Self::Local)
    }
}

impl Output {
    /// True for tables.
    pub fn is_human(&self) -> bool {
        matches!(self, Self::Human { .. })
    }

    /// The text of an object or a list. Tables are not made here.
    pub fn object(&self, object: &Value) -> Done<String> {
        let run = |e: jsonpath::PathError, path: &JsonPath| run_error(&e, path, object);
        Ok(match self {
            Self::Yaml => yaml::to_string(object),
            Self::Json => json_text(object),
            Self::Name | Self::Human { .. } => names(object),
            Self::Path(path) => path.render(object).map_err(|e| run(e, path))?,
            Self::PathAsJson(path) => {
                let found = path.find(object).map_err(|e| run(e, path))?;
                json_text(&Value::Array(found.into_iter().cloned().collect()))
            }
            Self::Columns(columns) => columns.text(object)?,
            Self::Template(text) => template::render(text, object)?,
        })
    }
}

fn run_error(e: &jsonpath::PathError, path: &JsonPath, object: &Value) -> Failure {
    let (text, object) = (path.text(), go_syntax(object));
    Failure::Plain(format!(
        "error executing jsonpath {text:?}: Error executing template: {e}. Printing more information for debugging the template:\n\t\
         template was:\n\t\t{text}\n\tobject given to jsonpath engine was:\n\t\t{object}\n\n"
    ))
}

/// A value as Go's `%#v` writes it.
fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".into(),
        Value::String(text) => format!("{text:?}"),
        Value::Array(items) => {
            format!("[]interface {{}}{{{}}}", items.iter().map(go_syntax).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.iter().collect();
            pairs.arrange_by_key(|(key, _)| *key);
            let pairs: Vec<String> = pairs.into_iter().map(|(k, v)| format!("{k:?}:{}", go_syntax(v))).collect();
            format!("map[string]interface {{}}{{{}}}", pairs.join(", "))
        }
        scalar => scalar.to_string(),
    }
}

/// `pod/x`, a line per item.
fn names(object: &Value) -> String {
    if let Some(Value::Array(items)) = object.get("items") {
        return items.iter().map(names).collect();
    }
    let (group, _) = gvk::split(object.str_at("/apiVersion").unwrap_or_default());
    let kind = mapper::kind_name(group, object.str_at("/kind").unwrap_or_default());
    format!("{kind}/{}\n", object.str_at("/metadata/name").unwrap_or_default())
}

/// JSON as `kubectl -o json` writes it: four spaces, sorted keys, HTML's signs escaped, a line end.
pub fn json_text(value: &Value) -> String {
    json_indented(value, b"    ")
}

/// The same with another indent.
pub fn json_indented(value: &Value, indent: &[u8]) -> String {
    use serde::Serialize;
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(indent));
    sorted(value).serialize(&mut serializer).expect("a JSON value serializes");
    let mut text = escape_html(&String::from_utf8_lossy(&bytes));
    text.push('\n');
    text
}

/// A `v1` List of objects, as kubectl makes it of many.
pub fn list_of(items: Vec<Value>) -> Value {
    serde_json::json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    fn flags(output: &str) -> PrintFlags {
        PrintFlags { output: Some(output.into()), allow_missing_template_keys: true, ..PrintFlags::default() }
    }

    fn pod() -> Value {
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "x", "labels": {"b": "<2>", "a": "1"}}})
    }

    #[test_case("yaml", "apiVersion: v1\nkind: Pod\nmetadata:\n  labels:\n    a: \"1\"\n    b: <2>\n  name: x\n")]
    #[test_case("name", "pod/x\n")]
    #[test_case("jsonpath={.metadata.name}", "x"; "path")]
    #[test_case("jsonpath-as-json={.metadata.name}", "[\n    \"x\"\n]\n"; "path as json")]
    #[test_case("custom-columns=N:.metadata.name,A:.metadata.labels.a,Z:.z", "N   A   Z\nx   1   <none>\n"; "columns")]
    #[test_case("go-template={{.metadata.name}}", "x"; "template")]
    fn formats(output: &str, want: &str) {
        let output = flags(output).tables(false).unwrap();
        let got = output.object(&pod()).unwrap();
        // Columns have a least width of six.
        assert_eq!(
            got.replace("      ", "   ").replace("     ", "   "),
            want.replace("      ", "   ").replace("     ", "   ")
        );
    }

    #[test]
    fn json_is_gos() {
        let want = "{\n    \"apiVersion\": \"v1\",\n    \"kind\": \"Pod\",\n    \"metadata\": {\n        \"labels\": {\n            \"a\": \"1\",\n            \
                    \"b\": \"\\u003c2\\u003e\"\n        },\n        \"name\": \"x\"\n    }\n}\n";
        assert_eq!(json_text(&pod()), want);
        assert_eq!(json_text(&json!({"items": []})), "{\n    \"items\": []\n}\n");
    }

    #[test_case("xml"; "unknown")]
    #[test_case("jsonpath"; "no template")]
    #[test_case("jsonpath={.a"; "open")]
    #[test_case("custom-columns=A"; "no path")]
    fn refused(output: &str) {
        assert!(flags(output).tables(false).is_err());
        assert!(flags("wide").output().is_err() && flags("yaml").output().is_ok());
    }

    #[test]
    fn managed_fields_go_unless_asked_for() {
        let object = json!({"metadata": {"managedFields": []}, "items": [{"metadata": {"managedFields": []}}]});
        assert_eq!(flags("yaml").shown(&object), json!({"metadata": {}, "items": [{"metadata": {}}]}));
    }
}
