//! `replace`: what a file says, whole.

use super::builder::{Info, Query};
use super::cx::{Cx, Done, say};
use super::delete;
use super::fail::fail;
use super::files::FileFlags;
use super::print::PrintFlags;
use super::write::{ValidateFlag, WriteFlags, Writer, with_last_applied};
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
    /// Delete and create again
    #[arg(long)]
    force: bool,
    /// Keep what was written for a later apply
    #[arg(long)]
    save_config: bool,
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    if args.files.is_empty() {
        fail!("must specify --filename to replace");
    }
    let writer = Writer { validation: args.validate.validate, ..args.write.writer("kubectl-replace") };
    for info in (Query { files: Some(&args.files), verb: "replace", ..Query::default() }).infos(cx).await? {
        if let Err(failure) = one(cx, &info, &writer, &args).await {
            cx.report(&info.failed("replacing", failure));
        }
    }
    Ok(())
}

async fn one(cx: &Cx, info: &Info, writer: &Writer, args: &Args) -> Done {
    let mut object = if args.save_config { with_last_applied(&info.object) } else { info.object.clone() };
    if args.force && !writer.dry_run.is_client() {
        if writer.dry_run.query().is_empty() && delete::and_wait(cx, info).await? {
            say(format!("{} {:?} deleted", info.resource.kind_name(), info.name))?;
        }
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
    let made = writer.update(cx, info, &object).await?;
    args.print.done(&info.resource, &made, "replaced", writer.dry_run)
}
