//! The `kms` provider, version 2: a plugin of the user's keeps the key, the server seals with seeds that the plugin sealed.
//!
//! In: what a configuration says of a plugin. Out: sealed values, and opened ones. A seed is made at the first look at the
//! plugin, and again when the plugin says that its key is another; it is used for all values until then.
//!
//! **Invariant:** a seed is used for writing only while the plugin was well within the last [`WRITER_TTL`]: when its key was
//! changed, that is when the last value is sealed with the one before.
//! **Invariant:** what was read once is read again without the plugin, as long as its seed is kept.
//!
//! Rules: upstream `apiserver/pkg/server/options/encryptionconfig` and `storage/value/encrypt/envelope/kmsv2`.

mod entry;
mod envelope;
mod plugin;
mod proto;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use prost::Message;
use tokio::sync::Mutex;

use self::envelope::{Dek, SEED_BYTES, fingerprint, hashed, of_answer, wrong, wrong_key_id};
use self::plugin::Plugin;
use self::proto::{EncryptedObject, StatusResponse};
use crate::util::ttl::TtlCache;

/// Looks at a plugin that is well, and at one that is not.
pub const LOOK_WELL: Duration = Duration::from_secs(60);
/// See [`LOOK_WELL`].
pub const LOOK_ILL: Duration = Duration::from_secs(10);
/// How long a seed is written with after the last good look.
const WRITER_TTL: Duration = Duration::from_secs(180);
/// How long the answer to a look stands for who asks for the server's health.
const WELL_TTL: Duration = Duration::from_secs(20);
const ILL_TTL: Duration = Duration::from_secs(3);
/// Seeds that are kept open, and for how long.
const DEKS_MAX: usize = 4096;
const DEK_TTL: Duration = Duration::from_secs(24 * 3600);
/// What plugins say their version is.
const VERSIONS: [&str; 2] = ["v2", "v2beta1"];

/// A plugin and what it sealed for us.
pub struct Kms {
    /// Its name in the configuration.
    pub name: String,
    prefix: Vec<u8>,
    plugin: Plugin,
    writer: ArcSwapOption<Writer>,
    deks: TtlCache<[u8; 32], Arc<Dek>>,
    look: Mutex<Look>,
}

impl std::fmt::Debug for Kms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kms").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What values are sealed with.
struct Writer {
    dek: Arc<Dek>,
    /// As it stands in each value, without the value.
    source: EncryptedObject,
    until: Instant,
}

/// The last look at the plugin.
#[derive(Default)]
struct Look {
    at: Option<Instant>,
    problem: Option<String>,
    /// The version it said at first: it may not become another.
    version: String,
}

impl Kms {
    /// A plugin that was not looked at yet.
    pub fn new(name: &str, socket: PathBuf, timeout: Duration) -> Self {
        let prefix = format!("k8s:enc:kms:v2:{name}:").into_bytes();
        let (plugin, deks) = (Plugin::new(socket, timeout), TtlCache::new(DEKS_MAX));
        Self { name: name.to_owned(), prefix, plugin, writer: ArcSwapOption::empty(), deks, look: Mutex::default() }
    }

    /// True for a value that this plugin's name stands on.
    pub fn is_of(&self, value: &[u8]) -> bool {
        value.starts_with(&self.prefix)
    }

    /// The hash of the id of the key that values are sealed with; none before the first good look.
    pub fn key(&self) -> Option<String> {
        self.writer.load().as_ref().map(|w| hashed(&w.source.key_id))
    }

    /// True for a value that was sealed with another key of the plugin's.
    pub fn is_stale(&self, value: &[u8]) -> bool {
        let writer = self.writer.load();
        match (writer.as_ref(), self.decode(value)) {
            (Some(writer), Ok(object)) => {
                object.key_id != writer.source.key_id
                    || object.encrypted_dek_source_type != writer.source.encrypted_dek_source_type
            }
            _ => false,
        }
    }

    /// Looks at the plugin and makes a new seed where its key is another. What it found is also how long until the next.
    pub async fn look(&self) -> Duration {
        let mut look = self.look.lock().await;
        self.look_now(&mut look).await;
        if look.problem.is_none() { LOOK_WELL } else { LOOK_ILL }
    }

