//! `config`: what the kubeconfig says. Files are shown, never changed; secrets are left out.

use serde_json::{Value, json};

use super::Globals;
use super::cx::{Done, put, say};
use super::fail::{Failure, fail};
use super::kubeconfig;
use super::print::{json_text, tab};
use crate::api::codec::yaml;
use crate::api::value::ValueExt;

/// Show the kubeconfig
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum What {
    /// The merged kubeconfig
    View(View),
    /// The name of the current context
    CurrentContext,
    /// All contexts
    GetContexts(Contexts),
    /// All clusters
    GetClusters,
    /// All users
    GetUsers,
}

#[derive(Debug, Clone, clap::Args)]
struct View {
    /// Show secrets too
    #[arg(long)]
    raw: bool,
    /// Only what the current context needs
    #[arg(long)]
    minify: bool,
    /// yaml or json
    #[arg(short, long, default_value = "yaml")]
    output: String,
}

#[derive(Debug, Clone, clap::Args)]
struct Contexts {
    /// name
    #[arg(short, long, default_value = "", hide_default_value = true)]
    output: String,
    /// No line of headers
    #[arg(long)]
    no_headers: bool,
}

/// Fields that are shown as `REDACTED`, and as `DATA+OMITTED`.
const SECRETS: [&str; 2] = ["token", "password"];
const DATA: [&str; 3] = ["client-certificate-data", "client-key-data", "certificate-authority-data"];

/// Runs the verb.
pub fn run(globals: &Globals, args: Args) -> Done {
    let config = kubeconfig::load(globals)?;
    let current = kubeconfig::context_name(&config, globals);
    let mut value = serde_json::to_value(&config).map_err(|e| Failure::Plain(e.to_string()))?;
    match args.what {
        What::CurrentContext if current.is_empty() => fail!("current-context is not set"),
        What::CurrentContext => say(current),
        What::GetClusters => names(&value, "clusters"),
        What::GetUsers => names(&value, "users"),
        What::GetContexts(args) => contexts(&value, &current, &args),
        What::View(args) => {
            if args.minify {
                minify(&mut value, &current)?;
            }
            if !args.raw {
                redact(&mut value);
            }
            drop_nulls(&mut value);
            value["apiVersion"] = "v1".into();
            value["kind"] = "Config".into();
            value["current-context"] = current.into();
            value.set_if_absent("/preferences", json!({}));
            match args.output.as_str() {
                "json" => put(&json_text(&value)),
                "yaml" => put(&yaml::to_string(&value)),
                other => fail!("--output must be 'yaml' or 'json', not {other:?}"),
            }
        }
    }
}

fn names(config: &Value, list: &str) -> Done {
    say("NAME")?;
    let mut names: Vec<&str> =
        config[list].as_array().into_iter().flatten().filter_map(|e| e.str_at("/name")).collect();
    names.sort_unstable();
    names.into_iter().try_for_each(say)
}

fn contexts(config: &Value, current: &str, args: &Contexts) -> Done {
    let mut rows: Vec<(String, String)> = Vec::new();
    for entry in config["contexts"].as_array().into_iter().flatten() {
        let text = |path: &str| entry.str_at(path).unwrap_or_default();
        let name = text("/name");
        let mark = if name == current { "*" } else { "" };
        let rest = [text("/context/cluster"), text("/context/user"), text("/context/namespace")].join("\t");
        rows.push((name.to_owned(), format!("{mark}\t{name}\t{rest}\n")));
    }
    rows.sort();
    if args.output == "name" {
        return rows.iter().try_for_each(|(name, _)| say(name));
    }
    let header = if args.no_headers { "" } else { "CURRENT\tNAME\tCLUSTER\tAUTHINFO\tNAMESPACE\n" };
    put(&tab::align(&(header.to_owned() + &rows.into_iter().map(|(_, r)| r).collect::<String>()), tab::GET))
}

fn minify(config: &mut Value, current: &str) -> Done {
    let list = |config: &Value, key: &str, name: &str| -> Vec<Value> {
        config[key].as_array().into_iter().flatten().filter(|e| e["name"] == name).cloned().collect()
    };
    let contexts = list(config, "contexts", current);
    let Some(context) = contexts.first().cloned() else { fail!("cannot locate context {current}") };
    for (key, inner) in [("clusters", "cluster"), ("users", "user")] {
        config[key] = list(config, key, context["context"][inner].as_str().unwrap_or_default()).into();
    }
    config["contexts"] = contexts.into();
    Ok(())
}

fn redact(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                if value.is_null() {
                } else if SECRETS.contains(&key.as_str()) {
                    *value = "REDACTED".into();
                } else if DATA.contains(&key.as_str()) {
                    *value = "DATA+OMITTED".into();
                } else {
                    redact(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        _ => {}
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let mut config = json!({"users": [{"user": {"token": "t", "client-key-data": "k", "as": null}}]});
        redact(&mut config);
        drop_nulls(&mut config);
        assert_eq!(config, json!({"users": [{"user": {"token": "REDACTED", "client-key-data": "DATA+OMITTED"}}]}));
    }
}
