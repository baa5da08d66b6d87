//! HorizontalPodAutoscalers: as many replicas as metrics ask for, within bounds, and calmly.
//!
//! Reads the target's scale, asks the APIs of metrics (which others serve: a metrics server, an adapter), and sets the
//! scale. [`calc`] and [`behavior`] decide. **Invariant:** an autoscaler is looked at once in [`PERIOD`], and when what it
//! asks for changes; what it remembers of the last hour is lost with the process, as upstream's is.
//! Rule: upstream `pkg/controller/podautoscaler`.

mod behavior;
mod calc;
mod metrics;
mod propose;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};

use self::behavior::{Ask, Memory, decide};
use self::calc::{Input, Tolerances};
use self::metrics::Metrics;
use self::propose::{Proposal, no_match, propose};
use crate::api::meta::labels::Selector;
use crate::api::object::{Object, ObjectKey};
use crate::api::value::ValueExt;
use crate::client::{Res, res};
use crate::controllers::common::conditions::{self, Condition};
use crate::controllers::common::discovery::Kinds;
use crate::controllers::common::status as common;
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};
use crate::util::clock::rfc3339;

/// How often each is looked at; upstream's `--horizontal-pod-autoscaler-sync-period`.
const PERIOD: Duration = Duration::from_secs(15);

/// What is kept of an autoscaler.
#[derive(Default)]
struct Kept {
    memory: Memory,
    /// The tick it was looked at, and what it asked for then.
    looked: Option<(i64, Value)>,
    /// Its target's pods, as the scale named them last.
    selector: Option<Selector>,
}

/// The controller.
#[derive(Default)]
struct Autoscalers {
    kept: Mutex<HashMap<ObjectKey, Kept>>,
}

/// For the list of controllers.
pub fn controller() -> Box<dyn Reconciler> {
    Box::new(Autoscalers::default())
}

impl Autoscalers {
    fn with<T>(&self, key: &ObjectKey, act: impl FnOnce(&mut Kept) -> T) -> T {
        let mut all = self.kept.lock();
        act(all.entry(key.clone()).or_default())
    }

    /// The autoscalers that some of these pods belong to, in order.
    fn of_pods(&self, namespace: &str, pods: &[std::sync::Arc<Object>]) -> Vec<String> {
        let selects = |s: &Selector| pods.iter().any(|p| s.matches(|k| p.meta.label(k)));
        let all = self.kept.lock();
        let those =
            all.iter().filter(|(k, kept)| k.namespace == namespace && kept.selector.as_ref().is_some_and(selects));
        let mut names: Vec<String> = those.map(|(k, _)| k.to_string()).collect();
        names.sort_unstable();
        names
    }

    /// None when it is time to look; else how long to wait.
    fn wait(&self, key: &ObjectKey, spec: &Value, now: i64) -> Option<Duration> {
        self.with(key, |kept| {
            if let Some((at, before)) = &kept.looked
                && before == spec
                && let Some(left) = PERIOD.checked_sub(Duration::from_secs(now.abs_diff(*at)))
                && !left.is_zero()
            {
                return Some(left);
            }
            kept.looked = Some((now, spec.clone()));
            None
        })
    }
}

#[async_trait]
impl Reconciler for Autoscalers {
    fn name(&self) -> &'static str {
        "horizontal-pod-autoscaler"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::HORIZONTAL_POD_AUTOSCALERS)
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let object = cx.get(&res::HORIZONTAL_POD_AUTOSCALERS, key).filter(|o| !o.is_deleting());
        let Some(object) = object else {
            self.kept.lock().remove(key);
            return Ok(Requeue::Never);
        };
        let hpa = object.value();
        if let Some(wait) = self.wait(key, &hpa["spec"], cx.clock.ticks()) {
            return Ok(Requeue::After(wait));
        }
        let mut look = Look::new(self, cx, key, &object, &hpa);
        // What went wrong is said in events and conditions, and looked at again after the period, not sooner.
        match look.run().await {
            Ok(()) => {}
            Err(Stop::Told(why)) => tracing::debug!(namespace = key.namespace, name = key.name, "autoscaler: {why}"),
            Err(Stop::NotYet) => return Ok(Requeue::After(PERIOD)),
        }
        let status = look.status.take();
        let written = common::write(cx, &res::HORIZONTAL_POD_AUTOSCALERS, &object, status).await;
        written.inspect_err(|why| look.warn("FailedUpdateStatus", &why.to_string()))?;
        Ok(Requeue::After(PERIOD))
    }
}

/// Why nothing more is done this time.
enum Stop {
    /// This went wrong, and was told.
    Told(String),
    /// What came with the autoscaler may be on its way.
    NotYet,
}

