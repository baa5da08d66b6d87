//! `apply`: what files say becomes what the server has; by a three-way patch, or by the server.
//!
//! Beside it stand the verbs for the annotation that the three-way patch lives on ([`last`]), and the deletion of what
//! files no longer name ([`prune`]).

mod last;
pub mod prune;

use serde_json::{Value, json};

use crate::api::status::Reason;
use crate::api::value::ValueExt;
use crate::ctl::builder::{self, Info, Query};
use crate::ctl::cx::{Cx, Done, put};
use crate::ctl::delete::{self, Removal};
use crate::ctl::fail::{Failure, fail};
use crate::ctl::files::FileFlags;
use crate::ctl::print::{DryRun, PrintFlags};
use crate::ctl::write::{LAST_APPLIED, ValidateFlag, WriteFlags, Writer, difference, with_last_applied};

/// Attempts when others write the object at the same time.
const ATTEMPTS: usize = 5;
/// The owner of fields written by client-side apply, as kubectl names it.
const CLIENT_SIDE: &str = "kubectl-client-side-apply";
/// The owner of fields written by server-side apply.
const SERVER_SIDE: &str = "kubectl";

/// Make the server have what files say
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    last: Option<last::Verb>,
    #[command(flatten)]
    files: FileFlags,
    #[command(flatten)]
    print: PrintFlags,
    #[command(flatten)]
    write: WriteFlags,
    #[command(flatten)]
    validate: ValidateFlag,
    /// The server applies
    #[arg(long)]
    server_side: bool,
    /// Take fields over from other owners (with --server-side)
    #[arg(long)]
    force_conflicts: bool,
    #[command(flatten)]
    removal: Removal,
    #[command(flatten)]
    prune: prune::Flags,
    /// Apply to a subresource (with --server-side)
    #[arg(long, default_value = "", hide_default_value = true)]
    subresource: String,
    /// No effect: what patches need is known here
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    openapi_patch: bool,
    /// Change what was changed by others since
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    overwrite: bool,
    /// Only objects with these labels
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: String,
}

impl Args {
    /// Refuses flags that do not go together.
    fn check(&self) -> Done {
        if self.files.is_empty() {
            fail!("must specify one of -f and -k");
        }
        if self.force_conflicts && !self.server_side {
            fail!("--force-conflicts only works with --server-side");
        }
        if self.server_side && self.write.dry_run.is_client() {
            fail!("--dry-run=client doesn't work with --server-side (did you mean --dry-run=server instead?)");
        }
        if self.server_side && self.removal.force {
            fail!("--force cannot be used with --server-side");
        }
        if self.removal.force && self.write.dry_run == DryRun::Server {
            fail!("--dry-run=server cannot be used with --force");
        }
        if !self.subresource.is_empty() && !self.server_side {
            fail!("--subresource can only be specified for --server-side");
        }
        self.prune.check(&self.selector)
    }
}

/// What became of an object.
struct Applied {
    object: Value,
    verb: &'static str,
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    if let Some(verb) = args.last {
        return last::run(cx, verb).await;
    }
    args.check()?;
    let mut writer = args.write.writer(if args.server_side { SERVER_SIDE } else { CLIENT_SIDE });
    writer.validation = args.validate.validate;
    let kinds = args.prune.kinds(cx).await?;
    let infos = Query { files: Some(&args.files), verb: "apply", ..Query::default() }.infos(cx).await?;
    let infos = builder::selected(infos, &args.selector)?;
    if infos.is_empty() && cx.code() == 0 {
        fail!("no objects passed to apply");
    }
    let output = args.print.output()?;
    let (mut all, mut kept) = (Vec::new(), prune::Kept::default());
    let sub = Some(args.subresource.as_str()).filter(|s| !s.is_empty());
    for info in &infos {
        let applied = if args.server_side {
            let object = writer.apply(cx, info, sub, args.force_conflicts).await.map_err(explain_conflict);
            object.map(|object| Applied { object, verb: "serverside-applied" })
        } else {
            client_side(cx, info, &writer, &args).await
        };
        if let Ok(applied) = &applied {
            kept.see(info, &applied.object);
        }
        match applied {
            Err(failure) => cx.report(&failure),
            Ok(applied) if output.is_human() || args.print.output.as_deref() == Some("name") => {
                args.print.done(&info.resource, &applied.object, applied.verb, writer.dry_run)?;
            }
            Ok(applied) => all.push(args.print.shown(&applied.object)),
        }
    }
    match all.len() {
        0 => {}
        1 => put(&output.object(&all[0])?)?,
        _ => put(&output.object(&json!({"apiVersion": "v1", "items": all, "kind": "List", "metadata": {}}))?)?,
    }
    // What could not be applied is no reason to delete the rest.
    if kinds.is_empty() || cx.code() != 0 {
        return Ok(());
    }
    prune::run(cx, &kinds, &kept, &args).await
}

