//! `explain`: the fields of a type, from the server's OpenAPI v3.

use serde_json::Value;

use super::cx::{Call, Cx, Done, put};
use super::fail::{Failure, fail};
use super::mapper::Resource;
use crate::api::meta::gvk;
use crate::api::value::ValueExt;
use crate::util::order::Arrange;

/// Columns of a paragraph.
const WIDTH: usize = 80;
/// Types within types that --recursive shows; schemas may refer to themselves.
const MAX_DEPTH: usize = 16;

/// Explain the fields of a type
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// TYPE[.FIELD.FIELD]
    #[arg(required = true)]
    what: String,
    /// The whole tree
    #[arg(long)]
    recursive: bool,
    /// group/version
    #[arg(long)]
    api_version: Option<String>,
    /// plaintext
    #[arg(short, long, default_value = "plaintext", hide_default_value = true)]
    output: String,
}

/// The schemas of a group and version.
struct Schemas {
    document: Value,
}

impl Schemas {
    /// Follows references and single `allOf`s.
    fn resolve<'a>(&'a self, mut schema: &'a Value) -> &'a Value {
        for _ in 0..MAX_DEPTH {
            if let Some(name) = schema.str_at("/$ref").and_then(|r| r.rsplit('/').next()) {
                schema = &self.document["components"]["schemas"][name];
            } else if let [one] = schema.items_at("/allOf") {
                schema = one;
            } else {
                break;
            }
        }
        schema
    }

    /// The fields of an object, or of what a list or map holds.
    fn fields<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let resolved = self.resolve(schema);
        if resolved["items"].is_object() {
            return self.fields(&resolved["items"]);
        }
        if resolved["additionalProperties"].is_object() {
            return self.fields(&resolved["additionalProperties"]);
        }
        resolved
    }

    /// `string`, `[]Container`, `map[string]string`.
    fn type_of(&self, schema: &Value) -> String {
        let named = schema.str_at("/$ref").or_else(|| match schema.items_at("/allOf") {
            [one] => one.str_at("/$ref"),
            _ => None,
        });
        let resolved = self.resolve(schema);
        if resolved["items"].is_object() {
            return format!("[]{}", self.type_of(&resolved["items"]));
        }
        if resolved["additionalProperties"].is_object() {
            return format!("map[string]{}", self.type_of(&resolved["additionalProperties"]));
        }
        let kind = resolved.str_at("/type");
        match (named.and_then(|n| n.rsplit('.').next()), kind) {
            (Some(name), Some("object") | None) => name.to_owned(),
            // Times and the like are texts.
            (Some(_), Some(kind)) => kind.to_owned(),
            (None, Some("object")) => "Object".to_owned(),
            (None, Some(kind)) => kind.to_owned(),
            (None, None) => match resolved.items_at("/oneOf") {
                [] => "Object".to_owned(),
                _ => resolved.str_at("/format").unwrap_or("Object").to_owned(),
            },
        }
    }
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    if !matches!(args.output.as_str(), "plaintext" | "plaintext-openapiv2") {
        fail!("unrecognized format: {}", args.output);
    }
    let mapper = cx.mapper().await?;
    let mut path: Vec<&str> = args.what.split('.').collect();
    // `deployments.apps` or `deployments.v1.apps` name a group; what they do not, are fields.
    let resource = mapper.find(path[0]).map_err(Failure::verbatim)?;
    path.remove(0);
    let resource = match &args.api_version {
        None => resource,
        Some(api_version) => mapper.of_kind(api_version, &resource.res.kind).ok_or_else(|| {
            let what = format!("{api_version}, Resource={}", resource.res.plural);
            Failure::Plain(format!("couldn't find resource for {what:?}"))
        })?,
    };
    let schemas = Schemas { document: document(cx, resource).await? };
    let all = schemas.document["components"]["schemas"].as_object();
    let is_it = |schema: &&Value| {
        schema.items_at("/x-kubernetes-group-version-kind").iter().any(|g| {
            g.str_at("/group").unwrap_or_default() == resource.res.group
                && g["version"] == *resource.res.version
                && g["kind"] == *resource.res.kind
        })
    };
    let Some(root) = all.into_iter().flatten().map(|(_, s)| s).find(is_it) else {
        fail!("couldn't find resource for {:?}", gvk::join(&resource.res.group, &resource.res.version))
    };
    // The heading stands even where the field does not exist.
    put(&heading(resource))?;
    put(&explain(&schemas, root, &path, args.recursive)?)
}

