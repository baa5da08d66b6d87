//! What a request to the node's API is for, and what its sender must be allowed. Pure.
//!
//! Rules: upstream `pkg/kubelet/server/server.go` (paths) and `auth.go` (attributes).

use http::{Method, StatusCode};

use crate::runtime::node_api::{LogOptions, Streams, Target};
use crate::util::percent::decode;

/// A request that the node knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/containerLogs/NAMESPACE/POD/CONTAINER`
    Logs(Target, LogOptions),
    /// `/exec/NAMESPACE/POD[/UID]/CONTAINER`
    Exec(Target, Vec<String>, Streams),
    /// `/attach/NAMESPACE/POD[/UID]/CONTAINER`
    Attach(Target, Streams),
    /// `/portForward/NAMESPACE/POD[/UID]`
    PortForward(Target, Vec<u16>),
    /// `/stats/summary`
    Summary,
    /// `/pods`
    Pods,
    /// `/metrics`
    Metrics,
    /// `/metrics/resource`
    ResourceMetrics,
    /// `PUT /localVolumes/NAME`
    MakeVolume(String),
    /// `DELETE /localVolumes?path=PATH`
    RemoveVolume(String),
    /// `/healthz`
    Healthz,
    /// `/healthz/ping`
    Ping,
}

/// The request, or the status that refuses it.
pub fn parse(method: &Method, path: &str, query: &str) -> Result<Route, StatusCode> {
    let parts: Vec<String> = path.trim_matches('/').split('/').map(|p| decode(p, false)).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let query = Query(query);
    let target = |namespace: &str, pod: &str, container: &str| Target {
        namespace: namespace.to_owned(),
        pod: pod.to_owned(),
        container: container.to_owned(),
    };
    let streams = || Streams {
        stdin: query.flag("input"),
        stdout: query.flag("output"),
        stderr: query.flag("error"),
        tty: query.flag("tty"),
    };
    let route = match parts.as_slice() {
        ["containerLogs", ns, pod, c] => Route::Logs(target(ns, pod, c), query.log_options()?),
        ["exec", ns, pod, c] | ["exec", ns, pod, _, c] => {
            Route::Exec(target(ns, pod, c), query.all("command"), streams())
        }
        ["attach", ns, pod, c] | ["attach", ns, pod, _, c] => Route::Attach(target(ns, pod, c), streams()),
        ["portForward", ns, pod] | ["portForward", ns, pod, _] => {
            let ports = query.all("port").iter().filter_map(|p| p.parse().ok()).collect();
            Route::PortForward(target(ns, pod, ""), ports)
        }
        ["stats", "summary"] => Route::Summary,
        ["pods"] => Route::Pods,
        ["metrics"] => Route::Metrics,
        ["metrics", "resource"] => Route::ResourceMetrics,
        ["localVolumes", name] => Route::MakeVolume((*name).to_owned()),
        ["localVolumes"] => Route::RemoveVolume(query.get("path").ok_or(StatusCode::BAD_REQUEST)?),
        ["healthz"] => Route::Healthz,
        ["healthz", "ping"] => Route::Ping,
        _ => return Err(StatusCode::NOT_FOUND),
    };
    let upgrades = matches!(route, Route::Exec(..) | Route::Attach(..) | Route::PortForward(..));
    match (&route, method) {
        (Route::MakeVolume(_), &Method::PUT) | (Route::RemoveVolume(_), &Method::DELETE) => return Ok(route),
        (Route::MakeVolume(_) | Route::RemoveVolume(_), _) => return Err(StatusCode::METHOD_NOT_ALLOWED),
        _ => {}
    }
    match *method {
        Method::GET => Ok(route),
        Method::POST if upgrades => Ok(route),
        _ => Err(StatusCode::METHOD_NOT_ALLOWED),
    }
}

/// Verb and subresources of the node, of which one has to be allowed. What changes something or reaches into a container
/// is a `create`, whatever the method: upstream lets a GET that is upgraded pass for reading.
pub fn attributes(method: &Method, path: &str) -> (&'static str, Vec<&'static str>) {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let verb = match *method {
        _ if matches!(first, "exec" | "attach" | "portForward" | "run") => "create",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    };
    let subresources = match first {
        "stats" => vec!["stats"],
        "metrics" => vec!["metrics"],
        "logs" => vec!["log"],
        "healthz" => vec!["healthz", "proxy"],
        "pods" | "runningpods" => vec!["pods", "proxy"],
        "configz" => vec!["configz", "proxy"],
        _ => vec!["proxy"],
    };
    (verb, subresources)
}

