//! Parameters that many operations have stand once in a v2 document, and are referred to.
//!
//! In: items of paths, one by one. Out: the same items with references, and then what they refer to.
//!
//! **Invariant:** what clients look for in operations themselves (`dryRun`, `fieldValidation`) stays there, and so does what
//! belongs to one kind: its name and its body.
//!
//! Rules: upstream `kube-openapi/pkg/builder/parameters.go`.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use serde_json::{Value, json};

use crate::api::value::ValueExt;

/// Members of an item that are operations.
const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];

/// What was referred to, by name.
#[derive(Default)]
pub(super) struct Shared(BTreeMap<String, Value>);

impl Shared {
    /// The item of a path with references in place of what can be shared.
    pub(super) fn item(&mut self, mut item: Value) -> Value {
        self.refer(&mut item);
        for method in METHODS {
            if let Some(operation) = item.get_mut(method) {
                self.refer(operation);
            }
        }
        item
    }

    fn refer(&mut self, holder: &mut Value) {
        let Some(parameters) = holder.get_mut("parameters").and_then(Value::as_array_mut) else { return };
        for parameter in parameters.iter_mut().filter(|p| is_shared(p)) {
            let name = format!("{}-{}", parameter.str_at("/name").unwrap_or("param"), hash(&parameter.to_string()));
            let reference = json!({"$ref": format!("#/parameters/{name}")});
            self.0.insert(name, std::mem::replace(parameter, reference));
        }
    }

    /// All that was referred to.
    pub(super) fn parameters(self) -> impl Iterator<Item = (String, Value)> {
        self.0.into_iter()
    }
}

fn is_shared(parameter: &Value) -> bool {
    let name = parameter.str_at("/name").unwrap_or_default();
    match parameter.str_at("/in").unwrap_or_default() {
        "query" => !matches!(name, "name" | "fieldValidation" | "dryRun"),
        "path" => name != "name",
        "body" => {
            let of = parameter.str_at("/schema/$ref").unwrap_or_default();
            of.starts_with("#/definitions/io.k8s.apimachinery")
        }
        _ => true,
    }
}

/// Eight letters of the text's FNV-1.
fn hash(text: &str) -> String {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| hash.wrapping_mul(0x0000_0100_0000_01b3) ^ u64::from(byte));
    URL_SAFE.encode(&hash.to_be_bytes()[..6])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_common_stands_once_and_the_rest_where_it_was() {
        let pretty = json!({"name": "pretty", "in": "query", "type": "string"});
        let dry = json!({"name": "dryRun", "in": "query", "type": "string"});
        let name = json!({"name": "name", "in": "path", "type": "string"});
        let own = json!({"name": "body", "in": "body", "schema": {"$ref": "#/definitions/io.k8s.api.core.v1.Pod"}});
        let patch = json!({"name": "body", "in": "body",
            "schema": {"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.Patch"}});
        let item = json!({"parameters": [name, pretty], "post": {"parameters": [own, dry]},
            "patch": {"parameters": [patch, pretty, dry]}});
        let mut shared = Shared::default();
        let got = shared.item(item.clone());
        assert_eq!(shared.item(item), got);
        assert_eq!((&got["parameters"][0], &got["post"]["parameters"]), (&name, &json!([own, dry])));
        let reference = got["parameters"][1].str_at("/$ref").unwrap().to_owned();
        assert_eq!(got["patch"]["parameters"][1].str_at("/$ref"), Some(&*reference));
        assert_eq!(got["patch"]["parameters"][2], dry);
        let all: Vec<(String, Value)> = shared.parameters().collect();
        assert_eq!(all.iter().map(|(_, p)| p.clone()).collect::<Vec<_>>(), [patch, pretty]);
        assert_eq!(reference, format!("#/parameters/{}", all[1].0));
        // Of an empty text it is what the hash begins with.
        assert_eq!(hash(""), URL_SAFE.encode([0xcb, 0xf2, 0x9c, 0xe4, 0x84, 0x22]));
    }
}
