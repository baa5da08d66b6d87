//! `get`: tables made by the server, or the objects themselves.

use std::cmp::Ordering;

use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Method};
use serde_json::Value;
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::io::StreamReader;

use super::builder::{self, SelectorFlags, Wanted};
use super::cx::{Call, Cx, Done, PAGE, append_query, put};
use super::fail::{Failure, fail};
use super::files::FileFlags;
use super::mapper::Resource;
use super::print::jsonpath::JsonPath;
use super::print::tab::Rows;
use super::print::table::{self, View};
use super::print::{Output, PrintFlags, escape_html, list_of, sorted};
use super::raw::{self, Beside};
use crate::api::meta::quantity::Quantity;
use crate::api::status::{Reason, Status};
use crate::api::value::ValueExt;
use crate::client::MAX_EVENT_BYTES;

/// Display one or many resources
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// TYPE [NAME…], TYPE/NAME…, TYPE,TYPE
    resources: Vec<String>,
    #[command(flatten)]
    files: FileFlags,
    #[command(flatten)]
    select: SelectorFlags,
    #[command(flatten)]
    print: PrintFlags,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Go on with the changes after the list
    #[arg(short, long)]
    watch: bool,
    /// Only the changes
    #[arg(long)]
    watch_only: bool,
    /// Show what happened in a watch
    #[arg(long)]
    output_watch_events: bool,
    /// No line of headers
    #[arg(long)]
    no_headers: bool,
    /// All labels as the last column
    #[arg(long)]
    show_labels: bool,
    /// The kind before each name
    #[arg(long)]
    show_kind: bool,
    /// Labels with a column each
    #[arg(short = 'L', long, value_delimiter = ',')]
    label_columns: Vec<String>,
    /// Sort by a JSONPath expression
    #[arg(long, default_value = "", hide_default_value = true)]
    sort_by: String,
    /// A name that is not there is no error
    #[arg(long)]
    ignore_not_found: bool,
    /// Items of one page; 0 for all at once
    #[arg(long, default_value_t = i64::from(PAGE), allow_hyphen_values = true)]
    chunk_size: i64,
    /// Let the server make the tables
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    server_print: bool,
    /// Read a subresource
    #[arg(long, default_value = "", hide_default_value = true)]
    subresource: String,
    /// Read any path of the server instead
    #[arg(long)]
    raw: Option<String>,
}

impl Args {
    /// What is asked for where people shall read it.
    fn accept(&self) -> &'static str {
        if self.server_print { table::ACCEPT } else { "application/json" }
    }

    /// True when the verb goes on until it is ended.
    pub fn watches(&self) -> bool {
        self.watch || self.watch_only
    }
}

/// What one request is for.
#[derive(Debug)]
struct Target {
    resource: Resource,
    /// `None` for a list.
    name: Option<String>,
    ns: String,
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    if let Some(path) = &args.raw {
        let beside = Beside { args: &args.resources, output: args.print.output.as_deref() };
        return raw::call(cx, Method::GET, path, None, &beside).await;
    }
    if args.output_watch_events && !args.watches() {
        fail!("--output-watch-events option can only be used with --watch or --watch-only");
    }
    let format = args.print.output.as_deref().unwrap_or_default();
    if args.show_labels && !matches!(format, "" | "wide") {
        fail!("--show-labels option cannot be used with {format} printer");
    }
    let output = args.print.tables(args.no_headers)?;
    let targets = targets(cx, &args).await?;
    if args.watch || args.watch_only {
        return watch(cx, &args, &output, &targets).await;
    }
    if output.is_human() {
        tables(cx, &args, &output, &targets).await
    } else {
        objects(cx, &args, &output, &targets).await
    }
}

