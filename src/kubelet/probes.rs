//! Probes: when to ask (pure), what an answer means (pure), and a task per probe that asks.
//!
//! Rules: upstream `pkg/kubelet/prober`. Liveness and readiness wait for a startup probe to succeed; after a failed
//! liveness or startup probe nothing is asked until there is a new container.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Probe;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

use super::ask::{Answer, Asker};
use super::pod::{Member, PodInventory, PodView, ProbeKind, time_of};
use super::runtime::{ContainerStatus, State};
use super::sync::{Outcome, Results};
use crate::api::value::ValueExt;
use crate::util::clock::SharedClock;

/// Numbers of a probe with upstream's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From the container's start to the first question.
    pub initial_delay: Duration,
    /// Between questions.
    pub period: Duration,
    /// For one answer.
    pub timeout: Duration,
    /// Answers in a row that make a success.
    pub success: u32,
    /// Answers in a row that make a failure.
    pub failure: u32,
}

impl Timing {
    /// Of a probe.
    pub fn of(probe: &Probe) -> Self {
        let seconds = |v: Option<i32>, default: u64| match v {
            Some(n) if n > 0 => Duration::from_secs(n as u64),
            _ => Duration::from_secs(default),
        };
        let count =
            |v: Option<i32>, default: u32| v.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default);
        Self {
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            success: count(probe.success_threshold, 1),
            failure: count(probe.failure_threshold, 3),
        }
    }

    /// How long to wait for the first question to a container that started then.
    pub fn first_after(&self, started: Timestamp, now: Timestamp) -> Duration {
        let running = now.duration_since(started).max(SignedDuration::ZERO);
        self.initial_delay.saturating_sub(running.unsigned_abs())
    }
}

/// Counts answers in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    timing: Timing,
    last: Option<Outcome>,
    run: u32,
}

impl Counter {
    /// Nothing answered yet.
    pub fn new(timing: Timing) -> Self {
        Self { timing, last: None, run: 0 }
    }

    /// Counts an answer; gives the outcome once a threshold is reached.
    pub fn observe(&mut self, outcome: Outcome) -> Option<Outcome> {
        self.run = if self.last == Some(outcome) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(outcome);
        let threshold = match outcome {
            Outcome::Success => self.timing.success,
            Outcome::Failure => self.timing.failure,
        };
        (self.run >= threshold).then_some(outcome)
    }
}

/// Which probes of a running container should be asked now.
pub fn wanted(member: &Member, container: &ContainerStatus, results: &Results) -> Vec<ProbeKind> {
    let result = |kind| results.get(&(container.id.clone(), kind));
    let started = member.spec.startup_probe.is_none() || result(ProbeKind::Startup) == Some(&Outcome::Success);
    ProbeKind::ALL
        .into_iter()
        .filter(|kind| member.probe(*kind).is_some())
        .filter(|kind| match kind {
            ProbeKind::Startup => !started && result(ProbeKind::Startup) != Some(&Outcome::Failure),
            ProbeKind::Liveness => started && result(ProbeKind::Liveness) != Some(&Outcome::Failure),
            ProbeKind::Readiness => started,
        })
        .collect()
}

/// What a probe found out, for an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unhealthy {
    /// Container name.
    pub container: String,
    /// Which probe, and what was answered.
    pub message: String,
}

/// The probes of one pod. Dropping it stops them.
pub struct Prober {
    asker: Arc<dyn Asker>,
    clock: SharedClock,
    shared: Arc<Shared>,
    running: HashMap<(String, ProbeKind), AbortHandle>,
    tasks: JoinSet<()>,
}

struct Shared {
    results: Mutex<Results>,
    unhealthy: Mutex<Vec<Unhealthy>>,
    changed: Arc<Notify>,
}

/// Unhealthy reports kept between two looks of the worker.
const UNHEALTHY_KEPT: usize = 16;

impl Prober {
    /// No probes yet. `changed` is told of every new result.
    pub fn new(asker: Arc<dyn Asker>, clock: SharedClock, changed: Arc<Notify>) -> Self {
        let shared = Shared { results: Mutex::default(), unhealthy: Mutex::default(), changed };
        Self { asker, clock, shared: Arc::new(shared), running: HashMap::new(), tasks: JoinSet::new() }
    }

    /// What is known.
    pub fn results(&self) -> Results {
        self.shared.results.lock().clone()
    }

