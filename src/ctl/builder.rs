//! From arguments and files to objects: the one way all verbs find what they work on.
//!
//! Arguments: `TYPE [NAME…]`, `TYPE,TYPE`, `TYPE/NAME…`, or files. Upstream: `cli-runtime/pkg/resource`.

use serde_json::Value;

use super::cx::{Call, Cx, Done};
use super::fail::{Failure, NOTHING_NAMED, fail};
use super::files::{FileFlags, Manifest};
use super::mapper::Resource;
use super::print::DryRun;
use super::write::as_typed;
use crate::api::meta::labels::Selector;
use crate::api::value::ValueExt;

/// What to select of a type.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SelectorFlags {
    /// Label selector: a=b,c!=d,e in (f,g)
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    pub selector: String,
    /// Field selector: metadata.name=a,status.phase!=Running
    #[arg(long, default_value = "", hide_default_value = true)]
    pub field_selector: String,
}

/// The flag of verbs that can work on files alone.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct LocalFlag {
    /// Work on the files alone, without asking the server
    #[arg(long)]
    pub local: bool,
}

impl LocalFlag {
    /// What it makes of `--dry-run`.
    pub fn over(&self, dry_run: DryRun) -> Done<DryRun> {
        match (self.local, dry_run) {
            (false, dry_run) => Ok(dry_run),
            (true, DryRun::Server) => {
                fail!("cannot specify --local and --dry-run=server - did you mean --dry-run=client?")
            }
            (true, _) => Ok(DryRun::Local),
        }
    }
}

/// What the arguments name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// All of these types.
    Types(Vec<String>),
    /// Objects: type and name.
    Objects(Vec<(String, String)>),
}

/// Reads `TYPE [NAME…] | TYPE/NAME…`.
pub fn parse(args: &[String]) -> Done<Wanted> {
    if args.iter().any(|a| a.contains('/')) {
        let mut objects = Vec::new();
        for arg in args {
            match arg.split_once('/') {
                Some((kind, name)) if !kind.is_empty() && !name.is_empty() && !name.contains('/') => {
                    objects.push((kind.to_owned(), name.to_owned()));
                }
                Some((_, name)) if name.contains('/') => {
                    fail!("arguments in resource/name form may not have more than one slash")
                }
                Some(_) => {
                    fail!("arguments in resource/name form must have a single resource and name")
                }
                None => fail!(
                    "there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. 'kubectl get resource/<resource_name>' instead of 'kubectl get resource resource/<resource_name>'"
                ),
            }
        }
        return Ok(Wanted::Objects(objects));
    }
    let Some((types, names)) = args.split_first() else { fail!("{NOTHING_NAMED}") };
    let types: Vec<String> = types.split(',').map(str::to_owned).collect();
    if names.is_empty() {
        return Ok(Wanted::Types(types));
    }
    Ok(Wanted::Objects(types.iter().flat_map(|t| names.iter().map(|n| (t.clone(), n.clone()))).collect()))
}

/// An object that is worked on.
#[derive(Debug, Clone)]
pub struct Info {
    /// Its resource.
    pub resource: Resource,
    /// Its namespace; empty for cluster-scoped kinds.
    pub ns: String,
    /// Its name.
    pub name: String,
    /// The object, from the file or the server; null when it was only named.
    pub object: Value,
    /// The file it came from.
    pub source: Option<String>,
}

impl Info {
    /// `deployment.apps/web`.
    pub fn title(&self) -> String {
        format!("{}/{}", self.resource.kind_name(), self.name)
    }

    /// Its path on the server.
    pub fn path(&self, sub: Option<&str>) -> String {
        self.resource.res.object(&self.ns, &self.name, sub)
    }

    /// Puts the file's name before an error.
    pub fn failed(&self, verb: &str, failure: Failure) -> Failure {
        match &self.source {
            Some(source) => failure.doing(verb, source),
            None => failure,
        }
    }

    /// Reads it from the server.
    pub async fn fetch(&self, cx: &Cx) -> Done<Value> {
        cx.read(Call::get(self.path(None)), &self.ns).await
    }
}

/// Which objects a verb works on.
#[derive(Debug, Clone, Default)]
pub struct Query<'a> {
    /// Positional arguments.
    pub args: &'a [String],
    /// Files.
    pub files: Option<&'a FileFlags>,
    /// Label selector.
    pub labels: &'a str,
    /// Field selector.
    pub fields: &'a str,
    /// In all namespaces.
    pub all_namespaces: bool,
    /// A type without names means all of it (`--all`, or a verb that lists).
    pub all: bool,
    /// Read the objects that are only named from the server.
    pub fetch: bool,
    /// Only files, and no server.
    pub local: bool,
    /// The verb, for what says that there was nothing to do; empty where the verb says it itself.
    pub verb: &'a str,
}

