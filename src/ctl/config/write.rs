//! Changes of kubeconfig files: `set-cluster`, `set-credentials`, `set-context`, `use-context`, `rename-context`,
//! `delete-*`, `set`, `unset`.
//!
//! A change is a function over the file's content; what stays is written back as it was. An entry is changed in the file
//! that has it, a new one goes to the first file.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Cluster, Context, Credentials, What};
use crate::api::codec::yaml;
use crate::api::value::ValueExt;
use crate::ctl::Globals;
use crate::ctl::cx::{Done, say};
use crate::ctl::fail::{Failure, fail, os};
use crate::ctl::kubeconfig;
use crate::util::files;

/// A list of a kubeconfig, what its entries hold, and the fields of that.
struct Section {
    list: &'static str,
    inner: &'static str,
    fields: &'static [&'static str],
}

const CLUSTERS: Section = Section {
    list: "clusters",
    inner: "cluster",
    fields: &[
        "server",
        "tls-server-name",
        "insecure-skip-tls-verify",
        "certificate-authority",
        "certificate-authority-data",
        "proxy-url",
        "disable-compression",
    ],
};
const USERS: Section = Section {
    list: "users",
    inner: "user",
    fields: &[
        "client-certificate",
        "client-certificate-data",
        "client-key",
        "client-key-data",
        "token",
        "tokenFile",
        "as",
        "as-uid",
        "username",
        "password",
    ],
};
const CONTEXTS: Section = Section { list: "contexts", inner: "context", fields: &["cluster", "user", "namespace"] };
/// Fields that are true or false.
const BOOLEANS: [&str; 3] = ["insecure-skip-tls-verify", "disable-compression", "colors"];

/// A kubeconfig file.
struct File {
    path: PathBuf,
    config: Value,
}

impl File {
    fn read(path: &Path) -> Done<Self> {
        let bad = |e: &dyn std::fmt::Display| Failure::Plain(format!("error loading config file {path:?}: {e}"));
        let config = match std::fs::read(path) {
            Ok(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => Value::Null,
            Ok(bytes) => yaml::parse(&bytes).map_err(|e| bad(&e))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Value::Null,
            Err(e) => return Err(bad(&os(&e))),
        };
        let config = if config.is_object() { config } else { json!({"apiVersion": "v1", "kind": "Config"}) };
        Ok(Self { path: path.to_owned(), config })
    }

    fn write(&self) -> Done {
        if let Some(dir) = self.path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let text = yaml::to_string(&super::drop_nulls(self.config.clone()));
        files::write_atomic(&self.path, text.as_bytes(), files::SECRET_MODE)
            .map_err(|e| Failure::Plain(format!("cannot write {}: {e}", self.path.display())))
    }

    /// The file that has the entry, or the first.
    fn with(globals: &Globals, section: &Section, name: &str) -> Done<Self> {
        let places = kubeconfig::places(globals);
        for path in places.iter().filter(|p| p.exists()) {
            let file = Self::read(path)?;
            if entry(&file.config, section, name).is_some() {
                return Ok(file);
            }
        }
        Self::first(globals)
    }

    fn first(globals: &Globals) -> Done<Self> {
        let places = kubeconfig::places(globals);
        match places.iter().find(|p| p.exists()).or(places.last()) {
            Some(path) => Self::read(path),
            None => fail!("no kubeconfig to write to: name one with --kubeconfig or KUBECONFIG"),
        }
    }

    /// The file that says which context is current, or the first.
    fn of_current(globals: &Globals) -> Done<Self> {
        for path in kubeconfig::places(globals).iter().filter(|p| p.exists()) {
            let file = Self::read(path)?;
            if file.config.str_at("/current-context").is_some_and(|c| !c.is_empty()) {
                return Ok(file);
            }
        }
        Self::first(globals)
    }
}

fn entry<'a>(config: &'a Value, section: &Section, name: &str) -> Option<&'a Value> {
    config[section.list].as_array()?.iter().find(|e| e["name"] == name)
}

