//! Encryption at rest over the real store: what lies on the disk, and what comes out of it again.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;

use super::config::tests::config;
use super::*;
use crate::store::durable::{Durable, Options};
use crate::store::memory::Memory;
use crate::util::tasks::Shutdown;

const PLAIN: &str = "a text that nobody should find";
const SECRET: &str = "/registry/core/secrets/n/s";

fn put(key: &str, value: &str, expect: Expect) -> Txn {
    Txn(vec![Write { key: Bytes::from(key.to_owned()), expect, value: Some(Bytes::from(value.to_owned())) }])
}

async fn read(store: &dyn Store, key: &str) -> Bytes {
    store.snapshot(key.as_bytes()).await.unwrap().entries.remove(0).value
}

/// True when a file below has the text.
fn holds(dir: &Path, text: &str) -> bool {
    std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).any(|path| match path.is_dir() {
        true => holds(&path, text),
        false => std::fs::read(&path).unwrap().windows(text.len()).any(|w| w == text.as_bytes()),
    })
}

/// With a state that gets everything at once, so that sled has it too.
fn durable(dir: &Path) -> Arc<Durable> {
    let options = Options { collect_bytes: 1, snapshot_bytes: 1, ..Options::new(dir) };
    Arc::new(Durable::open(&options).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_of_stores_holds_sealed_too() {
    let fresh = || Sealed::new(Arc::new(Memory::new()), config(&[("*.*", "aesgcm:a:1")]));
    crate::store::suite::contract(|_| fresh() as Arc<dyn Store>).await;
    let store: Arc<dyn Store> = fresh();
    let mut changes = store.changes(0);
    assert_eq!(store.commit(put(SECRET, PLAIN, Expect::Absent)).await, Ok(1));
    let batch = changes.next().await.unwrap().unwrap();
    assert_eq!((batch[0].revision, batch[0].value.as_deref()), (1, Some(PLAIN.as_bytes())));
    assert!(matches!(store.commit(put(SECRET, "x", Expect::Absent)).await, Err(CommitError::Conflict { .. })));
    let gone = Txn(vec![Write { key: SECRET.into(), expect: Expect::Revision(1), value: None }]);
    assert_eq!(store.commit(gone).await, Ok(2));
    assert_eq!(changes.next().await.unwrap().unwrap()[0].value, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plain_text_is_nowhere_on_the_disk_and_comes_back_after_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let keys = || config(&[("secrets", "aesgcm:a:1 identity")]);
    let inner = durable(dir.path());
    let store = Sealed::new(inner.clone(), keys());
    store.commit(put(SECRET, PLAIN, Expect::Absent)).await.unwrap();
    store.commit(put("/registry/core/configmaps/n/c", "for everybody", Expect::Absent)).await.unwrap();
    store.close().await;
    drop((store, inner));
    assert!(holds(dir.path(), "for everybody"), "the test looks where things are");
    assert!(!holds(dir.path(), PLAIN));

    // A restart that finds the journal's last record torn: what was acknowledged before is whole.
    let journal = dir.path().join("journal");
    let newest = std::fs::read_dir(&journal).unwrap().map(|e| e.unwrap().path()).max().unwrap();
    let mut torn = std::fs::read(&newest).unwrap();
    torn.extend_from_slice(b"\x10\0\0\0half a rec");
    std::fs::write(&newest, torn).unwrap();
    let store = Sealed::new(durable(dir.path()), keys());
    assert_eq!(read(&*store, SECRET).await, PLAIN);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_the_key_is_refused_and_names_the_object() {
    let inner: Arc<dyn Store> = Arc::new(Memory::new());
    let store = Sealed::new(inner.clone(), config(&[("secrets", "aesgcm:a:1")]));
    for name in ["s", "t", "u"] {
        store.commit(put(&format!("/registry/core/secrets/n/{name}"), PLAIN, Expect::Absent)).await.unwrap();
    }
    for without in [Config::default(), config(&[("secrets", "aesgcm:b:2")])] {
        let store = Sealed::new(inner.clone(), without);
        let told = store.snapshot(b"/registry/").await.unwrap_err().to_string();
        assert!(told.starts_with("core/secrets/n/s is encrypted with the key \"a\" of aesgcm"), "{told}");
        assert!(told.contains("and so are 2 more") && told.contains("--encryption-provider-config"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_reads_old_records_until_they_are_written_again() {
    let inner: Arc<dyn Store> = Arc::new(Memory::new());
    let store = Sealed::new(inner.clone(), config(&[("secrets", "aesgcm:a:1")]));
    store.commit(put(SECRET, PLAIN, Expect::Absent)).await.unwrap();
    // Without the old key the new configuration is not taken.
    let told = store.reload(config(&[("secrets", "aesgcm:b:2")])).await.unwrap_err().to_string();
    assert!(told.contains("core/secrets/n/s"), "{told}");
    assert_eq!(read(&*store, SECRET).await, PLAIN);

    let mut behind = store.changes(0);
    store.reload(config(&[("secrets", "aesgcm:b:2 aesgcm:a:1")])).await.unwrap();
    assert_eq!(read(&*store, SECRET).await, PLAIN);
    assert_eq!(store.counts().await.unwrap(), Counts { sealed: 1, stale: 1 });
    assert_eq!(store.rewrite().await.unwrap(), 1);
    assert_eq!(store.counts().await.unwrap(), Counts { sealed: 1, stale: 0 });
    store.reload(config(&[("secrets", "aesgcm:b:2")])).await.unwrap();
    assert_eq!(read(&*store, SECRET).await, PLAIN);
    assert!(read(&*inner, SECRET).await.starts_with(b"k8s:enc:aesgcm:v1:b:"));
    // Who follows and is behind reads what the first key sealed all the same.
    let first = behind.next().await.unwrap().unwrap();
    assert_eq!(first[0].value.as_deref(), Some(PLAIN.as_bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_orchs_own_are_made_rotated_and_followed() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("cred/encryption-config.json");
    let inner: Arc<dyn Store> = Arc::new(Memory::new());
    let open = |managed| Encryption::open(inner.clone(), Settings { file: None, managed, own: own.clone() }).unwrap();
    let off = open(false);
    assert!(matches!(off.rotate().await, Err(EncryptionError::Off)) && !own.exists());
    off.store().commit(put(SECRET, PLAIN, Expect::Absent)).await.unwrap();

    let on = open(true);
    assert_eq!(std::fs::metadata(&own).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(on.status().await.unwrap().counts, Counts { sealed: 0, stale: 1 });
    assert_eq!(on.reencrypt().await.unwrap(), 1);
    let first = on.status().await.unwrap();
    assert!(first.enabled && first.managed && first.counts == Counts { sealed: 1, stale: 0 });
    assert_eq!(on.rotate().await.unwrap(), 1);
    let second = on.status().await.unwrap();
    assert!(first.key != second.key && second.counts == Counts { sealed: 1, stale: 0 });
    let text = std::fs::read_to_string(&own).unwrap();
    assert!(text.contains(&second.key.unwrap().1) && !text.contains(&first.key.unwrap().1), "the old key is gone");
    // The file is there: the flag is not needed any more to read what it sealed.
    let again = open(false);
    assert_eq!(read(&*again.store(), SECRET).await, PLAIN);
    assert_eq!(again.switch(false).await.unwrap(), 1);
    assert_eq!(again.status().await.unwrap().counts, Counts { sealed: 0, stale: 0 });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_users_file_is_followed_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("enc.yaml");
    let text = |keys: &[(u8, &str)]| {
        let key = |(byte, name): &(u8, &str)| {
            use base64::Engine;
            let secret = base64::engine::general_purpose::STANDARD.encode([*byte; 32]);
            format!("{{name: {name}, secret: {secret}}}")
        };
        let keys = keys.iter().map(key).collect::<Vec<_>>().join(", ");
        format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  \
             providers: [{{aesgcm: {{keys: [{keys}]}}}}, {{identity: {{}}}}]\n"
        )
    };
    std::fs::write(&file, text(&[(1, "a")])).unwrap();
    let inner: Arc<dyn Store> = Arc::new(Memory::new());
    let settings = Settings { file: Some(file.clone()), managed: false, own: dir.path().join("own") };
    let encryption = Encryption::open(inner.clone(), settings).unwrap();
    let store = encryption.store();
    store.commit(put(SECRET, PLAIN, Expect::Absent)).await.unwrap();
    assert!(matches!(encryption.rotate().await, Err(EncryptionError::NotManaged(_))));
    let (stop, running) = (Shutdown::new(), encryption.clone());
    let task = {
        let stop = stop.clone();
        tokio::spawn(async move { running.run(stop).await })
    };
    let mut changes = store.changes(1);
    // No configuration: nothing changes. The next one counts.
    std::fs::write(&file, "what: ever").unwrap();
    crate::util::files::write_atomic(&file, text(&[(2, "b"), (1, "a")]).as_bytes(), 0o600).unwrap();
    let rewritten = changes.next().await.unwrap().unwrap();
    assert_eq!(rewritten[0].value.as_deref(), Some(PLAIN.as_bytes()));
    assert!(read(&*inner, SECRET).await.starts_with(b"k8s:enc:aesgcm:v1:b:"));
    stop.trigger();
    task.await.unwrap().unwrap();
}
