//! `delete`, and waiting until objects are gone.

use std::time::Duration;

use futures::StreamExt;
use http::Method;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::builder::{Info, Query, SelectorFlags};
use super::cx::{Call, Cx, Done, put, say};
use super::fail::{Failure, NOTHING_NAMED, fail};
use super::files::FileFlags;
use super::print::DryRun;
use super::raw::{self, Beside};
use super::write;
use crate::api::status::Reason;
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, ListOptions, Propagation, WatchKind};

/// How long to wait where the user does not say.
const PATIENCE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Delete resources
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// TYPE [NAME…], TYPE/NAME…
    resources: Vec<String>,
    #[command(flatten)]
    files: FileFlags,
    #[command(flatten)]
    select: SelectorFlags,
    /// All of the type
    #[arg(long)]
    all: bool,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Seconds to end in; 1 is at once, -1 the object's own
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    grace_period: i64,
    /// A grace period of one second
    #[arg(long)]
    now: bool,
    /// Do not wait for the node to confirm
    #[arg(long)]
    force: bool,
    /// background, foreground or orphan
    #[arg(long, value_parser = cascade, num_args = 0..=1, require_equals = true, default_value = "background", default_missing_value = "background")]
    cascade: Propagation,
    /// Wait until the objects are gone
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    wait: bool,
    /// How long to wait; 0 for as long as it takes
    #[arg(long, default_value = "0s", hide_default_value = true, value_parser = crate::ctl::write::duration_text)]
    timeout: String,
    /// What is not there is no error
    #[arg(long)]
    ignore_not_found: bool,
    /// name
    #[arg(short, long, default_value = "", hide_default_value = true)]
    output: String,
    /// Ask before deleting
    #[arg(short, long)]
    interactive: bool,
    /// Send a DELETE to any path of the server instead
    #[arg(long)]
    raw: Option<String>,
    /// none, client or server
    #[arg(long, value_parser = DryRun::parse, num_args = 0..=1, require_equals = true, default_value = "none", default_missing_value = "unchanged", hide_default_value = true)]
    dry_run: DryRun,
}

fn cascade(text: &str) -> Result<Propagation, String> {
    match text {
        "background" | "true" => Ok(Propagation::Background),
        "foreground" => Ok(Propagation::Foreground),
        "orphan" | "false" => Ok(Propagation::Orphan),
        other => Err(format!("invalid cascade value ({other}). Must be \"background\", \"foreground\", or \"orphan\"")),
    }
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    if !matches!(args.output.as_str(), "" | "name") {
        fail!("unexpected -o output mode: {}. We only support '-o name'", args.output);
    }
    if let Some(path) = &args.raw {
        let beside = Beside { args: &args.resources, output: Some(&args.output) };
        return raw::call(cx, Method::DELETE, path, Some(&args.files), &beside).await;
    }
    let grace = grace(&args)?;
    if args.force && grace == Some(0) {
        eprintln!(
            "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. \
             The resource may continue to run on the cluster indefinitely."
        );
    }
    let query = Query {
        args: &args.resources,
        files: Some(&args.files),
        labels: &args.select.selector,
        fields: &args.select.field_selector,
        all_namespaces: args.all_namespaces,
        all: args.all,
        fetch: false,
        ..Query::default()
    };
    if args.resources.is_empty() && args.files.is_empty() {
        fail!("{NOTHING_NAMED}");
    }
    let infos = query.infos(cx).await?;
    if infos.is_empty() && cx.code() == 0 {
        return say("No resources found");
    }
    if cx.ns_given && infos.iter().any(|i| !i.resource.res.namespaced) {
        eprintln!("Warning: deleting cluster-scoped resources, not scoped to the provided namespace");
    }
    if args.interactive && !confirmed(&infos)? {
        return Ok(());
    }
    let ignore = args.ignore_not_found || args.all || !args.select.selector.is_empty();
    let mut going = Vec::new();
    for info in &infos {
        let options = DeleteOptions {
            grace,
            propagation: Some(args.cascade),
            dry_run: args.dry_run == DryRun::Server,
            ..DeleteOptions::default()
        };
        match one(cx, info, &options, args.dry_run).await {
            Err(failure) if failure.is_not_found() && ignore => {}
            Err(failure) => cx.report(&failure),
            Ok(answer) => {
                tell(info, &args, grace)?;
                going.push((info, uid_of(&answer)));
            }
        }
    }
    if args.wait && args.dry_run == DryRun::None {
        let limit = write::duration(&args.timeout)?.filter(|d| !d.is_zero()).unwrap_or(PATIENCE);
        let end = Instant::now() + limit;
        for (info, uid) in going {
            if let Err(failure) = until_gone(cx, info, uid.as_deref(), end).await {
                cx.report(&failure);
            }
        }
    }
    Ok(())
}

/// Asks whether these shall go.
fn confirmed(infos: &[Info]) -> Done<bool> {
    say(format!("You are about to delete the following {} resource(s):", infos.len()))?;
    infos.iter().try_for_each(|info| say(info.title()))?;
    put("Do you want to continue? (y/n): ")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    let yes = matches!(answer.trim(), "y" | "Y" | "yes");
    if !yes {
        say("deletion is cancelled")?;
    }
    Ok(yes)
}

fn grace(args: &Args) -> Done<Option<i64>> {
    if args.now && args.grace_period >= 0 {
        fail!("--now and --grace-period cannot be specified together");
    }
    match args.grace_period {
        0 if !args.force => {
            // Without --force a grace period of zero is one second, so that the node still confirms.
            Ok(Some(1))
        }
        n if args.force && n > 0 => fail!("--force and --grace-period greater than 0 cannot be specified together"),
        _ if args.force => Ok(Some(0)),
        _ if args.now => Ok(Some(1)),
        n if n < 0 => Ok(None),
        n => Ok(Some(n)),
    }
}

