//! What the machine is and has, read from `/proc`, `/sys` and `/etc`.

use std::path::Path;

/// Facts of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Machine {
    /// Logical CPUs.
    pub cpus: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of memory that could be used now, see [`memory`].
    pub memory_available: u64,
    /// Bytes of the data directory's file system.
    pub disk: u64,
    /// Bytes of it that are free.
    pub disk_available: u64,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The board's uuid, or the machine id.
    pub system_uuid: String,
    /// Of this boot.
    pub boot_id: String,
    /// Kernel release.
    pub kernel: String,
    /// `PRETTY_NAME` of os-release.
    pub os_image: String,
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn kib(meminfo: &str, key: &str) -> u64 {
    let line = meminfo.lines().find(|l| l.starts_with(key));
    line.and_then(|l| l.split_whitespace().nth(1)).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn pretty_name(os_release: &str) -> String {
    let line = os_release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    line.unwrap_or("Linux").trim_matches('"').to_owned()
}

impl Machine {
    /// Reads everything. What cannot be read is zero or empty.
    pub fn read(data_dir: &Path) -> Self {
        let memory = memory();
        let disk = nix::sys::statvfs::statvfs(data_dir).ok();
        let bytes = |blocks: u64| disk.as_ref().map_or(0, |d| blocks * d.fragment_size());
        let machine_id = read("/etc/machine-id");
        let uuid = read("/sys/class/dmi/id/product_uuid");
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory: memory.total,
            memory_available: memory.available,
            disk: bytes(disk.as_ref().map_or(0, |d| d.blocks())),
            disk_available: bytes(disk.as_ref().map_or(0, |d| d.blocks_available())),
            system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
            machine_id,
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            kernel: read("/proc/sys/kernel/osrelease"),
            os_image: pretty_name(&read("/etc/os-release")),
        }
    }
}

/// Bytes of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// In all.
    pub total: u64,
    /// What is neither used nor would be missed: free pages, and those of files that nobody touched lately. Upstream counts
    /// so (`memory.available`), and less than the kernel's own estimate.
    pub available: u64,
}

/// The memory as it is now.
pub fn memory() -> Memory {
    memory_of(&read("/proc/meminfo"))
}

fn memory_of(meminfo: &str) -> Memory {
    let available = kib(meminfo, "MemFree:") + kib(meminfo, "Inactive(file):");
    Memory { total: kib(meminfo, "MemTotal:"), available }
}

/// CPU time that the machine has used, nanoseconds; from `/proc/stat`, where no cgroup tells.
pub fn cpu_nanos() -> Option<u64> {
    cpu_of(&read("/proc/stat"))
}

/// All columns of the first line but idle and iowait; guests are counted in the first two already. Hundredths of a second.
fn cpu_of(stat: &str) -> Option<u64> {
    let columns: Vec<u64> =
        stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().flat_map(str::parse).collect();
    let used = columns.iter().take(8).enumerate().filter(|(i, _)| !matches!(i, 3 | 4)).map(|(_, n)| n);
    (columns.len() >= 8).then(|| used.sum::<u64>() * 10_000_000)
}

/// Process ids that are left, and all of them; none where it cannot be told.
pub fn pids() -> Option<(u64, u64)> {
    let most: u64 = read("/proc/sys/kernel/pid_max").parse().ok()?;
    let load = read("/proc/loadavg");
    let running: u64 = load.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    Some((most.saturating_sub(running), most))
}

/// The architecture as Go names it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_machine() {
        let m = Machine::read(Path::new("/"));
        assert!(m.cpus > 0 && m.memory > 0 && m.disk > 0 && m.memory_available <= m.memory);
        assert!(!m.kernel.is_empty());
    }

    #[test]
    fn parses_what_it_reads() {
        assert_eq!(kib("MemTotal:       16 kB\nMemFree: 1 kB\n", "MemTotal:"), 16 * 1024);
        let meminfo = "MemTotal: 9 kB\nMemFree: 1 kB\nMemAvailable: 7 kB\nInactive(file): 3 kB\n";
        assert_eq!(memory_of(meminfo), Memory { total: 9 * 1024, available: 4 * 1024 });
        assert_eq!(cpu_of("cpu  1 2 3 100 200 4 5 6 0 0\ncpu0 1 2\n"), Some(210_000_000));
        assert!(cpu_nanos().is_some_and(|n| n > 0));
        assert!(pids().is_some_and(|(left, all)| left > 0 && left < all));
        assert_eq!(pretty_name("NAME=x\nPRETTY_NAME=\"Debian 13\"\n"), "Debian 13");
    }
}
