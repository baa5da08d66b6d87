//! Where the configuration of encryption at rest comes from, and what people do with it: start, reload, rotate, rewrite.
//!
//! In: a file of the user's (`--encryption-provider-config`), or one that orch keeps (`--secrets-encryption`). Out: a
//! [`Sealed`] store that follows it.
//!
//! **Invariant:** keys are on the disk, durable and readable by their owner alone, before anything is sealed with them.
//! **Invariant:** a key leaves the file only when nothing is sealed with it any more.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rand::RngCore;
use serde_json::{Value, json};
use tokio::sync::{Mutex, Notify};

use super::config::{Config, ConfigError, managed, managed_keys};
use super::kms::{Kms, LOOK_ILL};
use super::{Counts, Sealed};
use crate::store::{Store, StoreError};
use crate::util::file_watch::FileWatch;
use crate::util::files;
use crate::util::tasks::Shutdown;

/// Bytes of a key that orch makes.
const KEY_BYTES: usize = 32;
/// The place whose way of sealing stands for all in the status of a managed configuration.
const SECRETS: &[u8] = b"/registry/core/secrets/";

/// Why there is no encryption as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    /// The file cannot be read or written.
    #[error("cannot use the encryption configuration {}: {}", .0.display(), .1)]
    File(PathBuf, io::Error),
    /// It is no configuration.
    #[error("encryption configuration {}: {}", .0.display(), .1)]
    Config(PathBuf, ConfigError),
    /// What is stored and the configuration do not fit.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A plugin of a new configuration is not there; the one before stays.
    #[error("{0}")]
    Plugin(String),
    /// Somebody else keeps the file.
    #[error("the keys are those of {}: change that file, and the server follows it", .0.display())]
    NotManaged(PathBuf),
    /// There is nothing to do it with.
    #[error("encryption at rest is not set up; start the server with --secrets-encryption")]
    Off,
}

/// What the flags say.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `--encryption-provider-config`.
    pub file: Option<PathBuf>,
    /// `--secrets-encryption`.
    pub managed: bool,
    /// Where the file that orch keeps is, once it was made.
    pub own: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    None,
    User(PathBuf),
    Managed(PathBuf),
}

/// What people see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Secrets are sealed as they are written.
    pub enabled: bool,
    /// With this provider and key.
    pub key: Option<(String, String)>,
    /// What is stored.
    pub counts: Counts,
    /// Orch keeps the keys.
    pub managed: bool,
}

impl Status {
    /// For the wire.
    pub fn to_value(&self) -> Value {
        let (provider, key) = self.key.clone().unwrap_or_default();
        json!({
            "enabled": self.enabled, "managed": self.managed, "provider": provider, "key": key,
            "sealed": self.counts.sealed, "stale": self.counts.stale,
        })
    }
}

/// Encryption at rest of a running server.
pub struct Encryption {
    sealed: Arc<Sealed>,
    source: Source,
    /// One change of keys at a time.
    turn: Mutex<()>,
    /// Another configuration counts.
    taken: Notify,
}

impl Encryption {
    /// Puts the seal over a store.
    pub fn open(inner: Arc<dyn Store>, settings: Settings) -> Result<Arc<Self>, EncryptionError> {
        let source = match settings.file {
            Some(file) => Source::User(file),
            // Once there are keys they are needed, whatever the flags of this start say.
            None if settings.managed || settings.own.exists() => Source::Managed(settings.own),
            None => Source::None,
        };
        if let Source::Managed(path) = &source
            && !path.exists()
        {
            write(path, &managed(&[new_key()], true))?;
            tracing::info!(file = %path.display(), "made a key for the encryption of Secrets at rest; keep a copy of it");
        }
        let config = source.read()?.unwrap_or_default();
        let sealed = Sealed::new(inner, config);
        Ok(Arc::new(Self { sealed, source, turn: Mutex::default(), taken: Notify::new() }))
    }

    /// The store to use.
    pub fn store(&self) -> Arc<dyn Store> {
        self.sealed.clone()
    }

    /// Looks at the plugins for the first time, before anything is read. One that is not well is told of in the log and
    /// by [`Encryption::health`]: what it has to open is then not read, and nothing is written with it.
    pub async fn prepare(&self) {
        self.look().await;
    }

    /// Writes again what is not sealed as it should be, then follows the file and the plugins until the shutdown.
    pub async fn run(&self, stop: Shutdown) -> Result<(), EncryptionError> {
        tokio::try_join!(self.follow_file(&stop), self.follow_plugins(&stop)).map(drop)
    }

    /// Looks at the plugins from time to time, and writes again what was sealed with a key that was replaced.
    async fn follow_plugins(&self, stop: &Shutdown) -> Result<(), EncryptionError> {
        let mut before = None;
        loop {
            let next = self.look().await;
            let keys: Vec<_> = self.sealed.config().await.plugins().map(|kms| kms.key()).collect();
            let changed = before.as_ref().is_some_and(|b| *b != keys);
            let mut wait = next;
            match if changed { self.reencrypt().await } else { Ok(0) } {
                Ok(0) => before = Some(keys),
                Ok(count) => {
                    tracing::info!(count, "wrote objects again with the present key of the KMS plugin");
                    before = Some(keys);
                }
                Err(why) => {
                    tracing::error!("cannot write again with the present key of the KMS plugin: {why}");
                    wait = wait.map(|w| w.min(LOOK_ILL));
                }
            }
            let idle = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            let turn = async {
                tokio::select! {
                    () = idle => {}
                    () = self.taken.notified() => {}
                }
            };
            if stop.or(turn).await.is_none() {
                return Ok(());
            }
        }
    }

    /// Looks at all plugins; when to look again, if there are any.
    async fn look(&self) -> Option<Duration> {
        let config = self.sealed.config().await;
        futures::future::join_all(config.plugins().map(|kms| kms.look())).await.into_iter().min()
    }