async fn targets(cx: &Cx, args: &Args) -> Done<Vec<Target>> {
    let ns = |r: &Resource| match (r.res.namespaced, args.all_namespaces) {
        (true, false) => cx.ns.clone(),
        _ => String::new(),
    };
    let mut targets = Vec::new();
    if !args.files.is_empty() {
        if !args.resources.is_empty() {
            fail!("when paths, URLs, or stdin is provided as input, you may not specify resource arguments as well");
        }
        let (manifests, failures) = args.files.read().await;
        failures.iter().for_each(|f| cx.report(f));
        for manifest in manifests {
            match builder::of_manifest(cx, manifest).await {
                Ok(info) => targets.push(Target { resource: info.resource, name: Some(info.name), ns: info.ns }),
                Err(failure) => cx.report(&failure),
            }
        }
        return Ok(targets);
    }
    if args.resources.is_empty() {
        return Err(Failure::Verbatim(
            "You must specify the type of resource to get. Use \"kubectl api-resources\" for a complete list of supported resources.\n\n\
             error: Required resource not specified.\nUse \"kubectl explain <resource>\" for a detailed description of that resource (e.g. kubectl explain pods).\n\
             See 'kubectl get -h' for help and examples"
                .into(),
        ));
    }
    match builder::parse(&args.resources)? {
        Wanted::Types(types) => {
            if !args.subresource.is_empty() {
                fail!("subresource cannot be used when bulk resources are specified");
            }
            for kind in types {
                for resource in cx.mapper().await?.expand(&kind)? {
                    targets.push(Target { resource: resource.clone(), name: None, ns: ns(resource) });
                }
            }
        }
        Wanted::Objects(objects) => {
            if args.all_namespaces {
                fail!("a resource cannot be retrieved by name across all namespaces");
            }
            if !args.select.selector.is_empty() || !args.select.field_selector.is_empty() {
                fail!("name cannot be provided when a selector is specified");
            }
            for (kind, name) in objects {
                for resource in cx.mapper().await?.expand(&kind)? {
                    targets.push(Target { resource: resource.clone(), name: Some(name.clone()), ns: ns(resource) });
                }
            }
        }
    }
    Ok(targets)
}

impl Target {
    fn path(&self, args: &Args) -> String {
        match &self.name {
            Some(name) => {
                let sub = Some(args.subresource.as_str()).filter(|s| !s.is_empty());
                self.resource.res.object(&self.ns, name, sub)
            }
            None => {
                let mut path = self.resource.res.collection(&self.ns);
                append_query(&mut path, "labelSelector", &args.select.selector);
                append_query(&mut path, "fieldSelector", &args.select.field_selector);
                path
            }
        }
    }

    /// A selector that the server does not take is told with what it was for.
    fn of_selectors(&self, failure: Failure, args: &Args) -> Failure {
        let (labels, fields) = (&args.select.selector, &args.select.field_selector);
        match failure {
            Failure::Server { mut status, doing }
                if status.reason == Reason::BadRequest && !(labels.is_empty() && fields.is_empty()) =>
            {
                let res = &self.resource.res;
                let what = format!("{}/{}, Resource={}", res.group, res.version, res.plural);
                status.message = format!(
                    "Unable to find {what:?} that match label selector {labels:?}, field selector {fields:?}: {}",
                    status.message
                );
                Failure::Server { status, doing }
            }
            other => other,
        }
    }

    /// Reads it, page by page. Tables come as one table, lists as one list.
    async fn read(&self, cx: &Cx, args: &Args, accept: &str, full: bool) -> Done<Value> {
        let mut path = self.path(args);
        if full {
            append_query(&mut path, "includeObject", "Object");
        }
        if self.name.is_some() {
            return cx.read(Call::get(path).accept(accept), &self.ns).await;
        }
        let page = args.chunk_size.to_string();
        let mut limit = if args.chunk_size > 0 { page.as_str() } else { "" };
        let mut whole: Option<Value> = None;
        let mut next = String::new();
        loop {
            let call = Call::get(path.clone()).accept(accept).query("limit", limit).query("continue", &next);
            let page = match cx.call(call).await.map_err(|e| self.of_selectors(e, args)) {
                // The pages took longer than the server keeps them: once more, all at once.
                Err(e) if !next.is_empty() && e.reason() == Some(Reason::Expired) => {
                    (whole, next, limit) = (None, String::new(), "");
                    continue;
                }
                other => other?,
            };
            next = page.str_at("/metadata/continue").unwrap_or_default().to_owned();
            whole = Some(match whole {
                None => page,
                Some(first) => join(first, page),
            });
            if next.is_empty() {
                return Ok(whole.unwrap_or_default());
            }
        }
    }
}

/// Appends a page's rows or items.
fn join(mut first: Value, mut page: Value) -> Value {
    for key in ["rows", "items"] {
        if let (Some(Value::Array(all)), Some(Value::Array(more))) = (first.get_mut(key), page.get_mut(key)) {
            all.append(more);
        }
    }
    first["metadata"] = page["metadata"].take();
    first
}