impl Query<'_> {
    /// The objects. What fails is reported to `cx`, and the rest goes on.
    pub async fn infos(&self, cx: &Cx) -> Done<Vec<Info>> {
        if self.local && self.files.is_none_or(FileFlags::is_empty) {
            fail!(
                "you must specify resources by --filename when --local is set.\nExample resource specifications include:\n   '-f rsrc.yaml'\n   '--filename=rsrc.json'"
            );
        }
        if let Some(files) = self.files.filter(|f| !f.is_empty()) {
            if !self.args.is_empty() {
                fail!(
                    "when paths, URLs, or stdin is provided as input, you may not specify resource arguments as well"
                );
            }
            return self.of_files(cx, files).await;
        }
        match parse(self.args)? {
            Wanted::Types(_) if self.all && !self.labels.is_empty() => {
                fail!("setting 'all' parameter but found a non empty selector. ")
            }
            Wanted::Types(types) => self.of_types(cx, &types).await,
            Wanted::Objects(_) if self.all => {
                fail!("name cannot be provided when a selector is specified")
            }
            Wanted::Objects(_) if !self.labels.is_empty() || !self.fields.is_empty() => {
                fail!("name cannot be provided when a selector is specified")
            }
            Wanted::Objects(_) if self.all_namespaces => {
                fail!("a resource cannot be retrieved by name across all namespaces")
            }
            Wanted::Objects(objects) => self.named(cx, &objects).await,
        }
    }

    async fn of_files(&self, cx: &Cx, files: &FileFlags) -> Done<Vec<Info>> {
        let (manifests, failures) = files.read().await;
        failures.iter().for_each(|f| cx.report(f));
        if manifests.is_empty() && failures.is_empty() {
            if self.verb.is_empty() {
                return Ok(Vec::new());
            }
            fail!("no objects passed to {}", self.verb);
        }
        let mut infos = Vec::new();
        for manifest in manifests {
            let found = if self.local { Ok(of_file(manifest)) } else { of_manifest(cx, manifest).await };
            match found {
                Err(failure) => cx.report(&failure),
                Ok(info) if self.local => infos.push(info),
                Ok(mut info) if self.fetch => match info.fetch(cx).await {
                    Ok(object) => {
                        info.object = object;
                        infos.push(info);
                    }
                    Err(failure) => cx.report(&failure),
                },
                Ok(info) => infos.push(info),
            }
        }
        Ok(infos)
    }

    async fn named(&self, cx: &Cx, objects: &[(String, String)]) -> Done<Vec<Info>> {
        let mut infos = Vec::new();
        for (kind, name) in objects {
            for resource in cx.mapper().await?.expand(kind)? {
                let ns = if resource.res.namespaced { cx.ns.clone() } else { String::new() };
                let mut info =
                    Info { resource: resource.clone(), ns, name: name.clone(), object: Value::Null, source: None };
                if self.fetch {
                    match info.fetch(cx).await {
                        Ok(object) => info.object = object,
                        Err(failure) => {
                            cx.report(&failure);
                            continue;
                        }
                    }
                }
                infos.push(info);
            }
        }
        Ok(infos)
    }

    async fn of_types(&self, cx: &Cx, types: &[String]) -> Done<Vec<Info>> {
        if !self.all && self.labels.is_empty() && self.fields.is_empty() {
            fail!("resource(s) were provided, but no name was specified");
        }
        let mut infos = Vec::new();
        for kind in types {
            for resource in cx.mapper().await?.expand(kind)? {
                let ns = if self.all_namespaces { "" } else { cx.ns.as_str() };
                match cx.items(&resource.res, ns, self.labels, self.fields).await {
                    Ok(items) => infos.extend(items.into_iter().map(|object| of_object(resource, object))),
                    Err(failure) => cx.report(&failure),
                }
            }
        }
        Ok(infos)
    }
}

/// Those with the labels.
pub fn selected(infos: Vec<Info>, labels: &str) -> Done<Vec<Info>> {
    let selector = Selector::parse(labels)
        .map_err(|e| Failure::Plain(format!("the provided selector {labels:?} is not valid: {e}")))?;
    Ok(infos.into_iter().filter(|i| selector.matches_value(i.object.get_at("/metadata/labels"))).collect())
}

/// An object of a list or an answer.
pub fn of_object(resource: &Resource, object: Value) -> Info {
    let text = |path: &str| object.str_at(path).unwrap_or_default().to_owned();
    Info {
        ns: text("/metadata/namespace"),
        name: text("/metadata/name"),
        resource: resource.clone(),
        object,
        source: None,
    }
}

/// An object of a file as it stands, where no server is asked what its kind is.
fn of_file(manifest: Manifest) -> Info {
    let text = |path: &str| manifest.object.str_at(path).unwrap_or_default().to_owned();
    Info {
        resource: Resource::unasked(&text("/apiVersion"), &text("/kind")),
        ns: text("/metadata/namespace"),
        name: text("/metadata/name"),
        object: manifest.object,
        source: Some(manifest.source),
    }
}

