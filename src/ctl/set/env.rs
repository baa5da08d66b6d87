//! `set env`: variables of containers, given or taken from a config map or a secret.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Action, Common, containers, name_matches, part};
use crate::api::value::ValueExt;
use crate::client::res::{CONFIG_MAPS, SECRETS};
use crate::ctl::builder::{Info, Wanted, parse};
use crate::ctl::cx::{Cx, Done, say};
use crate::ctl::fail::fail;
use crate::ctl::files;
use crate::util::order::Arrange;

/// Variables: TYPE/NAME KEY=VALUE… KEY-
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// TYPE NAME or TYPE/NAME…, then KEY=VALUE, KEY- to remove, or - to read them from standard input
    args: Vec<String>,
    #[command(flatten)]
    common: Common,
    /// Objects with these labels
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: String,
    /// Containers to change; * is a wildcard
    #[arg(short, long, default_value = "*")]
    containers: String,
    /// Variables, as KEY=VALUE
    #[arg(short = 'e', long = "env")]
    env: Vec<String>,
    /// Take variables from configmap/NAME or secret/NAME
    #[arg(long, default_value = "", hide_default_value = true)]
    from: String,
    /// Only these keys of --from
    #[arg(long, value_delimiter = ',')]
    keys: Vec<String>,
    /// Put before the names of variables of --from
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    /// Change variables that are there
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    overwrite: bool,
    /// Show the variables
    #[arg(long)]
    list: bool,
    /// Show what references stand for (with --list)
    #[arg(long)]
    resolve: bool,
}

/// What becomes of variables.
#[derive(Debug, Default, PartialEq)]
struct Changes {
    set: Vec<Value>,
    remove: Vec<String>,
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: &Args) -> Done {
    let (resources, words) = part(&args.args);
    if resources.is_empty() && args.common.files.is_empty() {
        fail!("one or more resources must be specified as <resource> <name> or <resource>/<name>");
    }
    if !args.keys.is_empty() && args.from.is_empty() {
        fail!("when specifying --keys, a configmap or secret must be provided with --from");
    }
    let mut changes = read(words.iter().chain(&args.env))?;
    if !args.from.is_empty() {
        let mut taken = from(cx, args).await?;
        taken.append(&mut changes.set);
        changes.set = taken;
    }
    let infos = super::infos(cx, &args.common, resources, &args.selector).await?;
    if args.list {
        for info in &infos {
            list(cx, info, args).await?;
        }
        return Ok(());
    }
    if changes == Changes::default() {
        return Ok(());
    }
    for info in infos {
        warn_of_no_match(&info, args)?;
        let place = format!("{}/{}", info.resource.res.plural, info.name);
        let change = |pod: &mut Value| {
            change(pod, &changes, &args.containers, args.overwrite).map_err(|why| format!("{place} {why}"))
        };
        let action = Action::of_template("env updated", "failed to patch env update to pod template:", change);
        super::all(cx, vec![info], &args.common, &action).await?;
    }
    Ok(())
}

const NAME: &str = "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', \
                    and must not start with a digit (e.g. 'my.env-name',  or 'MY_ENV.NAME',  or 'MyEnvName1', regex \
                    used for validation is '[-._a-zA-Z][-._a-zA-Z0-9]*')";

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    name.chars().next().is_some_and(|c| !c.is_ascii_digit()) && name.chars().all(allowed)
}

fn read<'a>(words: impl Iterator<Item = &'a String>) -> Done<Changes> {
    let mut changes = Changes::default();
    let mut take = |text: &str| -> Done {
        match (text.split_once('='), text.strip_suffix('-')) {
            (Some((key, _)), _) if !is_name(key) => fail!("{key:?} is not a valid key name: {NAME}"),
            (Some((key, value)), _) => changes.set.push(json!({"name": key, "value": value})),
            (None, Some(key)) => changes.remove.push(key.to_owned()),
            (None, None) => fail!("unknown variable {text:?}: give KEY=VALUE, or KEY- to remove"),
        }
        Ok(())
    };
    for word in words {
        if word == "-" {
            files::stdin()?.lines().filter(|l| !l.trim().is_empty()).try_for_each(&mut take)?;
        } else {
            take(word)?;
        }
    }
    if changes.remove.iter().any(|gone| changes.set.iter().any(|v| v["name"] == gone.as_str())) {
        fail!("can not both modify and remove the same environment variable in the same command");
    }
    Ok(changes)
}

