//! Kills a process with SIGKILL at random moments while 32 writers write, and looks for what it had acknowledged.
//!
//! The child is this very test binary, started again with an environment variable; it prints a line for each commit
//! after it was acknowledged.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use orch::store::durable::{Durable, Options};
use orch::store::{Expect, Revision, Store, Txn, Write};
use rand::Rng;

const KILLS: usize = 100;
const WRITERS: usize = 32;
/// Each writer overwrites its own few keys: the store stays small, and versions tell what was lost.
const KEYS: usize = 4;
/// Environment variable that makes the test the child, with the data directory as its value.
const CHILD: &str = "ORCH_STORE_CRASH_DIR";

fn options(dir: &Path) -> Options {
    let mut options = Options::new(dir);
    // Snapshots, rotation and removal happen many times in the test.
    (options.snapshot_bytes, options.segment_bytes, options.collect_bytes) = (4 << 20, 1 << 20, 256 << 10);
    options.retain = Duration::ZERO;
    options
}

async fn write_for_ever(store: Arc<Durable>, writer: usize, start: u64) {
    for i in start.. {
        let key = format!("/registry/{writer}/{}", i as usize % KEYS);
        let value = format!("{i} {}", "x".repeat(i as usize * 131 % 2000));
        let write = Write { key: key.clone().into(), expect: Expect::Any, value: Some(Bytes::from(value)) };
        let revision = store.commit(Txn(vec![write])).await.expect("the disk is well");
        // One write call, so that no line is torn between two writers.
        let line = format!("{key} {i} {revision}\n");
        std::io::stdout().lock().write_all(line.as_bytes()).expect("the parent reads");
    }
}

/// The child's half; does nothing in an ordinary run.
#[test]
fn store_crash_child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Arc::new(Durable::open(&options(Path::new(&dir))).expect("opens by itself"));
        let start = store.revision();
        println!("\nopen");
        futures::future::join_all((0..WRITERS).map(|w| tokio::spawn(write_for_ever(store.clone(), w, start)))).await;
    });
}

/// Starts a child, kills it after `life`, and gives back the last acknowledged write of each key.
fn killed_after(dir: &Path, life: Duration) -> HashMap<String, (u64, Revision)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store_crash::store_crash_child", "--nocapture", "--test-threads=1"])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut acknowledged = HashMap::new();
        for line in lines.split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            // The last line may be torn: a whole one has three parts, and a torn number is only smaller.
            if let [key, i, revision] = line.split(' ').collect::<Vec<_>>()[..]
                && let (Ok(i), Ok(revision)) = (i.parse(), revision.parse())
                && key.starts_with("/registry/")
            {
                acknowledged.insert(key.to_owned(), (i, revision));
            }
        }
        acknowledged
    });
    std::thread::sleep(life);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

#[test]
fn sigkill_loses_no_acknowledged_write() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (began, mut writes, mut last) = (Instant::now(), 0, 0);
    for round in 0..KILLS {
        let life = Duration::from_millis(rand::rng().random_range(20..300));
        let acknowledged = killed_after(dir.path(), life);
        runtime.block_on(async {
            let store = Durable::open(&options(dir.path())).expect("opens by itself");
            let snapshot = store.snapshot(b"").await.unwrap();
            assert!(snapshot.revision >= last, "round {round}: revisions went back");
            last = snapshot.revision;
            let present: HashMap<_, _> = snapshot.entries.iter().map(|e| (e.key.clone(), e)).collect();
            for (key, (i, revision)) in &acknowledged {
                let entry = present.get(key.as_bytes()).unwrap_or_else(|| panic!("round {round}: {key} is lost"));
                let value = std::str::from_utf8(&entry.value).unwrap();
                let there: u64 = value.split(' ').next().unwrap().parse().unwrap();
                assert!(entry.revision >= *revision && there >= *i, "round {round}: {key} is at {there}, not {i}");
                assert_eq!(value.len() - value.find(' ').unwrap() - 1, there as usize * 131 % 2000, "whole");
            }
            store.close().await;
        });
        writes += acknowledged.len();
    }
    assert!(writes > KILLS, "the writers hardly wrote: {writes} in {:?}", began.elapsed());
}
