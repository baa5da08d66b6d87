//! What has to happen so that the cluster has what the files say. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::codec::yaml;
use crate::api::meta::gvk;
use crate::api::value::ValueExt;
use crate::util::order::Arrange;

/// Kinds that others need, in the order in which they are applied; all others come after them, as the file has them.
const FIRST: [(&str, &str); 8] = [
    ("", "Namespace"),
    ("apiextensions.k8s.io", "CustomResourceDefinition"),
    ("scheduling.k8s.io", "PriorityClass"),
    ("storage.k8s.io", "StorageClass"),
    ("", "ServiceAccount"),
    ("rbac.authorization.k8s.io", "ClusterRole"),
    ("", "Secret"),
    ("", "ConfigMap"),
];
/// Lists within lists that are looked into.
const MAX_LIST_DEPTH: usize = 8;
/// Longest name of a record, less its prefix and the hash.
const NAME_LIMIT: usize = 200;

/// An object as a record names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ref {
    /// `group/version`.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Empty for cluster-scoped ones.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Ref {
    /// True for the same object, perhaps in another version.
    pub fn is_same(&self, other: &Self) -> bool {
        let group = |r: &Self| gvk::split(&r.api_version).0.to_owned();
        (group(self), &self.kind, &self.namespace, &self.name)
            == (group(other), &other.kind, &other.namespace, &other.name)
    }
}

impl std::fmt::Display for Ref {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, namespace, name, .. } = self;
        match namespace.as_str() {
            "" => write!(f, "{kind} {name}"),
            ns => write!(f, "{kind} {ns}/{name}"),
        }
    }
}

/// What the cluster remembers of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Record {
    /// Name of the add-on.
    #[serde(skip)]
    pub name: String,
    /// The file, as named below the directory.
    pub source: String,
    /// Whose directory that is.
    pub server: String,
    /// Of the file's content when all of it was applied; empty while that is under way.
    pub checksum: String,
    /// Whatever may have been applied and not been removed again.
    pub objects: Vec<Ref>,
}

/// What is in a file.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Objects, in the order to be applied.
    Objects(Vec<Value>),
    /// It cannot be read, for this reason.
    Broken(String),
    /// Somebody is writing it, or it is to be left alone: what was applied of it stays.
    Untouched,
}

/// A file of the directory.
#[derive(Debug, Clone, PartialEq)]
pub struct File {
    /// Name of the add-on.
    pub name: String,
    /// Path below the directory.
    pub source: String,
    /// Of its bytes.
    pub checksum: String,
    /// What is in it.
    pub content: Content,
}

/// What to do.
#[derive(Debug, PartialEq)]
pub enum Step<'a> {
    /// Apply a file, and remove what the record has beyond it.
    Apply(&'a File, &'a [Value]),
    /// Say that a file cannot be read.
    Complain(&'a File, &'a str),
    /// Remove what was applied of a file that is gone.
    Prune(&'a Record),
}

/// The steps, removals last: what moved to another file has another owner by then. `again` says of which add-ons even what
/// did not change is applied: somebody may have changed the objects while nobody watched, or it failed the last time.
pub fn plan<'a>(files: &'a [File], records: &'a [Record], server: &str, again: impl Fn(&str) -> bool) -> Vec<Step<'a>> {
    let mut steps = Vec::new();
    for file in files {
        let record = records.iter().find(|r| r.name == file.name);
        match &file.content {
            Content::Broken(why) => steps.push(Step::Complain(file, why)),
            Content::Objects(objects) if again(&file.name) || record.is_none_or(|r| r.checksum != file.checksum) => {
                steps.push(Step::Apply(file, objects));
            }
            Content::Objects(_) | Content::Untouched => {}
        }
    }
    // What other servers have in their directories is theirs.
    let gone = records.iter().filter(|r| r.server == server && !files.iter().any(|f| f.name == r.name));
    steps.extend(gone.map(Step::Prune));
    steps
}

