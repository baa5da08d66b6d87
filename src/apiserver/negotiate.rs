//! What form an answer takes: `Accept` read against what the endpoint can give.
//!
//! Rules: upstream `apiserver/pkg/endpoints/handlers/negotiation`.

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
    /// `PartialObjectMetadata` of this version.
    Partial(MetaVersion),
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
    /// Partial metadata comes as a list.
    pub list: bool,
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
    clauses.sort_by(|a, b| b.0.total_cmp(&a.0));
    clauses.into_iter().find_map(|(_, clause)| read_clause(clause, offer))
}

fn quality(clause: &str) -> f32 {
    clause.split(';').find_map(|p| p.trim().strip_prefix("q=")).and_then(|q| q.parse().ok()).unwrap_or(1.0)
}

fn read_clause(clause: &str, offer: Offer) -> Option<Form> {
    let mut parts = clause.split(';').map(str::trim);
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
                "PartialObjectMetadataList" if offer.list => Shape::Partial(version),
                "PartialObjectMetadata" if !offer.list => Shape::Partial(version),
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

    const ALL: Offer = Offer { proto: true, shapes: true, yaml: true, list: true };

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