/// What a server without tables answers with becomes one.
fn as_table(answer: Value) -> Value {
    if answer["kind"] == "Table" {
        return answer;
    }
    let now = jiff::Timestamp::now();
    let meta = answer["metadata"].clone();
    let mut answer = answer;
    let objects = if answer["items"].is_array() { builder::items_of(&mut answer) } else { vec![answer] };
    let mut table = table::of_objects(&objects, now);
    table["metadata"] = meta;
    table
}

fn view(args: &Args, output: &Output, target: &Target, several: bool) -> View {
    View {
        wide: matches!(output, Output::Human { wide: true }),
        no_headers: args.no_headers,
        namespace: args.all_namespaces && target.resource.res.namespaced,
        kind: if several || args.show_kind { format!("{}/", target.resource.kind_name()) } else { String::new() },
        label_columns: args.label_columns.clone(),
        labels: args.show_labels,
        event: None,
    }
}

async fn tables(cx: &Cx, args: &Args, output: &Output, targets: &[Target]) -> Done {
    let sort = sorter(&args.sort_by)?;
    let (mut failures, mut found) = (Vec::new(), Vec::new());
    for target in targets {
        match target.read(cx, args, args.accept(), sort.is_some()).await {
            Ok(answer) => found.push((target, as_table(answer))),
            Err(failure) if failure.is_not_found() && args.ignore_not_found => {}
            Err(failure) => failures.push(failure),
        }
    }
    let several = found.iter().any(|(t, _)| t.resource.res != found[0].0.resource.res);
    let mut out = String::new();
    let mut group: Option<(&Target, Rows, Vec<Vec<String>>)> = None;
    let mut any = false;
    let found_nothing = !targets.is_empty() && found.iter().all(|(_, table)| table.items_at("/rows").is_empty());
    for (target, mut table) in found {
        if let Some(path) = &sort {
            sort_rows(&mut table, path)?;
        }
        let begins = group.as_ref().is_none_or(|(last, ..)| last.resource.res != target.resource.res);
        if begins {
            flush(&mut out, &mut group, any && !args.no_headers);
            any |= !out.is_empty();
            group = Some((target, Rows::new(), Vec::new()));
        }
        if let Some((_, _, rows)) = &mut group {
            let headers = rows.is_empty();
            rows.extend(table::rows(&table, &view(args, output, target, several), headers));
        }
    }
    flush(&mut out, &mut group, any && !args.no_headers);
    put(&out)?;
    if found_nothing && failures.is_empty() && !args.ignore_not_found {
        eprintln!("{}", nothing(args, targets));
    }
    failures.iter().for_each(|f| cx.report(f));
    Ok(())
}

fn nothing(args: &Args, targets: &[Target]) -> String {
    match targets.iter().find(|t| t.resource.res.namespaced) {
        Some(target) if !args.all_namespaces => format!("No resources found in {} namespace.", target.ns),
        _ => "No resources found".into(),
    }
}

/// Writes a group of rows; between groups with headers stands a blank line.
fn flush(out: &mut String, group: &mut Option<(&Target, Rows, Vec<Vec<String>>)>, parted: bool) {
    if let Some((_, mut columns, rows)) = group.take()
        && !rows.is_empty()
    {
        if parted {
            out.push('\n');
        }
        out.push_str(&columns.align(&rows));
    }
}

async fn objects(cx: &Cx, args: &Args, output: &Output, targets: &[Target]) -> Done {
    let mut found = Vec::new();
    let mut failures = Vec::new();
    for target in targets {
        match target.read(cx, args, "application/json", false).await {
            Ok(mut answer) if target.name.is_none() => found.extend(builder::items_of(&mut answer)),
            Ok(object) => found.push(object),
            Err(failure) if failure.is_not_found() && args.ignore_not_found => {}
            Err(failure) => failures.push(failure),
        }
    }
    if let Some(path) = sorter(&args.sort_by)? {
        sort_objects(&mut found, &path)?;
    }
    let single = targets.len() == 1 && targets[0].name.is_some();
    let nothing_named = found.is_empty() && targets.iter().all(|t| t.name.is_some());
    if !nothing_named {
        let value = if single { found.remove(0) } else { list_of(found) };
        put(&output.object(&args.print.shown(&value))?)?;
    }
    failures.iter().for_each(|f| cx.report(f));
    Ok(())
}

