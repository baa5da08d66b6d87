//! A private containerd: its own root, state, socket and configuration, started, adopted, watched and started again.
//!
//! In: a data directory, the programs on the machine. Out: a socket that speaks CRI. Containers live under shims that
//! outlive both containerd and orch; so containerd is left running when orch stops, and the next orch adopts it.
//!
//! **Invariant:** only a process that our pid file names (pid and start time) is ever signalled.
//! **Invariant:** containerd runs with the configuration on disk, or is started again with it.

mod config;
mod process;

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tokio::time::Instant;

pub use self::config::{Machine, Programs, Settings, quoted};
use self::process::{Process, Readiness};
use crate::kubelet::cri::CriRuntime;
use crate::kubelet::registries::{self, Registries};
use crate::kubelet::runtime::{Runtime, RuntimeError};
use crate::kubelet::{images, pause};
use crate::util::backoff::Backoff;
use crate::util::files::write_atomic;
use crate::util::procs::mount_points;
use crate::util::tasks::Shutdown;

/// Time for containerd to serve after its start; slow disks with many containers need some.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for containerd to stop after SIGTERM.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// Pause between questions whether the CRI plugin serves yet; it says so in no other way.
const READY_BACKOFF: Backoff = Backoff { base: Duration::from_millis(5), cap: Duration::from_millis(500) };
/// Size at which the log is cut, bytes; as much again is kept of the one before.
const LOG_LIMIT_BYTES: u64 = 8 << 20;
/// How often the log's size is looked at. At level `warn` it grows slowly.
const LOG_CHECK: Duration = Duration::from_secs(600);
/// Longest path of a unix socket, bytes (`sun_path` less its final zero).
const SOCKET_PATH_LIMIT: usize = 107;

/// Why there is no containerd.
#[derive(Debug, thiserror::Error)]
pub enum ContainerdError {
    /// A program is missing; the text names the package.
    #[error("{0}")]
    Missing(String),
    /// A file, directory or process could not be dealt with.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The data directory's name is too long for a socket in it.
    #[error("the path {0} is longer than a unix socket's may be (107 bytes); choose a shorter --data-dir")]
    SocketPath(PathBuf),
    /// It ended, or did not serve in time.
    #[error("containerd did not start: {why}; its log is {log}")]
    NotServing {
        /// What happened, with the last line of the log.
        why: String,
        /// The log.
        log: PathBuf,
    },
    /// The pause image could not be imported.
    #[error("cannot import the pause image: {0}")]
    Pause(#[from] images::ImportError),
}

type Result<T> = std::result::Result<T, ContainerdError>;

fn at<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ContainerdError + 'a {
    move |source| ContainerdError::Io { what, path: path.to_owned(), source }
}

/// What the supervisor is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Below it lie root, configuration, log and pid file: `<data-dir>/agent/containerd`.
    pub dir: PathBuf,
    /// Below it lie socket and state: `/run/orch/containerd`, or a directory of its own for another data directory.
    pub run_dir: PathBuf,
    /// Image of sandboxes; none for orch's own, which needs no registry.
    pub pause_image: Option<String>,
    /// CNI plugins.
    pub cni_bin_dir: PathBuf,
    /// CNI configuration.
    pub cni_conf_dir: PathBuf,
    /// Mirrors, credentials and CAs of registries.
    pub registries: Registries,
    /// cgroups are made by systemd.
    pub systemd_cgroup: bool,
}

impl Options {
    /// The usual directories for a data directory.
    pub fn for_data_dir(data_dir: &Path) -> Self {
        let dir = data_dir.join("agent/containerd");
        let is_default = data_dir == Path::new("/var/lib/orch");
        let run_dir = if is_default { PathBuf::from("/run/orch/containerd") } else { dir.join("run") };
        Self {
            dir,
            run_dir,
            pause_image: None,
            cni_bin_dir: data_dir.join("agent/cni/bin"),
            cni_conf_dir: data_dir.join("agent/cni/net.d"),
            registries: Registries::default(),
            systemd_cgroup: false,
        }
    }

    /// Where it serves.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("containerd.sock")
    }
}

/// A private containerd that was started or adopted.
pub struct Containerd {
    settings: Settings,
    programs: Programs,
    files: Files,
    own_pause: bool,
    config: String,
    current: Mutex<Option<Process>>,
}

