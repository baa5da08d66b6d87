//! What a request to the proxy is for, and whether it may pass.
//!
//! In: method, path, host. Out: a [`Route`]. Pure.
//!
//! Rules: kubectl `pkg/proxy/proxy_server.go`, and what Go's `ServeMux` makes of prefixes.

use regex::Regex;

use crate::client::res;
use crate::ctl::cx::Done;
use crate::ctl::fail::fail;

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// To the server, with this path.
    Api(String),
    /// To the directory, with this path below it.
    File(String),
    /// The same under another path.
    Moved(String),
    /// Nowhere: it may not.
    Refused,
    /// Nowhere: there is nothing.
    Unknown,
}

/// Which requests may reach the server.
#[derive(Debug)]
pub struct Filter {
    accept_paths: Vec<Regex>,
    reject_paths: Vec<Regex>,
    accept_hosts: Vec<Regex>,
    reject_methods: Vec<Regex>,
}

impl Filter {
    /// Of the flags: regular expressions with commas between them.
    pub fn parse(accept_paths: &str, reject_paths: &str, accept_hosts: &str, reject_methods: &str) -> Done<Self> {
        Ok(Self {
            accept_paths: expressions(accept_paths)?,
            reject_paths: expressions(reject_paths)?,
            accept_hosts: expressions(accept_hosts)?,
            reject_methods: expressions(reject_methods)?,
        })
    }

    fn accepts(&self, method: &str, path: &str, host: &str) -> bool {
        let any = |list: &[Regex], text: &str| list.iter().any(|r| r.is_match(text));
        !any(&self.reject_paths, path)
            && !any(&self.reject_methods, method)
            && any(&self.accept_paths, path)
            && any(&self.accept_hosts, host_of(host))
    }
}

fn expressions(list: &str) -> Done<Vec<Regex>> {
    if list.is_empty() {
        return Ok(Vec::new());
    }
    list.split(',')
        .map(|text| match Regex::new(text) {
            Ok(regex) => Ok(regex),
            Err(e) => fail!("Error compiling re: {}", e.to_string().lines().last().unwrap_or_default()),
        })
        .collect()
}

/// A host without its port. An address of version 6 keeps its brackets, as the filter's default has them.
fn host_of(header: &str) -> &str {
    match header.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') && (!host.contains(':') || host.ends_with(']')) => host,
        _ => header,
    }
}

/// The prefixes and the filter.
#[derive(Debug)]
pub struct Routes {
    api: String,
    www: Option<String>,
    filter: Option<Filter>,
}

impl Routes {
    /// Of the flags; prefixes end with a slash, and begin with one.
    pub fn new(api: &str, www: Option<&String>, filter: Option<Filter>) -> Self {
        Self { api: slashed(api), www: www.map(|p| slashed(p)), filter }
    }

    /// Where a request goes. The longer prefix wins.
    pub fn find(&self, method: &str, path: &str, host: &str) -> Route {
        if let Some(clean) = cleaned(path) {
            return Route::Moved(clean);
        }
        let files = self.www.as_deref().filter(|www| !(self.api.starts_with(www) && path.starts_with(&self.api)));
        if let Some(www) = files {
            if let Some(rest) = path.strip_prefix(www) {
                return Route::File(rest.to_owned());
            }
            if path.strip_suffix('/').is_none() && format!("{path}/") == www {
                return Route::Moved(www.to_owned());
            }
        }
        let Some(rest) = path.strip_prefix(&self.api) else {
            return if format!("{path}/") == self.api { Route::Moved(self.api.clone()) } else { Route::Unknown };
        };
        // What is served below the API's own prefix keeps it.
        let path = if self.api.starts_with("/api") { path.to_owned() } else { format!("/{rest}") };
        match &self.filter {
            Some(filter) if !filter.accepts(method, &path, host) => Route::Refused,
            _ => Route::Api(path),
        }
    }
}

impl Routes {
    /// The server's path of a request for the API: `raw` as it came, `path` decoded and found by [`Routes::find`].
    pub fn server_path(&self, raw: &str, path: &str) -> String {
        if self.api == "/" || self.api.starts_with("/api") {
            return raw.to_owned();
        }
        // Where the prefix itself was written in another way, the rest is written anew.
        raw.strip_prefix(&self.api).map_or_else(|| encoded(path), |rest| format!("/{rest}"))
    }
}

/// A path in the form that it has in a URL.
pub fn encoded(path: &str) -> String {
    let mut out = String::new();
    for (i, segment) in path.split('/').enumerate() {
        if i > 0 {
            out.push('/');
        }
        res::encode(&mut out, segment);
    }
    out
}

