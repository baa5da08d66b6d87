//! Settings of the kernel below `/proc/sys`.
//!
//! **Invariant:** what is as it should be is not written: a machine may forbid that and be right all the same.

use std::io;
use std::path::Path;

const FORWARD_IPV6: &str = "net/ipv6/conf/all/forwarding";
const IPV6: &str = "net/ipv6/conf";

/// Sets one, by its path below `/proc/sys`, unless it is so.
pub fn ensure(name: &str, value: &str) -> io::Result<()> {
    if is(name, value) { Ok(()) } else { std::fs::write(path(name), value) }
}

/// True when the kernel knows IPv6.
pub fn has_ipv6() -> bool {
    path(IPV6).is_dir()
}

/// Lets this machine forward IPv6 packets.
///
/// A machine that forwards takes no router's word (`accept_ra` 1), and drops the default route that it has from one. The
/// interfaces that listened go on to (2), so that a machine that has its address from a router keeps it.
pub fn forward_ipv6() -> io::Result<()> {
    if is(FORWARD_IPV6, "1") {
        return Ok(());
    }
    for interface in std::fs::read_dir(path(IPV6))? {
        let name = interface?.file_name();
        // The defaults are for interfaces to come, those of pods among them.
        let (Some(name), false) = (name.to_str(), name == "all" || name == "default") else { continue };
        let setting = format!("{IPV6}/{name}/accept_ra");
        if is(&setting, "1") {
            let _ = ensure(&setting, "2");
        }
    }
    ensure(FORWARD_IPV6, "1")
}

/// The setting's place.
pub fn path(name: &str) -> std::path::PathBuf {
    Path::new("/proc/sys").join(name)
}

fn is(name: &str, value: &str) -> bool {
    std::fs::read_to_string(path(name)).is_ok_and(|now| now.trim() == value)
}
