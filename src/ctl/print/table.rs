//! Server-side tables as kubectl prints them.
//!
//! In: `meta.k8s.io/v1` Table. Out: rows of cells, headers first.
//!
//! Rules: `cli-runtime/pkg/printers/tableprinter.go`.

use serde_json::Value;

use crate::api::value::ValueExt;
use crate::util::order::Arrange;

/// Asks for a table; servers that have none answer with objects.
pub const ACCEPT: &str =
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";

/// What to show of a table.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Columns of priority above zero too.
    pub wide: bool,
    /// No line of headers.
    pub no_headers: bool,
    /// A column of namespaces first.
    pub namespace: bool,
    /// What stands before each name: `pod/`.
    pub kind: String,
    /// Labels with a column each.
    pub label_columns: Vec<String>,
    /// All labels as the last column.
    pub labels: bool,
    /// What happened, first of all (watch).
    pub event: Option<String>,
}

/// The headers and the rows, as cells.
pub fn rows(table: &Value, view: &View, headers: bool) -> Vec<Vec<String>> {
    let columns = table.items_at("/columnDefinitions");
    let shown: Vec<(usize, &Value)> =
        columns.iter().enumerate().filter(|(_, c)| view.wide || c.int_at("/priority").unwrap_or(0) == 0).collect();
    let rows = table.items_at("/rows");
    let mut out = Vec::new();
    if headers && !view.no_headers && !rows.is_empty() {
        out.push(header(&shown, view));
    }
    for row in rows {
        let mut cells = Vec::new();
        // As wide as the longest word for what can happen, so that a watch stays aligned.
        cells.extend(view.event.as_ref().map(|e| format!("{e:<8}")));
        if view.namespace {
            cells.push(row.str_at("/object/metadata/namespace").unwrap_or_default().to_owned());
        }
        for (i, column) in &shown {
            let text = cell(row.get_at(&format!("/cells/{i}")).unwrap_or(&Value::Null));
            cells.push(if column["format"] == "name" { format!("{}{text}", view.kind) } else { text });
        }
        let labels = row.get_at("/object/metadata/labels");
        for key in &view.label_columns {
            let value = labels.and_then(|l| l.get(key)).and_then(Value::as_str);
            cells.push(value.unwrap_or_default().to_owned());
        }
        if view.labels {
            cells.push(join_labels(labels));
        }
        out.push(cells);
    }
    out
}

fn header(shown: &[(usize, &Value)], view: &View) -> Vec<String> {
    let mut cells = Vec::new();
    if view.event.is_some() {
        cells.push("EVENT".to_owned());
    }
    if view.namespace {
        cells.push("NAMESPACE".to_owned());
    }
    cells.extend(shown.iter().map(|(_, c)| c.str_at("/name").unwrap_or_default().to_uppercase()));
    cells.extend(view.label_columns.iter().map(|k| k.rsplit('/').next().unwrap_or(k).to_uppercase()));
    if view.labels {
        cells.push("LABELS".to_owned());
    }
    cells
}

/// A cell's first line; control signs are shown, not sent to the terminal.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => return String::new(),
        Value::String(text) => text.as_str(),
        other => return other.to_string(),
    };
    let end = text.find(['\n', '\r', '\u{c}']);
    let mut out: String = escape(&text[..end.unwrap_or(text.len())]);
    if end.is_some() {
        out.push_str("...");
    }
    out
}

/// Makes terminal escapes visible.
pub fn escape(text: &str) -> String {
    text.replace('\u{1b}', "^[")
}

/// `a=b,c=d`, sorted; `<none>` for none.
pub fn join_labels(labels: Option<&Value>) -> String {
    let Some(Value::Object(map)) = labels else { return "<none>".into() };
    let mut pairs: Vec<_> = map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    if pairs.is_empty() {
        return "<none>".into();
    }
    pairs.arrange();
    pairs.join(",")
}

/// A table of objects that came from a server without tables: name and age.
pub fn of_objects(objects: &[Value], now: jiff::Timestamp) -> Value {
    let rows: Vec<Value> = objects
        .iter()
        .map(|o| {
            let age = o
                .str_at("/metadata/creationTimestamp")
                .map_or("<unknown>".to_owned(), |t| super::super::age::since(t, now));
            serde_json::json!({"cells": [o["metadata"]["name"], age], "object": {"metadata": o["metadata"]}})
        })
        .collect();
    serde_json::json!({"kind": "Table", "rows": rows,
        "columnDefinitions": [{"name": "Name", "format": "name"}, {"name": "Age"}]})
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn table() -> Value {
        json!({"columnDefinitions": [{"name": "Name", "format": "name", "priority": 0}, {"name": "Restarts", "priority": 0}, {"name": "IP", "priority": 1}],
            "rows": [{"cells": ["a", 3, "1.2.3.4"], "object": {"metadata": {"namespace": "n", "labels": {"x.io/app": "w", "b": "c"}}}},
                     {"cells": ["b", null, "two\nlines"], "object": {"metadata": {"namespace": "n"}}}]})
    }

    fn lines(view: &View) -> Vec<String> {
        rows(&table(), view, true).into_iter().map(|r| r.join("|")).collect()
    }

    #[test]
    fn columns_by_priority() {
        assert_eq!(lines(&View::default()), ["NAME|RESTARTS", "a|3", "b|"]);
        let wide = View { wide: true, no_headers: true, ..View::default() };
        assert_eq!(lines(&wide), ["a|3|1.2.3.4", "b||two..."]);
    }

    #[test]
    fn namespaces_kinds_and_labels() {
        let view = View {
            namespace: true,
            kind: "pod/".into(),
            labels: true,
            label_columns: vec!["x.io/app".into()],
            ..View::default()
        };
        assert_eq!(
            lines(&view),
            ["NAMESPACE|NAME|RESTARTS|APP|LABELS", "n|pod/a|3|w|b=c,x.io/app=w", "n|pod/b|||<none>"]
        );
    }

    #[test]
    fn no_rows_no_headers() {
        let mut empty = table();
        empty["rows"] = json!([]);
        assert!(rows(&empty, &View::default(), true).is_empty());
    }
}