    /// Whether the plugin is well: as it was found a moment ago, or now.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn health(&self) -> Result<(), String> {
        let mut look = self.look.lock().await;
        let ttl = if look.problem.is_none() { WELL_TTL } else { ILL_TTL };
        if look.at.is_none_or(|at| at.elapsed() >= ttl) {
            self.look_now(&mut look).await;
        }
        look.problem.clone().map_or(Ok(()), Err)
    }

    async fn look_now(&self, look: &mut Look) {
        let found = match self.plugin.status().await {
            Ok(status) => self.follow(&status, &mut look.version).await,
            Err(why) => Err(format!("it does not tell its status: {why}")),
        };
        look.problem = found.err().map(|why| format!("the KMS plugin {:?} is not well: {why}", self.name));
        if let Some(why) = &look.problem {
            tracing::error!("encryption at rest: {why}");
        }
        look.at = Some(Instant::now());
    }

    /// Does what the plugin's status asks for, and says what is wrong with it.
    async fn follow(&self, status: &StatusResponse, version: &mut String) -> Result<(), String> {
        let mut wrong = complaints(status, version);
        if wrong_key_id(&status.key_id).is_none() {
            wrong.extend(self.renew(&status.key_id).await.err());
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join(", ")) }
    }

    /// Writes on with the seed while the key is the same, with a new one when it is not.
    async fn renew(&self, key_id: &str) -> Result<(), String> {
        // Before the plugin is asked: the time counts from when the key was known to be the one.
        let until = Instant::now() + WRITER_TTL;
        if let Some(writer) = self.writer.load_full().filter(|w| w.source.key_id == key_id) {
            let (dek, source) = (writer.dek.clone(), writer.source.clone());
            self.writer.store(Some(Arc::new(Writer { dek, source, until })));
            return Ok(());
        }
        let (dek, seed) = Dek::generate();
        let uid = uuid::Uuid::new_v4().to_string();
        let answer = self.plugin.encrypt(&uid, &seed).await.map_err(|e| format!("it did not seal a seed: {e}"))?;
        debug_assert_eq!(seed.len(), SEED_BYTES);
        let source = of_answer(answer);
        if let Some(why) = wrong(&source) {
            return Err(format!("what it made of a seed cannot be used: {why}"));
        }
        if source.key_id != key_id {
            let (used, told) = (hashed(&source.key_id), hashed(key_id));
            return Err(format!("it sealed a seed with the key {used}, and says that its key is {told}"));
        }
        let dek = Arc::new(dek);
        self.deks.put(fingerprint(&source), dek.clone(), DEK_TTL, Instant::now());
        tracing::info!(plugin = %self.name, key = %hashed(key_id), "values are sealed with a new seed");
        self.writer.store(Some(Arc::new(Writer { dek, source, until })));
        Ok(())
    }

    /// The sealed form of a value that is stored under `place`.
    ///
    /// # Errors
    /// The plugin was never well, or not for too long.
    pub fn seal(&self, place: &[u8], plain: &[u8]) -> Result<Bytes, String> {
        let writer = self.writer.load();
        let Some(writer) = writer.as_ref() else {
            return Err(format!("the KMS plugin {:?} has sealed nothing yet; see that it runs", self.name));
        };
        if Instant::now() > writer.until {
            let (minutes, key) = (WRITER_TTL.as_secs() / 60, hashed(&writer.source.key_id));
            return Err(format!(
                "the KMS plugin {:?} was not well for {minutes} minutes, and its key {key} is not written with any more; \
                 see what is wrong with it",
                self.name
            ));
        }
        let data = writer.dek.seal(place, plain).map_err(|e| e.to_string())?;
        let object = EncryptedObject { encrypted_data: data, ..writer.source.clone() };
        let mut out = Vec::with_capacity(self.prefix.len() + object.encoded_len());
        out.extend_from_slice(&self.prefix);
        object.encode(&mut out).expect("a vector grows");
        Ok(out.into())
    }

    /// What was sealed under `place`. The plugin is asked for a seed that is not kept.
    ///
    /// # Errors
    /// It is damaged, the plugin does not open its seed, or does not answer.
    pub async fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Bytes, String> {
        let object = self.decode(sealed)?;
        let id = fingerprint(&object);
        let dek = match self.deks.get(&id, Instant::now()) {
            Some(dek) => dek,
            None => {
                let dek = Arc::new(self.unseal(&object).await?);
                self.deks.put(id, dek.clone(), DEK_TTL, Instant::now());
                dek
            }
        };
        let damaged = |_| "is damaged, or was stored elsewhere".to_owned();
        dek.open(place, &object.encrypted_data).map_err(damaged)
    }

    async fn unseal(&self, object: &EncryptedObject) -> Result<Dek, String> {
        let uid = uuid::Uuid::new_v4().to_string();
        let (name, key) = (&self.name, hashed(&object.key_id));
        let secret = self.plugin.decrypt(&uid, object).await.map_err(|why| {
            format!(
                "cannot be decrypted: the KMS plugin {name:?} does not open what it sealed with the key {key}: {why}"
            )
        })?;
        Dek::new(object.encrypted_dek_source_type(), &secret).map_err(|_| {
            format!("cannot be decrypted: the KMS plugin {name:?} gave no seed for what it sealed with {key}")
        })
    }

    fn decode(&self, sealed: &[u8]) -> Result<EncryptedObject, String> {
        let body = sealed.strip_prefix(&*self.prefix).unwrap_or_default();
        let object = EncryptedObject::decode(body).map_err(|_| "is damaged".to_owned())?;
        match wrong(&object) {
            _ if object.encrypted_data.is_empty() => Err("is damaged: there is nothing in it".to_owned()),
            Some(why) => Err(format!("is damaged: {why}")),
            None => Ok(object),
        }
    }
}

