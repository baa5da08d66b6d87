//! `patch`: a patch from the command line or a file.

use serde_json::Value;

use super::builder::{Info, LocalFlag, Query};
use super::cx::{Cx, Done};
use super::fail::{Failure, fail, os};
use super::files::FileFlags;
use super::mapper;
use super::print::{DryRun, PrintFlags, omit_managed_fields};
use super::write::{JSON, MERGE, STRATEGIC, WriteFlags, Writer};
use crate::api::codec::yaml;
use crate::api::meta::gvk;
use crate::api::patch::{json, merge, strategic};
use crate::api::schema::{View, table};
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
    #[command(flatten)]
    local: LocalFlag,
    /// Patch a subresource
    #[arg(long)]
    subresource: Option<String>,
}

/// Flags of verbs whose generated object can be changed before it is sent.
#[derive(Debug, Clone, clap::Args)]
pub struct Overrides {
    /// JSON that changes the object
    #[arg(long, default_value = "", hide_default_value = true)]
    overrides: String,
    /// How: json, merge or strategic
    #[arg(long, default_value = "merge")]
    override_type: String,
}

impl Overrides {
    /// The object as it was asked for.
    pub fn over(&self, object: Value) -> Done<Value> {
        if self.overrides.is_empty() {
            return Ok(object);
        }
        let Some(media) = media(&self.override_type) else { fail!("invalid override type: {}", self.override_type) };
        let patch = serde_json::from_str(&self.overrides).map_err(|_| Failure::Plain("Invalid JSON Patch".into()))?;
        patched(&object, media, &patch)
    }
}

fn media(kind: &str) -> Option<&'static str> {
    match kind {
        "json" => Some(JSON),
        "merge" => Some(MERGE),
        "strategic" => Some(STRATEGIC),
        _ => None,
    }
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    let Some(media) = media(&args.kind) else {
        fail!("--type must be one of [json merge strategic], not {:?}", args.kind)
    };
    let dry_run = args.local.over(args.write.dry_run)?;
    if !args.patch.is_empty() && args.patch_file.is_some() {
        fail!("cannot specify --patch and --patch-file together");
    }
    if args.local.local && !args.resources.is_empty() {
        fail!("cannot specify --local and server resources");
    }
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
    let query = Query {
        args: &args.resources,
        files: Some(&args.files),
        fetch: true,
        local: args.local.local,
        ..Query::default()
    };
    for info in query.infos(cx).await? {
        if let Err(failure) = one(cx, &info, &args, dry_run, media, &patch).await {
            cx.report(&failure);
        }
    }
    Ok(())
}

async fn one(cx: &Cx, info: &Info, args: &Args, dry_run: DryRun, media: &str, patch: &Value) -> Done {
    let writer = Writer { dry_run, ..args.write.writer("kubectl-patch") };
    let object = if writer.dry_run.is_client() {
        patched(&info.object, media, patch)?
    } else {
        writer.patch(cx, info, args.subresource.as_deref(), media, patch).await?
    };
    // A try stores nothing, so that versions say nothing.
    let same = match writer.dry_run {
        DryRun::None => object["metadata"]["resourceVersion"] == info.object["metadata"]["resourceVersion"],
        _ => without_version(&object) == without_version(&info.object),
    };
    // A subresource answers with a kind of its own. That nothing was stored is not told: kubectl does not.
    let (group, _) = gvk::split(object.str_at("/apiVersion").unwrap_or_default());
    let kind = mapper::kind_name(group, object.str_at("/kind").unwrap_or_default());
    args.print.done_as(&kind, &object, if same { "patched (no change)" } else { "patched" }, DryRun::None)
}

/// What a patch makes of an object, without a server.
fn patched(object: &Value, media: &str, patch: &Value) -> Done<Value> {
    let (group, version) = gvk::split(object.str_at("/apiVersion").unwrap_or_default());
    let def = table().kind(group, version, object.str_at("/kind").unwrap_or_default());
    let (object, patch) = (object.clone(), patch.clone());
    Ok(match (media, def) {
        (JSON, _) => json::apply(object, patch)?,
        (STRATEGIC, Some(def)) => strategic::apply(object, patch, View::of(def))?,
        (STRATEGIC, None) => fail!("strategic merge patch is not supported for this kind; use --type merge"),
        _ => merge::apply(object, patch)?,
    })
}

/// What is compared where a write was only tried.
fn without_version(object: &Value) -> Value {
    let mut object = object.clone();
    omit_managed_fields(&mut object);
    object.remove_at("/metadata/resourceVersion");
    object.remove_at("/metadata/generation");
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    #[test_case(STRATEGIC, json!({"spec": {"containers": [{"name": "b"}]}}), json!([{"name": "b"}, {"name": "a"}]); "by key")]
    #[test_case(MERGE, json!({"spec": {"containers": [{"name": "b"}]}}), json!([{"name": "b"}]); "merge replaces lists")]
    #[test_case(JSON, json!([{"op": "remove", "path": "/spec/containers/0"}]), json!([]); "operations")]
    fn patches_without_a_server(media: &str, patch: Value, want: Value) {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
        assert_eq!(patched(&pod, media, &patch).unwrap()["spec"]["containers"], want);
    }
}