/// The objects of a manifest, those first that others need.
pub fn objects(text: &str) -> Result<Vec<Value>, String> {
    let mut out = Vec::new();
    for (n, document) in yaml::parse_all(text).map_err(|e| e.to_string())?.into_iter().enumerate() {
        flatten(document, 0, &mut out).map_err(|why| format!("document {}: {why}", n + 1))?;
    }
    out.arrange_by_key(rank);
    Ok(out)
}

fn flatten(mut object: Value, depth: usize, out: &mut Vec<Value>) -> Result<(), String> {
    let (kind, version) =
        (object.str_at("/kind").unwrap_or_default(), object.str_at("/apiVersion").unwrap_or_default());
    if kind.is_empty() || version.is_empty() {
        return Err("it has no apiVersion and kind".into());
    }
    if kind.ends_with("List") && object["items"].is_array() {
        if depth > MAX_LIST_DEPTH {
            return Err(format!("lists are nested more than {MAX_LIST_DEPTH} deep"));
        }
        // Items of a typed list need not say what they are.
        let (item_kind, version) = (kind.trim_end_matches("List").to_owned(), version.to_owned());
        for mut item in object["items"].as_array_mut().map(std::mem::take).unwrap_or_default() {
            if !item_kind.is_empty() {
                item.set_if_absent("/apiVersion", version.as_str());
                item.set_if_absent("/kind", item_kind.as_str());
            }
            flatten(item, depth + 1, out)?;
        }
        return Ok(());
    }
    if object.str_at("/metadata/name").is_none_or(str::is_empty) {
        return Err(format!("a {kind} in it has no name"));
    }
    out.push(object);
    Ok(())
}

fn rank(object: &Value) -> usize {
    position(object.str_at("/apiVersion").unwrap_or_default(), object.str_at("/kind").unwrap_or_default())
}

/// When an object is applied, among others.
pub fn rank_of(r: &Ref) -> usize {
    position(&r.api_version, &r.kind)
}

fn position(api_version: &str, kind: &str) -> usize {
    let (group, _) = gvk::split(api_version);
    FIRST.iter().position(|first| *first == (group, kind)).unwrap_or(FIRST.len())
}

/// The name of a file's add-on: its path without the extension, made such that an object can be called so. Two files never
/// have the same.
pub fn name(source: &str) -> String {
    let stem = source.rsplit_once('.').map_or(source, |(stem, _)| stem);
    let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let clean: String = stem.chars().map(plain).take(NAME_LIMIT).collect();
    let clean = clean.trim_matches('-');
    match clean == stem {
        true => clean.to_owned(),
        false => format!("{clean}-{:08x}", crc32c::crc32c(source.as_bytes())).trim_start_matches('-').to_owned(),
    }
}

/// The objects of two lists, each once; where both have it the second one's version counts.
pub fn union(old: &[Ref], new: &[Ref]) -> Vec<Ref> {
    let mut all: BTreeSet<Ref> = old.iter().filter(|o| !new.iter().any(|n| n.is_same(o))).cloned().collect();
    all.extend(new.iter().cloned());
    all.into_iter().collect()
}

/// The record as an object. The name and namespace are the caller's.
pub fn to_data(record: &Record) -> Value {
    let objects = serde_json::to_string(&record.objects).unwrap_or_default();
    json!({"source": record.source, "server": record.server, "checksum": record.checksum, "objects": objects})
}