/// References to the keys of a config map or a secret.
async fn from(cx: &Cx, args: &Args) -> Done<Vec<Value>> {
    let Wanted::Objects(objects) = parse(std::slice::from_ref(&args.from))? else {
        cx.mapper().await?.find(&args.from)?;
        fail!("resource(s) were provided, but no name was specified")
    };
    let mut all = Vec::new();
    for (kind, name) in objects {
        let resource = cx.mapper().await?.find(&kind)?.clone();
        let object = cx.get(&resource.res, &cx.ns, &name).await?;
        let reference = match (&*resource.res.group, &*resource.res.kind) {
            ("", "ConfigMap") => "configMapKeyRef",
            ("", "Secret") => "secretKeyRef",
            _ => fail!("unsupported resource specified in --from"),
        };
        let mut keys: Vec<&String> = object["data"].as_object().map(|d| d.keys().collect()).unwrap_or_default();
        keys.arrange();
        for key in keys.into_iter().filter(|k| args.keys.is_empty() || args.keys.contains(k)) {
            let variable = variable_of(key);
            if variable != *key {
                eprintln!("Warning: key {key} transferred to {variable}");
            }
            let source = json!({reference: {"key": key, "name": name}});
            all.push(json!({"name": format!("{}{variable}", args.prefix), "valueFrom": source}));
        }
    }
    Ok(all)
}

