//! Holds canonicalization against recorded requests: what upstream could decode, what it could not, and what it said.
//! Runs where `ORCH_ORACLE` names the directory of the recordings.

use serde_json::{Map, Value};

use super::{canonicalize, table};

/// Sets (two parts) or removes (one part) what an edit names, as the recorder does.
fn edit(body: &mut Value, edits: &Value) -> Option<()> {
    for change in edits.as_array().map_or(&[][..], Vec::as_slice) {
        let pointer = change[0].as_str()?;
        let (parent, last) = pointer.rsplit_once('/')?;
        let last = last.replace("~1", "/").replace("~0", "~");
        match (body.pointer_mut(parent)?, change.get(1)) {
            (Value::Object(members), Some(value)) => drop(members.insert(last, value.clone())),
            (Value::Object(members), None) => drop(members.shift_remove(&last)),
            (Value::Array(items), Some(value)) => *items.get_mut(last.parse::<usize>().ok()?)? = value.clone(),
            _ => return None,
        }
    }
    Some(())
}

fn samples(dir: &std::path::Path) -> Map<String, Value> {
    let mut samples = Map::new();
    for entry in std::fs::read_dir(dir.join("samples")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let document: Map<String, Value> = serde_yaml::from_str(&text).unwrap();
        samples.extend(document);
    }
    samples
}

/// Named texts (`v1.Protocol`) are `string` here, so the type at the end is not compared; nor is what stands behind a
/// very long value, which the recorder cut.
fn without_type(message: &str) -> &str {
    let message = message.split(" of type ").next().unwrap_or(message);
    message.get(..200).unwrap_or(message)
}

#[test]
fn decodes_what_upstream_decodes() {
    let Some(dir) = std::env::var_os("ORCH_ORACLE").map(std::path::PathBuf::from) else { return };
    let samples = samples(&dir);
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let answers: Map<String, Value> = read("answers.jsonl")
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|a| (a["name"].as_str().unwrap().to_owned(), a["answers"].clone()))
        .collect();
    let (mut compared, mut wrong) = (0, Vec::new());
    for line in ["generated/strict.jsonl", "generated/validation.jsonl"]
        .iter()
        .flat_map(|f| read(f).lines().map(str::to_owned).collect::<Vec<_>>())
    {
        let scenario: Value = serde_json::from_str(&line).unwrap();
        let name = scenario["name"].as_str().unwrap();
        for (index, step) in scenario["steps"].as_array().unwrap().iter().enumerate() {
            let answer = &answers[name][index];
            let Some(mut body) = step["sample"].as_str().and_then(|s| samples.get(s)).cloned() else { continue };
            if edit(&mut body, &step["edit"]).is_none() || !step["duplicate"].is_null() {
                continue;
            }
            let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
            let (api_version, kind) = (text("apiVersion"), text("kind"));
            let (group, version) = crate::api::meta::gvk::split(&api_version);
            let Some(def) = table().kind(group, version, &kind) else { continue };
            let Some(code) = answer["code"].as_u64().filter(|c| [200, 201, 400, 422].contains(c)) else { continue };
            let message = answer["body"]["message"].as_str().unwrap_or_default();
            let undecodable = code == 400 && message.contains("cannot be handled as a");
            let strict = message.split_once("strict decoding error: ");
            let got = canonicalize(body, def);
            let agrees = match (&got, strict) {
                (Ok(canonical), Some((_, list))) => {
                    let names: Vec<String> =
                        canonical.unknown.iter().map(|u| format!("unknown field \"{u}\"")).collect();
                    names.join(", ") == list
                }
                (Ok(_), None) => !undecodable,
                (Err(error), _) => undecodable && message.contains(without_type(&error.to_string())),
            };
            compared += 1;
            if !agrees {
                let ours = got.map_or_else(|e| e.to_string(), |c| format!("{:?}", c.unknown));
                wrong.push(format!("{name} step {index} {}: {code} {message}\n    ours {ours}", step["edit"]));
            }
        }
    }
    assert!(compared > 1000, "only {compared} compared");
    assert!(wrong.is_empty(), "{} of {compared} differ:\n{}", wrong.len(), wrong.join("\n"));
}
