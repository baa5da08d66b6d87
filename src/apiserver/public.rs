//! Paths that are no resources: health, version, metrics, discovery.

use http::Method;
use serde_json::json;

use crate::api::status::ApiResult;

use super::respond::{self, Answer};
use super::verbs::method_not_allowed;
use super::{Api, Call, aggregation, discovery, encryption, negotiate, verbs};
use crate::util::order::Arrange;

/// The Kubernetes version that is served.
pub const KUBERNETES: (&str, &str, &str) = ("1", "36", "v1.36.0");

impl Api {
    /// A request for no resource.
    pub(super) async fn public(&self, call: Call) -> ApiResult<Answer> {
        let path = call.info.attributes.path.trim_end_matches('/').to_owned();
        if path == encryption::PATH {
            return self.encryption(call).await;
        }
        if !matches!(call.method, Method::GET | Method::HEAD) {
            return Err(method_not_allowed());
        }
        if path == crate::runtime::tunnel::PATH {
            return self.take_tunnel(call);
        }
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        Ok(match parts.as_slice() {
            [""] => respond::json(200, &json!({"paths": self.paths()})),
            [at @ ("livez" | "healthz" | "readyz")] => self.health.answer(at, &call.info.query).await,
            [at @ ("livez" | "healthz" | "readyz"), check @ ..] => {
                let found = self.health.one(at, &check.join("/")).await;
                found.unwrap_or_else(|| respond::text(404, "404 page not found\n"))
            }
            ["metrics"] => respond::answer(200, "text/plain; version=0.0.4", respond::full(self.metrics.render())),
            ["cacerts"] => respond::answer(200, "text/plain", respond::full(self.access.server_ca_pem.clone())),
            ["version"] => respond::json(200, &version()),
            ["openapi", "v2"] => self.openapi_v2(&call).await,
            ["openapi", "v3"] => self.openapi_index(),
            ["openapi", "v3", "api", version] => self.openapi_v3(&call, "", version).await,
            ["openapi", "v3", "apis", group, version] => self.openapi_v3(&call, group, version).await,
            [".well-known", "openid-configuration"] => {
                respond::json(200, &self.access.tokens.openid_configuration(&format!("https://{}", call.host())))
            }
            ["openid", "v1", "jwks"] => {
                if !negotiate::accepts(&call.headers, "application/jwk-set+json") {
                    return Err(verbs::not_acceptable(&http::HeaderMap::new()));
                }
                let body = serde_json::to_vec(&self.access.tokens.jwks()).expect("a JSON value serializes");
                respond::answer(200, "application/jwk-set+json", respond::full(body))
            }
            ["api"] | ["apis"] => return self.discovery(&call, parts[0] == "api"),
            ["api", "v1"] => self.found(&call, discovery::resource_list(self.registry.resources(), "", "v1")),
            ["apis", group] => {
                let own = discovery::group(self.registry.resources(), group);
                self.found(&call, aggregation::into_group(own, group, &self.extensions.all()))
            }
            ["api", ..] => return self.unknown_path(""),
            ["apis", group, version] => match discovery::resource_list(self.registry.resources(), group, version) {
                Some(list) => respond::encoded(200, &list, super::verbs::error_encoding(&call.headers)),
                None => return self.unknown_path(group),
            },
            _ => respond::text(404, "404 page not found\n"),
        })
    }

    fn found(&self, call: &Call, value: Option<serde_json::Value>) -> Answer {
        match value {
            Some(v) => respond::encoded(200, &v, super::verbs::error_encoding(&call.headers)),
            None => respond::text(404, "404 page not found\n"),
        }
    }

    fn paths(&self) -> Vec<String> {
        let mut paths: Vec<String> = [
            "/.well-known/openid-configuration",
            "/api",
            "/api/v1",
            "/apis",
            "/apis/",
            "/metrics",
            "/openapi/v2",
            "/openapi/v3",
            "/openid/v1/jwks",
            "/version",
        ]
        .map(str::to_owned)
        .into();
        for g in discovery::groups(self.registry.resources()).iter().filter(|g| !g.name.is_empty()) {
            paths.push(format!("/apis/{}", g.name));
            paths.extend(g.versions.iter().map(|(v, _)| format!("/apis/{}/{v}", g.name)));
        }
        for e in self.extensions.all().iter() {
            paths.extend([format!("/apis/{}", e.remote.group), e.remote.path()]);
        }
        for endpoint in ["healthz", "livez", "readyz"] {
            paths.extend(self.health.paths(endpoint));
        }
        paths.arrange();
        paths.dedup();
        paths
    }

    fn discovery(&self, call: &Call, core: bool) -> ApiResult<Answer> {
        let resources = self.registry.resources();
        let accept = call.headers.get(http::header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let form = negotiate::discovery(accept).ok_or_else(|| verbs::not_acceptable(&call.headers))?;
        let encoding = match form {
            negotiate::Discovery::Aggregated(version) => {
                let content_type = match version {
                    "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
                    _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
                };
                let mut list = discovery::aggregated(resources, core, &format!("apidiscovery.k8s.io/{version}"));
                if !core {
                    aggregation::into_aggregated(&mut list, &self.extensions.all());
                }
                let body = serde_json::to_vec(&list).expect("a JSON value serializes");
                return Ok(respond::answer(200, content_type, respond::full(body)));
            }
            negotiate::Discovery::Legacy(encoding) => encoding,
        };
        let value = if core {
            discovery::api_versions(call.host())
        } else {
            let mut list = discovery::group_list(resources);
            aggregation::into_group_list(&mut list, &self.extensions.all());
            list
        };
        Ok(respond::encoded(200, &value, encoding))
    }
}

/// `GET /version`.
pub fn version() -> serde_json::Value {
    let (major, minor, git) = KUBERNETES;
    json!({
        "major": major, "minor": minor, "emulationMajor": major, "emulationMinor": minor,
        "minCompatibilityMajor": major, "minCompatibilityMinor": "35",
        "gitVersion": format!("{git}+orch{}", env!("CARGO_PKG_VERSION")), "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": format!("linux/{}", if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }),
    })
}
