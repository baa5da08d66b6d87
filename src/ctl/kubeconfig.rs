//! Which server, and as whom: the kubeconfig files and the flags that override them.
//!
//! In order: `--kubeconfig`, the files of `KUBECONFIG` merged, `~/.kube/config`, `/etc/orch/orch.yaml`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use http::{HeaderName, HeaderValue};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

use super::Globals;
use super::cx::{Cx, Done};
use super::fail::{Failure, fail, os};
use crate::client::Client;

/// What `orch server` writes.
const OWN: &str = "/etc/orch/orch.yaml";
/// The name under which flags put what they say.
const OVERRIDE: &str = "orch-ctl-flags";

/// The files to read: those that exist, except that a file named by a flag must.
fn files(flag: Option<&Path>, env: Option<OsString>, home: Option<PathBuf>) -> Done<Vec<PathBuf>> {
    if let Some(path) = flag {
        if !path.exists() {
            fail!("stat {}: no such file or directory", path.display());
        }
        return Ok(vec![path.to_owned()]);
    }
    if let Some(list) = env.filter(|e| !e.is_empty()) {
        return Ok(std::env::split_paths(&list).filter(|p| !p.as_os_str().is_empty() && p.exists()).collect());
    }
    let own = Some(PathBuf::from(OWN));
    Ok([home.map(|h| h.join(".kube/config")), own].into_iter().flatten().find(|p| p.exists()).into_iter().collect())
}

/// The files that a change may go to, whether they are there or not.
pub fn places(globals: &Globals) -> Vec<PathBuf> {
    if let Some(path) = &globals.kubeconfig {
        return vec![path.clone()];
    }
    if let Some(list) = std::env::var_os("KUBECONFIG").filter(|e| !e.is_empty()) {
        return std::env::split_paths(&list).filter(|p| !p.as_os_str().is_empty()).collect();
    }
    let home = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".kube/config"));
    match (home, PathBuf::from(OWN)) {
        (Some(home), own) if !home.exists() && own.exists() => vec![own],
        (home, _) => home.into_iter().collect(),
    }
}

/// The merged kubeconfig that the flags choose.
pub fn load(globals: &Globals) -> Done<Kubeconfig> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let mut merged = Kubeconfig::default();
    for path in files(globals.kubeconfig.as_deref(), std::env::var_os("KUBECONFIG"), home)? {
        let bad = |e: &dyn std::fmt::Display| Failure::Plain(format!("error loading config file {path:?}: {e}"));
        let one = Kubeconfig::read_from(&path).map_err(|e| bad(&e))?;
        merged = merged.merge(one).map_err(|e| bad(&e))?;
    }
    Ok(merged)
}

/// The chosen context's name.
pub fn context_name(config: &Kubeconfig, globals: &Globals) -> String {
    globals.context.clone().or_else(|| config.current_context.clone()).unwrap_or_default()
}

/// Writes what the flags say of the user over an entry of `users`.
fn credentials(user: &mut Value, name: &str, globals: &Globals) -> Done {
    if let Some(token) = &globals.token {
        *user = json!({ "token": token });
    }
    if globals.username.is_some() || globals.password.is_some() {
        if globals.token.is_some() {
            fail!("more than one authentication method found; found [token basicAuth], only one is allowed");
        }
        let text = |flag: &Option<String>| flag.clone().unwrap_or_default();
        *user = json!({"username": text(&globals.username), "password": text(&globals.password)});
    }
    for (key, file) in [("client-certificate", &globals.client_certificate), ("client-key", &globals.client_key)] {
        if let Some(file) = file {
            if let Err(e) = std::fs::File::open(file) {
                fail!("unable to read {key} {} due to open {}: {}", file.display(), file.display(), os(&e));
            }
            user[key] = file.display().to_string().into();
            user[format!("{key}-data")] = Value::Null;
        }
    }
    if let Some(who) = &globals.as_user {
        user["as"] = who.clone().into();
    }
    if !globals.as_group.is_empty() {
        user["as-groups"] = json!(globals.as_group);
    }
    let impersonates = user["as"].as_str().is_some_and(|who| !who.is_empty());
    if !impersonates && (globals.as_uid.is_some() || !globals.as_group.is_empty() || !globals.as_user_extra.is_empty())
    {
        return Err(Failure::Verbatim(format!(
            "Error in configuration: requesting uid, groups or user-extra for {name} without impersonating a user"
        )));
    }
    Ok(())
}

/// Headers for what the `kube` client does not say of an impersonated user.
fn impersonation(config: &mut kube::Config, globals: &Globals) -> Done {
    let mut add = |name: &str, value: &str| -> Done {
        let bad = |e: &dyn std::fmt::Display| Failure::Plain(format!("cannot impersonate {name} {value:?}: {e}"));
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|e| bad(&e))?;
        config.headers.push((header, HeaderValue::from_str(value).map_err(|e| bad(&e))?));
        Ok(())
    };
    if let Some(uid) = &globals.as_uid {
        add("impersonate-uid", uid)?;
    }
    for extra in &globals.as_user_extra {
        let Some((key, value)) = extra.split_once('=') else {
            fail!("invalid --as-user-extra {extra:?}: give KEY=VALUE")
        };
        add(&format!("impersonate-extra-{}", key.to_lowercase().replace('/', "%2f")), value)?;
    }
    Ok(())
}