fn sorter(expression: &str) -> Done<Option<JsonPath>> {
    match expression {
        "" => Ok(None),
        text => JsonPath::relaxed(text).map(Some).map_err(|e| Failure::Plain(e.to_string())),
    }
}

fn sort_rows(table: &mut Value, path: &JsonPath) -> Done {
    if let Some(Value::Array(rows)) = table.get_mut("rows") {
        sort_by(rows, path, |row| &row["object"])?;
    }
    Ok(())
}

fn sort_objects(objects: &mut [Value], path: &JsonPath) -> Done {
    sort_by(objects, path, |o| o)
}

fn sort_by(items: &mut [Value], path: &JsonPath, object: impl Fn(&Value) -> &Value) -> Done {
    let mut keyed: Vec<(Option<Value>, Value)> = Vec::with_capacity(items.len());
    for item in items.iter() {
        let found = path.find(object(item)).map_err(|e| Failure::Plain(e.to_string()))?;
        keyed.push((found.first().map(|v| (*v).clone()), item.clone()));
    }
    if !keyed.is_empty() && keyed.iter().all(|(key, _)| key.is_none()) {
        fail!("couldn't find any field with path {:?} in the list of objects", path.text());
    }
    keyed.sort_by(|(a, _), (b, _)| match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(a), Some(b)) => compare(a, b),
    });
    for (slot, (_, item)) in items.iter_mut().zip(keyed) {
        *slot = item;
    }
    Ok(())
}

/// Numbers by value, quantities by amount, the rest as text with runs of digits by their number.
fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal),
        (Value::String(a), Value::String(b)) => match (Quantity::parse(a), Quantity::parse(b)) {
            (Ok(a), Ok(b)) => a.nanos().cmp(&b.nanos()),
            _ => natural(a, b),
        },
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        _ => a.to_string().cmp(&b.to_string()),
    }
}

/// `a2` before `a10`.
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let digits = |s: &str| s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
        let (da, db) = (digits(a), digits(b));
        if da > 0 && db > 0 {
            let (na, nb) = (a[..da].trim_start_matches('0'), b[..db].trim_start_matches('0'));
            let order = na.len().cmp(&nb.len()).then(na.cmp(nb)).then(da.cmp(&db));
            if order != Ordering::Equal {
                return order;
            }
            (a, b) = (&a[da..], &b[db..]);
            continue;
        }
        match (a.chars().next(), b.chars().next()) {
            (Some(x), Some(y)) if x == y => (a, b) = (&a[x.len_utf8()..], &b[y.len_utf8()..]),
            (x, y) => return x.cmp(&y),
        }
    }
}

/// Shows the list, then each change as a row.
async fn watch(cx: &Cx, args: &Args, output: &Output, targets: &[Target]) -> Done {
    let [target] = targets else { fail!("you may only specify a single resource type") };
    let accept = if output.is_human() { args.accept() } else { "application/json" };
    if !args.sort_by.is_empty() {
        eprintln!("warning: --watch requested, --sort-by will be ignored for watch events received");
    }
    let mut view = view(args, output, target, false);
    let list = Target { name: None, ns: target.ns.clone(), resource: target.resource.clone() };
    let mut path = list.path(args);
    if let Some(name) = &target.name {
        append_query(&mut path, "fieldSelector", &format!("metadata.name={name}"));
    }
    let first = cx.call(Call::get(path.clone()).accept(accept)).await?;
    let version = first.str_at("/metadata/resourceVersion").unwrap_or_default().to_owned();
    let mut shower = Shower { rows: Rows::new(), columns: Value::Null, headers: true, output, print: &args.print };
    if let (Some(name), true) = (&target.name, is_empty(&first)) {
        return Err(Status::not_found(&target.resource.res.group, &target.resource.res.plural, name).into());
    }
    if !args.watch_only {
        view.event = args.output_watch_events.then(|| "ADDED".to_owned());
        shower.show(first, &view)?;
    }
    append_query(&mut path, "resourceVersion", &version);
    append_query(&mut path, "watch", "true");
    let mut headers = HeaderMap::new();
    let value = HeaderValue::from_str(accept).map_err(|e| Failure::Plain(e.to_string()))?;
    headers.insert(http::header::ACCEPT, value);
    let bytes = cx.client.stream(Method::GET, &path, headers, bytes::Bytes::new()).await?;
    let reader = StreamReader::new(bytes.map(|b| b.map_err(std::io::Error::other)));
    let mut lines = FramedRead::new(reader, LinesCodec::new_with_max_length(MAX_EVENT_BYTES));
    while let Some(line) = lines.next().await {
        let line = line.map_err(|e| Failure::Plain(format!("unable to decode an event from the watch stream: {e}")))?;
        let mut event: Value = serde_json::from_str(&line)
            .map_err(|e| Failure::Plain(format!("unable to decode an event from the watch stream: {e}")))?;
        let object = event["object"].take();
        match event.str_at("/type") {
            Some("BOOKMARK") => continue,
            Some("ERROR") => return Err(Status::from_value(&object, 500).into()),
            kind => view.event = args.output_watch_events.then(|| kind.unwrap_or_default().to_owned()),
        }
        shower.show(object, &view)?;
    }
    Ok(())
}

