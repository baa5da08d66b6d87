//! `wait`: until a condition holds, a field has a value, an object is there or gone.

use std::time::Duration;

use futures::StreamExt;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::builder::{Info, LocalFlag, Query, SelectorFlags};
use super::cx::{Cx, Done};
use super::delete;
use super::fail::{Failure, NOTHING_NAMED, fail};
use super::files::FileFlags;
use super::print::jsonpath::{self, JsonPath};
use super::print::{DryRun, PrintFlags};
use super::write;
use crate::api::status::Reason;
use crate::api::value::ValueExt;
use crate::client::{ListOptions, WatchKind};

/// Where the user's timeout is negative.
const A_WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// Wait for a condition
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// TYPE [NAME…] or TYPE/NAME…
    resources: Vec<String>,
    #[command(flatten)]
    files: FileFlags,
    #[command(flatten)]
    select: SelectorFlags,
    #[command(flatten)]
    print: PrintFlags,
    /// condition=NAME[=VALUE], jsonpath='{PATH}'[=VALUE], create or delete
    #[arg(long = "for", default_value = "", hide_default_value = true)]
    condition: String,
    /// How long; 0 checks once, below 0 waits a week
    #[arg(long, default_value = "30s", allow_hyphen_values = true, value_parser = crate::ctl::write::duration_text)]
    timeout: String,
    /// All of the type
    #[arg(long)]
    all: bool,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    #[command(flatten)]
    local: LocalFlag,
}

/// What is waited for.
#[derive(Debug)]
enum Goal {
    Delete,
    Create,
    Condition { name: String, value: String },
    Path { path: JsonPath, value: Option<String> },
}

fn goal(text: &str) -> Done<Goal> {
    if text.eq_ignore_ascii_case("delete") {
        return Ok(Goal::Delete);
    }
    if text.eq_ignore_ascii_case("create") {
        return Ok(Goal::Create);
    }
    if let Some(rest) = text.strip_prefix("condition=") {
        let (name, value) = rest.split_once('=').unwrap_or((rest, "true"));
        return Ok(Goal::Condition { name: name.to_owned(), value: value.to_owned() });
    }
    if let Some(rest) = text.strip_prefix("jsonpath=") {
        let (path, value) = match rest.rfind('}') {
            Some(end) => {
                (&rest[..=end], rest[end + 1..].strip_prefix('=').map(|v| v.trim_matches(['"', '\'']).to_owned()))
            }
            None => rest.split_once('=').map_or((rest, None), |(p, v)| (p, Some(v.to_owned()))),
        };
        if path.trim_matches(['"', '\'']).is_empty() {
            fail!("jsonpath expression cannot be empty");
        }
        let path = JsonPath::relaxed(path.trim_matches(['"', '\''])).map_err(|e| Failure::Plain(e.to_string()))?;
        return Ok(Goal::Path { path, value });
    }
    fail!("unrecognized condition: {text:?}")
}

impl Goal {
    fn holds(&self, object: &Value) -> bool {
        match self {
            Self::Delete => false,
            Self::Create => true,
            Self::Condition { name, value } => {
                let found = object
                    .items_at("/status/conditions")
                    .iter()
                    .find(|c| c.str_at("/type").is_some_and(|t| t.eq_ignore_ascii_case(name)));
                let generation = object.int_at("/metadata/generation").unwrap_or(0);
                let stale = |c: &Value| {
                    let seen = c.int_at("/observedGeneration").or(object.int_at("/status/observedGeneration"));
                    seen.is_some_and(|seen| seen < generation)
                };
                found.is_some_and(|c| !stale(c) && c.str_at("/status").is_some_and(|s| s.eq_ignore_ascii_case(value)))
            }
            Self::Path { path, value } => match path.find(object) {
                Ok(found) => match value {
                    None => !found.is_empty(),
                    Some(value) => found.len() == 1 && jsonpath::show(found[0]).eq_ignore_ascii_case(value),
                },
                Err(_) => false,
            },
        }
    }
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    let goal = goal(&args.condition)?;
    if args.resources.is_empty() && args.files.is_empty() {
        fail!("{NOTHING_NAMED}");
    }
    let limit = write::duration(&args.timeout)?.unwrap_or(A_WEEK);
    let end = Instant::now() + limit;
    let query = Query {
        args: &args.resources,
        files: Some(&args.files),
        labels: &args.select.selector,
        fields: &args.select.field_selector,
        all: args.all,
        all_namespaces: args.all_namespaces,
        fetch: !args.local.local && !matches!(goal, Goal::Delete | Goal::Create),
        local: args.local.local,
        ..Query::default()
    };
    let infos = query.infos(cx).await?;
    if infos.is_empty() && cx.code() == 0 {
        if matches!(goal, Goal::Delete) {
            return Ok(());
        }
        fail!("no matching resources found");
    }
    for info in &infos {
        let met = match &goal {
            Goal::Delete => {
                // What is not there is no news.
                let Some(object) = cx.find(&info.resource.res, &info.ns, &info.name).await? else { continue };
                let uid = object.str_at("/metadata/uid");
                delete::until_gone(cx, info, uid, end).await.map(|()| info.clone())
            }
            goal => until_end(cx, info, end, |o| goal.holds(o)).await.map(|object| Info { object, ..info.clone() }),
        };
        match met {
            // Of several, each is told as it stands.
            Err(Failure::Plain(text)) if infos.len() > 1 => cx.report(&Failure::Verbatim(text)),
            Err(Failure::Plain(_)) if limit.is_zero() => {
                cx.report(&Failure::Plain(format!("condition not met for {}/{}", info.resource.res.plural, info.name)))
            }
            Err(Failure::Plain(_)) if matches!(goal, Goal::Create) => {
                cx.report(&Failure::Plain("timed out waiting for the condition".into()));
            }
            Err(failure) => cx.report(&failure),
            Ok(info) => {
                let mut object = info.object.clone();
                object.set_if_absent("/metadata/name", info.name.clone());
                args.print.done(&info.resource, &object, "condition met", DryRun::None)?;
            }
        }
    }
    Ok(())
}

