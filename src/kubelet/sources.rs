//! ConfigMaps, Secrets and Services as containers use them.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use serde_json::Value;

use crate::runtime::Listers;

/// A kind that holds data by key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `configmaps`.
    ConfigMap,
    /// `secrets`.
    Secret,
}

impl Kind {
    /// Plural name.
    pub fn plural(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmaps",
            Self::Secret => "secrets",
        }
    }

    /// As "not found" messages name it.
    pub fn singular(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        }
    }

    /// As other messages name it.
    pub fn title(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

/// Where a container's data comes from.
pub trait Sources: Send + Sync {
    /// All keys of an object; none when it does not exist.
    fn data(&self, kind: Kind, namespace: &str, name: &str) -> Option<BTreeMap<String, Vec<u8>>>;
    /// All Services.
    fn services(&self) -> Vec<Value>;
}

/// From the cluster's listers.
pub struct Listed(pub Arc<dyn Listers>);

impl Sources for Listed {
    fn data(&self, kind: Kind, namespace: &str, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let object = self.0.lister("", kind.plural()).get(namespace, name)?;
        Some(decode(kind, &object.value()))
    }

    fn services(&self) -> Vec<Value> {
        self.0.lister("", "services").list(None).iter().map(|o| o.value()).collect()
    }
}

/// `data` and `binaryData` of a ConfigMap, `data` of a Secret. What is no base64 is left out: the API refuses it.
pub fn decode(kind: Kind, object: &Value) -> BTreeMap<String, Vec<u8>> {
    let base64 = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).ok();
    let entries = |field: &str, encoded: bool| -> Vec<(String, Vec<u8>)> {
        let map = object.get(field).and_then(Value::as_object).into_iter().flatten();
        map.filter_map(|(k, v)| {
            let text = v.as_str()?;
            Some((k.clone(), if encoded { base64(text)? } else { text.as_bytes().to_vec() }))
        })
        .collect()
    };
    match kind {
        Kind::ConfigMap => entries("data", false).into_iter().chain(entries("binaryData", true)).collect(),
        Kind::Secret => entries("data", true).into_iter().collect(),
    }
}

/// Data from a table.
#[cfg(test)]
pub mod fake {
    use super::*;

    /// What there is.
    #[derive(Debug, Default)]
    pub struct FakeSources {
        data: BTreeMap<(Kind, String, String), BTreeMap<String, Vec<u8>>>,
        services: Vec<Value>,
    }

    impl FakeSources {
        /// With an object.
        pub fn with(mut self, kind: Kind, namespace: &str, name: &str, entries: &[(&str, &str)]) -> Self {
            let data = entries.iter().map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec())).collect();
            self.data.insert((kind, namespace.into(), name.into()), data);
            self
        }

        /// With a service.
        pub fn service(mut self, service: Value) -> Self {
            self.services.push(service);
            self
        }
    }

    impl Sources for FakeSources {
        fn data(&self, kind: Kind, namespace: &str, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
            self.data.get(&(kind, namespace.into(), name.into())).cloned()
        }

        fn services(&self) -> Vec<Value> {
            self.services.clone()
        }
    }
}