#[derive(Debug, Clone)]
struct Files {
    config: PathBuf,
    log: PathBuf,
    pid: PathBuf,
    notify: PathBuf,
}

impl Containerd {
    /// Finds the programs, looks at the machine, makes the directories. Starts nothing.
    pub fn prepare(options: &Options) -> Result<Self> {
        let path = std::env::var("PATH").unwrap_or_default();
        let programs = Programs::find(&path).map_err(ContainerdError::Missing)?;
        let settings = Settings {
            root: options.dir.join("root"),
            state: options.run_dir.join("state"),
            socket: options.socket(),
            pause_image: options.pause_image.clone().unwrap_or_else(|| pause::IMAGE.to_owned()),
            cni_bin_dir: options.cni_bin_dir.clone(),
            cni_conf_dir: options.cni_conf_dir.clone(),
            registry_dir: options.dir.join("registries"),
            credentials: registries::credentials(&options.registries),
            systemd_cgroup: options.systemd_cgroup,
        };
        // containerd makes a second socket beside it, with a longer name.
        if settings.socket.as_os_str().len() + ".ttrpc".len() > SOCKET_PATH_LIMIT {
            return Err(ContainerdError::SocketPath(settings.socket));
        }
        let dirs =
            [&settings.root, &settings.state, &settings.registry_dir, &settings.cni_bin_dir, &settings.cni_conf_dir];
        for dir in dirs {
            std::fs::create_dir_all(dir).map_err(at("make the directory", dir))?;
        }
        write_hosts(&settings.registry_dir, &options.registries)
            .map_err(at("write the registries' files in", &settings.registry_dir))?;
        let machine = Machine::look(&settings.root);
        for lack in machine.shortcomings() {
            tracing::info!("containerd: {lack}");
        }
        let files = Files {
            config: options.dir.join("config.toml"),
            log: options.dir.join("containerd.log"),
            pid: options.run_dir.join("containerd.pid"),
            notify: options.run_dir.join("notify.sock"),
        };
        let config = config::render(&settings, &programs, machine);
        let own_pause = options.pause_image.is_none();
        Ok(Self { settings, programs, files, own_pause, config, current: Mutex::new(None) })
    }

    /// Where it serves CRI and its own API.
    pub fn socket(&self) -> &Path {
        &self.settings.socket
    }

    /// Image of sandboxes.
    pub fn pause_image(&self) -> &str {
        &self.settings.pause_image
    }

    /// Pid of the process in charge.
    pub fn pid(&self) -> Option<u32> {
        self.current.lock().as_ref().map(|p| p.pid)
    }

    /// Adopts the containerd of an earlier orch if it runs with this configuration, else starts one; returns when it
    /// serves CRI and has the pause image.
    pub async fn start(&self) -> Result<()> {
        if !self.adopt().await? {
            self.launch().await?;
        }
        if self.own_pause {
            self.ensure_pause_image().await?;
        }
        Ok(())
    }

    /// Watches the process and starts it again with backoff whenever it ends, until `stop`. Containers go on meanwhile.
    pub async fn supervise(&self, stop: &Shutdown) -> anyhow::Result<()> {
        let mut failures = 0;
        while !stop.is_triggered() {
            let Some(process) = self.current.lock().clone() else { anyhow::bail!("containerd was never started") };
            let began = Instant::now();
            tokio::select! {
                () = stop.wait() => break,
                ended = process.ended() => ended?,
                never = self.keep_log_bounded() => match never {},
            }
            failures = if began.elapsed() > Backoff::RESTART.cap { 0 } else { failures };
            tracing::warn!(pid = process.pid, "containerd ended; starting it again (containers keep running)");
            while stop.or(tokio::time::sleep(Backoff::RESTART.delay(failures))).await.is_some() {
                failures += 1;
                match self.start().await {
                    Ok(()) => break,
                    Err(error) => tracing::error!("{error}"),
                }
            }
        }
        Ok(())
    }

    /// Ends everything: sandboxes with their containers, containerd, shims, mounts. For uninstallation and tests.
    pub async fn stop(&self) -> Result<()> {
        let runtime = CriRuntime::new(&self.settings.socket);
        for sandbox in runtime.inventory().await.map(|i| i.sandboxes).unwrap_or_default() {
            for step in [runtime.stop_sandbox(&sandbox.id).await, runtime.remove_sandbox(&sandbox.id).await] {
                if let Err(error) = step {
                    tracing::warn!("while stopping everything: {error}");
                }
            }
        }
        self.kill().await?;
        self.kill_shims().map_err(at("look through", Path::new("/proc")))?;
        self.unmount_all().map_err(at("read", Path::new("/proc/self/mountinfo")))
    }