/// What is wrong with what a plugin says of itself. The first version it says becomes its version.
fn complaints(status: &StatusResponse, version: &mut String) -> Vec<String> {
    let mut wrong = Vec::new();
    if status.healthz != "ok" {
        wrong.push(format!("its healthz is {:?}", status.healthz));
    }
    if !VERSIONS.contains(&&*status.version) {
        wrong.push(format!("its version is {:?}, not v2", status.version));
    } else if version.is_empty() {
        version.clone_from(&status.version);
    } else if *version != status.version {
        wrong.push(format!("its version was {version:?} and is {:?} now", status.version));
    }
    wrong.extend(wrong_key_id(&status.key_id));
    wrong
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    #[test_case("v2", "ok", "1", "", &[]; "well")]
    #[test_case("v2beta1", "ok", "1", "", &[]; "the older name of the version")]
    #[test_case("v2", "sealed", "1", "", &["healthz is \"sealed\""]; "not well")]
    #[test_case("v1beta1", "ok", "1", "", &["version is \"v1beta1\""]; "an old protocol")]
    #[test_case("v2", "ok", "1", "v2beta1", &["was \"v2beta1\""]; "another version than before")]
    #[test_case("v2", "", "", "", &["healthz", "id is empty"]; "several things")]
    fn plugins_are_judged(version: &str, healthz: &str, key_id: &str, before: &str, want: &[&str]) {
        let status = StatusResponse { version: version.into(), healthz: healthz.into(), key_id: key_id.into() };
        let found = complaints(&status, &mut before.to_owned());
        let fits = found.len() == want.len() && found.iter().zip(want).all(|(found, want)| found.contains(want));
        assert!(fits, "{found:?}, not {want:?}");
    }

    #[test]
    fn nothing_is_sealed_before_the_plugin_was_well_or_long_after() {
        let kms = Kms::new("vault", PathBuf::from("/nowhere"), Duration::from_secs(1));
        assert!(kms.seal(b"/a", b"text").unwrap_err().contains("sealed nothing yet") && kms.key().is_none());
        let source = |until| {
            let answer = proto::EncryptResponse { ciphertext: vec![1], key_id: "k".into(), ..Default::default() };
            Some(Arc::new(Writer { dek: Arc::new(Dek::generate().0), source: of_answer(answer), until }))
        };
        let now = Instant::now();
        kms.writer.store(source(now + WRITER_TTL));
        let sealed = kms.seal(b"/a", b"text").unwrap();
        assert!(sealed.starts_with(b"k8s:enc:kms:v2:vault:") && kms.is_of(&sealed) && !kms.is_stale(&sealed));
        kms.writer.store(source(now));
        while Instant::now() <= now {}
        let why = kms.seal(b"/a", b"text").unwrap_err();
        assert!(why.contains("not well for 3 minutes") && why.contains(&hashed("k")), "{why}");
        assert!(!why.contains("\"k\""), "ids of keys are not told");
    }

    #[test]
    fn what_is_no_sealed_value_is_told_apart() {
        let kms = Kms::new("vault", PathBuf::from("/nowhere"), Duration::from_secs(1));
        for body in [&b""[..], b"\xff\xff\xff", b"\x0a\x01a"] {
            let value = [&kms.prefix[..], body].concat();
            assert!(kms.decode(&value).unwrap_err().starts_with("is damaged"));
        }
    }
}
