//! Figures of the scheduler, in upstream's metric names.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::util::prometheus::family;

/// What an attempt ended in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// A node was found.
    Scheduled,
    /// No node fits.
    Unschedulable,
    /// Something went wrong.
    Error,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Unschedulable => "unschedulable",
            Self::Error => "error",
        }
    }
}

/// Pods that wait, by where they do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the names are upstream's
pub struct Pending {
    pub active: usize,
    pub backoff: usize,
    pub unschedulable: usize,
    pub gated: usize,
}

#[derive(Debug, Default)]
struct Attempts {
    count: u64,
    time: Duration,
}

#[derive(Debug, Default)]
struct Figures {
    attempts: BTreeMap<(Box<str>, Outcome), Attempts>,
    pending: Pending,
    preemptions: u64,
    victims: u64,
}

/// The scheduler's figures; they outlive a restart of it.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Figures>);

impl Metrics {
    /// A decision was made for a pod of a profile.
    pub fn attempted(&self, profile: &str, outcome: Outcome, time: Duration) {
        let mut figures = self.0.lock();
        let attempts = figures.attempts.entry((profile.into(), outcome)).or_default();
        attempts.count += 1;
        attempts.time += time;
    }

    /// So many pods were sent away for one.
    pub fn preempted(&self, victims: usize) {
        let mut figures = self.0.lock();
        figures.preemptions += 1;
        figures.victims += victims as u64;
    }

    /// So many pods wait now.
    pub fn wait(&self, pending: Pending) {
        self.0.lock().pending = pending;
    }

    /// Prometheus' text form.
    pub fn render(&self) -> String {
        let figures = self.0.lock();
        let mut out = String::new();
        let each = |suffix: &str, value: fn(&Attempts) -> f64| -> Vec<(String, f64)> {
            let labels = |profile: &str, outcome: Outcome| {
                format!("{suffix}{{profile=\"{profile}\",result=\"{}\"}}", outcome.as_str())
            };
            figures.attempts.iter().map(|((profile, outcome), a)| (labels(profile, *outcome), value(a))).collect()
        };
        let help = "Attempts to give a pod a node, by their result.";
        family(&mut out, "scheduler_schedule_attempts_total", "counter", help, each("", |a| a.count as f64));
        let help = "Seconds that decisions took, without the bindings.";
        let took = each("_sum", |a| a.time.as_secs_f64()).into_iter().chain(each("_count", |a| a.count as f64));
        family(&mut out, "scheduler_scheduling_attempt_duration_seconds", "summary", help, took);
        let Pending { active, backoff, unschedulable, gated } = figures.pending;
        let queues = [("active", active), ("backoff", backoff), ("unschedulable", unschedulable), ("gated", gated)];
        let queues = queues.map(|(queue, n)| (format!("{{queue=\"{queue}\"}}"), n as f64));
        family(&mut out, "scheduler_pending_pods", "gauge", "Pods that wait for a node, by queue.", queues);
        let one = |n: u64| [(String::new(), n as f64)];
        let help = "Pods for which others were sent away.";
        family(&mut out, "scheduler_preemption_attempts_total", "counter", help, one(figures.preemptions));
        let help = "Pods that were sent away for others.";
        family(&mut out, "orch_scheduler_preemption_victims_total", "counter", help, one(figures.victims));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_the_text_form() {
        let metrics = Metrics::default();
        for (outcome, millis) in [(Outcome::Scheduled, 1), (Outcome::Scheduled, 2), (Outcome::Unschedulable, 4)] {
            metrics.attempted("default-scheduler", outcome, Duration::from_millis(millis));
        }
        metrics.preempted(2);
        metrics.wait(Pending { unschedulable: 7, ..Pending::default() });
        let text = metrics.render();
        let labels = "{profile=\"default-scheduler\",result=\"scheduled\"}";
        for line in [
            format!("scheduler_schedule_attempts_total{labels} 2"),
            format!("scheduler_scheduling_attempt_duration_seconds_sum{labels} 0.003"),
            "scheduler_pending_pods{queue=\"unschedulable\"} 7".into(),
            "scheduler_preemption_attempts_total 1".into(),
            "orch_scheduler_preemption_victims_total 2".into(),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
