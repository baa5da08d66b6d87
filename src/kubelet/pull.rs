//! Having a container's image: pull policy, credentials, and how failures are told.
//!
//! Rules: upstream `pkg/kubelet/images/image_manager.go` and `pkg/credentialprovider`.
//!
//! **Invariant:** credentials go to the runtime and nowhere else; no error or log names them.

#[cfg(test)]
use std::collections::BTreeMap;
use std::collections::HashMap;

use base64::Engine;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::images::{self, Pins};
use super::pod::{Member, PodView};
use super::runtime::{Auth, Image, Runtime, RuntimeError};
use super::sources::{Kind, Sources};
use super::status::Waiting;
use super::sync::Delays;
use crate::api::value::ValueExt;

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Each time.
    Always,
    /// When it is not there.
    IfNotPresent,
    /// Never; it has to be there.
    Never,
}

impl Policy {
    /// Of a container: what it says, else `Always` for `:latest` and no tag.
    pub fn of(member: &Member) -> Self {
        match member.spec.image_pull_policy.as_deref() {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            Some("IfNotPresent") => Self::IfNotPresent,
            _ => {
                let image = images::normalize(member.spec.image.as_deref().unwrap_or_default());
                if image.is_ok_and(|i| i.ends_with(":latest")) { Self::Always } else { Self::IfNotPresent }
            }
        }
    }
}

/// Credentials of the pod's pull secrets for an image, the most specific first.
pub fn credentials(pod: &PodView, image: &str, sources: &dyn Sources) -> Vec<Auth> {
    let mut found: Vec<(usize, Auth)> = Vec::new();
    for secret in pod.spec.image_pull_secrets.iter().flatten() {
        let Some(data) = sources.data(Kind::Secret, &pod.namespace, &secret.name) else { continue };
        for (key, whole) in [(".dockerconfigjson", true), (".dockercfg", false)] {
            let Some(config) = data.get(key).and_then(|b| serde_json::from_slice::<Value>(b).ok()) else { continue };
            let auths = if whole { config.get("auths").cloned().unwrap_or_default() } else { config };
            for (place, entry) in auths.as_object().into_iter().flatten() {
                if let (Some(len), Some(auth)) = (matches_place(place, image), auth_of(entry)) {
                    found.push((len, auth));
                }
            }
        }
    }
    found.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
    found.into_iter().map(|(_, auth)| auth).collect()
}

/// How many bytes a place like `https://host/path` has that covers the image; none when it is another one. Each label of the
/// host may be a pattern, as `*.example`. Upstream: `URLsMatchStr`.
fn matches_place(place: &str, image: &str) -> Option<usize> {
    let bare = place.trim_start_matches("https://").trim_start_matches("http://");
    let bare = bare.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2").trim_end_matches('/');
    let bare = if bare == "index.docker.io" { "docker.io" } else { bare };
    let whole = images::normalize(image).ok()?;
    let ((host, path), (wanted, below)) = (whole.split_once('/')?, bare.split_once('/').unwrap_or((bare, "")));
    let rest = path.strip_prefix(below)?;
    let same_path = below.is_empty() || rest.is_empty() || rest.starts_with(['/', ':', '@']);
    (same_path && same_host(wanted, host)).then_some(bare.len())
}

/// Label by label; the port is the same or none.
fn same_host(pattern: &str, host: &str) -> bool {
    let port = |h: &str| h.rsplit_once(':').map(|(_, port)| port.to_owned());
    let labels = |h: &str| h.split(':').next().unwrap_or_default().split('.').map(str::to_owned).collect::<Vec<_>>();
    let (wanted, given) = (labels(pattern), labels(host));
    port(pattern) == port(host) && wanted.len() == given.len() && wanted.iter().zip(&given).all(|(w, g)| glob(w, g))
}

/// `*` stands for any characters of a label.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text
            .strip_prefix(head)
            .is_some_and(|rest| (0..=rest.len()).filter(|i| rest.is_char_boundary(*i)).any(|i| glob(tail, &rest[i..]))),
    }
}