/// What the entry of this name holds; it is made where there is none, and true says so.
fn entry_mut<'a>(config: &'a mut Value, section: &Section, name: &str) -> (&'a mut Value, bool) {
    if !config[section.list].is_array() {
        config[section.list] = json!([]);
    }
    let new = entry(config, section, name).is_none();
    let list = config[section.list].as_array_mut().expect("the list was just made");
    if new {
        let at = list.partition_point(|e| e.str_at("/name").is_some_and(|n| n < name));
        list.insert(at, json!({"name": name, section.inner: {}}));
    }
    let found = list.iter_mut().find(|e| e["name"] == name).expect("the entry was just made");
    if !found[section.inner].is_object() {
        found[section.inner] = json!({});
    }
    (&mut found[section.inner], new)
}

fn remove(config: &mut Value, section: &Section, name: &str) -> bool {
    let Some(list) = config[section.list].as_array_mut() else { return false };
    let before = list.len();
    list.retain(|e| e["name"] != name);
    list.len() < before
}

/// Runs a verb that writes.
pub fn run(globals: &Globals, what: What) -> Done {
    match what {
        What::SetCluster(args) => set_cluster(globals, &args),
        What::SetCredentials(args) => set_credentials(globals, &args),
        What::SetContext(args) => set_context(globals, &args),
        What::UseContext { name } => use_context(globals, &name),
        What::RenameContext { old, new } => rename_context(globals, &old, &new),
        What::DeleteCluster { name } => delete(globals, &CLUSTERS, &name),
        What::DeleteContext { name } => delete(globals, &CONTEXTS, &name),
        What::DeleteUser { name } => delete(globals, &USERS, &name),
        What::Set { property, value, set_raw_bytes } => {
            let value = property_value(&property, &value, set_raw_bytes)?;
            change(globals, &property, Some(value))?;
            say(format!("Property {property:?} set."))
        }
        What::Unset { property } => {
            change(globals, &property, None)?;
            say(format!("Property {property:?} unset."))
        }
        _ => Ok(()),
    }
}

/// Sets what was given.
fn put(entry: &mut Value, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        entry[key] = value.into();
    }
}

/// A file of a certificate or a key: its path, or with `embed` its content.
fn put_file(entry: &mut Value, key: &str, path: Option<&PathBuf>, embed: bool) -> Done {
    let Some(path) = path else { return Ok(()) };
    if embed {
        let bytes = std::fs::read(path).map_err(|e| {
            Failure::Plain(format!("could not stat {key} file {0}: stat {0}: {1}", path.display(), os(&e)))
        })?;
        entry[format!("{key}-data")] = STANDARD.encode(bytes).into();
        entry[key] = Value::Null;
    } else {
        let absolute = std::path::absolute(path)?;
        entry[key] = absolute.display().to_string().into();
        entry[format!("{key}-data")] = Value::Null;
    }
    Ok(())
}

fn set_cluster(globals: &Globals, args: &Cluster) -> Done {
    let mut file = File::with(globals, &CLUSTERS, &args.name)?;
    let (cluster, _) = entry_mut(&mut file.config, &CLUSTERS, &args.name);
    put(cluster, "server", globals.server.clone());
    put(cluster, "tls-server-name", globals.tls_server_name.clone());
    put(cluster, "proxy-url", args.proxy_url.clone());
    if globals.insecure_skip_tls_verify {
        if globals.certificate_authority.is_some() {
            fail!("you cannot specify a certificate authority and insecure mode at the same time");
        }
        cluster["insecure-skip-tls-verify"] = true.into();
        for gone in ["certificate-authority", "certificate-authority-data"] {
            cluster[gone] = Value::Null;
        }
    }
    if globals.certificate_authority.is_some() {
        cluster["insecure-skip-tls-verify"] = Value::Null;
    }
    put_file(cluster, "certificate-authority", globals.certificate_authority.as_ref(), args.embed_certs)?;
    file.write()?;
    say(format!("Cluster {:?} set.", args.name))
}

