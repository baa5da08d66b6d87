//! `auth reconcile`: roles and bindings have at least what files say.
//!
//! What is missing is added; what is more stays, unless its removal is asked for. A binding to another role is made anew,
//! for that cannot be changed. Upstream: `component-helpers/auth/rbac/reconciliation`.

use serde_json::Value;

use super::builder::{Info, Query};
use super::cx::{Cx, Done};
use super::delete::{self, Removal};
use super::fail::fail;
use super::files::FileFlags;
use super::print::PrintFlags;
use super::write::{DryRunFlag, WriteFlags, Writer};
use crate::api::value::ValueExt;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Give roles and bindings what files say
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    files: FileFlags,
    #[command(flatten)]
    print: PrintFlags,
    #[command(flatten)]
    dry_run: DryRunFlag,
    /// Take from roles what files do not say
    #[arg(long)]
    remove_extra_permissions: bool,
    /// Take from bindings whom files do not name
    #[arg(long)]
    remove_extra_subjects: bool,
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: &Args) -> Done {
    if args.files.is_empty() {
        fail!("must specify one of -f and -k");
    }
    let writer = Writer { dry_run: args.dry_run.dry_run, ..WriteFlags::default().writer("kubectl-auth") };
    for info in (Query { files: Some(&args.files), verb: "reconcile", ..Query::default() }).infos(cx).await? {
        // What is neither a role nor a binding is none of this verb's business.
        if &*info.resource.res.group != GROUP {
            continue;
        }
        if let Err(failure) = one(cx, &info, args, &writer).await {
            cx.report(&failure);
        }
    }
    Ok(())
}

async fn one(cx: &Cx, info: &Info, args: &Args, writer: &Writer) -> Done {
    let object = match cx.find(&info.resource.res, &info.ns, &info.name).await? {
        None => writer.create(cx, &info.resource.res, &info.ns, &info.object).await?,
        Some(current) if current["roleRef"] != info.object["roleRef"] => {
            if writer.dry_run.query().is_empty() && !writer.dry_run.is_client() {
                delete::and_wait(cx, info, &Removal::at_once()).await?;
            }
            writer.create(cx, &info.resource.res, &info.ns, &info.object).await?
        }
        Some(current) => {
            let wanted = reconciled(&current, &info.object, args.remove_extra_permissions, args.remove_extra_subjects);
            if wanted == current { current } else { writer.update(cx, info, None, &wanted).await? }
        }
    };
    args.print.done(&info.resource, &object, "reconciled", writer.dry_run)
}

/// The object on the server with what the file adds.
fn reconciled(current: &Value, file: &Value, exact_rules: bool, exact_subjects: bool) -> Value {
    let mut wanted = current.clone();
    for map in ["labels", "annotations"] {
        for (key, value) in file["metadata"][map].as_object().into_iter().flatten() {
            wanted["metadata"][map][key] = value.clone();
        }
    }
    if file["aggregationRule"].is_object() {
        wanted["aggregationRule"] = file["aggregationRule"].clone();
    }
    if file["rules"].is_array() {
        let now = current.items_at("/rules");
        let (have, want) = (atoms(now), atoms(file.items_at("/rules")));
        let missing = |rule: &Value| !atoms(std::slice::from_ref(rule)).iter().all(|a| covered(a, &have));
        if exact_rules && !have.iter().all(|a| covered(a, &want)) {
            wanted["rules"] = file["rules"].clone();
        } else {
            let more = file.items_at("/rules").iter().filter(|r| missing(r)).cloned();
            wanted["rules"] = now.iter().cloned().chain(more).collect();
        }
    }
    if file["subjects"].is_array() {
        let kept = current.items_at("/subjects").iter().filter(|s| !exact_subjects || named(s, file)).cloned();
        let new = file.items_at("/subjects").iter().filter(|s| !named(s, current)).cloned();
        wanted["subjects"] = kept.chain(new).collect();
    }
    wanted
}

/// True when a binding names this subject.
fn named(subject: &Value, binding: &Value) -> bool {
    let same =
        |a: &Value, field: &str| a.str_at(field).unwrap_or_default() == subject.str_at(field).unwrap_or_default();
    binding.items_at("/subjects").iter().any(|s| ["/kind", "/name", "/namespace"].iter().all(|f| same(s, f)))
}

/// The smallest permissions of rules: verb, then group, resource and name, or a path.
fn atoms(rules: &[Value]) -> Vec<[String; 4]> {
    let words = |rule: &Value, path: &str| -> Vec<String> {
        rule.items_at(path).iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut all = Vec::new();
    for rule in rules {
        let mut names = words(rule, "/resourceNames");
        if names.is_empty() {
            names.push("*".into());
        }
        for verb in words(rule, "/verbs") {
            for group in words(rule, "/apiGroups") {
                for resource in words(rule, "/resources") {
                    all.extend(names.iter().map(|n| [verb.clone(), group.clone(), resource.clone(), n.clone()]));
                }
            }
            let urls = words(rule, "/nonResourceURLs").into_iter();
            all.extend(urls.map(|url| [verb.clone(), "/".into(), url, "*".into()]));
        }
    }
    all
}

fn covered(atom: &[String; 4], by: &[[String; 4]]) -> bool {
    let part = |have: &String, want: &String| have == want || have == "*";
    let path = |have: &str, want: &str| have == want || have.strip_suffix('*').is_some_and(|h| want.starts_with(h));
    by.iter().any(|have| {
        let resource = if atom[1] == "/" { path(&have[2], &atom[2]) } else { part(&have[2], &atom[2]) };
        let group = if atom[1] == "/" { have[1] == "/" } else { have[1] != "/" && part(&have[1], &atom[1]) };
        part(&have[0], &atom[0]) && group && resource && part(&have[3], &atom[3])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rule(verbs: &[&str], resources: &[&str]) -> Value {
        json!({"apiGroups": [""], "resources": resources, "verbs": verbs})
    }

    #[test]
    fn rules_are_added_where_they_are_missing() {
        let current = json!({"rules": [rule(&["*"], &["pods"]), rule(&["get"], &["secrets"])]});
        let file = json!({"rules": [rule(&["get"], &["pods"]), rule(&["list"], &["services"])]});
        let more = reconciled(&current, &file, false, false);
        assert_eq!(more["rules"].as_array().unwrap().len(), 3, "{more}");
        assert_eq!(more["rules"][2], file["rules"][1]);
        assert_eq!(reconciled(&current, &file, true, false)["rules"], file["rules"]);
        assert_eq!(reconciled(&current, &current, true, true), current);
    }

    #[test]
    fn paths_and_groups_are_no_mix() {
        let have = atoms(&[json!({"nonResourceURLs": ["/logs/*"], "verbs": ["get"]})]);
        let of = |url: &str| atoms(&[json!({"nonResourceURLs": [url], "verbs": ["get"]})]).remove(0);
        assert!(covered(&of("/logs/x"), &have) && !covered(&of("/other"), &have));
        assert!(!covered(&atoms(&[rule(&["get"], &["pods"])])[0], &have));
    }

    #[test]
    fn subjects_are_known_by_name() {
        let user = |name: &str| json!({"kind": "User", "name": name});
        let current = json!({"subjects": [user("a"), user("b")]});
        let file = json!({"subjects": [user("b"), user("c")]});
        assert_eq!(reconciled(&current, &file, false, false)["subjects"], json!([user("a"), user("b"), user("c")]));
        assert_eq!(reconciled(&current, &file, false, true)["subjects"], json!([user("b"), user("c")]));
    }
}
