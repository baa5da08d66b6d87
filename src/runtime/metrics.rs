//! Counters of reconcilers, in upstream's metric names.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::RwLock;

use crate::util::prometheus;

/// Counters of one reconciler.
#[derive(Debug, Default)]
pub struct Stats {
    /// Reconciles that succeeded.
    pub ok: AtomicU64,
    /// Reconciles that failed and come again.
    pub failed: AtomicU64,
    /// Reconciles that panicked.
    pub panicked: AtomicU64,
    /// Microseconds spent reconciling.
    pub micros: AtomicU64,
    /// Keys ready for work.
    pub depth: AtomicU64,
}

impl Stats {
    /// Adds one reconcile's time.
    pub fn took(&self, time: Duration) {
        self.micros.fetch_add(time.as_micros().try_into().unwrap_or(u64::MAX), Relaxed);
    }
}

/// The counters of all reconcilers of a process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Registry(Arc<RwLock<Vec<Named>>>);

type Named = (&'static str, Arc<Stats>);

impl Registry {
    /// The counters under a name; the same ones when it is started again.
    pub fn stats(&self, name: &'static str) -> Arc<Stats> {
        let mut all = self.0.write();
        if let Some((_, stats)) = all.iter().find(|(n, _)| *n == name) {
            return stats.clone();
        }
        let stats = Arc::new(Stats::default());
        all.push((name, stats.clone()));
        stats
    }

    /// Prometheus' text form.
    pub fn render(&self) -> String {
        let all = self.0.read();
        let mut out = String::new();
        let mut family = |name: &str, kind: &str, help: &str, value: &dyn Fn(&Stats) -> f64| {
            let rows = all.iter().map(|(queue, stats)| (format!("{{name=\"{queue}\"}}"), value(stats)));
            prometheus::family(&mut out, name, kind, help, rows);
        };
        let count = |c: &AtomicU64| c.load(Relaxed) as f64;
        family("workqueue_depth", "gauge", "Keys waiting for work.", &|s| count(&s.depth));
        family("workqueue_retries_total", "counter", "Reconciles that failed and came again.", &|s| count(&s.failed));
        family("workqueue_work_duration_seconds_sum", "counter", "Seconds spent reconciling.", &|s| {
            count(&s.micros) / 1e6
        });
        family("workqueue_work_duration_seconds_count", "counter", "Reconciles.", &|s| {
            count(&s.ok) + count(&s.failed) + count(&s.panicked)
        });
        family("orch_reconcile_panics_total", "counter", "Reconciles that panicked.", &|s| count(&s.panicked));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_survive_a_restart_of_their_owner() {
        let registry = Registry::default();
        registry.stats("a").failed.fetch_add(2, Relaxed);
        registry.stats("a").took(Duration::from_millis(1500));
        let text = registry.render();
        assert!(text.contains("workqueue_retries_total{name=\"a\"} 2\n"), "{text}");
        assert!(text.contains("workqueue_work_duration_seconds_sum{name=\"a\"} 1.5\n"), "{text}");
    }
}