fn set_credentials(globals: &Globals, args: &Credentials) -> Done {
    let basic = globals.username.is_some() || globals.password.is_some();
    if globals.token.is_some() && basic {
        fail!(
            "you cannot specify more than one authentication method at the same time: --token, --username/--password"
        );
    }
    let mut file = File::with(globals, &USERS, &args.name)?;
    let (user, _) = entry_mut(&mut file.config, &USERS, &args.name);
    put(user, "token", globals.token.clone());
    put(user, "username", globals.username.clone());
    put(user, "password", globals.password.clone());
    let gone: &[&str] = match (globals.token.is_some(), basic) {
        (true, _) => &["username", "password"],
        (_, true) => &["token"],
        _ => &[],
    };
    gone.iter().for_each(|key| user[*key] = Value::Null);
    put_file(user, "client-certificate", globals.client_certificate.as_ref(), args.embed_certs)?;
    put_file(user, "client-key", globals.client_key.as_ref(), args.embed_certs)?;
    if let Some(name) = &args.auth_provider {
        user["auth-provider"]["name"] = name.clone().into();
    }
    if user["auth-provider"].is_object() {
        pairs(&args.auth_provider_arg, |key, value| user["auth-provider"]["config"][key] = value)?;
    }
    exec_of(user, args)?;
    file.write()?;
    say(format!("User {:?} set.", args.name))
}

/// `key=value` sets, `key-` removes.
fn pairs(list: &[String], mut take: impl FnMut(&str, Value)) -> Done {
    for text in list {
        match (text.split_once('='), text.strip_suffix('-')) {
            (Some((key, value)), _) => take(key, value.into()),
            (None, Some(key)) => take(key, Value::Null),
            (None, None) => fail!("invalid argument {text:?}: give KEY=VALUE, or KEY- to remove"),
        }
    }
    Ok(())
}

/// The program that makes credentials.
fn exec_of(user: &mut Value, args: &Credentials) -> Done {
    let named = args.exec_command.is_some();
    if !named && !user["exec"].is_object() {
        return Ok(());
    }
    let exec = &mut user["exec"];
    put(exec, "command", args.exec_command.clone());
    put(exec, "apiVersion", args.exec_api_version.clone());
    put(exec, "interactiveMode", args.exec_interactive_mode.clone());
    if !args.exec_arg.is_empty() {
        exec["args"] = json!(args.exec_arg);
    }
    exec.set_if_absent("/interactiveMode", "IfAvailable");
    if args.exec_provide_cluster_info || exec["provideClusterInfo"].is_null() {
        exec["provideClusterInfo"] = args.exec_provide_cluster_info.into();
    }
    let mut env = exec.items_at("/env").to_vec();
    pairs(&args.exec_env, |key, value| {
        env.retain(|e| e["name"] != key);
        if !value.is_null() {
            env.push(json!({"name": key, "value": value}));
        }
    })?;
    exec["env"] = if env.is_empty() { Value::Null } else { env.into() };
    Ok(())
}

fn set_context(globals: &Globals, args: &Context) -> Done {
    let name = match (&args.name, args.current) {
        (Some(name), false) if !name.is_empty() => name.clone(),
        (None, true) => match kubeconfig::context_name(&kubeconfig::load(globals)?, globals) {
            name if name.is_empty() => fail!("no current context is set"),
            name => name,
        },
        (Some(_), true) => fail!("you cannot specify both a context name and --current"),
        _ => fail!("you must specify a non-empty context name or --current"),
    };
    let mut file = File::with(globals, &CONTEXTS, &name)?;
    let (context, new) = entry_mut(&mut file.config, &CONTEXTS, &name);
    put(context, "cluster", globals.cluster.clone());
    put(context, "user", globals.user.clone());
    put(context, "namespace", globals.namespace.clone());
    file.write()?;
    say(format!("Context {name:?} {}.", if new { "created" } else { "modified" }))
}