fn auth_of(entry: &Value) -> Option<Auth> {
    let text = |key: &str| entry.str_at(key).filter(|s| !s.is_empty()).map(str::to_owned);
    if let (Some(username), Some(password)) = (text("/username"), text("/password")) {
        return Some(Auth { username, password });
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(text("/auth")?).ok()?;
    let pair = String::from_utf8(decoded).ok()?;
    let (username, password) = pair.split_once(':')?;
    Some(Auth { username: username.to_owned(), password: password.trim_end_matches('\0').to_owned() })
}

/// Failed pulls of a pod, by image: when, and why.
pub type Failures = HashMap<String, (Timestamp, String)>;

/// What a pod tells of its images.
pub trait Listener: Send + Sync {
    /// An event of a container.
    fn tell(&self, member: &Member, warning: bool, reason: &str, message: String);
}

/// What pulling needs of its surroundings.
pub struct Cx<'a> {
    /// The runtime.
    pub runtime: &'a dyn Runtime,
    /// Pull secrets.
    pub sources: &'a dyn Sources,
    /// Delays between attempts.
    pub delays: &'a mut Delays,
    /// What failed before.
    pub failures: &'a mut Failures,
    /// Who hears of it.
    pub listener: &'a dyn Listener,
    /// The clock.
    pub clock: &'a dyn crate::util::clock::Clock,
    /// Bounds pulls at the same time. What is there already waits for nobody.
    pub pulls: &'a Semaphore,
    /// Images that the node has from the start, once they are imported.
    pub pins: &'a Pins,
}

fn waiting(reason: &str, message: String) -> Waiting {
    Waiting { reason: reason.to_owned(), message }
}

/// The image, pulled if its policy says so. The error is what the container then waits with.
pub async fn ensure(cx: &mut Cx<'_>, pod: &PodView, member: &Member) -> Result<Image, Waiting> {
    let image = member.spec.image.as_deref().unwrap_or_default();
    if let Err(why) = images::normalize(image) {
        let message = format!("Failed to apply default image tag \"{image}\": {why}");
        cx.listener.tell(member, true, "InspectFailed", message.clone());
        return Err(waiting("InvalidImageName", message));
    }
    let inspect = async || {
        let found = cx.runtime.image(image).await;
        found.map_err(|e| waiting("ImageInspectError", format!("Failed to inspect image \"{image}\": {e}")))
    };
    let policy = Policy::of(member);
    let mut present = inspect().await?;
    if present.is_none() {
        // It may be among those that are just being imported.
        cx.pins.imported().await;
        present = inspect().await?;
    }
    match (policy, present) {
        (Policy::IfNotPresent | Policy::Never, Some(found)) => {
            let message = format!("Container image \"{image}\" already present on machine");
            cx.listener.tell(member, false, "Pulled", message);
            return Ok(found);
        }
        (Policy::Never, None) => {
            let message = format!("Container image \"{image}\" is not present with pull policy of Never");
            cx.listener.tell(member, true, "ErrImageNeverPull", message.clone());
            return Err(waiting("ErrImageNeverPull", message));
        }
        (Policy::Always, _) | (Policy::IfNotPresent, None) => {}
    }
    pull(cx, pod, member, image).await
}

async fn pull(cx: &mut Cx<'_>, pod: &PodView, member: &Member, image: &str) -> Result<Image, Waiting> {
    let key = format!("image/{image}");
    let began = cx.clock.now();
    if let Some((at, why)) = cx.failures.get(image)
        && cx.delays.until(&key, *at, began).is_some()
    {
        let message = format!("Back-off pulling image \"{image}\": {why}");
        cx.listener.tell(member, false, "BackOff", format!("Back-off pulling image \"{image}\""));
        return Err(waiting("ImagePullBackOff", message));
    }
    cx.listener.tell(member, false, "Pulling", format!("Pulling image \"{image}\""));
    let permit = cx.pulls.acquire().await;
    let turn = cx.clock.now();
    let pulled = attempt(cx, pod, image).await;
    drop(permit);
    match pulled {
        Ok(found) => {
            let now = cx.clock.now();
            let (took, in_all) = (now.duration_since(turn), now.duration_since(began));
            let message = format!(
                "Successfully pulled image \"{image}\" in {}ms ({}ms including waiting). Image size: {} bytes.",
                took.as_millis(),
                in_all.as_millis(),
                found.size
            );
            cx.listener.tell(member, false, "Pulled", message);
            cx.delays.forget(&key);
            cx.failures.remove(image);
            Ok(found)
        }
        Err(e) => {
            let now = cx.clock.now();
            let why = format!("ErrImagePull: {e}");
            cx.listener.tell(member, true, "Failed", format!("Failed to pull image \"{image}\": {e}"));
            cx.listener.tell(member, true, "Failed", "Error: ErrImagePull".to_owned());
            cx.delays.next(&key, now, now);
            cx.failures.insert(image.to_owned(), (now, why));
            Err(waiting("ErrImagePull", e.to_string()))
        }
    }
}

