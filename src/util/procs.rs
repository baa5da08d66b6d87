//! Processes of this machine: what they were started with, whose children they are, and how they are ended.
//!
//! In: `/proc`. Out: [`Process`]es, each told apart from a later one with the same pid by its start time.
//!
//! **Invariant:** only the process that was looked at is ever signalled.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

use crate::util::sys;

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Clock ticks from boot to its start.
    pub start: u64,
    /// Program and arguments; empty for the kernel's own.
    pub arguments: Vec<String>,
}

impl Process {
    /// The last part of the program's path.
    pub fn program(&self) -> &str {
        self.arguments.first().and_then(|a| a.rsplit('/').next()).unwrap_or_default()
    }

    /// The argument that follows `flag`, or is joined to it by `=`.
    pub fn option(&self, flag: &str) -> Option<&str> {
        let joined = |a: &'_ String| a.strip_prefix(flag).is_some_and(|rest| rest.starts_with('='));
        match self.arguments.iter().position(|a| a == flag) {
            Some(at) => self.arguments.get(at + 1).map(String::as_str),
            None => self.arguments.iter().find(|a| joined(a)).map(|a| &a[flag.len() + 1..]),
        }
    }

    /// The same one still runs; a zombie does not.
    pub fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.start)
    }

    /// Where it was when a path of its arguments was meant.
    pub fn directory(&self) -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/{}/cwd", self.pid)).ok()
    }
}

/// Every process that can be read.
pub fn all() -> io::Result<Vec<Process>> {
    let pids = std::fs::read_dir("/proc")?.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    Ok(pids.filter_map(read).collect())
}

/// One process; none when it is gone, or a zombie.
pub fn read(pid: u32) -> Option<Process> {
    let (parent, start) = parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = line.split(|b| *b == 0).filter(|w| !w.is_empty());
    let arguments = words.map(|w| String::from_utf8_lossy(w).into_owned()).collect();
    Some(Process { pid, parent, start, arguments })
}

/// Those of `all` that descend from `roots`, without them.
pub fn descendants(all: &[Process], roots: &[Process]) -> Vec<Process> {
    let mut known: HashSet<u32> = roots.iter().map(|p| p.pid).collect();
    let mut found = Vec::new();
    loop {
        let new: Vec<&Process> = all.iter().filter(|p| known.contains(&p.parent) && !known.contains(&p.pid)).collect();
        if new.is_empty() {
            return found;
        }
        known.extend(new.iter().map(|p| p.pid));
        found.extend(new.into_iter().cloned());
    }
}

/// Field 22 of `/proc/<pid>/stat`; none when there is no such process, or it is a zombie.
pub fn start_time(pid: u32) -> Option<u64> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?).map(|(_, start)| start)
}

/// Parent and start time.
fn parse_stat(stat: &str) -> Option<(u32, u64)> {
    // The second field is the program's name in parentheses and may hold anything, parentheses too.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    match fields.next()? {
        "Z" | "X" => None,
        _ => Some((fields.next()?.parse().ok()?, fields.nth(17)?.parse().ok()?)),
    }
}

/// Asks all of them to end, waits for `grace`, kills those that are left, and waits for `grace` again.
///
/// Errors: names one that still runs.
pub async fn end(processes: &[Process], grace: Duration) -> io::Result<()> {
    let mut left: Vec<&Process> = processes.iter().collect();
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        left.retain(|p| p.is_alive());
        for process in &left {
            // One that ended meanwhile is what is wanted.
            let _ = kill(Pid::from_raw(i32::try_from(process.pid).map_err(io::Error::other)?), signal);
        }
        let deadline = Instant::now() + grace;
        for process in &left {
            let _ = tokio::time::timeout_at(deadline, ended(process)).await;
        }
    }
    left.retain(|p| p.is_alive());
    match left.first() {
        None => Ok(()),
        Some(p) => Err(io::Error::other(format!("process {} ({}) does not end", p.pid, p.program()))),
    }
}