async fn document(cx: &Cx, resource: &Resource) -> Done<Value> {
    let res = &resource.res;
    let root = if res.group.is_empty() { "api" } else { "apis" };
    let path = format!("{root}/{}", res.api_version());
    let index = cx.call(Call::get("/openapi/v3")).await?;
    let Some(url) = index["paths"][&path].str_at("/serverRelativeURL") else {
        fail!("the server publishes no schema of {path}")
    };
    cx.call(Call::get(url)).await
}

fn heading(resource: &Resource) -> String {
    let mut out = String::new();
    if !resource.res.group.is_empty() {
        out += &format!("GROUP:      {}\n", resource.res.group);
    }
    out + &format!("KIND:       {}\nVERSION:    {}\n\n", resource.res.kind, resource.res.version)
}

fn explain(schemas: &Schemas, root: &Value, path: &[&str], recursive: bool) -> Done<String> {
    let mut out = String::new();
    let (mut schema, mut described) = (root, root);
    let mut field_type = None;
    for name in path {
        let fields = schemas.fields(schema);
        let Some(next) = fields["properties"].get(*name) else { fail!("field {name:?} does not exist") };
        described = next;
        field_type = Some((*name, schemas.type_of(next)));
        schema = next;
    }
    if let Some((name, kind)) = &field_type {
        out += &format!("FIELD: {name} <{kind}>\n");
        let values = values(schemas.resolve(schema));
        if values.is_empty() {
            out.push('\n');
        } else {
            out += "ENUM:\n";
            values.iter().for_each(|v| out += &format!("    {v}\n"));
        }
        out.push('\n');
    }
    out += "DESCRIPTION:\n";
    let own = described.str_at("/description").unwrap_or_default();
    let of_type = schemas.fields(schema).str_at("/description").unwrap_or_default();
    let mut said = false;
    for text in [own, if of_type == own { "" } else { of_type }] {
        if !text.is_empty() {
            out += &paragraphs(text, 4);
            said = true;
        }
    }
    // kubectl ends a description with an indented empty line, and has none where there is no description.
    out += if said { "    \n" } else { "    <empty>\n" };
    let fields = schemas.fields(schema);
    if fields["properties"].is_object() {
        out += "FIELDS:\n";
        fields_of(schemas, fields, &mut out, 2, recursive, &mut Vec::new());
    }
    out.push('\n');
    Ok(out)
}

/// `trail`: the types that this one stands within.
fn fields_of<'a>(
    schemas: &'a Schemas,
    schema: &'a Value,
    out: &mut String,
    indent: usize,
    recursive: bool,
    trail: &mut Vec<&'a Value>,
) {
    let required: Vec<&str> = schema.items_at("/required").iter().filter_map(Value::as_str).collect();
    let mut fields: Vec<_> = schema["properties"].as_object().into_iter().flatten().collect();
    fields.arrange_by(|a, b| a.0.cmp(b.0));
    for (name, field) in fields {
        let must = if required.contains(&name.as_str()) { " -required-" } else { "" };
        *out += &format!("{}{name}\t<{}>{must}\n", " ".repeat(indent), schemas.type_of(field));
        *out += &enums(schemas.resolve(field), indent);
        if recursive {
            let below = schemas.fields(field);
            // JSONSchemaProps refer to themselves: a type within itself is not shown again.
            let within_itself = trail.iter().any(|t| std::ptr::eq(*t, below));
            if below["properties"].is_object() && trail.len() < MAX_DEPTH && !within_itself {
                trail.push(below);
                fields_of(schemas, below, out, indent + 2, recursive, trail);
                trail.pop();
            }
        } else {
            let text = field.str_at("/description").or_else(|| schemas.resolve(field).str_at("/description"));
            *out += &paragraphs(text.filter(|t| !t.is_empty()).unwrap_or("<no description>"), indent + 2);
            out.push('\n');
        }
    }
}

