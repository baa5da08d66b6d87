//! Measures the durable store on this machine: commits a second with 32 writers, and the start with 10,000 objects.
//!
//! `cargo run --release --example bench_store [DIRECTORY]`; the directory should be on the disk that is to be measured.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use orch::api::meta::GroupResource;
use orch::store::cache::{Cache, Generic, object_key};
use orch::store::durable::{Durable, Options};
use orch::store::{Expect, Store, Txn, Write};
use orch::util::tasks::Shutdown;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const WRITERS: usize = 32;
const COMMITS: usize = 60_000;
const PODS: usize = 10_000;
const POD_BYTES: usize = 7 << 10;

fn object(kind: &str, namespace: &str, name: &str, size: usize) -> Bytes {
    let head = format!(
        r#"{{"kind":"{kind}","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"{namespace}","uid":"{name}"}},"data":""#
    );
    let fill = "x".repeat(size.saturating_sub(head.len() + 2));
    format!("{head}{fill}\"}}").into()
}

fn put(resource: &GroupResource, kind: &str, name: &str, size: usize) -> Txn {
    let value = Some(object(kind, "default", name, size));
    Txn(vec![Write { key: object_key(resource, "default", name), expect: Expect::Absent, value }])
}

/// Commits `n` new objects with 32 writers, each waiting for its own write to be readable; prints the rate.
async fn fill(
    cache: &Arc<Cache>,
    resource: GroupResource,
    kind: &'static str,
    size: usize,
    n: usize,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let writers = (0..WRITERS).map(|w| {
        let (cache, resource) = (cache.clone(), resource.clone());
        tokio::spawn(async move {
            let mut latencies = Vec::new();
            for i in 0..n / WRITERS {
                let at = Instant::now();
                let revision = cache.store().commit(put(&resource, kind, &format!("o-{w}-{i}"), size)).await?;
                cache.wait_for(revision).await?;
                latencies.push(at.elapsed());
            }
            anyhow::Ok(latencies)
        })
    });
    let mut latencies = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        latencies.extend(writer.await??);
    }
    latencies.sort_unstable();
    let rate = latencies.len() as f64 / began.elapsed().as_secs_f64();
    println!(
        "{n} {kind}s of {size} bytes: {rate:.0} durable commits/s, readable after {:?} (median), {:?} (p99)",
        latencies[latencies.len() / 2],
        latencies[latencies.len() * 99 / 100]
    );
    Ok(())
}

fn memory() -> String {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    rollup
        .lines()
        .find(|l| l.starts_with("Pss:"))
        .unwrap_or("Pss: unknown")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let root = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = root.join(format!("orch-bench-store-{}", std::process::id()));
    for (resource, kind, size, n) in [("configmaps", "ConfigMap", 1 << 10, COMMITS), ("pods", "Pod", POD_BYTES, PODS)] {
        let dir = dir.join(resource);
        let store = Arc::new(Durable::open(&Options::new(&dir))?);
        let metrics = store.metrics().clone();
        let cache = Cache::open(store.clone(), Arc::new(Generic::default())).await?;
        let (running, stop) = (cache.clone(), Shutdown::new());
        let task = tokio::spawn({
            let stop = stop.clone();
            async move { running.run(stop).await }
        });
        fill(&cache, GroupResource::new("", resource), kind, size, n).await?;
        let (commits, groups) = (metrics.commits.load(Ordering::Relaxed), metrics.groups.load(Ordering::Relaxed));
        let micros = metrics.sync_micros.load(Ordering::Relaxed);
        println!("  {groups} syncs of {} µs, {:.1} commits each", micros / groups, commits as f64 / groups as f64);
        stop.trigger();
        task.await??;
        store.close().await;
        println!("  {} bytes written to the disk", metrics.bytes_written());
    }
    let began = Instant::now();
    let store = Arc::new(Durable::open(&Options::new(dir.join("pods")))?);
    let opened = began.elapsed();
    let cache = Cache::open(store, Arc::new(Generic::default())).await?;
    let count = cache.resource(&GroupResource::new("", "pods")).count();
    println!(
        "start with {count} pods: store {opened:?}, with watch cache {:?}; after all of the above {}",
        began.elapsed(),
        memory()
    );
    drop(cache);
    Ok(std::fs::remove_dir_all(&dir)?)
}
