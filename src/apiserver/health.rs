//! `/livez`, `/readyz` and `/healthz`: named checks, each of them or all together.
//!
//! In: a path and its query (`verbose`, `exclude`). Out: upstream's lines of text; a failure tells of all checks, and of
//! its reason only whoever asks for the one check and may.
//!
//! **Invariant:** what makes the server unready for good (a store that cannot write) does not make it dead: starting it
//! again before the disk is free would help nobody.
//!
//! Rules: upstream `apiserver/pkg/server/healthz`.

use std::fmt::Write;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::request::Query;
use super::respond::{self, Answer};

/// Looks; the error is for the log and for who asks for this check alone.
type Look = Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// What all endpoints look at.
const ALL: &[&str] = &["livez", "healthz", "readyz"];
/// What keeps requests away and nothing else.
const READY: &[&str] = &["readyz"];
/// What clients of `/healthz` look for as well.
const READY_AND_HEALTHY: &[&str] = &["healthz", "readyz"];

/// One named check.
struct Check {
    name: &'static str,
    /// Where it counts.
    endpoints: &'static [&'static str],
    look: Look,
}

/// The checks of a server, in upstream's order.
pub struct Health(Vec<Check>);

impl Health {
    /// What holds whenever the server answers at all, and what it is told of.
    ///
    /// `writable` says why the store cannot write, `stopping` whether the server is on its way out.
    pub fn new(
        writable: impl Fn() -> Result<(), String> + Send + Sync + 'static,
        stopping: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        let always = |name| Check { name, endpoints: ALL, look: Box::new(|| std::future::ready(Ok(())).boxed()) };
        let ready = |name, look: Look| Check { name, endpoints: READY, look };
        Self(vec![
            always("ping"),
            always("log"),
            always("etcd"),
            ready("etcd-readiness", Box::new(move || std::future::ready(writable()).boxed())),
            always("poststarthook/start-apiserver-admission-initializer"),
            ready(
                "shutdown",
                Box::new(move || {
                    let going = if stopping() { Err("process is shutting down".into()) } else { Ok(()) };
                    std::future::ready(going).boxed()
                }),
            ),
        ])
    }

    /// The same with a check of something outside that requests need.
    #[must_use]
    pub fn needing<F>(mut self, name: &'static str, look: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let look: Look = Box::new(move || look().boxed());
        self.0.push(Check { name, endpoints: READY_AND_HEALTHY, look });
        self
    }

    fn of<'a>(&'a self, endpoint: &'a str) -> impl Iterator<Item = &'a Check> {
        self.0.iter().filter(move |c| c.endpoints.contains(&endpoint))
    }

    /// All paths that [`Health::answer`] knows below an endpoint (`readyz`), itself included.
    pub fn paths(&self, endpoint: &str) -> Vec<String> {
        let own = std::iter::once(format!("/{endpoint}"));
        own.chain(self.of(endpoint).map(|c| format!("/{endpoint}/{}", c.name))).collect()
    }

    /// All checks of an endpoint.
    pub async fn answer(&self, endpoint: &str, query: &Query) -> Answer {
        let mut excluded: Vec<&str> = query.all("exclude").iter().map(String::as_str).collect();
        excluded.sort_unstable();
        excluded.dedup();
        let (mut lines, mut failed) = (String::new(), false);
        for check in self.of(endpoint) {
            let name = check.name;
            let before = excluded.len();
            excluded.retain(|e| *e != name);
            let _ = match excluded.len() < before {
                true => writeln!(lines, "[+]{name} excluded: ok"),
                false => match (check.look)().await {
                    Ok(()) => writeln!(lines, "[+]{name} ok"),
                    Err(why) => {
                        failed = true;
                        tracing::warn!(endpoint, check = name, "a health check fails: {why}");
                        writeln!(lines, "[-]{name} failed: reason withheld")
                    }
                },
            };
        }
        if !excluded.is_empty() {
            let names: Vec<String> = excluded.iter().map(|e| format!("{e:?}")).collect();
            let none = "warn: some health checks cannot be excluded: no matches for";
            let _ = writeln!(lines, "{none} {}", names.join(","));
        }
        if failed {
            return plain(500, format!("{lines}{endpoint} check failed\n"));
        }
        match query.get("verbose") {
            None => plain(200, "ok"),
            Some(_) => plain(200, format!("{lines}{endpoint} check passed\n")),
        }
    }