struct Query<'a>(&'a str);

impl Query<'_> {
    fn all(&self, key: &str) -> Vec<String> {
        let pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(k, _)| *k == key).map(|(_, v)| decode(v, true)).collect()
    }

    fn get(&self, key: &str) -> Option<String> {
        self.all(key).into_iter().next().filter(|v| !v.is_empty())
    }

    fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|v| v == "1" || v == "true")
    }

    fn log_options(&self) -> Result<LogOptions, StatusCode> {
        let number = |key: &str| -> Result<Option<u64>, StatusCode> {
            self.get(key).map(|v| v.parse().map_err(|_| StatusCode::BAD_REQUEST)).transpose()
        };
        let since = match (self.get("sinceTime"), number("sinceSeconds")?) {
            (Some(time), _) => Some(time.parse().map_err(|_| StatusCode::BAD_REQUEST)?),
            (None, Some(seconds)) => {
                let ago = jiff::SignedDuration::from_secs(i64::try_from(seconds).map_err(|_| StatusCode::BAD_REQUEST)?);
                jiff::Timestamp::now().checked_sub(ago).ok()
            }
            (None, None) => None,
        };
        Ok(LogOptions {
            follow: self.flag("follow"),
            previous: self.flag("previous"),
            timestamps: self.flag("timestamps"),
            tail_lines: number("tailLines")?,
            limit_bytes: number("limitBytes")?,
            since,
            stream: self.get("stream").filter(|s| s != "All"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn target(container: &str) -> Target {
        Target { namespace: "n".into(), pod: "p".into(), container: container.into() }
    }

    #[test]
    fn paths_are_upstreams() {
        let get = |path: &str, query: &str| parse(&Method::GET, path, query);
        let both = Streams { stdin: true, stdout: true, ..Streams::default() };
        let exec = get("/exec/n/p/c", "command=sh&command=a+b%26&input=1&output=true").unwrap();
        assert_eq!(exec, Route::Exec(target("c"), vec!["sh".into(), "a b&".into()], both));
        assert_eq!(get("/attach/n/p/uid/c", "").unwrap(), Route::Attach(target("c"), Streams::default()));
        let forward = parse(&Method::POST, "/portForward/n/p", "port=80&port=81").unwrap();
        assert_eq!(forward, Route::PortForward(target(""), vec![80, 81]));
        let options = LogOptions { follow: true, tail_lines: Some(3), ..LogOptions::default() };
        assert_eq!(get("/containerLogs/n/p/c", "follow=true&tailLines=3").unwrap(), Route::Logs(target("c"), options));
        assert_eq!(get("/containerLogs/n/p/c", "tailLines=x").unwrap_err(), StatusCode::BAD_REQUEST);
        assert_eq!(get("/run/n/p/c", "").unwrap_err(), StatusCode::NOT_FOUND);
        assert_eq!(parse(&Method::POST, "/pods", "").unwrap_err(), StatusCode::METHOD_NOT_ALLOWED);
        let removed = parse(&Method::DELETE, "/localVolumes", "path=%2Fs%2Fpvc-1").unwrap();
        assert_eq!(removed, Route::RemoveVolume("/s/pvc-1".into()));
        assert_eq!(get("/localVolumes/pvc-1", "").unwrap_err(), StatusCode::METHOD_NOT_ALLOWED);
    }

    #[test_case("GET", "/metrics" => ("get", vec!["metrics"]))]
    #[test_case("GET", "/metrics/resource" => ("get", vec!["metrics"]))]
    #[test_case("GET", "/stats/summary" => ("get", vec!["stats"]))]
    #[test_case("GET", "/pods" => ("get", vec!["pods", "proxy"]))]
    #[test_case("GET", "/containerLogs/n/p/c" => ("get", vec!["proxy"]))]
    #[test_case("POST", "/exec/n/p/c" => ("create", vec!["proxy"]))]
    #[test_case("GET", "/exec/n/p/c" => ("create", vec!["proxy"]); "a websocket is no reading")]
    #[test_case("PUT", "/localVolumes/pvc-1" => ("update", vec!["proxy"]))]
    #[test_case("DELETE", "/localVolumes" => ("delete", vec!["proxy"]))]
    #[test_case("GET", "/unknown" => ("get", vec!["proxy"]))]
    fn permissions(method: &str, path: &str) -> (&'static str, Vec<&'static str>) {
        attributes(&method.parse().unwrap(), path)
    }
}
