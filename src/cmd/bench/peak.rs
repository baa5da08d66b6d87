//! The most memory that a server had during a workload, as the kernel counts it; the server is a process of this machine.
//!
//! It counts what was resident (`VmHWM`), pages that it shares with others included.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;

/// Makes the kernel forget the peak so far. See proc(5), `clear_refs`.
const FORGET_PEAK: &str = "5";

/// Of one process.
pub(super) struct Peak(PathBuf);

impl Peak {
    /// Counts from now on.
    pub(super) fn of(pid: u32) -> anyhow::Result<Self> {
        let peak = Self(format!("/proc/{pid}").into());
        peak.forget()?;
        Ok(peak)
    }

    /// Counts anew.
    pub(super) fn forget(&self) -> anyhow::Result<()> {
        let file = self.0.join("clear_refs");
        fs::write(&file, FORGET_PEAK).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Megabytes.
    pub(super) fn megabytes(&self) -> anyhow::Result<f64> {
        let file = self.0.join("status");
        let status = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let kilobytes = kilobytes(&status).with_context(|| format!("{} has no VmHWM", file.display()))?;
        Ok((kilobytes as f64 * 1.024 / 100.0).round() / 10.0)
    }
}

/// The kernel's kB are of 1,024 bytes.
fn kilobytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_of_this_process_is_known() {
        assert_eq!(kilobytes("Name:\tx\nVmPeak:\t 99 kB\nVmHWM:\t  1234 kB\n"), Some(1234));
        assert_eq!(kilobytes("Name:\tx\n"), None);
        assert!(Peak(format!("/proc/{}", std::process::id()).into()).megabytes().unwrap() > 1.0);
    }
}
