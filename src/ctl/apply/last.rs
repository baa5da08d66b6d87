//! The annotation that `apply` keeps: `view-last-applied`, `set-last-applied`, `edit-last-applied`.

use serde_json::{Value, json};

use crate::api::codec::yaml;
use crate::api::value::ValueExt;
use crate::ctl::builder::{Info, Query};
use crate::ctl::cx::{Cx, Done, put};
use crate::ctl::edit;
use crate::ctl::fail::{Failure, fail};
use crate::ctl::files::FileFlags;
use crate::ctl::print::{PrintFlags, json_indented};
use crate::ctl::write::{LAST_APPLIED, MERGE, WriteFlags, Writer, last_applied};

const MANAGER: &str = "kubectl-last-applied";
const VIEW_HELP: &str = "See 'kubectl apply view-last-applied -h' for help and examples";

/// What to do with the annotation.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Verb {
    #[command(name = "view-last-applied")]
    View(View),
    #[command(name = "set-last-applied")]
    Set(Set),
    #[command(name = "edit-last-applied")]
    Edit(Edit),
}

/// Show what was applied last
#[derive(Debug, Clone, clap::Args)]
pub struct View {
    /// TYPE [NAME…] or TYPE/NAME…
    resources: Vec<String>,
    #[command(flatten)]
    files: FileFlags,
    /// Objects with these labels
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: String,
    /// All of the type
    #[arg(long)]
    all: bool,
    /// yaml or json
    #[arg(short, long, default_value = "yaml")]
    output: String,
}

/// Keep what a file says as what was applied last
#[derive(Debug, Clone, clap::Args)]
pub struct Set {
    #[command(flatten)]
    files: FileFlags,
    #[command(flatten)]
    print: PrintFlags,
    #[command(flatten)]
    write: WriteFlags,
    /// Make the annotation where there is none
    #[arg(long)]
    create_annotation: bool,
}

/// Edit what was applied last
#[derive(Debug, Clone, clap::Args)]
pub struct Edit {
    /// TYPE NAME or TYPE/NAME
    resources: Vec<String>,
    #[command(flatten)]
    files: FileFlags,
    #[command(flatten)]
    print: PrintFlags,
    #[command(flatten)]
    write: WriteFlags,
    #[command(flatten)]
    validate: crate::ctl::write::ValidateFlag,
    /// End lines as Windows does
    #[arg(long)]
    windows_line_endings: bool,
}

/// Runs the verb.
pub async fn run(cx: &Cx, verb: Verb) -> Done {
    match verb {
        Verb::View(args) => view(cx, &args).await,
        Verb::Set(args) => set(cx, &args).await,
        Verb::Edit(args) => edit(cx, &args).await,
    }
}

fn kept(object: &Value) -> Done<Option<Value>> {
    let Some(text) = object.str_at(LAST_APPLIED) else { return Ok(None) };
    serde_json::from_str(text).map(Some).map_err(|e| Failure::Plain(format!("the annotation is no JSON: {e}")))
}

async fn view(cx: &Cx, args: &View) -> Done {
    let show: fn(&Value) -> String = match args.output.as_str() {
        "" | "yaml" => yaml::to_string,
        "json" => |value| json_indented(value, b"  "),
        other => fail!("Unexpected -o output mode: {other}, the flag 'output' must be one of yaml|json\n{VIEW_HELP}"),
    };
    let query = Query {
        args: &args.resources,
        files: Some(&args.files),
        labels: &args.selector,
        all: args.all,
        fetch: true,
        ..Query::default()
    };
    for info in query.infos(cx).await? {
        if let Some(kept) = kept(&info.object)? {
            put(&show(&kept))?;
        }
    }
    Ok(())
}

/// Puts the annotation on an object.
async fn keep(cx: &Cx, info: &Info, text: String, writer: &Writer) -> Done<Value> {
    let mut patch = json!({});
    patch.set_at(LAST_APPLIED, text);
    writer.patch(cx, info, None, MERGE, &patch).await
}

async fn set(cx: &Cx, args: &Set) -> Done {
    let writer = args.write.writer(MANAGER);
    for info in (Query { files: Some(&args.files), verb: "set-last-applied", ..Query::default() }).infos(cx).await? {
        let done = async {
            let current = info.fetch(cx).await?;
            if current.str_at(LAST_APPLIED).is_none() && !args.create_annotation {
                fail!(
                    "no last-applied-configuration annotation found on resource: {}, to create the annotation, run the command with --create-annotation",
                    info.name
                );
            }
            let target = Info { object: current, ..info.clone() };
            let object = keep(cx, &target, last_applied(&info.object), &writer).await?;
            args.print.done(&info.resource, &object, "configured", writer.dry_run)
        };
        if let Err(failure) = done.await {
            cx.report(&failure);
        }
    }
    Ok(())
}

async fn edit(cx: &Cx, args: &Edit) -> Done {
    let writer = args.write.writer(MANAGER);
    let query = Query { args: &args.resources, files: Some(&args.files), fetch: true, ..Query::default() };
    for info in query.infos(cx).await? {
        let done = async {
            let Some(kept) = kept(&info.object)? else {
                fail!("no last-applied-configuration annotation found on resource: {}", info.name)
            };
            let accept = async |wanted: Value| keep(cx, &info, last_applied(&wanted), &writer).await.map(Some);
            match edit::until_accepted(yaml::to_string(&kept), accept).await? {
                Some(object) => args.print.done(&info.resource, &object, "edited", writer.dry_run),
                None => Ok(()),
            }
        };
        if let Err(failure) = done.await {
            cx.report(&failure);
        }
    }
    Ok(())
}