async fn attempt(cx: &Cx<'_>, pod: &PodView, image: &str) -> Result<Image, RuntimeError> {
    let auths = credentials(pod, image, cx.sources);
    let mut last = None;
    for auth in auths.iter().map(Some).chain(auths.is_empty().then_some(None)) {
        match cx.runtime.pull_image(image, auth).await {
            Ok(id) => {
                let found = match cx.runtime.image(&id).await? {
                    Some(found) => Some(found),
                    None => cx.runtime.image(image).await?,
                };
                return found.ok_or_else(|| RuntimeError::NotFound(format!("image {image}, which was just pulled,")));
            }
            Err(e) => last = Some(e),
        }
    }
    Err(last.unwrap_or_else(|| RuntimeError::Failed("nobody was asked".into())))
}

/// When a failed pull of one of the pod's images may be tried again.
pub fn next_try(failures: &Failures, delays: &Delays, now: Timestamp) -> Option<Timestamp> {
    let until = |(image, (at, _)): (&String, &(Timestamp, String))| delays.until(&format!("image/{image}"), *at, now);
    failures.iter().filter_map(until).map(|(t, _)| t).min()
}

/// Contents of a pull secret, for tests of others.
#[cfg(test)]
pub fn docker_config(place: &str, user: &str, password: &str) -> BTreeMap<String, String> {
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    let config = serde_json::json!({"auths": {place: {"auth": auth}}});
    BTreeMap::from([(".dockerconfigjson".to_owned(), config.to_string())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::fake::FakeRuntime;
    use crate::kubelet::sources::fake::FakeSources;
    use crate::util::clock::{Clock, ManualClock};
    use futures::FutureExt;
    use parking_lot::Mutex;
    use serde_json::json;
    use std::sync::Arc;
    use test_case::test_case;

    #[derive(Default)]
    struct Told(Mutex<Vec<String>>);

    impl Listener for Told {
        fn tell(&self, _: &Member, _: bool, reason: &str, _: String) {
            self.0.lock().push(reason.to_owned());
        }
    }

    fn pod(image: &str, policy: &str) -> PodView {
        PodView::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {
            "imagePullSecrets": [{"name": "s"}],
            "containers": [{"name": "c", "image": image, "imagePullPolicy": policy}]}}))
        .unwrap()
    }

    /// Nothing is to be imported.
    fn imported() -> Pins {
        let pins = Pins::new(Vec::new());
        pins.finish();
        pins
    }

    #[test_case("", "web", Policy::Always)]
    #[test_case("", "host:5000/web", Policy::Always; "a port is no tag")]
    #[test_case("", "web:v1", Policy::IfNotPresent)]
    #[test_case("Never", "web", Policy::Never)]
    fn policies(policy: &str, image: &str, want: Policy) {
        assert_eq!(Policy::of(&pod(image, policy).members[0]), want);
    }

    #[tokio::test]
    async fn failures_back_off_and_success_forgets_them() {
        let clock = Arc::new(ManualClock::at(1000));
        let runtime = FakeRuntime::new(clock.clone()).with_registry("there:v1");
        let (sources, told) = (FakeSources::default(), Told::default());
        let (mut delays, mut failures) = (Delays::default(), Failures::new());
        let missing = pod("missing:v1", "");
        let mut reasons = Vec::new();
        for step in [0, 5, 6, 5] {
            clock.advance(step);
            let mut cx = Cx {
                runtime: &runtime,
                sources: &sources,
                delays: &mut delays,
                failures: &mut failures,
                listener: &told,
                clock: &*clock,
                pulls: &Semaphore::new(1),
                pins: &imported(),
            };
            reasons.push(ensure(&mut cx, &missing, &missing.members[0]).await.unwrap_err().reason);
        }
        assert_eq!(reasons, ["ErrImagePull", "ImagePullBackOff", "ErrImagePull", "ImagePullBackOff"]);
        assert_eq!(next_try(&failures, &delays, clock.now()), Timestamp::from_second(1031).ok());
        let there = pod("there:v1", "IfNotPresent");
        for want in ["pull there:v1", "pull there:v1"] {
            let mut cx = Cx {
                runtime: &runtime,
                sources: &sources,
                delays: &mut delays,
                failures: &mut failures,
                listener: &told,
                clock: &*clock,
                pulls: &Semaphore::new(1),
                pins: &imported(),
            };
            ensure(&mut cx, &there, &there.members[0]).await.unwrap();
            assert_eq!(runtime.calls().last().unwrap(), want);
        }
    }

    #[test_case("web", "Bad Name", "InvalidImageName"; "bad name")]
    #[test_case("Never", "web:v1", "ErrImageNeverPull"; "never")]
    #[tokio::test]
    async fn refusals(policy: &str, image: &str, want: &str) {
        let clock = ManualClock::at(1000);
        let (runtime, sources, told) = (FakeRuntime::default(), FakeSources::default(), Told::default());
        let p = pod(image, policy);
        let mut cx = Cx {
            runtime: &runtime,
            sources: &sources,
            delays: &mut Delays::default(),
            failures: &mut Failures::new(),
            listener: &told,
            clock: &clock,
            pulls: &Semaphore::new(1),
            pins: &imported(),
        };
        assert_eq!(ensure(&mut cx, &p, &p.members[0]).await.unwrap_err().reason, want);
    }

    #[tokio::test]
    async fn an_image_that_is_there_waits_for_no_pull() {
        let clock = ManualClock::at(1000);
        let runtime = FakeRuntime::default().with_image("web:v1").with_registry("other:v1");
        let (sources, told) = (FakeSources::default(), Told::default());
        // Registries that answer slowly have taken all turns.
        let pulls = Semaphore::new(0);
        let (mut delays, mut failures) = (Delays::default(), Failures::new());
        let mut cx = Cx {
            runtime: &runtime,
            sources: &sources,
            delays: &mut delays,
            failures: &mut failures,
            listener: &told,
            clock: &clock,
            pulls: &pulls,
            pins: &imported(),
        };
        let (there, other) = (pod("web:v1", "IfNotPresent"), pod("other:v1", "IfNotPresent"));
        ensure(&mut cx, &there, &there.members[0]).now_or_never().expect("it does not wait").unwrap();
        assert!(ensure(&mut cx, &other, &other.members[0]).now_or_never().is_none(), "a pull waits for its turn");
        assert_eq!(*told.0.lock(), ["Pulled", "Pulling"]);
    }

    #[test_case("https://index.docker.io/v1/", "web:v1", true; "docker hub")]
    #[test_case("r.example", "r.example/a:v1", true; "host")]
    #[test_case("r.example/a", "r.example/ab:v1", false; "another path")]
    #[test_case("r.example:5000", "r.example/a", false; "another port")]
    #[test_case("*.example", "r.example/a", true; "any label")]
    #[test_case("r*.example:5000", "r1.example:5000/a", true; "part of a label")]
    #[test_case("*.example", "a.b.example/a", false; "not two labels")]
    #[test_case("https://r.example/a/v1/", "r.example/a/b:v1", true; "an old form")]
    fn credentials_match_their_place(place: &str, image: &str, want: bool) {
        let config = docker_config(place, "u", "p:w");
        let entries: Vec<(&str, &str)> = config.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let sources = FakeSources::default().with(Kind::Secret, "n", "s", &entries);
        let got = credentials(&pod(image, ""), image, &sources);
        let auth = Auth { username: "u".into(), password: "p:w".into() };
        assert_eq!(got, if want { vec![auth] } else { vec![] });
    }
}