    /// Ends containerd alone; containers keep running.
    pub async fn kill(&self) -> Result<()> {
        let process = self.current.lock().take().or_else(|| Process::load(&self.files.pid));
        if let Some(process) = process {
            process.terminate(STOP_GRACE).await.map_err(at("stop the process of", &self.files.pid))?;
        }
        Ok(())
    }

    fn config_hash(&self) -> u32 {
        crc32c::crc32c(self.config.as_bytes())
    }

    /// True when a running containerd of ours was taken over; one that cannot be used is ended.
    async fn adopt(&self) -> Result<bool> {
        let Some(process) = Process::load(&self.files.pid) else { return Ok(false) };
        if process.config == self.config_hash() && self.serves(Duration::from_secs(5)).await.is_ok() {
            tracing::info!(pid = process.pid, "adopted the running containerd");
            *self.current.lock() = Some(process);
            return Ok(true);
        }
        tracing::info!(
            pid = process.pid,
            "the running containerd has another configuration or does not answer; ending it"
        );
        process.terminate(STOP_GRACE).await.map_err(at("stop the process of", &self.files.pid))?;
        Ok(false)
    }

    async fn launch(&self) -> Result<()> {
        let Files { config, log, pid, notify } = &self.files;
        write_atomic(config, self.config.as_bytes(), 0o600).map_err(at("write", config))?;
        let readiness = Readiness::bind(notify).map_err(at("listen on", notify))?;
        let containerd = &self.programs.containerd;
        let (process, mut child) =
            Process::spawn(&self.programs, config, self.config_hash(), log, notify).map_err(at("run", containerd))?;
        process.save(pid).map_err(at("write", pid))?;
        // A child has to be reaped by somebody; its end itself is seen through the process descriptor.
        std::thread::Builder::new()
            .name("containerd-reaper".into())
            .spawn(move || child.wait())
            .map_err(at("wait for", containerd))?;
        tracing::info!(pid = process.pid, "started containerd");
        let failed =
            |why: String| ContainerdError::NotServing { why: format!("{why}{}", last_line(log)), log: log.clone() };
        let ready = tokio::select! {
            ready = tokio::time::timeout(START_TIMEOUT, readiness.ready()) => match ready {
                Ok(ready) => ready.map_err(|e| failed(e.to_string())),
                Err(_) => Err(failed(format!("not ready after {} s", START_TIMEOUT.as_secs()))),
            },
            _ = process.ended() => Err(failed("it ended".to_owned())),
        };
        let served = match ready {
            Ok(()) => self.serves(START_TIMEOUT).await.map_err(|e| failed(e.to_string())),
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            process.terminate(STOP_GRACE).await.map_err(at("stop the process of", pid))?;
            return Err(error);
        }
        *self.current.lock() = Some(process);
        Ok(())
    }

    /// Asks until the CRI plugin answers: containerd says that it is ready a little before its plugins are.
    async fn serves(&self, within: Duration) -> std::result::Result<(), RuntimeError> {
        let runtime = CriRuntime::new(&self.settings.socket);
        let end = Instant::now() + within;
        let mut asked = 0;
        loop {
            match tokio::time::timeout_at(end, runtime.not_ready()).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) if Instant::now() >= end => return Err(error),
                Ok(Err(_)) => {}
                Err(_) => return Err(RuntimeError::Timeout("asking containerd for its status".into())),
            }
            asked += 1;
            tokio::time::sleep(READY_BACKOFF.delay(asked)).await;
        }
    }

    async fn ensure_pause_image(&self) -> Result<()> {
        let runtime = CriRuntime::new(&self.settings.socket);
        if runtime.image(pause::IMAGE).await.is_ok_and(|i| i.is_some()) {
            return Ok(());
        }
        let archive = self.files.config.with_file_name("pause.tar");
        let bytes = pause::archive().map_err(images::ImportError::Read)?;
        write_atomic(&archive, &bytes, 0o644).map_err(at("write", &archive))?;
        images::import(&self.settings.socket, &archive, None, |_| {}).await?;
        std::fs::remove_file(&archive).map_err(at("remove", &archive))
    }

    /// Cuts the log whenever it is found too long.
    async fn keep_log_bounded(&self) -> Infallible {
        loop {
            if let Err(error) = cut_log(&self.files.log, LOG_LIMIT_BYTES) {
                tracing::warn!("cannot cut {}: {error}", self.files.log.display());
            }
            tokio::time::sleep(LOG_CHECK).await;
        }
    }

    /// Kills the shims that were started for our socket.
    fn kill_shims(&self) -> io::Result<()> {
        let address = self.settings.socket.display().to_string();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let arguments: Vec<_> = line.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
            if is_shim_of(&arguments, &address) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        Ok(())
    }

    fn unmount_all(&self) -> io::Result<()> {
        // Later mounts may lie upon earlier ones.
        for point in mount_points()?.iter().rev() {
            if point.starts_with(&self.settings.state) || point.starts_with(&self.settings.root) {
                let _ = umount2(point, MntFlags::MNT_DETACH);
            }
        }
        Ok(())
    }
}

