//! `get --watch`: the list, then each change as it comes.

use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Method};
use serde_json::Value;
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::io::StreamReader;

use super::{Args, Target, as_table, view};
use crate::api::status::Status;
use crate::api::value::ValueExt;
use crate::client::MAX_EVENT_BYTES;
use crate::ctl::builder;
use crate::ctl::cx::{Call, Cx, Done, append_query, put};
use crate::ctl::fail::{Failure, fail};
use crate::ctl::print::tab::Rows;
use crate::ctl::print::table::{self, View};
use crate::ctl::print::{Output, PrintFlags, escape_html, sorted};

/// Shows the list, then each change as a row.
pub async fn run(cx: &Cx, args: &Args, output: &Output, targets: &[Target]) -> Done {
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