/// A record from its object; none for what is not one.
pub fn from_data(name: &str, data: &Value) -> Option<Record> {
    let text = |key: &str| data.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let objects = serde_json::from_str(&text("objects")).ok()?;
    Some(Record {
        name: name.to_owned(),
        source: text("source"),
        server: text("server"),
        checksum: text("checksum"),
        objects,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn file(name: &str, checksum: &str, content: Content) -> File {
        File { name: name.into(), source: format!("{name}.yaml"), checksum: checksum.into(), content }
    }

    fn record(name: &str, checksum: &str, server: &str) -> Record {
        Record { name: name.into(), checksum: checksum.into(), server: server.into(), ..Record::default() }
    }

    const SOME: Content = Content::Objects(Vec::new());

    #[test_case(&[file("a", "1", SOME)], &[], false => "+a"; "a new file")]
    #[test_case(&[file("a", "1", SOME)], &[record("a", "1", "me")], false => ""; "nothing changed")]
    #[test_case(&[file("a", "1", SOME)], &[record("a", "1", "me")], true => "+a"; "at the start all the same")]
    #[test_case(&[file("a", "2", SOME)], &[record("a", "1", "me")], false => "+a"; "a change")]
    #[test_case(&[file("a", "1", SOME)], &[record("a", "", "me")], false => "+a"; "one that was cut off")]
    #[test_case(&[file("a", "2", Content::Broken("x".into()))], &[record("a", "1", "me")], false => "!a"; "broken: what is there stays")]
    #[test_case(&[file("a", "2", Content::Untouched)], &[record("a", "1", "me")], true => ""; "half written, or to be skipped")]
    #[test_case(&[], &[record("a", "1", "me")], false => "-a"; "a file that is gone")]
    #[test_case(&[], &[record("a", "1", "other")], false => ""; "another server's")]
    #[test_case(&[file("b", "1", SOME)], &[record("a", "1", "me")], false => "+b -a"; "removals last")]
    fn steps(files: &[File], records: &[Record], again: bool) -> String {
        let told = |s: &Step<'_>| match s {
            Step::Apply(f, _) => format!("+{}", f.name),
            Step::Complain(f, _) => format!("!{}", f.name),
            Step::Prune(r) => format!("-{}", r.name),
        };
        plan(files, records, "me", |_| again).iter().map(told).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn namespaces_first_and_the_rest_as_it_stands() {
        let text = "
kind: Deployment
apiVersion: apps/v1
metadata: {name: z}
---
kind: ConfigMapList
apiVersion: v1
items:
- metadata: {name: a}
---
kind: Service
apiVersion: v1
metadata: {name: w}
---
kind: Namespace
apiVersion: v1
metadata: {name: space}
";
        let names: Vec<Value> = objects(text).unwrap().into_iter().map(|o| o["metadata"]["name"].clone()).collect();
        assert_eq!(names, ["space", "a", "z", "w"]);
        assert!(objects("# nothing\n---\n").unwrap().is_empty());
    }

    #[test_case("kind: Pod\n" => "document 1: it has no apiVersion and kind")]
    #[test_case("apiVersion: v1\nkind: Pod\n---\n" => "document 1: a Pod in it has no name")]
    #[test_case("a: 1\nb: [\n" => with |e: String| assert!(e.contains("line "), "{e}"); "the line is told")]
    fn what_is_wrong_is_told(text: &str) -> String {
        objects(text).unwrap_err()
    }

    #[test_case("web.yaml", "sub/web.yaml")]
    #[test_case("web.yaml", "Web.yaml")]
    #[test_case("sub/web.yaml", "sub-web.yaml")]
    fn names_are_names_and_never_the_same(a: &str, b: &str) {
        for source in [a, b] {
            assert!(crate::api::meta::names::dns1123_subdomain(&name(source)).is_empty(), "{}", name(source));
        }
        assert_ne!(name(a), name(b));
        assert_eq!(name("web.yaml"), "web");
    }

    #[test]
    fn a_record_survives_and_knows_an_object_in_another_version() {
        let r = |version: &str, name: &str| Ref {
            api_version: version.into(),
            kind: "Thing".into(),
            namespace: "n".into(),
            name: name.into(),
        };
        let all = union(&[r("x/v1beta1", "a"), r("x/v1", "b")], &[r("x/v1", "a")]);
        assert_eq!(all, [r("x/v1", "a"), r("x/v1", "b")]);
        let record = Record { objects: all, ..record("a", "1", "me") };
        assert_eq!(from_data("a", &to_data(&record)), Some(record));
    }
}
