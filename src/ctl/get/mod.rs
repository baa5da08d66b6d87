//! `get`: tables made by the server, or the objects themselves.

mod sort;
mod watch;

use http::Method;
use serde_json::Value;

use super::builder::{self, SelectorFlags, Wanted};
use super::cx::{Call, Cx, Done, PAGE, append_query, put};
use super::fail::{Failure, fail};
use super::files::FileFlags;
use super::mapper::Resource;
use super::print::tab::Rows;
use super::print::table::{self, View};
use super::print::{Output, PrintFlags, list_of};
use super::raw::{self, Beside};
use crate::api::status::Reason;
use crate::api::value::ValueExt;
use sort::{sort_objects, sort_rows, sorter};

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
        return watch::run(cx, &args, &output, &targets).await;
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pages_are_joined() {
        let page = |n: i64, more: &str| json!({"kind": "Table", "rows": [n], "metadata": {"continue": more}});
        let whole = join(page(1, "x"), page(2, ""));
        assert_eq!(whole, json!({"kind": "Table", "rows": [1, 2], "metadata": {"continue": ""}}));
    }
}