/// The variable that a key becomes: `a-b` is `A_B`.
fn variable_of(key: &str) -> String {
    key.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

fn warn_of_no_match(info: &Info, args: &Args) -> Done {
    let mut object = info.object.clone();
    let pod = super::template_of(&mut object, info)?;
    let hit = |c: &&mut Value| c.str_at("/name").is_some_and(|n| name_matches(&args.containers, n));
    if containers(pod).filter(|c| hit(c)).count() == 0 {
        let (kind, name) = (&info.resource.res.kind, &info.name);
        eprintln!("Warning: {kind}/{name} does not have any containers matching {:?}", args.containers);
    }
    Ok(())
}

fn change(pod: &mut Value, changes: &Changes, pattern: &str, overwrite: bool) -> Result<(), String> {
    for container in containers(pod).filter(|c| c.str_at("/name").is_some_and(|n| name_matches(pattern, n))) {
        let mut vars: Vec<Value> = container.items_at("/env").to_vec();
        for var in &changes.set {
            match vars.iter_mut().find(|v| v["name"] == var["name"]) {
                Some(old) if !overwrite => {
                    let (name, value) = (var.str_at("/name"), old.str_at("/value"));
                    return Err(format!(
                        "'{}' already has a value ({}), and --overwrite is false",
                        name.unwrap_or_default(),
                        value.unwrap_or_default()
                    ));
                }
                Some(old) => *old = var.clone(),
                None => vars.push(var.clone()),
            }
        }
        vars.retain(|v| !changes.remove.iter().any(|gone| v["name"] == gone.as_str()));
        if !vars.is_empty() || container["env"].is_array() {
            container["env"] = vars.into();
        }
    }
    Ok(())
}

async fn list(cx: &Cx, info: &Info, args: &Args) -> Done {
    let mut object = info.object.clone();
    let pod = super::template_of(&mut object, info)?;
    let mut known = Known::default();
    for container in pod.items_at("/spec/containers") {
        let name = container.str_at("/name").unwrap_or_default();
        if !name_matches(&args.containers, name) {
            continue;
        }
        say(format!("# {} {}, container {name}", info.resource.res.kind, info.name))?;
        for var in container.items_at("/env") {
            let name = var.str_at("/name").unwrap_or_default();
            if var["valueFrom"].is_null() {
                say(format!("{name}={}", var.str_at("/value").unwrap_or_default()))?;
            } else if let (true, Some(value)) = (args.resolve, known.value(cx, &info.ns, &var["valueFrom"]).await?) {
                say(format!("{name}={value}"))?;
            } else {
                say(format!("# {name} from {}", source(&var["valueFrom"])))?;
            }
        }
    }
    Ok(())
}

/// Where a value comes from, for people.
fn source(from: &Value) -> String {
    let text = |path: &str| from.str_at(path).unwrap_or_default();
    if from["configMapKeyRef"].is_object() {
        return format!("configmap {}, key {}", text("/configMapKeyRef/name"), text("/configMapKeyRef/key"));
    }
    if from["secretKeyRef"].is_object() {
        return format!("secret {}, key {}", text("/secretKeyRef/name"), text("/secretKeyRef/key"));
    }
    if from["fieldRef"].is_object() {
        return format!("field path {}", text("/fieldRef/fieldPath"));
    }
    if from["resourceFieldRef"].is_object() {
        let container = text("/resourceFieldRef/containerName");
        let prefix = if container.is_empty() { String::new() } else { format!("{container}/") };
        return format!("resource field {prefix}{}", text("/resourceFieldRef/resource"));
    }
    "invalid valueFrom".to_owned()
}

/// Config maps and secrets that were read already.
#[derive(Default)]
struct Known(BTreeMap<(bool, String), Value>);

impl Known {
    /// What a reference stands for; none for what only a running pod knows.
    async fn value(&mut self, cx: &Cx, ns: &str, from: &Value) -> Done<Option<String>> {
        let (secret, reference) = match (&from["configMapKeyRef"], &from["secretKeyRef"]) {
            (reference @ Value::Object(_), _) => (false, reference),
            (_, reference @ Value::Object(_)) => (true, reference),
            _ => return Ok(None),
        };
        let name = reference.str_at("/name").unwrap_or_default().to_owned();
        let place = (secret, name.clone());
        if !self.0.contains_key(&place) {
            let object = cx.get(if secret { &SECRETS } else { &CONFIG_MAPS }, ns, &name).await?;
            self.0.insert(place.clone(), object);
        }
        let key = reference.str_at("/key").unwrap_or_default();
        let Some(value) = self.0[&place]["data"].get(key).and_then(Value::as_str) else {
            fail!("the key {key} does not exist in the {} {name}", if secret { "secret" } else { "configmap" })
        };
        if !secret {
            return Ok(Some(value.to_owned()));
        }
        Ok(Some(STANDARD.decode(value).map_or_else(|_| value.to_owned(), |b| String::from_utf8_lossy(&b).into_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn pod() -> Value {
        json!({"spec": {"containers": [{"name": "a", "env": [{"name": "K", "value": "1"}]}, {"name": "b"}]}})
    }

    #[test]
    fn set_and_removed() {
        let changes = read(words("K=2 L=x=y").iter()).unwrap();
        let mut object = pod();
        change(&mut object, &changes, "*", true).unwrap();
        let want = json!([{"name": "K", "value": "2"}, {"name": "L", "value": "x=y"}]);
        assert_eq!((&object["spec"]["containers"][0]["env"], &object["spec"]["containers"][1]["env"]), (&want, &want));
        let mut one = pod();
        change(&mut one, &read(words("K-").iter()).unwrap(), "a", true).unwrap();
        assert_eq!(one["spec"]["containers"], json!([{"name": "a", "env": []}, {"name": "b"}]));
        let kept = change(&mut pod(), &changes, "*", false).unwrap_err();
        assert_eq!(kept, "'K' already has a value (1), and --overwrite is false");
    }

    #[test]
    fn names_are_checked_and_made() {
        assert!(read(words("1A=x").iter()).is_err() && read(words("A=1 A-").iter()).is_err());
        assert!(read(words("nothing").iter()).is_err());
        assert_eq!(variable_of("a-b.c"), "A_B_C");
    }
}