/// Makes the directory hold the `hosts.toml` files of these registries and nothing else. containerd reads them at each pull.
fn write_hosts(dir: &Path, registries: &Registries) -> io::Result<()> {
    let files = registries::hosts_files(registries);
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if !files.iter().any(|f| *f.directory == *entry.file_name()) {
            std::fs::remove_dir_all(entry.path()).or_else(|_| std::fs::remove_file(entry.path()))?;
        }
    }
    for file in files {
        let dir = dir.join(&file.directory);
        std::fs::create_dir_all(&dir)?;
        write_atomic(&dir.join("hosts.toml"), file.text.as_bytes(), 0o600)?;
    }
    Ok(())
}

fn is_shim_of(arguments: &[std::borrow::Cow<'_, str>], address: &str) -> bool {
    let is_shim = arguments.first().is_some_and(|a| a.rsplit('/').next() == Some("containerd-shim-runc-v2"));
    is_shim && arguments.windows(2).any(|pair| pair[0] == "-address" && pair[1] == address)
}

/// `: ` and the last line of a log, for an error message; empty when there is none.
fn last_line(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned();
    text.lines().last().map(|l| format!(": {l}")).unwrap_or_default()
}

/// Moves a log's content beside it once it is longer than `limit` bytes. The daemon appends through the descriptor it
/// has, so the file is emptied, not renamed; lines written between the two steps are lost.
fn cut_log(log: &Path, limit: u64) -> io::Result<()> {
    match log.metadata() {
        Ok(meta) if meta.len() > limit => {
            std::fs::copy(log, log.with_extension("log.1"))?;
            std::fs::OpenOptions::new().write(true).open(log)?.set_len(0)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case(&["/usr/bin/containerd-shim-runc-v2", "-namespace", "k8s.io", "-address", "/a.sock"] => true; "ours")]
    #[test_case(&["/usr/bin/containerd-shim-runc-v2", "-address", "/b.sock"] => false; "of another containerd")]
    #[test_case(&["grep", "containerd-shim-runc-v2", "-address", "/a.sock"] => false; "no shim")]
    fn shims(arguments: &[&str]) -> bool {
        is_shim_of(&arguments.iter().map(|a| (*a).into()).collect::<Vec<_>>(), "/a.sock")
    }

    #[test]
    fn a_long_log_moves_aside_and_the_writer_goes_on() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("c.log");
        let mut daemon = std::fs::OpenOptions::new().append(true).create(true).open(&log).unwrap();
        daemon.write_all(b"0123456789").unwrap();
        cut_log(&log, 10).unwrap();
        assert_eq!(std::fs::read(&log).unwrap(), b"0123456789", "at the limit nothing happens");
        daemon.write_all(b"x").unwrap();
        cut_log(&log, 10).unwrap();
        daemon.write_all(b"new").unwrap();
        assert_eq!(std::fs::read(&log).unwrap(), b"new");
        assert_eq!(std::fs::read(dir.path().join("c.log.1")).unwrap(), b"0123456789x");
    }

    #[test]
    fn the_default_data_directory_has_its_sockets_in_run() {
        assert_eq!(Options::for_data_dir(Path::new("/var/lib/orch")).run_dir, Path::new("/run/orch/containerd"));
        assert_eq!(Options::for_data_dir(Path::new("/d")).run_dir, Path::new("/d/agent/containerd/run"));
    }
}
