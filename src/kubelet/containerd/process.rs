//! One containerd process: told apart from a stranger with the same pid, waited for without being its parent.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::net::UnixDatagram;

use super::config::Programs;
use crate::util::files::write_atomic;
use crate::util::procs::start_time;
use crate::util::sys;

/// A process that stays the same one: pids are used again, a pid with its start time is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Clock ticks since boot.
    start_time: u64,
    /// Hash of the configuration it read at its start.
    pub(super) config: u32,
}

impl Process {
    /// Starts containerd as a daemon of its own, since what it makes (roots of containers, their resolv.conf) is for other
    /// users, too; its log goes to `log`, its readiness to `notify`.
    pub(super) fn spawn(
        programs: &Programs,
        config: &Path,
        hash: u32,
        log: &Path,
        notify: &Path,
    ) -> io::Result<(Self, std::process::Child)> {
        let log = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(log)?;
        let mut command = Command::new(&programs.containerd);
        command
            .arg("--config")
            .arg(config)
            .env("PATH", &programs.path)
            .env("NOTIFY_SOCKET", notify)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = sys::as_daemon(&mut command).spawn()?;
        let pid = child.id();
        let start_time = start_time(pid).ok_or_else(|| io::Error::other("it ended at once"))?;
        Ok((Self { pid, start_time, config: hash }, child))
    }

    /// The process that `file` names, if it still runs.
    pub(super) fn load(file: &Path) -> Option<Self> {
        let process: Self = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
        process.is_alive().then_some(process)
    }

    /// Writes the pid file.
    pub(super) fn save(&self, file: &Path) -> io::Result<()> {
        write_atomic(file, &serde_json::to_vec(self)?, 0o600)
    }

    pub(super) fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }

    /// Completes when the process has ended.
    pub(super) async fn ended(&self) -> io::Result<()> {
        let fd = match sys::pidfd_open(self.pid) {
            Ok(fd) => fd,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
            Err(error) => return Err(error),
        };
        // Looked at after the descriptor was made: from here on the pid cannot become another process unseen.
        if !self.is_alive() {
            return Ok(());
        }
        sys::wait_readable(fd)?.readable().await.map(drop)
    }

    /// Asks it to end, and kills it when it did not within `grace`.
    pub(super) async fn terminate(&self, grace: Duration) -> io::Result<()> {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            if !self.is_alive() {
                break;
            }
            let pid = i32::try_from(self.pid).map_err(io::Error::other)?;
            let _ = kill(Pid::from_raw(pid), signal);
            if let Ok(end) = tokio::time::timeout(grace, self.ended()).await {
                return end;
            }
        }
        Ok(())
    }
}

/// The socket on which a daemon says that it serves (`sd_notify`).
pub(super) struct Readiness(UnixDatagram);

impl Readiness {
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        UnixDatagram::bind(path).map(Self)
    }

    /// Completes at `READY=1`.
    pub(super) async fn ready(&self) -> io::Result<()> {
        let mut message = [0; 512];
        loop {
            let n = self.0.recv(&mut message).await?;
            if message[..n].split(|b| *b == b'\n').any(|line| line == b"READY=1") {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_that_is_not_ours_is_waited_for_and_never_mistaken() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process { pid: child.id(), start_time: start_time(child.id()).unwrap(), config: 0 };
        assert!(process.is_alive());
        let stranger = Process { start_time: process.start_time + 1, ..process.clone() };
        assert!(!stranger.is_alive());
        stranger.ended().await.unwrap();
        process.terminate(Duration::from_secs(5)).await.unwrap();
        assert!(!process.is_alive(), "a zombie counts as ended");
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn readiness_is_one_line_among_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        let readiness = Readiness::bind(&path).unwrap();
        let daemon = UnixDatagram::unbound().unwrap();
        daemon.send_to(b"STATUS=starting", &path).await.unwrap();
        daemon.send_to(b"MAINPID=1\nREADY=1", &path).await.unwrap();
        readiness.ready().await.unwrap();
    }
}