/// Says what can be done about fields that others own.
fn explain_conflict(failure: Failure) -> Failure {
    match failure {
        Failure::Server { status, .. }
            if status.reason == Reason::Conflict && status.message.starts_with("Apply failed") =>
        {
            Failure::Plain(format!(
                "{}\nOther managers own these fields. Leave them out of the manifest to keep their values, give them the values \
                 they have to share them, or take them over with --force-conflicts.",
                status.message
            ))
        }
        other => other,
    }
}

async fn client_side(cx: &Cx, info: &Info, writer: &Writer, args: &Args) -> Done<Applied> {
    if info.name.is_empty() {
        fail!(
            "error when retrieving current configuration of {:?}: from server for: {:?}: resource name may not be empty (apply needs metadata.name; generateName is for create)",
            info.resource.qualified(),
            info.source.as_deref().unwrap_or_default()
        );
    }
    let mut attempt = 0;
    loop {
        attempt += 1;
        match once(cx, info, writer, args, attempt == 1).await {
            Err(Failure::Server { status, .. }) if status.reason == Reason::Conflict && attempt < ATTEMPTS => {}
            Err(Failure::Server { status, .. }) if args.removal.force && is_immutable(status.reason) => {
                return recreate(cx, info, writer, &args.removal).await;
            }
            other => return other,
        }
    }
}

fn is_immutable(reason: Reason) -> bool {
    matches!(reason, Reason::Invalid | Reason::Conflict)
}

/// One attempt; the first one warns.
async fn once(cx: &Cx, info: &Info, writer: &Writer, args: &Args, first: bool) -> Done<Applied> {
    let modified = with_last_applied(&info.object);
    let Some(current) = cx.find(&info.resource.res, &info.ns, &info.name).await? else {
        let made = writer.create(cx, &info.resource.res, &info.ns, &modified).await;
        let object = made.map_err(|e| info.failed("creating", e))?;
        return Ok(Applied { object, verb: "created" });
    };
    if first && current.get_at("/metadata/deletionTimestamp").is_some() {
        eprintln!("Warning: Detected changes to resource {} which is currently being deleted.", info.name);
    }
    let original = match current.str_at(LAST_APPLIED) {
        Some(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        None => {
            if writer.dry_run == DryRun::None && first {
                warn_missing(info);
            }
            Value::Null
        }
    };
    let (media, patch) = difference(&original, &modified, &current);
    if patch.as_object().is_none_or(serde_json::Map::is_empty) {
        // A try on this side does not look.
        let verb = if writer.dry_run.is_client() { "configured" } else { "unchanged" };
        return Ok(Applied { object: current, verb });
    }
    if !args.overwrite {
        let changed = difference(&original, &current, &original).1;
        let conflicts = conflicts(&patch, &changed, "");
        if !conflicts.is_empty() {
            fail!(
                "{} was changed on the server since it was applied, to another value than the file's",
                conflicts.join(", ")
            );
        }
    }
    let target = Info { object: current, ..info.clone() };
    let object = match writer.patch(cx, &target, None, media, &patch).await {
        Ok(object) => object,
        Err(failure) => return Err(info.failed("applying patch to", failure)),
    };
    Ok(Applied { object, verb: "configured" })
}

/// The fields that a patch would change back: changed on the server since they were applied, to something else.
fn conflicts(patch: &Value, changed: &Value, at: &str) -> Vec<String> {
    match (patch, changed) {
        (Value::Object(patch), Value::Object(changed)) => patch
            .iter()
            .filter_map(|(key, value)| Some((key, value, changed.get(key)?)))
            .flat_map(|(key, value, changed)| conflicts(value, changed, &format!("{at}.{key}")))
            .collect(),
        // What is gone from the server is no value of its own.
        (_, Value::Null) => Vec::new(),
        (patch, changed) if patch == changed || at.ends_with(".kubectl.kubernetes.io/last-applied-configuration") => {
            Vec::new()
        }
        _ => vec![at.trim_start_matches('.').to_owned()],
    }
}

fn warn_missing(info: &Info) {
    eprintln!(
        "Warning: resource {}/{} is missing the kubectl.kubernetes.io/last-applied-configuration annotation which is required by kubectl apply. \
         kubectl apply should only be used on resources created declaratively by either kubectl create --save-config or kubectl apply. \
         The missing annotation will be patched automatically.",
        info.resource.res.plural, info.name
    );
}

async fn recreate(cx: &Cx, info: &Info, writer: &Writer, removal: &Removal) -> Done<Applied> {
    delete::and_wait(cx, info, removal).await?;
    let modified = with_last_applied(&info.object);
    let object = writer.create(cx, &info.resource.res, &info.ns, &modified).await?;
    Ok(Applied { object, verb: "configured" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_both_change_to_different_values_conflicts() {
        let patch = json!({"data": {"a": "1", "b": "2", "c": "3"}, "spec": null});
        let changed = json!({"data": {"a": "9", "b": "2", "d": "4", "c": null}});
        assert_eq!(conflicts(&patch, &changed, ""), ["data.a"]);
        assert!(conflicts(&patch, &json!({}), "").is_empty());
    }
}
