//! `config`: what the kubeconfig says, and changes of it ([`write`]). Secrets are shown only when they are asked for.

mod write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::api::codec::yaml;
use crate::api::value::ValueExt;
use crate::ctl::Globals;
use crate::ctl::cx::{Done, put, say};
use crate::ctl::fail::{self, Failure, fail};
use crate::ctl::kubeconfig;
use crate::ctl::print::{Output, PrintFlags, tab};
use crate::util::order::Arrange;

/// Show and change the kubeconfig
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
    /// Work with another context from now on
    #[command(alias = "use")]
    UseContext {
        /// The context
        name: String,
    },
    /// Make or change a context: its --cluster, --user and --namespace
    SetContext(Context),
    /// Make or change a cluster: its --server, --certificate-authority, …
    SetCluster(Cluster),
    /// Make or change a user: its --token, --client-certificate, …
    SetCredentials(Credentials),
    /// Give a context another name
    RenameContext {
        /// Its name
        old: String,
        /// The new one
        new: String,
    },
    /// Remove a context
    DeleteContext {
        /// The context
        name: String,
    },
    /// Remove a cluster
    DeleteCluster {
        /// The cluster
        name: String,
    },
    /// Remove a user
    DeleteUser {
        /// The user
        name: String,
    },
    /// Set one value
    Set {
        /// As clusters.NAME.server, users.NAME.token, contexts.NAME.namespace or current-context
        property: String,
        /// Its value
        value: String,
        /// Data is given as it is, not in base64
        #[arg(long)]
        set_raw_bytes: bool,
    },
    /// Remove one value
    Unset {
        /// As for set; a whole entry too
        property: String,
    },
}

#[derive(Debug, Clone, clap::Args)]
struct Context {
    /// The context
    name: Option<String>,
    /// The current context
    #[arg(long)]
    current: bool,
}

#[derive(Debug, Clone, clap::Args)]
struct Cluster {
    /// The cluster
    name: String,
    /// Take certificates into the file, not their paths
    #[arg(long)]
    embed_certs: bool,
    /// A proxy on the way to the server
    #[arg(long)]
    proxy_url: Option<String>,
}

#[derive(Debug, Clone, clap::Args)]
struct Credentials {
    /// The user
    name: String,
    /// Take certificates and keys into the file, not their paths
    #[arg(long)]
    embed_certs: bool,
    /// A provider of credentials
    #[arg(long)]
    auth_provider: Option<String>,
    /// KEY=VALUE for the provider, or KEY- to remove
    #[arg(long)]
    auth_provider_arg: Vec<String>,
    /// A program that prints credentials
    #[arg(long)]
    exec_command: Option<String>,
    /// The form of what it prints
    #[arg(long)]
    exec_api_version: Option<String>,
    /// Its arguments
    #[arg(long, allow_hyphen_values = true)]
    exec_arg: Vec<String>,
    /// KEY=VALUE for its environment, or KEY- to remove
    #[arg(long)]
    exec_env: Vec<String>,
    /// Never, IfAvailable or Always
    #[arg(long)]
    exec_interactive_mode: Option<String>,
    /// Tell it of the cluster
    #[arg(long)]
    exec_provide_cluster_info: bool,
}

#[derive(Debug, Clone, clap::Args)]
struct View {
    /// Show secrets too
    #[arg(long)]
    raw: bool,
    /// Only what the current context needs
    #[arg(long)]
    minify: bool,
    /// Take certificates and keys into what is shown, not their paths
    #[arg(long)]
    flatten: bool,
    /// Merge all files of KUBECONFIG
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    merge: bool,
    #[command(flatten)]
    print: PrintFlags,
}

#[derive(Debug, Clone, clap::Args)]
struct Contexts {
    /// Only these
    names: Vec<String>,
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
    if args.what.writes() {
        return write::run(globals, args.what);
    }
    let config = kubeconfig::load(globals)?;
    let current = kubeconfig::context_name(&config, globals);
    let value = serde_json::to_value(&config).map_err(|e| Failure::Plain(e.to_string()))?;
    match args.what {
        What::CurrentContext if current.is_empty() => fail!("current-context is not set"),
        What::CurrentContext => say(current),
        What::GetClusters => names(&value, "clusters"),
        What::GetUsers => names(&value, "users"),
        What::GetContexts(args) => contexts(&value, &current, &args),
        What::View(args) => view(globals, value, current, &args),
        _ => Ok(()),
    }
}