/// An object of a file: its resource is looked up, its namespace filled in and checked.
pub async fn of_manifest(cx: &Cx, manifest: Manifest) -> Done<Info> {
    let Manifest { source, mut object } = manifest;
    let api_version = object.str_at("/apiVersion").unwrap_or_default().to_owned();
    let kind = object.str_at("/kind").unwrap_or_default().to_owned();
    let Some(resource) = cx.mapper().await?.of_kind(&api_version, &kind).cloned() else {
        let name = object.str_at("/metadata/name").unwrap_or_default();
        let ns = object.str_at("/metadata/namespace").unwrap_or_default();
        fail!(
            "resource mapping not found for name: {name:?} namespace: {ns:?} from {source:?}: no matches for kind {kind:?} in version {api_version:?}\nensure CRDs are installed first"
        );
    };
    let name = object.str_at("/metadata/name").unwrap_or_default().to_owned();
    let ns = if resource.res.namespaced { namespace_of(cx, &mut object)? } else { String::new() };
    Ok(Info { resource, ns, name, object, source: Some(source) })
}

/// An object that flags made, as Go's types would have it. A namespace that was not asked for does not show where
/// nothing is sent.
pub async fn of_flags(cx: &Cx, object: Value, dry_run: DryRun) -> Done<Info> {
    let info = of_manifest(cx, Manifest { source: String::new(), object }).await?;
    let mut object = as_typed(info.object);
    if dry_run.is_client() && !cx.ns_given {
        object.remove_at("/metadata/namespace");
    }
    Ok(Info { source: None, object, ..info })
}

fn namespace_of(cx: &Cx, object: &mut Value) -> Done<String> {
    match object.str_at("/metadata/namespace") {
        Some(ns) if !ns.is_empty() => {
            if cx.ns_given && ns != cx.ns {
                fail!(
                    "the namespace from the provided object {ns:?} does not match the namespace {:?}. You must pass '--namespace={ns}' to perform this operation.",
                    cx.ns
                );
            }
            Ok(ns.to_owned())
        }
        _ => {
            object.set_at("/metadata/namespace", cx.ns.clone());
            Ok(cx.ns.clone())
        }
    }
}

/// Takes the items out of a list object; each says its kind, as a client's decoder makes it.
pub fn items_of(list: &mut Value) -> Vec<Value> {
    let kind = list.str_at("/kind").and_then(|k| k.strip_suffix("List")).unwrap_or_default().to_owned();
    let api_version = list.str_at("/apiVersion").unwrap_or_default().to_owned();
    let Some(Value::Array(items)) = list.get_mut("items").map(Value::take) else { return Vec::new() };
    let fill = |mut item: Value| {
        if let Value::Object(map) = &mut item
            && !kind.is_empty()
        {
            for (key, value) in [("apiVersion", &api_version), ("kind", &kind)] {
                map.entry(key).or_insert_with(|| value.clone().into());
            }
        }
        item
    };
    items.into_iter().map(fill).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    fn args(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test_case("pods" => Ok(Wanted::Types(vec!["pods".into()])))]
    #[test_case("pods,svc" => Ok(Wanted::Types(vec!["pods".into(), "svc".into()])))]
    #[test_case("po a b" => Ok(Wanted::Objects(vec![("po".into(), "a".into()), ("po".into(), "b".into())])))]
    #[test_case("po/a svc/b" => Ok(Wanted::Objects(vec![("po".into(), "a".into()), ("svc".into(), "b".into())])))]
    #[test_case("po,svc a" => Ok(Wanted::Objects(vec![("po".into(), "a".into()), ("svc".into(), "a".into())])))]
    fn arguments(text: &str) -> Result<Wanted, String> {
        parse(&args(text)).map_err(|e| e.to_string())
    }

    #[test_case("po po/a"; "type and pair")]
    #[test_case("po/a b"; "pair and name")]
    #[test_case("po/a/b"; "two slashes")]
    #[test_case("po/"; "no name")]
    fn refused(text: &str) {
        assert!(parse(&args(text)).is_err());
    }

    #[test]
    fn items_say_what_they_are() {
        let mut list = json!({"kind": "PodList", "apiVersion": "v1", "items": [{"metadata": {"name": "a"}}]});
        assert_eq!(items_of(&mut list), [json!({"metadata": {"name": "a"}, "apiVersion": "v1", "kind": "Pod"})]);
        let mut mixed = json!({"kind": "List", "apiVersion": "v1", "items": [{"kind": "Node", "apiVersion": "v1"}]});
        assert_eq!(items_of(&mut mixed), [json!({"kind": "Node", "apiVersion": "v1"})]);
    }
}