/// Deletes what a file no longer names.
pub async fn prune(cx: &Cx, info: &Info, how: &Removal, dry: DryRun) -> Done {
    if dry.is_client() {
        return Ok(());
    }
    let options = DeleteOptions { dry_run: dry == DryRun::Server, ..how.options() };
    one(cx, info, &options, dry).await.map(|_| ())
}

async fn one(cx: &Cx, info: &Info, options: &DeleteOptions, dry: DryRun) -> Done<Value> {
    if dry.is_client() {
        // What a file says is not looked for.
        return if info.source.is_some() { Ok(info.object.clone()) } else { info.fetch(cx).await };
    }
    let body = options.to_value();
    let answer = cx.call(Call::new(Method::DELETE, info.path(None)).body(&body)).await;
    answer.map_err(|e| info.failed("deleting", e))
}

fn tell(info: &Info, args: &Args, grace: Option<i64>) -> Done {
    if args.output == "name" {
        return say(info.title());
    }
    let verb = if args.force && grace == Some(0) { "force deleted" } else { "deleted" };
    say(format!("{} {:?} {verb}{}", info.resource.kind_name(), info.name, args.dry_run.suffix()))
}

/// The uid in what a DELETE answered: the object itself, or a Status about it.
fn uid_of(answer: &Value) -> Option<String> {
    answer.str_at("/details/uid").or_else(|| answer.str_at("/metadata/uid")).map(str::to_owned)
}

/// How verbs delete that do so on their way to something else.
#[derive(Debug, Clone, clap::Args)]
pub struct Removal {
    /// Delete and create again what cannot be changed
    #[arg(long)]
    pub force: bool,
    /// background, foreground or orphan
    #[arg(long, value_parser = cascade, num_args = 0..=1, require_equals = true, default_value = "background", default_missing_value = "background")]
    pub cascade: Propagation,
    /// Seconds to end in; -1 the object's own (with --force)
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    pub grace_period: i64,
    /// How long to wait for what is deleted; 0 for as long as it takes (with --force)
    #[arg(long, default_value = "0s", hide_default_value = true, allow_hyphen_values = true, value_parser = crate::ctl::write::duration_text)]
    pub timeout: String,
    /// Wait until what is deleted is gone; it always is where it is created again
    #[arg(long)]
    pub wait: bool,
}

impl Removal {
    /// Deletes what is to be made anew at once.
    pub fn at_once() -> Self {
        Self { force: true, cascade: Propagation::Background, grace_period: -1, timeout: "0s".into(), wait: true }
    }

    /// Refuses what has no meaning without `--force`.
    pub fn check(&self) -> Done {
        if self.grace_period >= 0 && !self.force {
            fail!("--grace-period must have --force specified");
        }
        if !self.force && write::duration(&self.timeout)?.is_none_or(|t| !t.is_zero()) {
            fail!("--timeout must have --force specified");
        }
        Ok(())
    }

    fn options(&self) -> DeleteOptions {
        // Zero is one second, so that the node still confirms.
        let grace = (self.grace_period >= 0).then_some(self.grace_period.max(1));
        DeleteOptions { grace, propagation: Some(self.cascade), ..DeleteOptions::default() }
    }
}

/// Deletes one object and waits until it is gone. What is not there is gone.
pub async fn and_wait(cx: &Cx, info: &Info, how: &Removal) -> Done<bool> {
    let patience = write::duration(&how.timeout)?.filter(|d| !d.is_zero()).unwrap_or(PATIENCE);
    match one(cx, info, &how.options(), DryRun::None).await {
        Ok(answer) => {
            until_gone(cx, info, uid_of(&answer).as_deref(), Instant::now() + patience).await?;
            Ok(true)
        }
        Err(failure) if failure.is_not_found() => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// Waits until the object with this uid is gone.
pub async fn until_gone(cx: &Cx, info: &Info, uid: Option<&str>, end: Instant) -> Done {
    let timed_out =
        || Failure::Plain(format!("timed out waiting for the condition on {}/{}", info.resource.res.plural, info.name));
    let same = |object: &Value| uid.is_none_or(|uid| object.str_at("/metadata/uid") == Some(uid));
    loop {
        let Some(now) = cx.find(&info.resource.res, &info.ns, &info.name).await? else { return Ok(()) };
        if !same(&now) {
            return Ok(());
        }
        let options = ListOptions {
            resource_version: now.str_at("/metadata/resourceVersion").unwrap_or_default().to_owned(),
            ..ListOptions::fields(format!("metadata.name={}", info.name))
        };
        let mut events = cx.client.watch(&info.resource.res, Some(&info.ns), &options).await?;
        loop {
            match timeout_at(end, events.next()).await {
                Err(_) => return Err(timed_out()),
                Ok(Some(Ok(event))) if event.kind == WatchKind::Deleted && same(&event.object) => return Ok(()),
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
    use test_case::test_case;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test_case("" => Ok(None); "the object's own")]
    #[test_case("--grace-period=5" => Ok(Some(5)))]
    #[test_case("--grace-period=0" => Ok(Some(1)); "zero still confirms")]
    #[test_case("--grace-period=0 --force" => Ok(Some(0)))]
    #[test_case("--force" => Ok(Some(0)))]
    #[test_case("--now" => Ok(Some(1)))]
    #[test_case("--force --grace-period=5" => Err(()); "too long for force")]
    #[test_case("--now --grace-period=5" => Err(()); "two graces")]
    fn graces(flags: &str) -> Result<Option<i64>, ()> {
        use clap::Parser;
        let line = format!("delete pod x {flags}");
        grace(&Line::try_parse_from(line.split_whitespace()).unwrap().args).map_err(|_| ())
    }
}