fn use_context(globals: &Globals, name: &str) -> Done {
    if !kubeconfig::load(globals)?.contexts.iter().any(|c| c.name == name) {
        fail!("no context exists with the name: {name:?}");
    }
    let mut file = File::of_current(globals)?;
    file.config["current-context"] = name.into();
    file.write()?;
    say(format!("Switched to context {name:?}."))
}

fn rename_context(globals: &Globals, old: &str, new: &str) -> Done {
    let mut file = File::with(globals, &CONTEXTS, old)?;
    let at = file.path.display().to_string();
    let Some(mut context) = entry(&file.config, &CONTEXTS, old).cloned() else {
        fail!("cannot rename the context {old:?}, it's not in {at}")
    };
    if kubeconfig::load(globals)?.contexts.iter().any(|c| c.name == new) {
        fail!("cannot rename the context {old:?}, the context {new:?} already exists in {at}");
    }
    remove(&mut file.config, &CONTEXTS, old);
    *entry_mut(&mut file.config, &CONTEXTS, new).0 = context["context"].take();
    file.write()?;
    let mut current = File::of_current(globals)?;
    if current.config["current-context"] == old {
        current.config["current-context"] = new.into();
        current.write()?;
    }
    say(format!("Context {old:?} renamed to {new:?}."))
}

fn delete(globals: &Globals, section: &Section, name: &str) -> Done {
    let mut file = File::with(globals, section, name)?;
    let at = file.path.display().to_string();
    if !remove(&mut file.config, section, name) {
        fail!("cannot delete {} {name}, not in {at}", section.inner);
    }
    let current = kubeconfig::context_name(&kubeconfig::load(globals)?, globals);
    if section.list == CONTEXTS.list && current == name {
        eprintln!(
            "warning: this removed your active context, use \"kubectl config use-context\" to select a different one"
        );
    }
    file.write()?;
    say(format!("deleted {} {name} from {at}", section.inner))
}