    /// Whether plugins may have a say here: a file of the user's may name some at any time.
    pub fn has_plugins(&self) -> bool {
        matches!(self.source, Source::User(_))
    }

    /// Whether the plugins are well.
    ///
    /// # Errors
    /// What is wrong with the first that is not.
    pub async fn health(&self) -> Result<(), String> {
        let plugins: Vec<Arc<Kms>> = self.sealed.config().await.plugins().cloned().collect();
        for kms in plugins {
            kms.health().await?;
        }
        Ok(())
    }

    async fn follow_file(&self, stop: &Shutdown) -> Result<(), EncryptionError> {
        let file = match &self.source {
            Source::None => None,
            Source::User(path) | Source::Managed(path) => Some(path.clone()),
        };
        let Some(file) = file else {
            stop.wait().await;
            return Ok(());
        };
        let failed = |e| EncryptionError::File(file.clone(), e);
        let mut watch = FileWatch::new([&*file]).map_err(failed)?;
        // Read after the watch stands: a change between the start and now is not missed.
        let mut seen = None;
        loop {
            let text = std::fs::read_to_string(&file).ok();
            if text.is_some() && text != seen {
                self.follow(&file).await;
                seen = text;
            }
            match stop.or(watch.changed()).await {
                None => return Ok(()),
                Some(changed) => changed.map_err(failed)?,
            }
        }
    }

    /// Takes the file as it is now. One that cannot be used changes nothing.
    async fn follow(&self, file: &Path) {
        let _turn = self.turn.lock().await;
        match self.reload().await {
            Ok(0) => tracing::info!(file = %file.display(), "encryption at rest follows its configuration"),
            Ok(count) => tracing::info!(file = %file.display(), count, "wrote objects again with the present key"),
            Err(why) => tracing::error!("the encryption configuration is not used: {why}"),
        }
    }

    async fn reload(&self) -> Result<usize, EncryptionError> {
        let config = self.source.read()?.unwrap_or_default();
        for kms in config.plugins() {
            kms.health().await.map_err(EncryptionError::Plugin)?;
        }
        self.sealed.reload(config).await?;
        self.taken.notify_one();
        Ok(self.sealed.rewrite().await?)
    }

    /// How things are.
    pub async fn status(&self) -> Result<Status, EncryptionError> {
        let config = self.sealed.config().await;
        let key = config.writes_with(SECRETS).map(|(p, k)| (p.to_owned(), k.to_owned()));
        let managed = matches!(self.source, Source::Managed(_));
        Ok(Status { enabled: key.is_some(), key, counts: self.sealed.counts().await?, managed })
    }

    /// Writes again what is not sealed as it should be; gives back how many objects there were.
    pub async fn reencrypt(&self) -> Result<usize, EncryptionError> {
        let _turn = self.turn.lock().await;
        Ok(self.sealed.rewrite().await?)
    }

    /// Makes a new key, writes all again with it, and forgets the old ones. A crash at any point leaves a file that
    /// reads what is stored.
    pub async fn rotate(&self) -> Result<usize, EncryptionError> {
        let _turn = self.turn.lock().await;
        let (path, mut keys, _) = self.own_keys()?;
        let fresh = new_key();
        keys.insert(0, fresh.clone());
        write(path, &managed(&keys, true))?;
        let count = self.reload().await?;
        write(path, &managed(&[fresh], true))?;
        self.reload().await?;
        Ok(count)
    }

    /// Begins or ends to seal; what is stored is written again.
    pub async fn switch(&self, on: bool) -> Result<usize, EncryptionError> {
        let _turn = self.turn.lock().await;
        let (path, keys, _) = self.own_keys()?;
        write(path, &managed(&keys, on))?;
        self.reload().await
    }

    #[allow(clippy::type_complexity, reason = "the pair of managed_keys with its place")]
    fn own_keys(&self) -> Result<(&Path, Vec<(String, Vec<u8>)>, bool), EncryptionError> {
        let path = match &self.source {
            Source::Managed(path) => path,
            Source::User(path) => return Err(EncryptionError::NotManaged(path.clone())),
            Source::None => return Err(EncryptionError::Off),
        };
        let text = std::fs::read_to_string(path).map_err(|e| EncryptionError::File(path.clone(), e))?;
        let strange = || EncryptionError::NotManaged(path.clone());
        let (keys, on) = managed_keys(&text).ok_or_else(strange)?;
        Ok((path, keys, on))
    }
}

impl Source {
    fn read(&self) -> Result<Option<Config>, EncryptionError> {
        let (Self::User(path) | Self::Managed(path)) = self else { return Ok(None) };
        let text = std::fs::read_to_string(path).map_err(|e| EncryptionError::File(path.clone(), e))?;
        Config::parse(&text).map(Some).map_err(|e| EncryptionError::Config(path.clone(), e))
    }
}

/// A key named after its time, which tells people its age; what follows keeps two of one second apart.
fn new_key() -> (String, Vec<u8>) {
    let mut secret = vec![0; KEY_BYTES];
    rand::rng().fill_bytes(&mut secret);
    let name = format!("orch-{}-{:04x}", Timestamp::now().strftime("%Y%m%d%H%M%S"), rand::random::<u16>());
    (name, secret)
}

fn write(path: &Path, config: &Value) -> Result<(), EncryptionError> {
    let failed = |e| EncryptionError::File(path.to_owned(), e);
    if let Some(dir) = path.parent() {
        files::create_dir_durable(dir).map_err(failed)?;
    }
    let text = serde_json::to_vec_pretty(config).expect("a JSON value serializes");
    files::write_atomic(path, &text, files::SECRET_MODE).map_err(failed)
}
