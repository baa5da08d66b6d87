//! Plugins that make themselves known: sockets in a directory, one for each.
//!
//! In: changes of `plugins_registry`. Out: drivers registered and forgotten, and each plugin told how that went.
//! Rules: upstream `pkg/kubelet/pluginmanager`, `pluginregistration/v1`.
//!
//! **Invariant:** a driver is known from the moment that its plugin was told so, until its socket is gone.
//! **Invariant:** one that does not answer holds up no other.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;

use crate::kubelet::cri;
use crate::kubelet::cri::proto::registration as pb;
use crate::kubelet::cri::proto::registration::registration_client::RegistrationClient;
use crate::util::backoff::Backoff;
use crate::util::file_watch::FileWatch;
use crate::util::tasks::Shutdown;

/// Deadline of a call to a plugin.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Between attempts at plugins that could not be registered.
const RETRY: Backoff = Backoff { base: Duration::from_millis(500), cap: Duration::from_secs(120) };
/// The kind of plugin that is served.
const CSI: &str = "CSIPlugin";
/// Sockets that are looked at; what more there are is not.
const MAX_SOCKETS: usize = 256;

/// What becomes of plugins.
#[async_trait]
pub trait Handler: Send + Sync {
    /// A plugin's driver is there. An error is told to the plugin, and it is tried again.
    async fn add(&self, driver: &str, socket: &Path) -> Result<(), String>;
    /// It is gone.
    async fn remove(&self, driver: &str);
}

/// Tells a socket from another one that was made at its place.
type Stamp = (u64, i64, i64);

/// A socket that has been seen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    stamp: Stamp,
    /// The driver behind it, once it is registered; none for what is no driver.
    driver: Option<String>,
}

/// What a look at the directory asks for.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    /// Sockets to ask who they are.
    ask: Vec<(PathBuf, Stamp)>,
    /// Sockets that are gone.
    gone: Vec<PathBuf>,
}

fn compare(known: &BTreeMap<PathBuf, Known>, found: &BTreeMap<PathBuf, Stamp>) -> Change {
    let new = found.iter().filter(|(path, stamp)| known.get(*path).is_none_or(|k| k.stamp != **stamp));
    let gone = known.keys().filter(|path| !found.contains_key(*path));
    Change { ask: new.map(|(p, s)| (p.clone(), *s)).collect(), gone: gone.cloned().collect() }
}

/// The sockets in a directory; hidden files are none.
fn sockets(dir: &Path) -> BTreeMap<PathBuf, Stamp> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let socket = |e: std::fs::DirEntry| {
        let meta = e.metadata().ok()?;
        let hidden = e.file_name().to_string_lossy().starts_with('.');
        (meta.file_type().is_socket() && !hidden).then(|| (e.path(), (meta.ino(), meta.ctime(), meta.ctime_nsec())))
    };
    entries.filter_map(socket).take(MAX_SOCKETS).collect()
}

/// Follows the plugins in `dir` until the shutdown.
///
/// # Errors
/// The directory cannot be made or watched.
pub async fn run(dir: &Path, handler: &dyn Handler, shutdown: &Shutdown) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut watch = FileWatch::new([&*dir.join("plugin")])?;
    let (mut known, mut failures) = (BTreeMap::new(), 0u32);
    loop {
        let all_well = look(dir, handler, &mut known).await;
        failures = if all_well { 0 } else { failures.saturating_add(1) };
        let again = async {
            match failures {
                0 => std::future::pending().await,
                n => tokio::time::sleep(RETRY.delay(n)).await,
            }
        };
        tokio::select! {
            () = shutdown.wait() => return Ok(()),
            changed = watch.changed() => changed?,
            () = again => {}
        }
    }
}

/// Brings the handler up to date. False when something has to be tried again.
async fn look(dir: &Path, handler: &dyn Handler, known: &mut BTreeMap<PathBuf, Known>) -> bool {
    let Change { ask, gone } = compare(known, &sockets(dir));
    for path in gone {
        let Some(driver) = known.remove(&path).and_then(|k| k.driver) else { continue };
        // Another version may have brought a socket of its own.
        if !known.values().any(|k| k.driver.as_ref() == Some(&driver)) {
            handler.remove(&driver).await;
        }
    }
    let asked = join_all(ask.iter().map(|(path, _)| register(path, handler))).await;
    let mut all_well = true;
    for ((path, stamp), result) in ask.into_iter().zip(asked) {
        match result {
            Ok(driver) => drop(known.insert(path, Known { stamp, driver })),
            Err(why) => {
                tracing::warn!(socket = %path.display(), "cannot register the plugin, trying again: {why}");
                all_well = false;
            }
        }
    }
    all_well
}