    /// Failed answers since the last call.
    pub fn take_unhealthy(&self) -> Vec<Unhealthy> {
        std::mem::take(&mut self.shared.unhealthy.lock())
    }

    /// Takes over what the API says of containers that were running before orch was restarted: a ready pod stays ready.
    pub fn adopt(&self, pod: &PodView, inventory: &PodInventory) {
        let mut results = self.shared.results.lock();
        let lists = ["/containerStatuses", "/initContainerStatuses"];
        for status in lists.iter().flat_map(|l| pod.status.items_at(l)) {
            let id = status.str_at("/containerID").and_then(|id| id.split_once("://")).map_or("", |(_, id)| id);
            if !inventory.containers.iter().any(|c| c.id == id && c.state == State::Running) {
                continue;
            }
            for (field, kind) in [("/started", ProbeKind::Startup), ("/ready", ProbeKind::Readiness)] {
                if status.bool_at(field) == Some(true) {
                    results.insert((id.to_owned(), kind), Outcome::Success);
                }
            }
        }
    }

    /// Starts and stops probes so that those run that should. Results of containers that are gone are forgotten.
    pub fn update(&mut self, pod: &PodView, inventory: &PodInventory, address: &str) {
        let known: Results = {
            let mut results = self.shared.results.lock();
            results.retain(|(id, _), _| inventory.containers.iter().any(|c| c.id == *id && c.state == State::Running));
            results.clone()
        };
        let mut keep = Vec::new();
        for c in inventory.containers.iter().filter(|c| c.state == State::Running) {
            let Some(member) = pod.member(&c.name) else { continue };
            for kind in wanted(member, c, &known) {
                let key = (c.id.clone(), kind);
                keep.push(key.clone());
                if self.running.get(&key).is_none_or(AbortHandle::is_finished) {
                    let handle = self.start(member, c, kind, address);
                    self.running.insert(key, handle);
                }
            }
        }
        self.running.retain(|key, handle| {
            let stays = keep.contains(key);
            if !stays {
                handle.abort();
            }
            stays
        });
        while self.tasks.try_join_next().is_some() {}
    }

    /// Stops the probes that could restart a container; whether it may get traffic is still asked. Upstream:
    /// `StopLivenessAndStartup`.
    pub fn only_readiness(&mut self) {
        self.running.retain(|(_, kind), handle| {
            let stays = *kind == ProbeKind::Readiness;
            if !stays {
                handle.abort();
            }
            stays
        });
    }

    /// Stops all probes but keeps their results.
    pub fn stop(&mut self) {
        self.tasks.abort_all();
        self.running.clear();
    }

    fn start(&mut self, member: &Member, container: &ContainerStatus, kind: ProbeKind, address: &str) -> AbortHandle {
        let Some(probe) = member.probe(kind).cloned() else { return self.tasks.spawn(async {}) };
        let (asker, shared, member) = (self.asker.clone(), self.shared.clone(), member.clone());
        let (id, address) = (container.id.clone(), address.to_owned());
        let timing = Timing::of(&probe);
        let now = self.clock.now();
        let first = timing.first_after(time_of(container.started_at).unwrap_or(now), now);
        self.tasks.spawn(async move {
            tokio::time::sleep(first).await;
            let mut timer = tokio::time::interval(timing.period);
            timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut counter = Counter::new(timing);
            loop {
                timer.tick().await;
                let answer = asker.ask(&id, &member, &probe, &address, timing.timeout).await;
                if shared.observe(&id, member.name(), kind, &mut counter, answer) {
                    return;
                }
            }
        })
    }
}

impl Shared {
    fn tell(&self, container: &str, message: String) {
        let mut kept = self.unhealthy.lock();
        if kept.len() < UNHEALTHY_KEPT {
            kept.push(Unhealthy { container: container.to_owned(), message });
        }
        self.changed.notify_one();
    }

