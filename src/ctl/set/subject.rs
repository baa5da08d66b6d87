//! `set selector` of services and `set subject` of bindings.

use serde_json::{Map, Value};

use super::{Action, Common};
use crate::api::meta::labels::{self, Op, Requirement};
use crate::api::value::ValueExt;
use crate::ctl::create::Subjects;
use crate::ctl::cx::{Cx, Done};
use crate::ctl::fail::{Failure, fail};

/// The selector of services: service NAME KEY=VALUE,…
#[derive(Debug, Clone, clap::Args)]
pub struct Selector {
    /// service NAME or service/NAME, then the selector
    args: Vec<String>,
    #[command(flatten)]
    common: Common,
    /// Only when the object is at this revision
    #[arg(long, default_value = "", hide_default_value = true)]
    resource_version: String,
}

/// Add users, groups and service accounts to bindings
#[derive(Debug, Clone, clap::Args)]
pub struct Subject {
    /// rolebinding NAME or clusterrolebinding/NAME…
    args: Vec<String>,
    #[command(flatten)]
    common: Common,
    /// Objects with these labels
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: String,
    #[command(flatten)]
    subjects: Subjects,
}

/// `a=b,c=d` as a map.
fn map_of(text: &str) -> Result<Map<String, Value>, String> {
    let mut map = Map::new();
    let selector =
        labels::Selector::parse(text).map_err(|e| format!("couldn't parse the selector string {text:?}: {e}"))?;
    let mut others = Vec::new();
    for Requirement { key, op } in selector.0 {
        let (word, values) = match op {
            Op::In(mut values) if values.len() == 1 && !text.contains(" in ") => {
                map.insert(key, values.remove(0).into());
                continue;
            }
            Op::In(values) => ("In", values),
            Op::NotIn(_) if text.contains("!=") => return Err("\"!=\" is not a valid label selector operator".into()),
            Op::NotIn(values) => ("NotIn", values),
            Op::Exists => ("Exists", Vec::new()),
            Op::DoesNotExist => ("DoesNotExist", Vec::new()),
            Op::Gt(_) => return Err("\"gt\" isn't supported in label selectors".into()),
            Op::Lt(_) => return Err("\"lt\" isn't supported in label selectors".into()),
        };
        others.push(format!("{{{key} {word} [{}]}}", values.join(" ")));
    }
    if !others.is_empty() {
        return Err(format!("match expression [{}] not supported on this object", others.join(" ")));
    }
    Ok(map)
}

/// Runs `set selector`.
pub async fn selector(cx: &Cx, args: &Selector) -> Done {
    let Some((text, resources)) = args.args.split_last() else {
        fail!("one or more resources must be specified as <resource> <name> or <resource>/<name>")
    };
    let infos = super::infos(cx, &args.common, resources, "").await?;
    let (services, others): (Vec<_>, Vec<_>) =
        infos.into_iter().partition(|i| i.resource.res.group.is_empty() && i.resource.res.kind == "Service");
    for _ in others {
        cx.report(&Failure::Plain("setting a selector is only supported for Services".into()));
    }
    let map = map_of(text).map_err(Failure::Plain)?;
    let change = |object: &mut Value| {
        object.set_at("/spec/selector", map.clone());
        if !args.resource_version.is_empty() {
            object.set_at("/metadata/resourceVersion", args.resource_version.clone());
        }
        Ok(())
    };
    let action = Action { of_template: false, always: true, ..Action::of_template("selector updated", "", change) };
    super::all(cx, services, &args.common, &action).await
}

/// Runs `set subject`.
pub async fn subject(cx: &Cx, args: &Subject) -> Done {
    let infos = super::infos(cx, &args.common, &args.args, &args.selector).await?;
    let wanted = args.subjects.list()?;
    if wanted.is_empty() {
        fail!("you must specify at least one value of user, group or serviceaccount");
    }
    let change = |object: &mut Value| {
        let mut all = object.items_at("/subjects").to_vec();
        for subject in &wanted {
            if !all.contains(subject) {
                all.push(subject.clone());
            }
        }
        object["subjects"] = all.into();
        Ok(())
    };
    let failed = "failed to patch subjects to rolebinding:";
    let action = Action { of_template: false, ..Action::of_template("subjects updated", failed, change) };
    for info in infos {
        let res = &info.resource.res;
        if !matches!(&*res.kind, "RoleBinding" | "ClusterRoleBinding") {
            cx.report(&Failure::Plain(format!(
                "{}/{} setting subjects is only supported for RoleBinding/ClusterRoleBinding",
                res.plural, info.name
            )));
            continue;
        }
        super::all(cx, vec![info], &args.common, &action).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_are_maps_only() {
        assert_eq!(Value::from(map_of("a=b,c=d").unwrap()), json!({"a": "b", "c": "d"}));
        assert!(map_of("a").is_err() && map_of("a!=b").is_err());
    }
}
