//! `label` and `annotate`: one mechanism over `metadata.labels` and `metadata.annotations`.

use serde_json::{Map, Value, json};

use super::builder::{Info, LocalFlag, Query, SelectorFlags};
use super::cx::{Cx, Done, say};
use super::fail::{Failure, fail};
use super::files::FileFlags;
use super::print::PrintFlags;
use super::write::{MERGE, WriteFlags, Writer};
use crate::api::meta::{gvk, names};
use crate::api::value::ValueExt;
use crate::util::order::Arrange;

/// Flags of both verbs.
#[derive(Debug, Clone, clap::Args)]
pub struct Flags {
    /// TYPE NAME… or TYPE/NAME…, then KEY=VALUE or KEY- to remove
    args: Vec<String>,
    #[command(flatten)]
    files: FileFlags,
    #[command(flatten)]
    select: SelectorFlags,
    #[command(flatten)]
    print: PrintFlags,
    #[command(flatten)]
    write: WriteFlags,
    #[command(flatten)]
    local: LocalFlag,
    /// Change values that are there
    #[arg(long)]
    overwrite: bool,
    /// All of the type
    #[arg(long)]
    all: bool,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Show what is there
    #[arg(long)]
    list: bool,
    /// Only when the object is at this revision
    #[arg(long, default_value = "", hide_default_value = true)]
    resource_version: String,
}

/// Change the labels of a resource
#[derive(Debug, Clone, clap::Args)]
pub struct Label {
    #[command(flatten)]
    flags: Flags,
}

/// Change the annotations of a resource
#[derive(Debug, Clone, clap::Args)]
pub struct Annotate {
    #[command(flatten)]
    flags: Flags,
}

/// What differs between the two.
struct Field {
    name: &'static str,
    singular: &'static str,
    done: &'static str,
    manager: &'static str,
    check: fn(&str) -> Vec<String>,
}

const LABELS: Field =
    Field { name: "labels", singular: "label", done: "labeled", manager: "kubectl-label", check: names::label_value };
const ANNOTATIONS: Field = Field {
    name: "annotations",
    singular: "annotation",
    done: "annotated",
    manager: "kubectl-annotate",
    check: |_| Vec::new(),
};

/// Runs `label`.
pub async fn label(cx: &Cx, args: Label) -> Done {
    run(cx, args.flags, &LABELS).await
}

/// Runs `annotate`.
pub async fn annotate(cx: &Cx, args: Annotate) -> Done {
    run(cx, args.flags, &ANNOTATIONS).await
}

/// What to set, and what to remove.
#[derive(Debug, PartialEq, Default)]
struct Change {
    set: Map<String, Value>,
    remove: Vec<String>,
}

/// Parts the resources from the changes: `KEY=VALUE` and `KEY-` begin behind the names.
fn part(args: &[String]) -> (&[String], &[String]) {
    let is_change = |a: &String| (a.contains('=') && !a.starts_with('=')) || (a.ends_with('-') && a.len() > 1);
    let at = args.iter().position(is_change).unwrap_or(args.len());
    args.split_at(at)
}

fn parse(changes: &[String], field: &Field) -> Done<Change> {
    let mut change = Change::default();
    for text in changes {
        match text.split_once('=') {
            Some((_, value)) if value.contains('=') && field.name == LABELS.name => {
                fail!("invalid label spec: {text}");
            }
            Some((key, value)) => {
                // Of keys the server tells.
                let why = (field.check)(value);
                if !why.is_empty() {
                    fail!("invalid {} value: {text:?}: {}", field.singular, why.join("; "));
                }
                change.set.insert(key.to_owned(), value.into());
            }
            None => match text.strip_suffix('-') {
                Some(key) => change.remove.push(key.to_owned()),
                None => fail!("unexpected argument {text:?}: give KEY=VALUE, or KEY- to remove"),
            },
        }
    }
    if change.remove.iter().any(|k| change.set.contains_key(k)) {
        fail!("can not both modify and remove a {} in the same command", field.singular);
    }
    Ok(change)
}

async fn run(cx: &Cx, flags: Flags, field: &Field) -> Done {
    let (resources, changes) = part(&flags.args);
    if resources.is_empty() && flags.files.is_empty() {
        fail!("one or more resources must be specified as <resource> <name> or <resource>/<name>");
    }
    let change = parse(changes, field)?;
    let dry_run = flags.local.over(flags.write.dry_run)?;
    if flags.local.local && flags.files.is_empty() {
        fail!("can only use local files by -f pod.yaml or --filename=pod.json when --local=true is set");
    }
    if changes.is_empty() && !flags.list {
        fail!("at least one {} update is required", field.singular);
    }
    let query = Query {
        args: resources,
        files: Some(&flags.files),
        labels: &flags.select.selector,
        fields: &flags.select.field_selector,
        all: flags.all,
        all_namespaces: flags.all_namespaces,
        fetch: true,
        local: flags.local.local,
        ..Query::default()
    };
    let infos = query.infos(cx).await?;
    // One object that was named needs no title.
    let titled = infos.len() != 1 || resources.is_empty() || !flags.select.selector.is_empty() || flags.all;
    if infos.len() > 1 && !flags.resource_version.is_empty() {
        fail!("--resource-version may only be used with a single resource");
    }
    let writer = Writer { dry_run, ..flags.write.writer(field.manager) };
    for info in infos {
        if let Err(failure) = one(cx, &info, &change, &flags, &writer, field, titled).await {
            cx.report(&failure);
        }
    }
    Ok(())
}