    /// Counts an answer; true when the probe has nothing more to ask.
    fn observe(&self, id: &str, name: &str, kind: ProbeKind, counter: &mut Counter, answer: Answer) -> bool {
        let outcome = match answer {
            Answer::Success => Outcome::Success,
            Answer::Failure(message) => {
                self.tell(name, format!("{} probe failed: {message}", kind.name()));
                Outcome::Failure
            }
            // It says nothing about the container, but somebody has to mend the probe.
            Answer::Unknown(why) => {
                self.tell(name, format!("{} probe errored and resulted in unknown state: {why}", kind.name()));
                return false;
            }
        };
        let Some(settled) = counter.observe(outcome) else { return false };
        let before = self.results.lock().insert((id.to_owned(), kind), settled);
        if before != Some(settled) {
            self.changed.notify_one();
        }
        match kind {
            ProbeKind::Startup => true,
            ProbeKind::Liveness => settled == Outcome::Failure,
            ProbeKind::Readiness => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Outcome::{Failure as F, Success as S};
    use serde_json::json;
    use test_case::test_case;

    fn timing(success: u32, failure: u32) -> Timing {
        let probe = json!({"successThreshold": success, "failureThreshold": failure, "initialDelaySeconds": 5});
        Timing::of(&serde_json::from_value(probe).unwrap())
    }

    #[test_case(1, 3, &[S], &[Some(S)]; "one success will do")]
    #[test_case(1, 3, &[F, F, F, F], &[None, None, Some(F), Some(F)]; "three failures")]
    #[test_case(1, 3, &[F, F, S, F, F, F], &[None, None, Some(S), None, None, Some(F)]; "a success starts the count anew")]
    #[test_case(2, 1, &[F, S, S], &[Some(F), None, Some(S)]; "two successes")]
    fn thresholds(success: u32, failure: u32, answers: &[Outcome], want: &[Option<Outcome>]) {
        let mut counter = Counter::new(timing(success, failure));
        let got: Vec<_> = answers.iter().map(|a| counter.observe(*a)).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn defaults_are_upstreams() {
        let t = Timing::of(&Probe::default());
        assert_eq!((t.period.as_secs(), t.timeout.as_secs(), t.success, t.failure), (10, 1, 1, 3));
    }

    #[test_case(0, 5)]
    #[test_case(3, 2)]
    #[test_case(9, 0; "already over")]
    #[test_case(-4, 5; "a clock that went back")]
    fn initial_delay_counts_from_the_start(running: i64, want: u64) {
        let t0 = Timestamp::from_second(1000).unwrap();
        let now = Timestamp::from_second(1000 + running).unwrap();
        assert_eq!(timing(1, 1).first_after(t0, now).as_secs(), want);
    }

    #[test_case(Answer::Failure("no".into()), Some("Readiness probe failed: no"), Some(F); "failed")]
    #[test_case(Answer::Unknown("no sh".into()), Some("Readiness probe errored and resulted in unknown state: no sh"), None; "could not ask")]
    #[test_case(Answer::Success, None, Some(S); "well")]
    fn what_is_told_and_what_counts(answer: Answer, told: Option<&str>, known: Option<Outcome>) {
        let shared = Shared { results: Mutex::default(), unhealthy: Mutex::default(), changed: Arc::default() };
        let mut counter = Counter::new(timing(1, 1));
        assert!(!shared.observe("i", "c", ProbeKind::Readiness, &mut counter, answer));
        assert_eq!(shared.unhealthy.lock().first().map(|u| u.message.as_str()), told);
        assert_eq!(shared.results.lock().get(&("i".to_owned(), ProbeKind::Readiness)), known.as_ref());
    }

    fn member(probes: &[&str]) -> Member {
        let mut c = json!({"name": "c"});
        for p in probes {
            c[*p] = json!({"tcpSocket": {"port": 1}});
        }
        let pod = json!({"metadata": {}, "spec": {"containers": [c]}});
        PodView::from_value(pod).unwrap().members.remove(0)
    }

    const ALL: &[&str] = &["startupProbe", "livenessProbe", "readinessProbe"];

    #[test_case(ALL, &[], &[ProbeKind::Startup]; "startup first")]
    #[test_case(ALL, &[(ProbeKind::Startup, S)], &[ProbeKind::Liveness, ProbeKind::Readiness]; "then the others")]
    #[test_case(ALL, &[(ProbeKind::Startup, F)], &[]; "failed startup waits for the next container")]
    #[test_case(&["livenessProbe"], &[(ProbeKind::Liveness, F)], &[]; "so does failed liveness")]
    #[test_case(&["readinessProbe"], &[(ProbeKind::Readiness, F)], &[ProbeKind::Readiness]; "readiness goes on")]
    fn which(probes: &[&str], known: &[(ProbeKind, Outcome)], want: &[ProbeKind]) {
        let c = ContainerStatus { id: "i".into(), state: State::Running, ..ContainerStatus::default() };
        let results: Results = known.iter().map(|(k, o)| (("i".to_owned(), *k), *o)).collect();
        assert_eq!(wanted(&member(probes), &c, &results), want);
    }
}
