//! `replace`: what a file says, whole.

use http::Method;

use super::builder::{Info, Query};
use super::cx::{Cx, Done, say};
use super::delete::{self, Removal};
use super::fail::fail;
use super::files::FileFlags;
use super::print::{DryRun, PrintFlags};
use super::raw::{self, Beside};
use super::write::{ValidateFlag, WriteFlags, Writer, with_saved_config};
use crate::api::value::ValueExt;

/// Replace a resource by what a file says
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
    #[command(flatten)]
    removal: Removal,
    /// Replace a subresource
    #[arg(long, default_value = "", hide_default_value = true)]
    subresource: String,
    /// Send the file to any path of the server instead
    #[arg(long)]
    raw: Option<String>,
    /// Keep what was written for a later apply
    #[arg(long)]
    save_config: bool,
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    if let Some(path) = &args.raw {
        let beside = Beside { args: &[], output: args.print.output.as_deref() };
        return raw::call(cx, Method::PUT, path, Some(&args.files), &beside).await;
    }
    args.removal.check()?;
    if args.files.is_empty() {
        fail!("must specify one of -f and -k");
    }
    let writer = Writer { validation: args.validate.validate, ..args.write.writer("kubectl-replace") };
    let infos = (Query { files: Some(&args.files), verb: "replace", ..Query::default() }).infos(cx).await?;
    if args.removal.force && writer.dry_run == DryRun::None {
        for info in &infos {
            if delete::and_wait(cx, info, &args.removal).await? {
                say(format!("{} {:?} deleted", info.resource.kind_name(), info.name))?;
            }
        }
    }
    for info in &infos {
        if let Err(failure) = one(cx, info, &writer, &args).await {
            cx.report(&info.failed("replacing", failure));
        }
    }
    Ok(())
}

async fn one(cx: &Cx, info: &Info, writer: &Writer, args: &Args) -> Done {
    let mut object = if args.save_config { with_saved_config(&info.object) } else { info.object.clone() };
    if args.removal.force && !writer.dry_run.is_client() {
        object.remove_at("/metadata/resourceVersion");
        let made = writer.create(cx, &info.resource.res, &info.ns, &object).await?;
        return args.print.done(&info.resource, &made, "replaced", writer.dry_run);
    }
    if object.str_at("/metadata/resourceVersion").is_none_or(str::is_empty) && !writer.dry_run.is_client() {
        // Whatever stands there now is replaced.
        if let Some(current) = cx.find(&info.resource.res, &info.ns, &info.name).await? {
            object.set_at("/metadata/resourceVersion", current["metadata"]["resourceVersion"].clone());
        }
    }
    let made = writer.update(cx, info, Some(args.subresource.as_str()).filter(|s| !s.is_empty()), &object).await?;
    args.print.done(&info.resource, &made, "replaced", writer.dry_run)
}
