//! `patch`: a patch from the command line or a file.

use serde_json::Value;

use super::builder::Query;
use super::cx::{Cx, Done};
use super::fail::{Failure, fail, os};
use super::files::FileFlags;
use super::mapper;
use super::print::{DryRun, PrintFlags, omit_managed_fields};
use super::write::{JSON, MERGE, STRATEGIC, WriteFlags};
use crate::api::codec::yaml;
use crate::api::meta::gvk;
use crate::api::value::ValueExt;

/// Change fields of a resource
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// TYPE NAME or TYPE/NAME
    resources: Vec<String>,
    #[command(flatten)]
    files: FileFlags,
    #[command(flatten)]
    print: PrintFlags,
    #[command(flatten)]
    write: WriteFlags,
    /// The patch, JSON or YAML
    #[arg(short, long, default_value = "", hide_default_value = true, allow_hyphen_values = true)]
    patch: String,
    /// A file with the patch
    #[arg(long)]
    patch_file: Option<String>,
    /// json, merge or strategic
    #[arg(long = "type", default_value = "strategic")]
    kind: String,
    /// Patch a subresource
    #[arg(long)]
    subresource: Option<String>,
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    let media = match args.kind.as_str() {
        "json" => JSON,
        "merge" => MERGE,
        "strategic" => STRATEGIC,
        other => fail!("--type must be one of [json merge strategic], not {other:?}"),
    };
    let text = match &args.patch_file {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|e| Failure::Plain(format!("unable to read patch file: open {path}: {}", os(&e))))?,
        None if args.patch.is_empty() => {
            fail!("must specify --patch or --patch-file containing the contents of the patch")
        }
        None => args.patch.clone(),
    };
    let patch: Value =
        yaml::parse(text.as_bytes()).map_err(|e| Failure::Plain(format!("unable to parse {text:?}: {e}")))?;
    if args.resources.is_empty() && args.files.is_empty() {
        fail!("must specify one of -f and -k, or a resource as TYPE NAME");
    }
    let writer = args.write.writer("kubectl-patch");
    let query = Query { args: &args.resources, files: Some(&args.files), fetch: true, ..Query::default() };
    for info in query.infos(cx).await? {
        match writer.patch(cx, &info, args.subresource.as_deref(), media, &patch).await {
            Err(failure) => cx.report(&failure),
            Ok(object) => {
                let version = |o: &Value| o.str_at("/metadata/resourceVersion").map(str::to_owned);
                let same = version(&object) == version(&info.object) && !writer.dry_run.is_client();
                // A try stores nothing, so that the versions say nothing.
                let tried = writer.dry_run == DryRun::Server;
                let same = same && (!tried || without_version(&object) == without_version(&info.object));
                let verb = if same { "patched (no change)" } else { "patched" };
                match cx.mapper().await?.of_kind(text_at(&object, "/apiVersion"), text_at(&object, "/kind")) {
                    // A subresource answers with a kind of its own.
                    None if args.subresource.is_some() => {
                        let kind = gvk::split(text_at(&object, "/apiVersion")).0;
                        let kind = mapper::kind_name(kind, text_at(&object, "/kind"));
                        args.print.done_as(&kind, &object, verb, writer.dry_run)?;
                    }
                    _ => args.print.done(&info.resource, &object, verb, writer.dry_run)?,
                }
            }
        }
    }
    Ok(())
}

fn text_at<'a>(object: &'a Value, path: &str) -> &'a str {
    object.str_at(path).unwrap_or_default()
}

/// What is compared where a write was only tried.
fn without_version(object: &Value) -> Value {
    let mut object = object.clone();
    omit_managed_fields(&mut object);
    object.remove_at("/metadata/resourceVersion");
    object.remove_at("/metadata/generation");
    object
}