async fn one(
    cx: &Cx,
    info: &Info,
    change: &Change,
    flags: &Flags,
    writer: &Writer,
    field: &Field,
    titled: bool,
) -> Done {
    let empty = Map::new();
    let now = info.object["metadata"][field.name].as_object().unwrap_or(&empty);
    if flags.list && *change == Change::default() {
        return list(&info.object, field, titled);
    }
    if !flags.overwrite {
        refuse_overwrite(info, change, now, field)?;
    }
    for key in change.remove.iter().filter(|k| !now.contains_key(*k)) {
        if field.name == LABELS.name {
            say(format!("label {key:?} not found."))?;
        }
    }
    let mut patch = change.set.clone();
    patch.extend(change.remove.iter().filter(|k| now.contains_key(*k)).map(|k| (k.clone(), Value::Null)));
    let same = patch.iter().all(|(k, v)| if v.is_null() { !now.contains_key(k) } else { now.get(k) == Some(v) });
    let object = if writer.dry_run.is_client() {
        let mut object = info.object.clone();
        let mut all = now.clone();
        all.extend(change.set.clone());
        change.remove.iter().for_each(|k| drop(all.shift_remove(k)));
        object["metadata"][field.name] = all.into();
        object
    } else if same && field.name == LABELS.name && flags.resource_version.is_empty() {
        info.object.clone()
    } else {
        let mut body = json!({"metadata": {field.name: patch}});
        if !flags.resource_version.is_empty() {
            body["metadata"]["resourceVersion"] = flags.resource_version.clone().into();
        }
        writer.patch(cx, info, None, MERGE, &body).await?
    };
    if flags.list {
        return list(&object, field, titled);
    }
    // kubectl tells a label's fate, and of an annotation only that it was set.
    let verb = match (field.name == LABELS.name, same, change.set.is_empty()) {
        (true, true, _) => "not labeled",
        (true, false, true) => "unlabeled",
        _ => field.done,
    };
    flags.print.done(&info.resource, &object, verb, writer.dry_run)
}

/// Shows what an object has.
fn list(object: &Value, field: &Field, titled: bool) -> Done {
    let pairs = object["metadata"][field.name].as_object().into_iter().flatten();
    let mut lines: Vec<String> = pairs.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    lines.arrange();
    let indent = if titled { " " } else { "" };
    if titled {
        let (group, _) = gvk::split(object.str_at("/apiVersion").unwrap_or_default());
        let (kind, name) = (object.str_at("/kind"), object.str_at("/metadata/name"));
        let (kind, name) = (kind.unwrap_or_default(), name.unwrap_or_default());
        say(format!("Listing {} for {kind}.{group}/{name}:", field.name))?;
    }
    lines.into_iter().try_for_each(|line| say(format!("{indent}{line}")))
}

fn refuse_overwrite(info: &Info, change: &Change, now: &Map<String, Value>, field: &Field) -> Done {
    for (key, value) in &change.set {
        if let Some(old) = now.get(key).filter(|old| *old != value) {
            let old = old.as_str().unwrap_or_default();
            return Err(Failure::Plain(if field.name == LABELS.name {
                format!("'{key}' already has a value ({old}), and --overwrite is false")
            } else {
                format!(
                    "--overwrite is false but found the following declared annotation(s): '{key}' already has a value ({old})"
                )
            }));
        }
    }
    let _ = info;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test_case("pod x a=b c-", 2; "type and name")]
    #[test_case("pod/x a=b", 1; "pair")]
    #[test_case("pods a-", 1; "removal")]
    #[test_case("pod my-pod", 2; "a dash within is a name")]
    fn parts(text: &str, resources: usize) {
        assert_eq!(part(&words(text)).0.len(), resources);
    }

    #[test]
    fn changes() {
        let change = parse(&words("a=b x.io/c=d e-"), &LABELS).unwrap();
        assert_eq!(change.remove, ["e"]);
        assert_eq!(change.set["x.io/c"], "d");
        assert!(parse(&words("a=b a-"), &LABELS).is_err());
        assert!(parse(&words("a=b!"), &LABELS).is_err());
        assert!(parse(&words("a=b!"), &ANNOTATIONS).is_ok());
    }
}