impl What {
    fn writes(&self) -> bool {
        !matches!(
            self,
            Self::View(_) | Self::CurrentContext | Self::GetContexts(_) | Self::GetClusters | Self::GetUsers
        )
    }
}

fn view(globals: &Globals, mut value: Value, current: String, args: &View) -> Done {
    if !args.merge && globals.kubeconfig.is_none() {
        fail!("if merge==false a precise file must be specified with --kubeconfig");
    }
    if args.minify {
        minify(&mut value, &current)?;
    }
    if args.flatten {
        flatten(&mut value)?;
    }
    if !args.raw {
        redact(&mut value);
    }
    let mut value = drop_nulls(value);
    value["apiVersion"] = "v1".into();
    value["kind"] = "Config".into();
    value["current-context"] = current.into();
    value.set_if_absent("/preferences", json!({}));
    match args.print.output()? {
        Output::Human { .. } => put(&yaml::to_string(&value)),
        output => put(&output.object(&value)?),
    }
}

/// Takes what paths name into the configuration.
fn flatten(config: &mut Value) -> Done {
    for (list, inner, keys) in [
        ("clusters", "cluster", &["certificate-authority"][..]),
        ("users", "user", &["client-certificate", "client-key"][..]),
    ] {
        for entry in config[list].as_array_mut().into_iter().flatten() {
            for key in keys {
                let Some(path) = entry[inner][key].as_str().filter(|p| !p.is_empty()) else { continue };
                let bytes =
                    std::fs::read(path).map_err(|e| Failure::Plain(format!("open {path}: {}", fail::os(&e))))?;
                entry[inner][format!("{key}-data")] = STANDARD.encode(bytes).into();
                entry[inner][key] = Value::Null;
            }
        }
    }
    Ok(())
}

fn names(config: &Value, list: &str) -> Done {
    say("NAME")?;
    let mut names: Vec<&str> =
        config[list].as_array().into_iter().flatten().filter_map(|e| e.str_at("/name")).collect();
    names.sort_unstable();
    names.into_iter().try_for_each(say)
}

fn contexts(config: &Value, current: &str, args: &Contexts) -> Done {
    if !matches!(args.output.as_str(), "" | "name") {
        fail!(
            "--output {} is not available in kubectl config get-contexts; resetting to default output format",
            args.output
        );
    }
    let mut rows: Vec<(String, String)> = Vec::new();
    for entry in config["contexts"].as_array().into_iter().flatten() {
        let text = |path: &str| entry.str_at(path).unwrap_or_default();
        let name = text("/name");
        if !args.names.is_empty() && !args.names.iter().any(|n| n == name) {
            continue;
        }
        let mark = if name == current { "*" } else { "" };
        let rest = [text("/context/cluster"), text("/context/user"), text("/context/namespace")].join("\t");
        rows.push((name.to_owned(), format!("{mark}\t{name}\t{rest}\n")));
    }
    rows.arrange();
    if args.output == "name" {
        return rows.iter().try_for_each(|(name, _)| say(name));
    }
    let header = if args.no_headers { "" } else { "CURRENT\tNAME\tCLUSTER\tAUTHINFO\tNAMESPACE\n" };
    let text: String = rows.iter().map(|(_, row)| row.as_str()).collect();
    put(&tab::align(&(header.to_owned() + &text), tab::GET))?;
    match args.names.iter().find(|n| !rows.iter().any(|(name, _)| name == *n)) {
        Some(missing) => fail!("context {missing} not found"),
        None => Ok(()),
    }
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

fn drop_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            Value::Object(map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, drop_nulls(v))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(drop_nulls).collect()),
        scalar => scalar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let mut config = json!({"users": [{"user": {"token": "t", "client-key-data": "k", "as": null}}]});
        redact(&mut config);
        let config = drop_nulls(config);
        assert_eq!(config, json!({"users": [{"user": {"token": "REDACTED", "client-key-data": "DATA+OMITTED"}}]}));
    }
}
