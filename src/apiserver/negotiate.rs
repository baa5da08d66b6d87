//! What form an answer takes: `Accept` read against what the endpoint can give.
//!
//! Rules: upstream `apiserver/pkg/endpoints/handlers/negotiation`.

use crate::util::order::Arrange;
use http::HeaderMap;
use http::header::ACCEPT;

/// Encoding of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Proto,
}

impl Encoding {
    /// The media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
            Encoding::Proto => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// Shape of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// The object.
    Full,
    /// `meta.k8s.io` Table of this version.
    Table(MetaVersion),
    /// `PartialObjectMetadata` of this version, or a list of them.
    Partial {
        /// Of the group.
        version: MetaVersion,
        /// True for the list.
        list: bool,
    },
}

/// Version of the `meta.k8s.io` group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetaVersion {
    /// `v1`
    V1,
    /// `v1beta1`
    V1Beta1,
}

impl MetaVersion {
    /// `meta.k8s.io/v1`.
    pub fn api_version(self) -> &'static str {
        match self {
            MetaVersion::V1 => "meta.k8s.io/v1",
            MetaVersion::V1Beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

/// Encoding and shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Form {
    /// Encoding.
    pub encoding: Encoding,
    /// Shape.
    pub shape: Shape,
}

impl Form {
    /// Plain JSON.
    pub const JSON: Form = Form { encoding: Encoding::Json, shape: Shape::Full };
}

/// What an endpoint can give beside JSON and YAML of the object itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Protobuf.
    pub proto: bool,
    /// Tables and partial metadata.
    pub shapes: bool,
    /// Watches have no YAML.
    pub yaml: bool,
}

/// Picks the first form of `Accept` that is on offer; `None` means 406.
pub fn negotiate(headers: &HeaderMap, offer: Offer) -> Option<Form> {
    let accept: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
    let accept = accept.join(",");
    if accept.trim().is_empty() {
        return Some(Form::JSON);
    }
    let mut clauses: Vec<(f32, &str)> = accept.split(',').map(|c| (quality(c), c)).collect();
    // Stable: among equals the client's order counts.
    clauses.arrange_by(|a, b| b.0.total_cmp(&a.0));
    clauses.into_iter().find_map(|(_, clause)| read_clause(clause, offer))
}

/// How `/api` and `/apis` answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discovery {
    /// All groups with their resources, in this version of `apidiscovery.k8s.io`.
    Aggregated(&'static str),
    /// The list of groups.
    Legacy(Encoding),
}

/// Picks what the first clause that can be met asks for; `None` means 406.
pub fn discovery(accept: &str) -> Option<Discovery> {
    if accept.trim().is_empty() {
        return Some(Discovery::Legacy(Encoding::Json));
    }
    let mut clauses: Vec<&str> = accept.split(',').collect();
    clauses.arrange_by(|a, b| quality(b).total_cmp(&quality(a)));
    clauses.into_iter().find_map(|clause| {
        let param = |key: &str| {
            clause.split(';').skip(1).find_map(|p| p.trim().strip_prefix(key)?.strip_prefix('=')).unwrap_or_default()
        };
        let media = clause.split(';').next().unwrap_or_default().trim();
        match (param("g"), param("v"), param("as")) {
            ("", "", "") => {
                let offer = Offer { proto: true, shapes: false, yaml: true };
                read_clause(media, offer).map(|form| Discovery::Legacy(form.encoding))
            }
            ("apidiscovery.k8s.io", version, "APIGroupDiscoveryList") if media == "application/json" => {
                let known = ["v2", "v2beta1"].into_iter().find(|v| *v == version);
                known.map(Discovery::Aggregated)
            }
            _ => None,
        }
    })
}

/// True when `Accept` is empty or names this media type, if only by a star.
pub fn accepts(headers: &HeaderMap, media: &str) -> bool {
    let accept: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
    let named = |clause: &str| {
        let clause = clause.split(';').next().unwrap_or_default().trim();
        clause == media || clause == "*/*" || clause == "application/*"
    };
    accept.iter().all(|a| a.trim().is_empty()) || accept.iter().any(|a| a.split(',').any(named))
}

/// True when `Accept` names a media type that is served, whatever its parameters.
pub fn knows_media_type(headers: &HeaderMap) -> bool {
    let offer = Offer { proto: true, shapes: false, yaml: true };
    let bare = |clause: &str| read_clause(clause.split(';').next().unwrap_or_default().trim(), offer).is_some();
    headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).any(|accept| accept.split(',').any(bare))
}

fn quality(clause: &str) -> f32 {
    clause.split(';').find_map(|p| p.trim().strip_prefix("q=")).and_then(|q| q.parse().ok()).unwrap_or(1.0)
}

fn read_clause(clause: &str, offer: Offer) -> Option<Form> {
    let mut parts = clause.trim().split(';').map(str::trim);
    let encoding = match parts.next()? {
        "application/json" | "*/*" | "application/*" => Encoding::Json,
        "application/yaml" if offer.yaml => Encoding::Yaml,
        "application/vnd.kubernetes.protobuf" if offer.proto => Encoding::Proto,
        _ => return None,
    };
    let (mut as_, mut group, mut version) = ("", "", "");
    for param in parts {
        match param.split_once('=') {
            Some(("as", v)) => as_ = v,
            Some(("g", v)) => group = v,
            Some(("v", v)) => version = v,
            // Watches of old clients.
            Some(("stream", v)) if v != "watch" => return None,
            _ => {}
        }
    }
    let shape = match (as_, group) {
        ("", _) => Shape::Full,
        (kind, "meta.k8s.io") if offer.shapes => {
            let version = match version {
                "v1" => MetaVersion::V1,
                "v1beta1" => MetaVersion::V1Beta1,
                _ => return None,
            };
            match kind {
                "Table" if encoding != Encoding::Proto => Shape::Table(version),
                "PartialObjectMetadataList" => Shape::Partial { version, list: true },
                "PartialObjectMetadata" => Shape::Partial { version, list: false },
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(Form { encoding, shape })
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("", Some(Discovery::Legacy(Encoding::Json)))]
    #[test_case("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json", Some(Discovery::Aggregated("v2")); "aggregated")]
    #[test_case("application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList", None; "no such version")]
    #[test_case("application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList,application/yaml", Some(Discovery::Legacy(Encoding::Yaml)); "the next clause")]
    fn discovers(accept: &str, want: Option<Discovery>) {
        assert_eq!(discovery(accept), want);
    }

    const ALL: Offer = Offer { proto: true, shapes: true, yaml: true };

    #[test_case("", Some((Encoding::Json, false)))]
    #[test_case("*/*", Some((Encoding::Json, false)))]
    #[test_case("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Some((Encoding::Json, true)))]
    #[test_case("application/json;as=Nope;v=v1;g=meta.k8s.io,application/json", Some((Encoding::Json, false)))]
    #[test_case("application/vnd.kubernetes.protobuf,application/json", Some((Encoding::Proto, false)))]
    #[test_case("application/yaml", Some((Encoding::Yaml, false)))]
    #[test_case("text/html", None)]
    #[test_case("text/html,application/xml;q=0.9,*/*;q=0.8", Some((Encoding::Json, false)))]
    fn picks(accept: &str, want: Option<(Encoding, bool)>) {
        let mut headers = HeaderMap::new();
        if !accept.is_empty() {
            headers.insert(ACCEPT, accept.parse().unwrap());
        }
        let got = negotiate(&headers, ALL).map(|f| (f.encoding, matches!(f.shape, Shape::Table(_))));
        assert_eq!(got, want);
    }
}