    /// One check; none where the endpoint has none of that name.
    pub async fn one(&self, endpoint: &str, name: &str) -> Option<Answer> {
        let check = self.of(endpoint).find(|c| c.name == name)?;
        Some(match (check.look)().await {
            Ok(()) => respond::text(200, "ok"),
            Err(why) => plain(500, format!("internal server error: {why}\n")),
        })
    }
}

fn plain(code: u16, text: impl Into<bytes::Bytes>) -> Answer {
    let mut answer = respond::text(code, text);
    answer.headers_mut().insert(http::header::X_CONTENT_TYPE_OPTIONS, http::HeaderValue::from_static("nosniff"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use test_case::test_case;

    /// Code and text of `/<endpoint>[/<check>]?<query>` where the store cannot write, or all is well.
    async fn asked(broken: bool, path: &str, query: &str) -> (u16, String) {
        let disk = move || if broken { Err("disk full".to_owned()) } else { Ok(()) };
        asked_of(&Health::new(disk, || false), path, query).await
    }

    async fn asked_of(health: &Health, path: &str, query: &str) -> (u16, String) {
        let answer = match path.split_once('/') {
            None => Some(health.answer(path, &Query::parse(query)).await),
            Some((endpoint, check)) => health.one(endpoint, check).await,
        };
        let Some(answer) = answer else { return (404, String::new()) };
        let code = answer.status().as_u16();
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(text.to_vec()).unwrap())
    }

    const LIVE: &str = "[+]ping ok\n[+]log ok\n[+]etcd ok\n[+]poststarthook/start-apiserver-admission-initializer ok\n";

    #[test_case(false, "readyz", "", 200, "ok"; "all is well")]
    #[test_case(true, "livez", "", 200, "ok"; "a full disk kills nobody")]
    #[test_case(true, "livez", "verbose", 200, &format!("{LIVE}livez check passed\n"); "what livez looks at")]
    #[test_case(true, "readyz/etcd-readiness", "", 500, "internal server error: disk full\n"; "the reason")]
    #[test_case(true, "readyz/ping", "", 200, "ok"; "another check")]
    #[test_case(true, "livez/etcd-readiness", "", 404, ""; "no check of this endpoint")]
    #[tokio::test]
    async fn answers(broken: bool, path: &str, query: &str, code: u16, text: &str) {
        assert_eq!(asked(broken, path, query).await, (code, text.to_owned()));
    }

    #[test_case("healthz/kms-providers", 500, "internal server error: no plugin\n")]
    #[test_case("readyz/kms-providers", 500, "internal server error: no plugin\n")]
    #[test_case("livez/kms-providers", 404, ""; "another start would not help")]
    #[test_case("livez", 200, "ok"; "alive")]
    #[tokio::test]
    async fn what_is_needed_from_outside_keeps_requests_away(path: &str, code: u16, text: &str) {
        let health = Health::new(|| Ok(()), || false).needing("kms-providers", || async { Err("no plugin".into()) });
        assert_eq!(asked_of(&health, path, "").await, (code, text.to_owned()));
    }

    #[tokio::test]
    async fn a_failure_names_its_check_and_can_be_excluded() {
        let (code, text) = asked(true, "readyz", "").await;
        assert_eq!(code, 500);
        assert!(text.contains("\n[-]etcd-readiness failed: reason withheld\n"), "{text}");
        assert!(text.ends_with("[+]shutdown ok\nreadyz check failed\n"), "{text}");
        let (code, text) = asked(true, "readyz", "verbose&exclude=etcd-readiness&exclude=nope").await;
        assert_eq!(code, 200);
        assert!(text.contains("[+]etcd-readiness excluded: ok\n"), "{text}");
        assert!(text.contains("warn: some health checks cannot be excluded: no matches for \"nope\"\n"), "{text}");
    }
}
