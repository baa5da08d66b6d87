//! Does the steps of a plan. Each may be done again; what is gone already is fine.

use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use ipnet::IpNet;
use nix::mount::{MntFlags, umount2};
use nlink::Route;
use nlink::netlink::connection::Connection;
use nlink::netlink::nftables;
use nlink::netlink::route::{Ipv4Route, Ipv6Route};

use super::plan::{Family, Step};
use crate::util::backoff::Backoff;
use crate::util::{nft, procs};

/// A cgroup whose last process has just ended is busy for a moment.
const CGROUP_BACKOFF: Backoff = Backoff { base: Duration::from_millis(5), cap: Duration::from_millis(200) };
const CGROUP_ATTEMPTS: u32 = 20;

impl Family {
    pub(super) fn kernel(self) -> nftables::Family {
        match self {
            Self::V4 => nftables::Family::Ip,
            Self::V6 => nftables::Family::Ip6,
            Self::Both => nftables::Family::Inet,
        }
    }
}

/// Does one.
pub async fn apply(step: &Step) -> anyhow::Result<()> {
    match step {
        Step::StopUnit(name) => systemctl(&["stop", name]),
        Step::DisableUnit(name) => systemctl(&["disable", "--quiet", name]),
        Step::ReloadUnits => systemctl(&["daemon-reload"]),
        Step::End(_, processes, grace) => Ok(procs::end(processes, *grace).await?),
        Step::Unmount(path) => fine(umount2(path, MntFlags::MNT_DETACH).map_err(io::Error::from)),
        Step::RemoveNamespace(path) => {
            fine(umount2(path, MntFlags::MNT_DETACH).map_err(io::Error::from))?;
            fine(std::fs::remove_file(path))
        }
        Step::RemoveCgroup(path) => remove_cgroup(path).await,
        Step::RemoveLink(name) => {
            Connection::<Route>::new()?.del_link_if_exists(name.as_str()).await?;
            Ok(())
        }
        Step::RemoveRoute(to) => {
            let conn = Connection::<Route>::new()?;
            match to {
                IpNet::V4(to) => conn.del_route_if_exists(Ipv4Route::from_addr(to.network(), to.prefix_len())).await?,
                IpNet::V6(to) => conn.del_route_if_exists(Ipv6Route::from_addr(to.network(), to.prefix_len())).await?,
            };
            Ok(())
        }
        Step::RemoveTable(family, name) => {
            let conn = nft::connect()?;
            Ok(conn.transaction().del_table(name, family.kernel()).commit(&conn).await?)
        }
        Step::RemoveFile(path) => fine(std::fs::remove_file(path)),
        Step::RemoveLinkTo(path, to) => match std::fs::read_link(path) {
            Ok(found) if found == *to => fine(std::fs::remove_file(path)),
            _ => Ok(()),
        },
        Step::RemoveTree(path) => remove_tree(path),
        Step::RemoveEmptyDir(path) => match std::fs::remove_dir(path) {
            // Somebody came in meanwhile. (A cgroup with children is busy.)
            Err(e) if matches!(e.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy) => Ok(()),
            other => fine(other),
        },
    }
}

/// What is not there, or no mount any more, is as it should be.
fn fine(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        other => Ok(other?),
    }
}

fn systemctl(arguments: &[&str]) -> anyhow::Result<()> {
    let out = Command::new("systemctl").args(arguments).output().context("cannot run systemctl")?;
    if !out.status.success() {
        bail!("systemctl says: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}

async fn remove_cgroup(path: &Path) -> anyhow::Result<()> {
    for attempt in 1.. {
        match std::fs::remove_dir(path) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && attempt < CGROUP_ATTEMPTS => {
                tokio::time::sleep(CGROUP_BACKOFF.delay(attempt)).await;
            }
            other => return fine(other),
        }
    }
    Ok(())
}

/// Never goes into a mount: what is mounted there is somebody's.
fn remove_tree(path: &Path) -> anyhow::Result<()> {
    let foreign: Vec<_> = procs::mount_points()?.into_iter().filter(|m| m.starts_with(path)).collect();
    match foreign.iter().find(|m| *m != path) {
        Some(mount) => bail!("{} is mounted there; unmount it and run this again", mount.display()),
        // A disk of its own stays, empty.
        None if !foreign.is_empty() => {
            for entry in std::fs::read_dir(path)? {
                let entry = entry?;
                match entry.file_type()?.is_dir() {
                    true => std::fs::remove_dir_all(entry.path())?,
                    false => std::fs::remove_file(entry.path())?,
                }
            }
            Ok(())
        }
        None if path.is_dir() && !path.is_symlink() => fine(std::fs::remove_dir_all(path)),
        None => fine(std::fs::remove_file(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_gone_or_in_use_by_others_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for step in [
            Step::RemoveFile(path("none")),
            Step::RemoveTree(path("none")),
            Step::RemoveEmptyDir(path("none")),
            Step::RemoveCgroup(path("none")),
            Step::RemoveLinkTo(path("none"), "orch".into()),
        ] {
            apply(&step).await.unwrap_or_else(|e| panic!("{step}: {e}"));
        }
        std::fs::create_dir_all(path("shared/somebody")).unwrap();
        apply(&Step::RemoveEmptyDir(path("shared"))).await.unwrap();
        assert!(path("shared/somebody").exists());
        std::os::unix::fs::symlink("other", path("kubectl")).unwrap();
        apply(&Step::RemoveLinkTo(path("kubectl"), "orch".into())).await.unwrap();
        assert!(path("kubectl").is_symlink(), "somebody else's link stays");
        apply(&Step::RemoveTree(path("shared"))).await.unwrap();
        assert!(!path("shared").exists());
    }
}