/// The values that a schema allows, as they are shown.
fn values(schema: &Value) -> Vec<&str> {
    let texts = schema.items_at("/enum").iter().filter_map(Value::as_str);
    texts.map(|v| if v.is_empty() { "\"\"" } else { v }).collect()
}

/// The values in one line below a field.
fn enums(schema: &Value, indent: usize) -> String {
    /// Values of a field that its line shows.
    const SHOWN: usize = 4;
    let values = values(schema);
    if values.is_empty() {
        return String::new();
    }
    let more = if values.len() > SHOWN { ", ...." } else { "" };
    format!("{}enum: {}{more}\n", " ".repeat(indent), values[..values.len().min(SHOWN)].join(", "))
}

/// Wraps a text, each line indented. Blanks stay as they are, but where a line breaks.
fn paragraphs(text: &str, indent: usize) -> String {
    let pad = " ".repeat(indent);
    text.split('\n').flat_map(|line| wrap(line, WIDTH - indent)).map(|line| format!("{pad}{line}\n")).collect()
}

/// Breaks a line before words that would go beyond `limit`; a word longer than that stands alone.
fn wrap(line: &str, limit: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut current = String::new();
    let mut rest = line;
    while !rest.is_empty() {
        let word_at = rest.find(|c: char| !c.is_whitespace()).unwrap_or(rest.len());
        let (blanks, behind) = rest.split_at(word_at);
        let (word, behind) = behind.split_at(behind.find(char::is_whitespace).unwrap_or(behind.len()));
        let wide = |text: &str| text.chars().count();
        // As much of a word that is too long as decides it.
        let word_width = wide(word).min(limit.saturating_sub(1));
        if wide(&current) + wide(blanks) + word_width > limit && !word.is_empty() {
            lines.push(std::mem::take(&mut current));
        } else {
            current.push_str(blanks);
        }
        current.push_str(word);
        rest = behind;
    }
    lines.push(current);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schemas() -> Schemas {
        Schemas {
            document: json!({"components": {"schemas": {
            "v1.Pod": {"type": "object", "description": "A pod.", "properties": {"spec": {"allOf": [{"$ref": "#/components/schemas/v1.PodSpec"}], "description": "What is wanted."}}},
            "v1.PodSpec": {"type": "object", "required": ["containers"], "properties": {
                "containers": {"type": "array", "items": {"$ref": "#/components/schemas/v1.Container"}},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}}}},
            "v1.Container": {"type": "object", "properties": {"name": {"type": "string", "enum": ["a", "b"]}}}}}}),
        }
    }

    #[test]
    fn fields_and_types() {
        let s = schemas();
        let root = &s.document["components"]["schemas"]["v1.Pod"];
        let text = explain(&s, root, &["spec"], false).unwrap();
        assert!(text.contains("FIELD: spec <PodSpec>\n"), "{text}");
        assert!(text.contains("  containers\t<[]Container> -required-\n"), "{text}");
        assert!(text.contains("  labels\t<map[string]string>\n"), "{text}");
        let tree = explain(&s, root, &[], true).unwrap();
        assert!(
            tree.contains(
                "  spec\t<PodSpec>\n    containers\t<[]Container> -required-\n      name\t<string>\n      enum: a, b\n"
            ),
            "{tree}"
        );
        assert!(explain(&s, root, &["nope"], false).is_err());
    }

    #[test]
    fn blanks_stay_but_where_a_line_breaks() {
        assert_eq!(wrap(" - `a`  b", 20), [" - `a`  b"]);
        assert_eq!(wrap("one two  three", 8), ["one two", "three"]);
        assert_eq!(wrap("a verylongword b", 6), ["a", "verylongword", "b"]);
        assert_eq!(wrap("", 6), [""]);
    }

    #[test]
    fn few_values_stand_in_a_line() {
        let schema = json!({"enum": ["", "a", "b", "c", "d"]});
        assert_eq!(enums(&schema, 2), "  enum: \"\", a, b, c, ....\n");
        assert_eq!(values(&schema).len(), 5);
    }

    #[test]
    fn long_lines_are_wrapped() {
        let text = paragraphs(&"word ".repeat(30), 4);
        assert!(text.lines().all(|l| l.len() <= WIDTH && l.starts_with("    ")) && text.lines().count() == 2);
    }
}