fn is_empty(answer: &Value) -> bool {
    answer.items_at("/rows").is_empty() && answer.items_at("/items").is_empty()
}

/// Prints what a watch brings; headers stand once, columns only grow.
struct Shower<'a> {
    rows: Rows,
    /// The server sends the columns with the first table only.
    columns: Value,
    headers: bool,
    output: &'a Output,
    print: &'a PrintFlags,
}

impl Shower<'_> {
    fn show(&mut self, mut answer: Value, view: &View) -> Done {
        if !self.output.is_human() {
            let objects = if answer["items"].is_array() { builder::items_of(&mut answer) } else { vec![answer] };
            return objects.into_iter().try_for_each(|object| {
                // With the events goes what happened, in the form of the API.
                let object = match &view.event {
                    Some(kind) => serde_json::json!({"type": kind, "object": object}),
                    None => object,
                };
                if view.event.is_some() && matches!(self.output, Output::Json) {
                    return put(&(escape_html(&sorted(&object).to_string()) + "\n"));
                }
                let o = &object;
                let separator = if matches!(self.output, Output::Yaml) && !std::mem::take(&mut self.headers) {
                    "---\n"
                } else {
                    ""
                };
                put(&format!("{separator}{}", self.output.object(&self.print.shown(o))?))
            });
        }
        let mut table = as_table(answer);
        if table.items_at("/columnDefinitions").is_empty() {
            table["columnDefinitions"] = self.columns.clone();
        } else {
            self.columns = table["columnDefinitions"].clone();
        }
        let rows = table::rows(&table, view, self.headers);
        self.headers &= rows.is_empty();
        put(&self.rows.align(&rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    #[test_case("a2", "a10", Ordering::Less)]
    #[test_case("a10", "a10", Ordering::Equal)]
    #[test_case("b", "a10", Ordering::Greater)]
    #[test_case("a", "a1", Ordering::Less)]
    #[test_case("007", "7", Ordering::Greater; "leading zeros decide last")]
    fn natural_order(a: &str, b: &str, want: Ordering) {
        assert_eq!(natural(a, b), want);
    }

    #[test]
    fn sorts_by_path_and_puts_the_missing_first() {
        let mut items = vec![json!({"n": 10}), json!({"n": 9}), json!({})];
        sort_objects(&mut items, &JsonPath::relaxed(".n").unwrap()).unwrap();
        assert_eq!(items, [json!({}), json!({"n": 9}), json!({"n": 10})]);
        let mut amounts = vec![json!({"q": "1Gi"}), json!({"q": "500Mi"})];
        sort_objects(&mut amounts, &JsonPath::relaxed("q").unwrap()).unwrap();
        assert_eq!(amounts[0], json!({"q": "500Mi"}));
        assert!(sort_objects(&mut items, &JsonPath::relaxed(".nope").unwrap()).is_err());
    }

    #[test]
    fn pages_are_joined() {
        let page = |n: i64, more: &str| json!({"kind": "Table", "rows": [n], "metadata": {"continue": more}});
        let whole = join(page(1, "x"), page(2, ""));
        assert_eq!(whole, json!({"kind": "Table", "rows": [1, 2], "metadata": {"continue": ""}}));
    }
}