/// Completes when the process has ended; it need not be a child.
async fn ended(process: &Process) -> io::Result<()> {
    let fd = match sys::pidfd_open(process.pid) {
        Ok(fd) => fd,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        Err(error) => return Err(error),
    };
    // Looked at after the descriptor was made: from here on the pid cannot become another process unseen.
    if !process.is_alive() {
        return Ok(());
    }
    sys::wait_readable(fd)?.readable().await.map(drop)
}

/// Where mounts are, as `/proc/self/mountinfo` tells, in the order they were made.
pub fn mount_points() -> io::Result<Vec<PathBuf>> {
    Ok(points_of(&std::fs::read_to_string("/proc/self/mountinfo")?).collect())
}

/// The same from the text of such a file.
pub fn points_of(mountinfo: &str) -> impl Iterator<Item = PathBuf> {
    mountinfo.lines().filter_map(mount_point)
}

fn mount_point(line: &str) -> Option<PathBuf> {
    let text = line.split(' ').nth(4)?;
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    // The kernel writes space, tab, newline and backslash as three octal digits.
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok())?;
        out.push(char::from(code));
        rest = &after[3..];
    }
    out.push_str(rest);
    Some(Path::new(&out).to_owned())
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    fn process(pid: u32, parent: u32, line: &str) -> Process {
        Process { pid, parent, start: 1, arguments: line.split(' ').map(str::to_owned).collect() }
    }

    #[test_case("7 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20" => Some((1, 4242)); "name with parentheses")]
    #[test_case("7 (a) Z 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20" => None; "zombie")]
    #[test_case("" => None; "nothing")]
    fn stat(text: &str) -> Option<(u32, u64)> {
        parse_stat(text)
    }

    #[test]
    fn children_of_children_are_found_and_roots_are_not() {
        let all =
            [process(1, 0, "init"), process(5, 1, "shim"), process(7, 6, "c"), process(6, 5, "b"), process(8, 1, "x")];
        let found: Vec<u32> = descendants(&all, &all[1..2]).iter().map(|p| p.pid).collect();
        assert_eq!(found, [6, 7]);
    }

    #[test_case("/usr/bin/containerd --config /d/c.toml", "--config" => Some("/d/c.toml".to_owned()))]
    #[test_case("orch server --data-dir=/d", "--data-dir" => Some("/d".to_owned()); "joined")]
    #[test_case("orch server --data-directory=/d", "--data-dir" => None; "another flag")]
    #[test_case("orch server --data-dir", "--data-dir" => None; "nothing follows")]
    fn options(line: &str, flag: &str) -> Option<String> {
        process(1, 0, line).option(flag).map(str::to_owned)
    }

    #[test_case("29 1 0:25 / /run/a\\040b rw shared:5 - tmpfs tmpfs rw" => Some(PathBuf::from("/run/a b")))]
    #[test_case("29 1 0:25 / / rw - ext4 /dev/vda rw" => Some(PathBuf::from("/")))]
    #[test_case("29 1" => None)]
    fn mounts(line: &str) -> Option<PathBuf> {
        mount_point(line)
    }

    #[tokio::test]
    async fn a_process_is_ended_and_a_stranger_with_its_number_is_not() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        // Between the fork and the end of `exec` a process has no arguments yet, or its parent's.
        let exec = async {
            loop {
                match read(child.id()) {
                    Some(found) if found.program() == "sleep" => break found,
                    _ => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(10), exec).await.expect("sleep starts");
        assert_eq!((found.program(), found.parent), ("sleep", std::process::id()));
        let stranger = Process { start: found.start + 1, ..found.clone() };
        end(&[stranger], Duration::from_secs(5)).await.unwrap();
        assert!(found.is_alive());
        end(std::slice::from_ref(&found), Duration::from_secs(5)).await.unwrap();
        assert!(!found.is_alive(), "a zombie counts as ended");
        child.wait().unwrap();
    }
}
