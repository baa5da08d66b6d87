//! `auth`: what the user may do, and who that is.

use http::Method;
use serde_json::{Value, json};

use super::cx::{Call, Cx, Done, put, say};
use super::fail::{Failure, fail};
use super::print::PrintFlags;
use super::print::tab;
use super::reconcile;
use crate::api::value::ValueExt;
use crate::util::order::Arrange;

/// Ask about authorization
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum What {
    /// May the user do this: VERB TYPE[/NAME] or VERB /path
    CanI(CanI),
    Reconcile(reconcile::Args),
    /// Who the server takes the user for
    Whoami(WhoAmI),
}

#[derive(Debug, Clone, clap::Args)]
struct CanI {
    /// VERB, then TYPE, TYPE/NAME or a path
    words: Vec<String>,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Of a subresource
    #[arg(long, default_value = "", hide_default_value = true)]
    subresource: String,
    /// All that is allowed
    #[arg(long)]
    list: bool,
    /// No line of headers
    #[arg(long)]
    no_headers: bool,
    /// Only the exit code
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, clap::Args)]
struct WhoAmI {
    #[command(flatten)]
    print: PrintFlags,
}

/// Verbs that rules are expected to name.
const VERBS: [&str; 14] = [
    "*",
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "use",
    "bind",
    "impersonate",
    "escalate",
    "proxy",
];

const API: &str = "authorization.k8s.io/v1";

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    match args.what {
        What::CanI(args) if args.list && !args.words.is_empty() => {
            fail!("list option must be specified with no arguments")
        }
        What::CanI(args) if args.list => list(cx, &args).await,
        What::CanI(args) => can_i(cx, &args).await,
        What::Reconcile(args) => reconcile::run(cx, &args).await,
        What::Whoami(args) => whoami(cx, &args).await,
    }
}

async fn can_i(cx: &Cx, args: &CanI) -> Done {
    let [verb, what] = &args.words[..] else {
        fail!(
            "you must specify two arguments: verb resource or verb resource/resourceName.\nSee 'kubectl auth can-i -h' for help and examples."
        )
    };
    let spec = if what.starts_with('/') {
        json!({"nonResourceAttributes": {"path": what, "verb": verb}})
    } else {
        let (kind, name) = what.split_once('/').unwrap_or((what, ""));
        let (mut group, mut resource, mut namespaced) = (String::new(), kind.to_owned(), true);
        if kind == "*" {
            group = "*".into();
        } else {
            match cx.mapper().await?.find(kind) {
                Ok(found) => {
                    (group, resource, namespaced) =
                        (found.res.group.to_string(), found.res.plural.to_string(), found.res.namespaced);
                }
                Err(_) => eprintln!("Warning: the server doesn't have a resource type '{kind}'\n"),
            }
        }
        if !VERBS.contains(&verb.as_str()) {
            eprintln!("Warning: verb '{verb}' is not a known verb\n");
        }
        if !namespaced && !args.all_namespaces {
            let scope = if group.is_empty() { String::new() } else { format!(" in group '{group}'") };
            eprintln!("Warning: resource '{resource}' is not namespace scoped{scope}\n");
        }
        let ns = if args.all_namespaces || !namespaced { "" } else { cx.ns.as_str() };
        json!({"resourceAttributes": {"namespace": ns, "verb": verb, "group": group, "resource": resource,
            "subresource": args.subresource, "name": name}})
    };
    let body = json!({"apiVersion": API, "kind": "SelfSubjectAccessReview", "spec": spec});
    let path = format!("/apis/{API}/selfsubjectaccessreviews");
    let answer = cx.call(Call::new(Method::POST, path).body(&body)).await?;
    let allowed = answer.bool_at("/status/allowed") == Some(true);
    if !args.quiet {
        let mut text = if allowed { "yes" } else { "no" }.to_owned();
        for (path, label) in [("/status/reason", ""), ("/status/evaluationError", "")] {
            if let Some(why) = answer.str_at(path).filter(|w| !w.is_empty() && !allowed) {
                text += &format!(" - {label}{why}");
            }
        }
        say(text)?;
    }
    if allowed { Ok(()) } else { Err(Failure::Exit(1)) }
}

async fn list(cx: &Cx, args: &CanI) -> Done {
    let body = json!({"apiVersion": API, "kind": "SelfSubjectRulesReview", "spec": {"namespace": cx.ns}});
    let path = format!("/apis/{API}/selfsubjectrulesreviews");
    let answer = cx.call(Call::new(Method::POST, path).body(&body)).await?;
    let words = |value: &Value, path: &str| {
        let items: Vec<&str> = value.items_at(path).iter().filter_map(Value::as_str).collect();
        format!("[{}]", items.join(" "))
    };
    // Rules stand in the order of their texts in Go: verbs, groups, resources, names, paths.
    let mut rows: Vec<([String; 5], String)> = Vec::new();
    for rule in answer.items_at("/status/resourceRules") {
        let (verbs, names) = (words(rule, "/verbs"), words(rule, "/resourceNames"));
        for group in rule.items_at("/apiGroups").iter().filter_map(Value::as_str) {
            for resource in rule.items_at("/resources").iter().filter_map(Value::as_str) {
                let (bare, sub) = resource.split_once('/').map_or((resource, None), |(b, s)| (b, Some(s)));
                let mut name = if group.is_empty() { bare.to_owned() } else { format!("{bare}.{group}") };
                if let Some(sub) = sub {
                    name += &format!("/{sub}");
                }
                let key = [verbs.clone(), format!("[{group}]"), format!("[{resource}]"), names.clone(), "[]".into()];
                rows.push((key, format!("{name}\t[]\t{names}\t{verbs}\n")));
            }
        }
    }
    for rule in answer.items_at("/status/nonResourceRules") {
        let verbs = words(rule, "/verbs");
        for url in rule.items_at("/nonResourceURLs").iter().filter_map(Value::as_str) {
            let none = || "[]".to_owned();
            let key = [verbs.clone(), none(), none(), none(), format!("[{url}]")];
            rows.push((key, format!("\t[{url}]\t[]\t{verbs}\n")));
        }
    }
    rows.arrange();
    let rows: String = rows.into_iter().map(|(_, row)| row).collect();
    let header = if args.no_headers { "" } else { "Resources\tNon-Resource URLs\tResource Names\tVerbs\n" };
    put(&tab::align(&(header.to_owned() + &rows), tab::GET))
}

async fn whoami(cx: &Cx, args: &WhoAmI) -> Done {
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let answer = cx.call(Call::new(Method::POST, path).body(&body)).await?;
    let output = args.print.output()?;
    if !output.is_human() {
        return put(&output.object(&answer)?);
    }
    let user = &answer["status"]["userInfo"];
    let mut out = format!("ATTRIBUTE\tVALUE\nUsername\t{}\n", user.str_at("/username").unwrap_or_default());
    if let Some(uid) = user.str_at("/uid").filter(|u| !u.is_empty()) {
        out += &format!("UID\t{uid}\n");
    }
    let list = |value: &Value| {
        let items: Vec<&str> = value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        format!("[{}]", items.join(" "))
    };
    if user["groups"].is_array() {
        out += &format!("Groups\t{}\n", list(&user["groups"]));
    }
    for (key, value) in user["extra"].as_object().into_iter().flatten() {
        out += &format!("Extra: {key}\t{}\n", list(value));
    }
    put(&tab::align(&out, tab::GET))
}