/// Where a property stands.
#[derive(Debug, PartialEq, Eq)]
enum Property {
    /// A field of the file itself.
    Top(&'static str),
    /// `preferences.colors`.
    Colors,
    /// A field of an entry (the whole entry without one): list, name, field.
    Entry(&'static str, String, Option<&'static str>),
}

/// Reads `clusters.NAME.FIELD`; a name may contain dots.
fn property(text: &str) -> Done<Property> {
    let bad = || Failure::Plain(format!("unable to parse {text} after [] at api.Config"));
    match text {
        "current-context" => return Ok(Property::Top("current-context")),
        "preferences.colors" => return Ok(Property::Colors),
        _ => {}
    }
    let (list, rest) = text.split_once('.').ok_or_else(bad)?;
    let section = [CLUSTERS, USERS, CONTEXTS].into_iter().find(|s| s.list == list).ok_or_else(bad)?;
    let field = section.fields.iter().find_map(|f| Some((rest.strip_suffix(f)?.strip_suffix('.')?, *f)));
    Ok(match field {
        Some((name, field)) if !name.is_empty() => Property::Entry(section.list, name.to_owned(), Some(field)),
        _ => Property::Entry(section.list, rest.to_owned(), None),
    })
}

fn property_value(property: &str, text: &str, raw: bool) -> Done<Value> {
    let field = property.rsplit('.').next().unwrap_or_default();
    if BOOLEANS.contains(&field) {
        return match text {
            "true" | "1" | "t" | "T" | "True" | "TRUE" => Ok(true.into()),
            "false" | "0" | "f" | "F" | "False" | "FALSE" => Ok(false.into()),
            _ => fail!("strconv.ParseBool: parsing {text:?}: invalid syntax"),
        };
    }
    if field.ends_with("-data") {
        if raw {
            return Ok(STANDARD.encode(text).into());
        }
        if let Err(e) = STANDARD.decode(text) {
            fail!("error decoding input value: {e}");
        }
    }
    Ok(text.into())
}

/// Sets a property, or removes it.
fn change(globals: &Globals, text: &str, value: Option<Value>) -> Done {
    let found = property(text)?;
    let mut file = match &found {
        Property::Top(_) => File::of_current(globals)?,
        Property::Colors => File::first(globals)?,
        Property::Entry(list, name, _) => {
            let section = [CLUSTERS, USERS, CONTEXTS].into_iter().find(|s| s.list == *list);
            File::with(globals, &section.expect("a property names a section"), name)?
        }
    };
    apply(&mut file.config, &found, value)?;
    file.write()
}

fn apply(config: &mut Value, property: &Property, value: Option<Value>) -> Done {
    let (list, name, field) = match property {
        Property::Top(field) => {
            config[*field] = value.unwrap_or_else(|| "".into());
            return Ok(());
        }
        Property::Colors => {
            config["preferences"] = value.map_or(Value::Null, |v| json!({"colors": v}));
            return Ok(());
        }
        Property::Entry(list, name, field) => (list, name, field),
    };
    let section = [CLUSTERS, USERS, CONTEXTS].into_iter().find(|s| s.list == *list);
    let section = section.expect("a property names a section");
    match (field, value) {
        (Some(field), value) => entry_mut(config, &section, name).0[*field] = value.unwrap_or_default(),
        (None, None) => drop(remove(config, &section, name)),
        (None, Some(_)) => fail!("cannot set {list}.{name}: name one of its fields, {}", section.fields.join(", ")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("current-context", Property::Top("current-context"))]
    #[test_case("clusters.c1.server", Property::Entry("clusters", "c1".into(), Some("server")))]
    #[test_case("clusters.my.dotted.name.server", Property::Entry("clusters", "my.dotted.name".into(), Some("server")); "dots in a name")]
    #[test_case("users.u.client-key-data", Property::Entry("users", "u".into(), Some("client-key-data")))]
    #[test_case("contexts.x", Property::Entry("contexts", "x".into(), None); "a whole entry")]
    fn properties(text: &str, want: Property) {
        assert_eq!(property(text).unwrap(), want);
    }

    #[test]
    fn values_have_the_type_of_their_field() {
        assert_eq!(property_value("clusters.c.insecure-skip-tls-verify", "true", false).unwrap(), json!(true));
        assert!(property_value("clusters.c.insecure-skip-tls-verify", "yes", false).is_err());
        assert_eq!(property_value("users.u.client-key-data", "k", true).unwrap(), json!("aw=="));
        assert!(property_value("users.u.client-key-data", "no base64!", false).is_err());
        assert_eq!(property_value("users.u.token", "true", false).unwrap(), json!("true"));
        assert!(property("nope.x").is_err());
    }

    #[test]
    fn entries_are_made_changed_and_removed() {
        let mut config = json!({"clusters": [{"name": "b", "cluster": {"server": "s"}}]});
        let set = |config: &mut Value, at: &str, value: Option<Value>| apply(config, &property(at).unwrap(), value);
        set(&mut config, "clusters.b.server", Some("t".into())).unwrap();
        set(&mut config, "clusters.a.server", Some("u".into())).unwrap();
        assert_eq!(
            config["clusters"],
            json!([{"name": "a", "cluster": {"server": "u"}}, {"name": "b", "cluster": {"server": "t"}}])
        );
        set(&mut config, "clusters.a", None).unwrap();
        assert_eq!(config["clusters"].as_array().unwrap().len(), 1);
        assert!(set(&mut config, "clusters.a", Some("x".into())).is_err());
    }

    #[test]
    fn files_are_written_for_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/config");
        let globals =
            Globals { kubeconfig: Some(path.clone()), server: Some("https://x".into()), ..Globals::default() };
        let args = Cluster { name: "c".into(), embed_certs: false, proxy_url: None };
        set_cluster(&globals, &args).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(File::read(&path).unwrap().config["clusters"][0]["cluster"], json!({"server": "https://x"}));
    }
}
