//! `apply`: what files say becomes what the server has; by a three-way patch, or by the server.

use serde_json::Value;

use super::builder::{Info, Query};
use super::cx::{Cx, Done, put};
use super::delete;
use super::fail::{Failure, fail};
use super::files::FileFlags;
use super::print::{DryRun, PrintFlags, list_of};
use super::write::{LAST_APPLIED, ValidateFlag, WriteFlags, Writer, difference, with_last_applied};
use crate::api::status::Reason;
use crate::api::value::ValueExt;

/// Attempts when others write the object at the same time.
const ATTEMPTS: usize = 5;
/// The owner of fields written by client-side apply, as kubectl names it.
const CLIENT_SIDE: &str = "kubectl-client-side-apply";
/// The owner of fields written by server-side apply.
const SERVER_SIDE: &str = "kubectl";

/// Make the server have what files say
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
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
    /// Delete and create again what cannot be patched
    #[arg(long)]
    force: bool,
    /// Change what was changed by others since
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    overwrite: bool,
    /// Only objects with these labels
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: String,
}

/// What became of an object.
struct Applied {
    object: Value,
    verb: &'static str,
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    if args.files.is_empty() {
        fail!("must specify one of -f and -k");
    }
    if args.force_conflicts && !args.server_side {
        fail!("--force-conflicts only works with --server-side");
    }
    if args.server_side && args.write.dry_run.is_client() {
        fail!("--dry-run=client doesn't work with --server-side (did you mean --dry-run=server instead?)");
    }
    let mut writer = args.write.writer(if args.server_side { SERVER_SIDE } else { CLIENT_SIDE });
    writer.validation = args.validate.validate;
    let selector = crate::api::meta::labels::Selector::parse(&args.selector)
        .map_err(|e| Failure::Plain(format!("unable to parse the label selector: {e}")))?;
    let infos = Query { files: Some(&args.files), verb: "apply", ..Query::default() }.infos(cx).await?;
    let infos: Vec<Info> =
        infos.into_iter().filter(|i| selector.matches_value(i.object.pointer("/metadata/labels"))).collect();
    if infos.is_empty() && cx.code() == 0 {
        fail!("no objects passed to apply");
    }
    let output = args.print.output(false)?;
    let mut all = Vec::new();
    for info in &infos {
        let applied = if args.server_side {
            let object = writer.apply(cx, info, args.force_conflicts).await.map_err(explain_conflict);
            object.map(|object| Applied { object, verb: "serverside-applied" })
        } else {
            client_side(cx, info, &writer, &args).await
        };
        match applied {
            Err(failure) => cx.report(&failure),
            Ok(applied) if output.is_human() || args.print.output.as_deref() == Some("name") => {
                args.print.done(&info.resource, &applied.object, applied.verb, writer.dry_run)?;
            }
            Ok(applied) => all.push(args.print.shown(&applied.object)),
        }
    }
    match all.len() {
        0 => Ok(()),
        1 => put(&output.object(&all[0])?),
        _ => put(&output.object(&list_of(all))?),
    }
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
        match once(cx, info, writer, args).await {
            Err(Failure::Server { status, .. }) if status.reason == Reason::Conflict && attempt < ATTEMPTS => {}
            Err(Failure::Server { status, doing }) if args.force && is_immutable(status.reason) => {
                let _ = (doing, status);
                return recreate(cx, info, writer).await;
            }
            other => return other,
        }
    }
}

fn is_immutable(reason: Reason) -> bool {
    matches!(reason, Reason::Invalid | Reason::Conflict)
}

async fn once(cx: &Cx, info: &Info, writer: &Writer, args: &Args) -> Done<Applied> {
    let modified = with_last_applied(&info.object);
    let Some(current) = cx.find(&info.resource.res, &info.ns, &info.name).await? else {
        let made = writer.create(cx, &info.resource.res, &info.ns, &modified).await;
        let object = made.map_err(|e| info.failed("creating", e))?;
        return Ok(Applied { object, verb: "created" });
    };
    if current.pointer("/metadata/deletionTimestamp").is_some() {
        eprintln!("Warning: Detected changes to resource {} which is currently being deleted.", info.name);
    }
    let original = match current.str_at(LAST_APPLIED) {
        Some(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        None => {
            if writer.dry_run == DryRun::None {
                warn_missing(info);
            }
            Value::Null
        }
    };
    let (media, patch) = difference(&original, &modified, &current);
    if patch.as_object().is_none_or(serde_json::Map::is_empty) {
        return Ok(Applied { object: current, verb: "unchanged" });
    }
    if !args.overwrite && !conflicts(&original, &current, &patch).is_empty() {
        fail!(
            "conflict: what was applied last is not what the server has: {}",
            conflicts(&original, &current, &patch).join(", ")
        );
    }
    let target = Info { object: current, ..info.clone() };
    let object = match writer.patch(cx, &target, None, media, &patch).await {
        Ok(object) => object,
        Err(failure) => return Err(info.failed("applying patch to", failure)),
    };
    Ok(Applied { object, verb: "configured" })
}

/// Top-level fields that were changed on the server since they were applied, and that the patch changes back.
fn conflicts(original: &Value, current: &Value, patch: &Value) -> Vec<String> {
    let Some(fields) = patch.as_object() else { return Vec::new() };
    let was_changed =
        |name: &&String| original.get(name.as_str()).is_some_and(|was| Some(was) != current.get(name.as_str()));
    fields.keys().filter(was_changed).cloned().collect()
}

fn warn_missing(info: &Info) {
    eprintln!(
        "Warning: resource {}/{} is missing the kubectl.kubernetes.io/last-applied-configuration annotation which is required by kubectl apply. \
         kubectl apply should only be used on resources created declaratively by either kubectl create --save-config or kubectl apply. \
         The missing annotation will be patched automatically.",
        info.resource.res.plural, info.name
    );
}

async fn recreate(cx: &Cx, info: &Info, writer: &Writer) -> Done<Applied> {
    delete::and_wait(cx, info).await?;
    let modified = with_last_applied(&info.object);
    let object = writer.create(cx, &info.resource.res, &info.ns, &modified).await?;
    Ok(Applied { object, verb: "configured" })
}
