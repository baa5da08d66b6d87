//! What `/metrics` shows of the whole process, beside the API's own figures: reconcilers, the scheduler, the store, the watch
//! cache, the disk.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::api::meta::GroupResource;
use crate::runtime::metrics::Registry;
use crate::scheduler::metrics::Metrics as Scheduling;
use crate::store::cache::{Cache, Figures};
use crate::store::durable::{Durable, Metrics};
use crate::util::order::Arrange;
use crate::util::prometheus::family;

/// Renders all of it when it is asked for.
pub(super) fn source(
    reconcilers: Registry,
    scheduling: Arc<Scheduling>,
    store: Arc<Durable>,
    cache: Arc<Cache>,
) -> Box<dyn Fn() -> String + Send + Sync> {
    Box::new(move || {
        let mut out = reconcilers.render();
        out.push_str(&scheduling.render());
        store_figures(&mut out, store.metrics());
        let all = cache.resources();
        let mut held: Vec<(&GroupResource, Figures)> = all.iter().map(|r| (r.group_resource(), r.figures())).collect();
        held.retain(|(_, f)| f.objects > 0 || f.event_bytes > 0);
        held.arrange_by_key(|(gr, _)| *gr);
        cache_figures(&mut out, &held);
        if let Some(bytes) = written_by_process(&std::fs::read_to_string("/proc/self/io").unwrap_or_default()) {
            let help = "Bytes that this process made the kernel write to disks.";
            family(&mut out, "orch_disk_written_bytes_total", "counter", help, [(String::new(), bytes)]);
        }
        out
    })
}

fn store_figures(out: &mut String, m: &Metrics) {
    let counters = [
        ("orch_store_commits_total", "Commits acknowledged.", m.commits.load(Relaxed)),
        ("orch_store_syncs_total", "Groups of commits that were synced together.", m.groups.load(Relaxed)),
        ("orch_store_written_bytes_total", "Bytes handed to journal, state and snapshots.", m.bytes_written()),
    ];
    for (name, help, value) in counters {
        family(out, name, "counter", help, [(String::new(), value)]);
    }
}

fn cache_figures(out: &mut String, held: &[(&GroupResource, Figures)]) {
    type Of = fn(&Figures) -> usize;
    let families: [(&str, &str, Of); 3] = [
        ("apiserver_resource_objects", "Objects stored.", |f| f.objects),
        ("orch_cache_object_bytes", "JSON of the objects in memory.", |f| f.object_bytes),
        ("orch_cache_event_bytes", "What recent events keep in memory beyond the objects.", |f| f.event_bytes),
    ];
    for (name, help, of) in families {
        let labels = |gr: &GroupResource| format!("{{group=\"{}\",resource=\"{}\"}}", gr.group, gr.resource);
        family(out, name, "gauge", help, held.iter().map(|(gr, f)| (labels(gr), of(f) as u64)));
    }
}

/// `write_bytes` of `/proc/<pid>/io`, where the kernel counts it.
fn written_by_process(io: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_the_text_form() {
        let pods = GroupResource::new("", "pods");
        let figures = Figures { objects: 2, object_bytes: 14_000, event_bytes: 192 };
        let mut out = String::new();
        cache_figures(&mut out, &[(&pods, figures)]);
        for line in [
            "# TYPE apiserver_resource_objects gauge",
            "apiserver_resource_objects{group=\"\",resource=\"pods\"} 2",
            "orch_cache_object_bytes{group=\"\",resource=\"pods\"} 14000",
            "orch_cache_event_bytes{group=\"\",resource=\"pods\"} 192",
        ] {
            assert!(out.lines().any(|l| l == line), "{line} is not in\n{out}");
        }
        assert_eq!(written_by_process("rchar: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 0\n"), Some(4096));
        assert_eq!(written_by_process(""), None);
    }
}