/// Asks who is behind a socket, and registers a driver. None when it is none that is served.
async fn register(socket: &Path, handler: &dyn Handler) -> Result<Option<String>, String> {
    let mut client = RegistrationClient::new(cri::channel(socket));
    let text = |e: crate::kubelet::runtime::RuntimeError| e.to_string();
    let info = cri::call("get plugin info", CALL_TIMEOUT, client.get_info(pb::InfoRequest {})).await.map_err(text)?;
    let judged = judge(&info);
    let endpoint = if info.endpoint.is_empty() { socket } else { Path::new(&info.endpoint) };
    let added = match &judged {
        Ok(()) => handler.add(&info.name, endpoint).await,
        Err(why) => Err(why.clone()),
    };
    let status = pb::RegistrationStatus {
        plugin_registered: added.is_ok(),
        error: added.as_ref().err().cloned().unwrap_or_default(),
    };
    let told = cri::call("tell the plugin", CALL_TIMEOUT, client.notify_registration_status(status)).await;
    match (judged, added) {
        // It will not become another kind of plugin.
        (Err(why), _) => {
            tracing::warn!(socket = %socket.display(), "the plugin is not served: {why}");
            Ok(None)
        }
        (Ok(()), Err(why)) => Err(why),
        (Ok(()), Ok(())) => {
            told.map_err(text)?;
            tracing::info!(driver = info.name, "registered");
            Ok(Some(info.name))
        }
    }
}

/// Why a plugin is not served.
fn judge(info: &pb::PluginInfo) -> Result<(), String> {
    if info.r#type != CSI {
        return Err(format!("no handler registered for plugin type: {}", info.r#type));
    }
    if info.name.is_empty() {
        return Err("the plugin has no name".into());
    }
    let major = |v: &String| v.trim_start_matches('v').split('.').next().map(str::to_owned);
    if info.supported_versions.iter().any(|v| major(v).as_deref() == Some("1")) {
        return Ok(());
    }
    Err(format!(
        "driver {} supports none of the versions that are served, 1.x: {:?}",
        info.name, info.supported_versions
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn known(all: &[(&str, u64)]) -> BTreeMap<PathBuf, Known> {
        let one = |(p, n): &(&str, u64)| (PathBuf::from(p), Known { stamp: (*n, 0, 0), driver: Some("d".into()) });
        all.iter().map(one).collect()
    }

    #[test_case(&[], &[("a", 1)], &["a"], &[]; "a new one")]
    #[test_case(&[("a", 1)], &[("a", 1)], &[], &[]; "nothing new")]
    #[test_case(&[("a", 1)], &[("a", 2)], &["a"], &[]; "made anew at its place")]
    #[test_case(&[("a", 1), ("b", 1)], &[("b", 1)], &[], &["a"]; "gone")]
    fn looks(before: &[(&str, u64)], found: &[(&str, u64)], ask: &[&str], gone: &[&str]) {
        let found = found.iter().map(|(p, n)| (PathBuf::from(p), (*n, 0, 0))).collect();
        let change = compare(&known(before), &found);
        let names = |all: Vec<PathBuf>| all.iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
        assert_eq!(names(change.ask.into_iter().map(|(p, _)| p).collect()), ask);
        assert_eq!(names(change.gone), gone);
    }

    #[test_case("CSIPlugin", &["1.0.0"], true)]
    #[test_case("CSIPlugin", &["v0.3.0", "1.11.0"], true)]
    #[test_case("CSIPlugin", &["0.3.0"], false)]
    #[test_case("DevicePlugin", &["1.0.0"], false)]
    fn judged(kind: &str, versions: &[&str], good: bool) {
        let supported_versions = versions.iter().map(|v| (*v).to_owned()).collect();
        let info =
            pb::PluginInfo { r#type: kind.into(), name: "d".into(), endpoint: String::new(), supported_versions };
        assert_eq!(judge(&info).is_ok(), good);
    }

    #[test]
    fn only_sockets_count() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let _one = std::os::unix::net::UnixListener::bind(dir.path().join("d-reg.sock")).unwrap();
        let _hidden = std::os::unix::net::UnixListener::bind(dir.path().join(".d.sock")).unwrap();
        assert_eq!(sockets(dir.path()).keys().collect::<Vec<_>>(), [&dir.path().join("d-reg.sock")]);
    }
}