/// Writes what the flags say over the kubeconfig.
fn overlay(config: &mut Kubeconfig, globals: &Globals) -> Done {
    let bad = |e: serde_json::Error| Failure::Plain(format!("cannot apply the flags to the kubeconfig: {e}"));
    let mut root = serde_json::to_value(&*config).map_err(bad)?;
    let name = context_name(config, globals);
    let find = |list: &str, name: &str, inner: &str| -> Value {
        let entries = root.get(list).and_then(Value::as_array);
        let found = entries.into_iter().flatten().find(|e| e["name"] == name);
        found.map_or(json!({}), |e| e[inner].clone())
    };
    let mut context = find("contexts", &name, "context");
    let pick = |flag: &Option<String>, key: &str| {
        flag.clone().unwrap_or_else(|| context[key].as_str().unwrap_or_default().to_owned())
    };
    let (cluster_name, user_name) = (pick(&globals.cluster, "cluster"), pick(&globals.user, "user"));
    let known = |list: &str, name: &str| root[list].as_array().into_iter().flatten().any(|e| e["name"] == name);
    if let Some(name) = globals.cluster.as_ref().filter(|name| !known("clusters", name)) {
        fail!("cluster {name:?} does not exist");
    }
    if let Some(name) = globals.user.as_ref().filter(|name| !known("users", name)) {
        fail!("auth info {name:?} does not exist");
    }
    let mut cluster = find("clusters", &cluster_name, "cluster");
    let mut user = find("users", &user_name, "user");
    if let Some(server) = &globals.server {
        let url = if server.contains("://") { server.clone() } else { format!("https://{server}") };
        cluster["server"] = url.into();
    }
    if let Some(ca) = &globals.certificate_authority {
        cluster["certificate-authority"] = ca.display().to_string().into();
        cluster["certificate-authority-data"] = Value::Null;
    }
    if globals.insecure_skip_tls_verify {
        cluster["insecure-skip-tls-verify"] = true.into();
    }
    credentials(&mut user, &user_name, globals)?;
    context["cluster"] = OVERRIDE.into();
    context["user"] = OVERRIDE.into();
    for (list, inner, value) in
        [("clusters", "cluster", cluster), ("users", "user", user), ("contexts", "context", context)]
    {
        match root[list].as_array_mut() {
            Some(entries) => entries.push(json!({"name": OVERRIDE, inner: value})),
            None => root[list] = json!([{"name": OVERRIDE, inner: value}]),
        }
    }
    root["current-context"] = OVERRIDE.into();
    *config = serde_json::from_value(root).map_err(bad)?;
    Ok(())
}

/// Makes the surroundings of a verb.
pub async fn connect(globals: &Globals) -> Done<Cx> {
    let mut config = load(globals)?;
    let name = context_name(&config, globals);
    if globals.server.is_none() {
        if name.is_empty() {
            fail!(
                "no kubeconfig found: start `orch server` (it writes {OWN}), or name one with --kubeconfig or KUBECONFIG"
            );
        }
        if !config.contexts.iter().any(|c| c.name == name) {
            fail!("context {name:?} does not exist");
        }
    }
    overlay(&mut config, globals)?;
    let options = KubeConfigOptions::default();
    let bad = |e: &dyn std::fmt::Display| Failure::Plain(format!("cannot use the kubeconfig: {e}"));
    let mut config = kube::Config::from_custom_kubeconfig(config, &options).await.map_err(|e| bad(&e))?;
    impersonation(&mut config, globals)?;
    if let Some(name) = &globals.tls_server_name {
        config.tls_server_name = Some(name.clone());
    }
    let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let client = Client::from_config(config).map_err(|e| bad(&e))?.named("orch-ctl");
    Ok(Cx::new(client, server, globals.namespace.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_source_wins() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            path
        };
        let (flag, one, two) = (file("flag"), file("one"), file("two"));
        let home = file(".kube/config");
        let list = std::env::join_paths([&one, &dir.path().join("gone"), &two]).unwrap();
        let at = Some(dir.path().to_owned());
        assert_eq!(files(Some(&flag), Some(list.clone()), at.clone()).unwrap(), std::slice::from_ref(&flag));
        assert_eq!(files(None, Some(list), at.clone()).unwrap(), [one, two]);
        assert_eq!(files(None, None, at).unwrap(), [home]);
        assert!(files(Some(&dir.path().join("gone")), None, None).is_err());
    }

    #[test]
    fn flags_are_written_over_the_chosen_context() {
        let mut config: Kubeconfig = serde_json::from_value(json!({
            "current-context": "a",
            "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u", "namespace": "n"}}],
            "clusters": [{"name": "c", "cluster": {"server": "https://old:6443"}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        }))
        .unwrap();
        let globals = Globals { server: Some("new:1".into()), as_user: Some("jane".into()), ..Globals::default() };
        overlay(&mut config, &globals).unwrap();
        let context = config.contexts.last().unwrap().context.clone().unwrap();
        assert_eq!(context.namespace.as_deref(), Some("n"));
        assert_eq!(config.clusters.last().unwrap().cluster.as_ref().unwrap().server.as_deref(), Some("https://new:1"));
        assert_eq!(config.auth_infos.last().unwrap().auth_info.as_ref().unwrap().impersonate.as_deref(), Some("jane"));
        assert_eq!(config.current_context.as_deref(), Some(OVERRIDE));
    }
}