fn slashed(prefix: &str) -> String {
    let front = if prefix.starts_with('/') { "" } else { "/" };
    let back = if prefix.ends_with('/') { "" } else { "/" };
    format!("{front}{prefix}{back}")
}

/// The path without empty and dotted segments, where it has some: the filter shall see what the server sees.
fn cleaned(path: &str) -> Option<String> {
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let last = segments.len().saturating_sub(1);
    for (i, segment) in segments.iter().enumerate() {
        match *segment {
            "" if i == last => kept.push(""),
            "" => {}
            "." if i == last => kept.push(""),
            "." => {}
            ".." => {
                kept.pop();
                if i == last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    let clean = format!("/{}", kept.join("/"));
    (clean != path).then_some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn filter() -> Filter {
        let hosts = r"^localhost$,^127\.0\.0\.1$,^\[::1\]$";
        Filter::parse("^.*", "^/api/.*/pods/.*/exec,^/api/.*/pods/.*/attach", hosts, "^DELETE$").unwrap()
    }

    #[test_case("GET", "/api/v1/pods", "localhost:8001", true)]
    #[test_case("GET", "/api/v1/pods", "[::1]:8001", true; "version six with a port")]
    #[test_case("GET", "/api/v1/pods", "[::1]", true; "version six")]
    #[test_case("GET", "/api/v1/pods", "127.0.0.1", true; "no port")]
    #[test_case("GET", "/api/v1/pods", "evil.example:8001", false; "another name")]
    #[test_case("GET", "/api/v1/pods", "localhost.evil.example", false; "a longer name")]
    #[test_case("GET", "/api/v1/pods", "", false; "no name")]
    #[test_case("DELETE", "/api/v1/pods", "localhost", false; "a refused method")]
    #[test_case("GET", "/api/v1/namespaces/n/pods/p/exec", "localhost", false; "a refused path")]
    fn filters(method: &str, path: &str, host: &str, want: bool) {
        assert_eq!(filter().accepts(method, path, host), want);
    }

    fn api(path: &str) -> Route {
        Route::Api(path.into())
    }

    #[test_case("/", None, "/version" => api("/version"))]
    #[test_case("/custom", None, "/custom/api/v1/pods" => api("/api/v1/pods"); "the prefix goes")]
    #[test_case("/custom/", None, "/custom" => Route::Moved("/custom/".into()); "to the prefix")]
    #[test_case("/custom/", None, "/version" => Route::Unknown; "beside the prefix")]
    #[test_case("/api/", None, "/api/v1/pods" => api("/api/v1/pods"); "the prefix stays")]
    #[test_case("/", Some("/static/"), "/static/a/b.txt" => Route::File("a/b.txt".into()); "a file")]
    #[test_case("/", Some("/static"), "/static" => Route::Moved("/static/".into()); "to the files")]
    #[test_case("/", Some("/static"), "/statics" => api("/statics"); "no file")]
    #[test_case("/api/", Some("/"), "/api/v1" => api("/api/v1"); "the api within the files")]
    #[test_case("/api/", Some("/"), "/index.html" => Route::File("index.html".into()); "files at the root")]
    #[test_case("/", None, "//api/./v1/x/../pods/" => Route::Moved("/api/v1/pods/".into()); "a path to clean")]
    #[test_case("/", Some("/static/"), "/static/../../etc" => Route::Moved("/etc".into()); "nothing above the root")]
    #[test_case("/", None, "/api/v1/namespaces/n/pods/p/attach" => Route::Refused)]
    fn routes(prefix: &str, www: Option<&str>, path: &str) -> Route {
        Routes::new(prefix, www.map(str::to_owned).as_ref(), Some(filter())).find("GET", path, "localhost")
    }

    #[test_case("/", "/api/a%2Fb", "/api/a/b" => "/api/a%2Fb"; "as it came")]
    #[test_case("/custom/", "/custom/api/a%20b", "/api/a b" => "/api/a%20b"; "without the prefix")]
    #[test_case("/custom/", "/%63ustom/api/a%20b", "/api/a b" => "/api/a%20b"; "a prefix in disguise")]
    #[test_case("/api/", "/api/v1", "/api/v1" => "/api/v1"; "with the prefix")]
    fn server_paths(prefix: &str, raw: &str, path: &str) -> String {
        Routes::new(prefix, None, None).server_path(raw, path)
    }

    #[test]
    fn a_bad_expression_is_told() {
        assert!(expressions("^a$,(").unwrap_err().to_string().starts_with("error: Error compiling re: "));
        assert!(expressions("").unwrap().is_empty());
    }
}
