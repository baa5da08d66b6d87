//! `diff`: what `apply` would change, as the server would store it.

use diffy::DiffOptions;

use super::apply::prune;
use super::builder::{self, Info, Query};
use super::cx::{Cx, Done, put};
use super::fail::{Failure, fail};
use super::files::FileFlags;
use super::print::{DryRun, omit_managed_fields};
use super::write::{LAST_APPLIED, Writer, difference};
use crate::api::codec::yaml;
use crate::api::value::ValueExt;
use crate::util::order::Arrange;
use serde_json::Value;

/// Show what apply would change
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    files: FileFlags,
    /// As apply --server-side would
    #[arg(long)]
    server_side: bool,
    /// Take fields over from other owners (with --server-side)
    #[arg(long)]
    force_conflicts: bool,
    /// Name of the owner of the fields
    #[arg(long, default_value = "", hide_default_value = true)]
    field_manager: String,
    /// Objects with these labels only
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: String,
    /// Show metadata.managedFields too
    #[arg(long)]
    show_managed_fields: bool,
    #[command(flatten)]
    prune: prune::Which,
    /// No effect: what the server would store is asked for one after the other
    #[arg(long, default_value_t = 1, hide = true)]
    concurrency: u32,
}

/// The code of a comparison that could not be made.
const TROUBLE: u8 = 2;

/// Runs the verb. Ends with 1 where something differs, with more where something failed.
pub async fn run(cx: &Cx, args: Args) -> Done {
    if args.files.is_empty() {
        fail!("must specify one of -f and -k");
    }
    let default = if args.server_side { "kubectl" } else { "kubectl-client-side-apply" };
    let manager = if args.field_manager.is_empty() { default } else { &args.field_manager };
    let writer = Writer { dry_run: DryRun::Server, manager: manager.to_owned(), validation: "" };
    let kinds = args.prune.kinds(cx).await?;
    let (mut texts, mut kept) = (Vec::new(), prune::Kept::default());
    let infos = (Query { files: Some(&args.files), ..Query::default() }).infos(cx).await;
    let infos = match infos {
        Ok(infos) if cx.code() == 0 => infos,
        Ok(_) => {
            cx.end_with(TROUBLE);
            return Ok(());
        }
        Err(failure) => {
            eprintln!("{failure}");
            return Err(Failure::Exit(TROUBLE));
        }
    };
    for info in builder::selected(infos, &args.selector)? {
        match one(cx, &info, &writer, &args, &mut kept).await {
            Ok(text) => texts.push((file_name(&info), text)),
            Err(failure) => {
                eprintln!("{failure}");
                return Err(Failure::Exit(TROUBLE));
            }
        }
    }
    for info in prune::left_over(cx, &kinds, &kept, &args.selector).await {
        let name = file_name(&info);
        let gone = text(Some(&info.object), None, &name, args.show_managed_fields);
        texts.push((name, gone));
    }
    texts.retain(|(_, text)| !text.is_empty());
    // In the order of their names, as a diff of two directories has it.
    texts.arrange();
    texts.iter().try_for_each(|(_, text)| put(text))?;
    if !texts.is_empty() && cx.code() == 0 { Err(Failure::Exit(1)) } else { Ok(()) }
}

async fn one(cx: &Cx, info: &Info, writer: &Writer, args: &Args, kept: &mut prune::Kept) -> Done<String> {
    let live = cx.find(&info.resource.res, &info.ns, &info.name).await?;
    kept.see(info, live.as_ref().unwrap_or(&info.object));
    let merged = if args.server_side {
        writer.apply(cx, info, None, args.force_conflicts).await?
    } else {
        // What apply would keep for itself is no difference.
        let mut modified = info.object.clone();
        modified.remove_at(LAST_APPLIED);
        match &live {
            None => writer.create(cx, &info.resource.res, &info.ns, &modified).await?,
            Some(current) => {
                modified.set_if_absent("/metadata/annotations", Value::Object(serde_json::Map::new()));
                let kept = current.str_at(LAST_APPLIED).and_then(|t| serde_json::from_str(t).ok());
                let (media, patch) = difference(&kept.unwrap_or(Value::Null), &modified, current);
                let target = Info { object: current.clone(), ..info.clone() };
                writer.patch(cx, &target, None, media, &patch).await?
            }
        }
    };
    let name = file_name(info);
    Ok(text(live.as_ref(), Some(&merged), &name, args.show_managed_fields))
}

fn file_name(info: &Info) -> String {
    let api = info.resource.res.api_version().replace('/', ".");
    format!("{api}.{}.{}.{}", info.resource.res.kind, info.ns, info.name)
}

/// The difference, unified; empty for none. Values of secrets are masked.
fn text(live: Option<&Value>, merged: Option<&Value>, name: &str, managed: bool) -> String {
    let (mut live, mut merged) = (live.cloned(), merged.cloned());
    if live.as_ref().or(merged.as_ref()).is_some_and(|o| o["kind"] == "Secret") {
        mask(live.as_mut(), merged.as_mut());
    }
    let show = |object: Option<Value>| {
        let Some(mut object) = object else { return String::new() };
        if !managed {
            omit_managed_fields(&mut object);
        }
        yaml::to_string(&object)
    };
    let (a, b) = (show(live), show(merged));
    if a == b {
        return String::new();
    }
    let (before, after) = (format!("LIVE/{name}"), format!("MERGED/{name}"));
    let mut options = DiffOptions::new();
    options.set_context_len(3).set_original_filename(before.clone()).set_modified_filename(after.clone());
    format!("diff -u -N {before} {after}\n{}", options.create_patch(&a, &b))
}

/// Shows that a value differs, not what it is.
fn mask(mut live: Option<&mut Value>, mut merged: Option<&mut Value>) {
    for field in ["data", "stringData"] {
        let before = live.as_ref().map(|o| o[field].clone()).unwrap_or_default();
        let after = merged.as_ref().map(|o| o[field].clone()).unwrap_or_default();
        let veil = |object: &mut Option<&mut Value>, other: &Value, when: &str| {
            let Some(Value::Object(map)) = object.as_mut().and_then(|o| o.get_mut(field)) else { return };
            for (key, value) in map.iter_mut() {
                let differs = other.get(key).is_some_and(|v| v != value);
                *value = if differs { format!("*** ({when})").into() } else { "***".into() };
            }
        };
        veil(&mut live, &after, "before");
        veil(&mut merged, &before, "after");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_for_what_is_the_same_and_secrets_are_masked() {
        let live = json!({"kind": "ConfigMap", "data": {"a": "1"}});
        assert_eq!(text(Some(&live), Some(&live), "x", false), "");
        let merged = json!({"kind": "ConfigMap", "data": {"a": "2"}});
        let out = text(Some(&live), Some(&merged), "x", false);
        let head = "diff -u -N LIVE/x MERGED/x\n--- LIVE/x\n+++ MERGED/x\n@@ -1,3 +1,3 @@\n data:\n";
        assert_eq!(out, format!("{head}-  a: \"1\"\n+  a: \"2\"\n kind: ConfigMap\n"));
        let secret = |v: &str| json!({"kind": "Secret", "data": {"a": v, "b": "same"}});
        let out = text(Some(&secret("one")), Some(&secret("two")), "x", false);
        assert!(out.contains("(before)") && out.contains("(after)") && !out.contains("one") && !out.contains("same"));
        let out = text(Some(&secret("one")), None, "x", false);
        assert!(out.contains("-  a: '***'\n") && !out.contains("one"), "{out}");
    }
}