/// Waits until the object is as wanted, and gives it back.
pub async fn until(cx: &Cx, info: &Info, limit: Duration, holds: impl Fn(&Value) -> bool) -> Done<Value> {
    until_end(cx, info, Instant::now() + limit, holds).await
}

async fn until_end(cx: &Cx, info: &Info, end: Instant, holds: impl Fn(&Value) -> bool) -> Done<Value> {
    let timed_out =
        || Failure::Plain(format!("timed out waiting for the condition on {}/{}", info.resource.res.plural, info.name));
    let field = format!("metadata.name={}", info.name);
    loop {
        let list = super::cx::Call::get(info.resource.res.collection(&info.ns)).query("fieldSelector", &field);
        let mut list = cx.call(list).await?;
        let version = list.str_at("/metadata/resourceVersion").unwrap_or_default().to_owned();
        if let Some(object) = super::builder::items_of(&mut list).into_iter().find(|o| holds(o)) {
            return Ok(object);
        }
        if Instant::now() >= end {
            return Err(timed_out());
        }
        let options = ListOptions { resource_version: version, ..ListOptions::fields(field.clone()) };
        let mut events = cx.client.watch(&info.resource.res, Some(&info.ns), &options).await?;
        loop {
            match timeout_at(end, events.next()).await {
                Err(_) => return Err(timed_out()),
                Ok(Some(Ok(event))) if event.kind == WatchKind::Bookmark => {}
                Ok(Some(Ok(event))) if event.kind != WatchKind::Deleted && holds(&event.object) => {
                    return Ok(event.object);
                }
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(status))) if !matches!(status.reason, Reason::Expired | Reason::Gone) => {
                    return Err(status.into());
                }
                // The watch ended or fell behind: look again.
                Ok(None | Some(Err(_))) => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    #[test_case("condition=Ready", true)]
    #[test_case("condition=ready=True", true; "in any case")]
    #[test_case("condition=Ready=false", false)]
    #[test_case("condition=Other", false; "not there")]
    #[test_case("jsonpath={.status.phase}=Running", true; "path")]
    #[test_case("jsonpath={.status.phase}", true; "any value")]
    #[test_case("jsonpath={.status.nope}", false; "no value")]
    #[test_case("jsonpath={.status.conditions[?(@.type==\"Ready\")].status}=True", true; "an equal sign inside")]
    #[test_case("create", true)]
    fn goals(text: &str, want: bool) {
        let object = json!({"metadata": {"generation": 1}, "status": {"phase": "Running", "observedGeneration": 1,
            "conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(goal(text).unwrap().holds(&object), want);
    }

    #[test]
    fn a_condition_of_an_older_generation_does_not_count() {
        let object = json!({"metadata": {"generation": 2}, "status": {"observedGeneration": 1,
            "conditions": [{"type": "Available", "status": "True"}]}});
        assert!(!goal("condition=Available").unwrap().holds(&object));
        assert!(goal("ready").is_err());
    }
}
