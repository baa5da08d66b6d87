//! Config maps and secrets of files, lines and values.
//!
//! Rules: upstream `kustomize/api/internal/builtins/{ConfigMap,Secret}Generator.go`.

use serde_json::{Map, Value, json};

use super::load::Kustomization;
use super::{Resource, add};
use crate::api::value::ValueExt;
use crate::ctl::create::{data_of, env_lines, is_key};
use crate::ctl::cx::Done;
use crate::ctl::fail::fail;

/// Adds what the kustomization generates.
pub fn run(kustomization: &Kustomization, all: &mut Vec<Resource>) -> Done {
    for (field, kind) in [("configMapGenerator", "ConfigMap"), ("secretGenerator", "Secret")] {
        for args in kustomization.items(field) {
            let options = merged(&kustomization.fields["generatorOptions"], &args["options"]);
            let mut made = Resource::new(object(kustomization, kind, args, &options)?);
            made.hashed = options.bool_at("/disableNameSuffixHash") != Some(true);
            match args.str_at("/behavior").unwrap_or("create") {
                "create" | "" | "unspecified" => add(all, made)?,
                behavior @ ("merge" | "replace") => {
                    let same =
                        |r: &&mut Resource| r.kind() == kind && r.is_called(made.name()) && r.is_in(made.namespace());
                    let Some(there) = all.iter_mut().find(same) else {
                        fail!(
                            "merging from generator: id resid.ResId{{Kind:{kind:?}, Name:{:?}}} does not exist; cannot merge or replace",
                            made.name()
                        )
                    };
                    change(there, made, behavior == "merge");
                }
                other => fail!("invalid behavior {other:?}: create, merge or replace"),
            }
        }
    }
    Ok(())
}

/// The options of all generators, with those of one over them.
fn merged(all: &Value, own: &Value) -> Value {
    let mut options = if all.is_object() { all.clone() } else { json!({}) };
    for (key, value) in own.as_object().into_iter().flatten() {
        match (options[key].as_object_mut(), value) {
            (Some(map), Value::Object(more)) => map.extend(more.clone()),
            _ => options[key] = value.clone(),
        }
    }
    options
}

fn object(kustomization: &Kustomization, kind: &str, args: &Value, options: &Value) -> Done<Value> {
    let Some(name) = args.str_at("/name").filter(|n| !n.is_empty()) else { fail!("a {kind} generator has no name") };
    let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
    if let Some(ns) = args.str_at("/namespace").filter(|ns| !ns.is_empty()) {
        object.set_at("/metadata/namespace", ns);
    }
    for field in ["labels", "annotations"] {
        if let Some(map) = options[field].as_object().filter(|m| !m.is_empty()) {
            object["metadata"][field] = map.clone().into();
        }
    }
    if options["immutable"] == true {
        object["immutable"] = true.into();
    }
    if kind == "Secret" {
        object["type"] = args.str_at("/type").filter(|t| !t.is_empty()).unwrap_or("Opaque").into();
    }
    for (key, value) in sources(kustomization, args)? {
        if !is_key(&key) {
            fail!("{key:?} is not a valid key name for a {kind}");
        }
        let (field, value) = match String::from_utf8(value) {
            Ok(text) if kind == "ConfigMap" => ("data", text),
            Ok(text) => ("data", data_of(text.as_bytes())),
            Err(e) => (if kind == "ConfigMap" { "binaryData" } else { "data" }, data_of(e.as_bytes())),
        };
        let taken = ["data", "binaryData"].iter().any(|f| object[*f].get(&key).is_some());
        if taken {
            fail!("configmap generation: key {key:?} already exists in {kind} {name:?}");
        }
        object.set_if_absent(&format!("/{field}"), json!({}));
        object[field][&key] = value.into();
    }
    Ok(object)
}

/// Keys and contents.
fn sources(kustomization: &Kustomization, args: &Value) -> Done<Vec<(String, Vec<u8>)>> {
    let texts = |field: &str| args.items_at(&format!("/{field}")).iter().filter_map(Value::as_str).map(str::to_owned);
    let mut all = Vec::new();
    for path in texts("envs").chain(texts("env")).chain(args.str_at("/env").map(str::to_owned)) {
        all.extend(env_lines(&kustomization.text(&path)?)?);
    }
    for source in texts("files") {
        let (key, path) = match source.split_once('=') {
            Some((key, path)) => (key.to_owned(), path.to_owned()),
            None => (source.rsplit('/').next().unwrap_or_default().to_owned(), source.clone()),
        };
        all.push((key, kustomization.bytes(&path)?));
    }
    for literal in texts("literals") {
        let Some((key, value)) = literal.split_once('=').filter(|(k, _)| !k.is_empty()) else {
            fail!("literal source {literal:?} should be in the form of key=value")
        };
        let quoted = |q: char| value.len() > 1 && value.starts_with(q) && value.ends_with(q);
        let value = if quoted('"') || quoted('\'') { &value[1..value.len() - 1] } else { value };
        all.push((key.to_owned(), value.as_bytes().to_vec()));
    }
    Ok(all)
}

/// What was there with what a generator says of it.
fn change(there: &mut Resource, made: Resource, merge: bool) {
    there.hashed |= made.hashed;
    for field in ["labels", "annotations"] {
        for (key, value) in made.object["metadata"][field].as_object().into_iter().flatten() {
            there.object.set_if_absent(&format!("/metadata/{field}"), json!({}));
            there.object["metadata"][field][key] = value.clone();
        }
    }
    for field in ["data", "binaryData"] {
        let new = made.object.get(field).and_then(Value::as_object).cloned();
        let old = there.object.get(field).and_then(Value::as_object).cloned().filter(|_| merge);
        let all: Map<String, Value> = old.into_iter().flatten().chain(new.into_iter().flatten()).collect();
        if all.is_empty() {
            there.object.remove_at(&format!("/{field}"));
        } else {
            there.object[field] = all.into();
        }
    }
    for field in ["immutable", "type"] {
        if let Some(value) = made.object.get(field).filter(|v| **v != "Opaque") {
            there.object[field] = value.clone();
        }
    }
}