/// One look at one autoscaler.
struct Look<'a> {
    all: &'a Autoscalers,
    cx: &'a Cx,
    key: &'a ObjectKey,
    object: &'a std::sync::Arc<Object>,
    spec: &'a Value,
    status: Value,
    now: String,
}

/// The target.
struct Target {
    res: Res,
    name: String,
    scale: Value,
}

impl<'a> Look<'a> {
    fn new(
        all: &'a Autoscalers,
        cx: &'a Cx,
        key: &'a ObjectKey,
        object: &'a std::sync::Arc<Object>,
        hpa: &'a Value,
    ) -> Self {
        let mut status = hpa.get("status").cloned().unwrap_or_else(|| json!({}));
        if !status["conditions"].is_array() {
            status["conditions"] = json!([]);
        }
        Self { all, cx, key, object, spec: &hpa["spec"], status, now: rfc3339(cx.now()) }
    }

    fn condition(&mut self, kind: &str, status: bool, reason: &str, message: impl Into<String>) {
        let status = if status { "True" } else { "False" };
        if let Some(all) = self.status["conditions"].as_array_mut() {
            conditions::set(all, &Condition::new(kind, status, reason, message), &self.now);
        }
    }

    fn warn(&self, reason: &str, message: &str) {
        self.cx.events.warning(self.object, reason, message);
    }

    /// True within the first period, which is when upstream looks for the first time: a target that is created right
    /// after its autoscaler, as charts do it, is not missed aloud.
    fn is_new(&self) -> bool {
        let created = self.object.meta.created.parse::<jiff::Timestamp>().ok();
        created.is_some_and(|at| self.cx.now().duration_since(at).unsigned_abs() < PERIOD)
    }

