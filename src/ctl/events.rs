//! `events`: what happened, the oldest first.

use std::collections::HashSet;

use futures::StreamExt;
use serde_json::Value;

use super::age;
use super::builder::{Wanted, parse};
use super::cx::{Cx, Done, put};
use super::fail::{Failure, fail};
use super::print::tab::Rows;
use super::print::{Output, PrintFlags, list_of};
use crate::api::status::Reason;
use crate::api::value::ValueExt;
use crate::client::res::EVENTS;
use crate::client::{ListOptions, WatchKind};
use crate::util::order::Arrange;

/// What happened
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    print: PrintFlags,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only of TYPE/NAME
    #[arg(long = "for", default_value = "", hide_default_value = true)]
    of: String,
    /// Only Normal or Warning
    #[arg(long, value_delimiter = ',')]
    types: Vec<String>,
    /// Go on with what happens
    #[arg(short, long)]
    watch: bool,
    /// No line of headers
    #[arg(long)]
    no_headers: bool,
    /// Items of one page; 0 for all at once
    #[arg(long, default_value_t = super::cx::PAGE)]
    chunk_size: u32,
}

/// When an event was seen last.
pub fn last_seen(event: &Value) -> &str {
    let times = ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/firstTimestamp"];
    times.iter().find_map(|p| event.str_at(p)).unwrap_or_default()
}

/// `5m (x3 over 10m)`.
pub fn when(event: &Value, now: jiff::Timestamp) -> String {
    let text = |path: &str| event.str_at(path).filter(|t| !t.is_empty());
    let age = age::since(last_seen(event), now);
    match event.int_at("/series/count").or(event.int_at("/count")).unwrap_or(1) {
        count if count > 1 => {
            let first = text("/firstTimestamp").or(text("/eventTime")).unwrap_or_default();
            format!("{age} (x{count} over {})", age::since(first, now))
        }
        _ => age,
    }
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    cx.page_by(args.chunk_size);
    for kind in &args.types {
        if !kind.eq_ignore_ascii_case("Normal") && !kind.eq_ignore_ascii_case("Warning") {
            fail!("valid --types are Normal or Warning");
        }
    }
    let output = args.print.output()?;
    let fields = fields(cx, &args.of).await?;
    let ns = if args.all_namespaces { "" } else { cx.ns.as_str() };
    let options = ListOptions { field_selector: fields.clone(), ..ListOptions::default() };
    // The watch begins before the list, so that nothing falls between; what the list had already is not shown twice.
    let watch = match args.watch {
        true => Some(cx.client.watch(&EVENTS, Some(ns), &options).await?),
        false => None,
    };
    let mut all = cx.items(&EVENTS, ns, "", &fields).await?;
    all.retain(|e| wanted(e, &args.types));
    all.arrange_by(|a, b| last_seen(a).cmp(last_seen(b)));
    let mut shower =
        Shower { rows: Rows::new(), headers: !args.no_headers, namespace: args.all_namespaces, output: &output };
    let seen: HashSet<(String, String)> = all.iter().map(version).collect();
    if all.is_empty() && !args.watch {
        let scope = if args.all_namespaces { String::new() } else { format!(" in {ns} namespace") };
        eprintln!("No events found{scope}.");
        return Ok(());
    }
    shower.show(all, args.watch, &args.print)?;
    let Some(mut events) = watch else { return Ok(()) };
    while let Some(event) = events.next().await {
        match event {
            Ok(event) if matches!(event.kind, WatchKind::Deleted | WatchKind::Bookmark) => {}
            Ok(event) if wanted(&event.object, &args.types) && !seen.contains(&version(&event.object)) => {
                shower.show(vec![event.object], true, &args.print)?;
            }
            Ok(_) => {}
            Err(status) if matches!(status.reason, Reason::Expired | Reason::Gone) => return Ok(()),
            Err(status) => return Err(status.into()),
        }
    }
    Ok(())
}

fn version(event: &Value) -> (String, String) {
    let text = |path: &str| event.str_at(path).unwrap_or_default().to_owned();
    (text("/metadata/uid"), text("/metadata/resourceVersion"))
}

fn wanted(event: &Value, types: &[String]) -> bool {
    let kind = event.str_at("/type").unwrap_or_default();
    types.is_empty() || types.iter().any(|t| t.eq_ignore_ascii_case(kind))
}

/// The selector of `--for`.
async fn fields(cx: &Cx, of: &str) -> Done<String> {
    if of.is_empty() {
        return Ok(String::new());
    }
    let Ok(Wanted::Objects(objects)) = parse(&[of.to_owned()]) else { fail!("--for must be in resource/name form") };
    let [(kind, name)] = &objects[..] else { fail!("--for must be in resource/name form") };
    let res = &cx.mapper().await?.find(kind).map_err(Failure::verbatim)?.res;
    Ok(format!(
        "involvedObject.kind={},involvedObject.apiVersion={},involvedObject.name={name}",
        res.kind,
        res.api_version()
    ))
}

struct Shower<'a> {
    rows: Rows,
    headers: bool,
    namespace: bool,
    output: &'a Output,
}

impl Shower<'_> {
    fn show(&mut self, events: Vec<Value>, one_by_one: bool, print: &PrintFlags) -> Done {
        if !self.output.is_human() {
            return match one_by_one {
                true => events.iter().try_for_each(|e| put(&self.output.object(&print.shown(e))?)),
                false => put(&self.output.object(&print.shown(&list_of(events)))?),
            };
        }
        let mut rows: Vec<Vec<String>> = Vec::new();
        if std::mem::take(&mut self.headers) {
            let titles = ["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"].map(str::to_owned);
            rows.push(self.namespace.then(|| "NAMESPACE".to_owned()).into_iter().chain(titles).collect());
        }
        let now = jiff::Timestamp::now();
        rows.extend(events.iter().map(|e| self.row(e, now)));
        put(&self.rows.align(&rows))
    }

    fn row(&self, event: &Value, now: jiff::Timestamp) -> Vec<String> {
        let text = |path: &str| event.str_at(path).unwrap_or_default().to_owned();
        let object = format!("{}/{}", text("/involvedObject/kind"), text("/involvedObject/name"));
        let cells = [when(event, now), text("/type"), text("/reason"), object, text("/message").trim().to_owned()];
        self.namespace.then(|| text("/metadata/namespace")).into_iter().chain(cells).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_happened_often_says_how_often() {
        let now = "2026-01-01T00:10:00Z".parse().unwrap();
        let event =
            json!({"count": 3, "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:09:30Z"});
        assert_eq!(when(&event, now), "30s (x3 over 10m)");
        assert_eq!(when(&json!({"eventTime": "2026-01-01T00:09:00.000000Z"}), now), "60s");
    }
}