    async fn run(&mut self) -> Result<(), Stop> {
        let target = match self.target().await {
            Ok(target) => target,
            Err(_) if self.is_new() => return Err(Stop::NotYet),
            Err(why) => {
                self.warn("FailedGetScale", &why);
                let message = format!("the HPA controller was unable to get the target's current scale: {why}");
                self.condition("AbleToScale", false, "FailedGetScale", message);
                return Err(Stop::Told(why));
            }
        };
        let message = "the HPA controller was able to get the target's current scale";
        self.condition("AbleToScale", true, "SucceededGetScale", message);
        let now = self.cx.clock.ticks();
        let current = target.scale.int_at("/spec/replicas").unwrap_or(0);
        self.all.with(self.key, |kept| kept.memory.begin(now, current));
        let (min, max) = (self.spec.int_at("/minReplicas").unwrap_or(1), self.spec.int_at("/maxReplicas").unwrap_or(1));
        let mut measured = Vec::new();
        let (desired, why) = if current == 0 && min != 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            self.condition("ScalingActive", false, "ScalingDisabled", message);
            (current, String::new())
        } else if current > max {
            (max, "Current number of replicas above Spec.MaxReplicas".to_owned())
        } else if current < min {
            (min, "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            let (wanted, name) = match self.measure(&target, current, &mut measured).await {
                Ok(wanted) => wanted,
                Err(why) => {
                    self.finish(current, None, measured);
                    self.warn("FailedComputeMetricsReplicas", &why);
                    return Err(Stop::Told(why));
                }
            };
            let ask = Ask { current, desired: wanted, min, max, now };
            let decision = self.all.with(self.key, |kept| decide(self.spec.get("behavior"), ask, &mut kept.memory));
            let (reason, message) = decision.able;
            self.condition("AbleToScale", true, reason, message);
            let (limited, (reason, message)) = decision.limited;
            self.condition("ScalingLimited", limited, reason, message);
            let why = match wanted {
                n if n > current => format!("{name} above target"),
                n if n < current => "All metrics below target".to_owned(),
                _ => String::new(),
            };
            (decision.replicas, why)
        };
        if desired != current {
            if let Err(stop) = self.scale(target, current, desired, &why).await {
                self.finish(current, None, measured);
                return Err(stop);
            }
            self.status["lastScaleTime"] = self.now.clone().into();
        }
        self.finish(current, Some(desired), measured);
        Ok(())
    }

    /// The target's scale.
    async fn target(&self) -> Result<Target, String> {
        let get = |at: &str| self.spec.str_at(at).unwrap_or_default();
        let (version, kind) = (get("/scaleTargetRef/apiVersion"), get("/scaleTargetRef/kind"));
        let name = get("/scaleTargetRef/name").to_owned();
        let version = if version.is_empty() { "v1" } else { version };
        let found = Kinds::of(&self.cx.client).find_in_group(version, kind).await.map_err(|e| e.message.clone())?;
        let res = found.ok_or_else(|| no_match(version, kind))?;
        let scale = self.cx.client.get_sub(&res, &self.key.namespace, &name, "scale").await;
        Ok(Target { scale: scale.map_err(|e| e.message.clone())?, res, name })
    }

    async fn scale(&mut self, target: Target, from: i64, to: i64, why: &str) -> Result<(), Stop> {
        let Target { res, name, mut scale } = target;
        scale.set_at("/spec/replicas", to);
        match self.cx.client.update(&res, &self.key.namespace, &name, Some("scale"), &scale).await {
            Err(error) => {
                let error = error.message.clone();
                self.warn("FailedRescale", &format!("New size: {to}; reason: {why}; error: {error}"));
                let message = format!("the HPA controller was unable to update the target scale: {error}");
                self.condition("AbleToScale", false, "FailedUpdateScale", message);
                Err(Stop::Told(error))
            }
            Ok(_) => {
                let message = format!("the HPA controller was able to update the target scale to {to}");
                self.condition("AbleToScale", true, "SucceededRescale", message);
                self.cx.events.normal(self.object, "SuccessfulRescale", format!("New size: {to}; reason: {why}"));
                let now = self.cx.clock.ticks();
                self.all.with(self.key, |kept| kept.memory.scaled(now, from, to));
                Ok(())
            }
        }
    }

    /// What all metrics together want, and which of them wants the most.
    async fn measure(&mut self, target: &Target, current: i64, out: &mut Vec<Value>) -> Result<(i64, String), String> {
        let text = target.scale.str_at("/status/selector").unwrap_or_default().to_owned();
        let pods = self.pods(&text)?;
        let input = Input {
            replicas: current,
            running: target.scale.int_at("/status/replicas").unwrap_or(0),
            pods: &pods,
            tolerances: Tolerances::of(self.spec),
            now: self.cx.now(),
        };
        let metrics = Metrics { client: &self.cx.client, namespace: &self.key.namespace };
        let mut kinds = Kinds::of(&self.cx.client);
        let (mut best, mut first, mut failures) = ((0, String::new()), None, 0);
        let all = self.spec.items_at("/metrics");
        for metric in all {
            match propose(&metrics, &mut kinds, metric, &input, &text).await {
                Ok(Proposal { replicas, name, status }) => {
                    if best.0 == 0 || replicas > best.0 {
                        best = (replicas, name);
                    }
                    out.push(status);
                }
                Err(failed) => {
                    self.warn(failed.reason, &failed.why);
                    failures += 1;
                    first.get_or_insert(failed);
                    out.push(json!({"type": ""}));
                }
            }
        }
        if let Some(failed) = first.filter(|_| failures >= all.len() || best.0 < current) {
            let message = format!("the HPA was unable to compute the replica count: {}", failed.why);
            self.condition("ScalingActive", false, failed.reason, message);
            let count = all.len();
            return Err(format!(
                "invalid metrics ({failures} invalid out of {count}), first error is: {}",
                failed.told
            ));
        }
        let message = format!("the HPA was able to successfully calculate a replica count from {}", best.1);
        self.condition("ScalingActive", true, "ValidMetricFound", message);
        Ok(best)
    }

    /// The target's pods.
    fn pods(&mut self, selector: &str) -> Result<Vec<Value>, String> {
        if selector.is_empty() {
            self.warn("SelectorRequired", "selector is required");
            let message = "the HPA target's scale is missing a selector";
            self.condition("ScalingActive", false, "InvalidSelector", message);
            return Err("selector is required".to_owned());
        }
        let parsed = Selector::parse(selector).map_err(|error| {
            let why = format!("couldn't convert selector into a corresponding internal selector object: {error}");
            self.warn("InvalidSelector", &why);
            self.condition("ScalingActive", false, "InvalidSelector", why.clone());
            why
        })?;
        let pods = self.cx.lister(&res::PODS).select(Some(&self.key.namespace), &parsed);
        self.all.with(self.key, |kept| kept.selector = Some(parsed));
        let rivals = self.all.of_pods(&self.key.namespace, &pods);
        if rivals.len() > 1 {
            let rivals = rivals.join(" ");
            let why = format!("pods by selector {selector} are controlled by multiple HPAs: [{rivals}]");
            self.warn("AmbiguousSelector", &why);
            self.condition("ScalingActive", false, "AmbiguousSelector", why.clone());
            return Err(why);
        }
        Ok(pods.iter().map(|p| p.value()).collect())
    }

    /// The figures of the status; what was desired before stays where nothing new is.
    fn finish(&mut self, current: i64, desired: Option<i64>, measured: Vec<Value>) {
        self.status["currentReplicas"] = current.into();
        let before = self.status.int_at("/desiredReplicas").unwrap_or(0);
        self.status["desiredReplicas"] = desired.unwrap_or(before).into();
        match measured.is_empty() {
            true => drop(self.status.remove_at("/currentMetrics")),
            false => self.status["currentMetrics"] = measured.into(),
        }
    }
}
