//! NFS: a directory of a server, mounted below the pod's directory.
//!
//! The mount is the kernel's own, of protocol version 4: no `mount.nfs` is needed. Version 3 needs helpers beside it (a port
//! mapper, locks), and is left to the machine's `mount`.
//! Rules: upstream `pkg/volume/nfs`.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;

use k8s_openapi::api::core::v1::NFSVolumeSource;
use nix::mount::{MsFlags, mount};

use super::{Cx, Prepared, VolumeError, directory, make_dir, mounts};

/// Minor versions that are tried, the newest first, where the options do not say which.
const VERSIONS: [&str; 3] = ["4.2", "4.1", "4.0"];
/// Port of NFS version 4.
const PORT: u16 = 2049;

/// Mounts it, unless it is mounted.
pub async fn prepare(
    cx: &Cx<'_>,
    name: &str,
    source: &NFSVolumeSource,
    options: &[&str],
    read_only: bool,
) -> Result<Prepared, VolumeError> {
    let read_only = read_only || source.read_only == Some(true);
    let path = directory(cx.dir, "nfs", name);
    let prepared = Prepared { path: path.clone(), refresh: None, read_only };
    make_dir(&path, 0o750)?;
    if mounts::is_mounted(&path).map_err(|e| VolumeError::io(&path, e))? {
        return Ok(prepared);
    }
    let from = format!("{}:{}", source.server, source.path);
    let failed = |why: String| VolumeError::Missing(format!("mounting {from} failed: {why}"));
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !knows_nfs(&known) && !Path::new("/sys/module").join("nfs").exists() && !can_load("nfs") {
        return Err(failed("this machine's kernel has no NFS; install its module nfsv4".into()));
    }
    let address = resolve(&source.server).await.map_err(failed)?;
    let client = own_address(address).map_err(|e| failed(e.to_string()))?;
    let parsed = Options::parse(options, read_only).map_err(failed)?;
    // A server that is away keeps mount(2) waiting.
    let done = tokio::task::spawn_blocking(move || try_versions(&from, &path, &parsed, address, client)).await;
    done.unwrap_or_else(|e| Err(format!("mounting ended: {e}")))
        .map_err(|why| VolumeError::Missing(format!("mounting {}:{} failed: {why}", source.server, source.path)))?;
    Ok(prepared)
}

fn knows_nfs(filesystems: &str) -> bool {
    filesystems.lines().any(|l| l.split_whitespace().last() == Some("nfs4"))
}

/// True when the kernel could load the file system by itself: its modules are there.
fn can_load(name: &str) -> bool {
    let release = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    let list = Path::new("/lib/modules").join(release).join("modules.dep");
    std::fs::read_to_string(list).is_ok_and(|text| text.contains(&format!("/{name}.ko")))
}

async fn resolve(server: &str) -> Result<IpAddr, String> {
    let bare = server.trim_matches(['[', ']']);
    if let Ok(address) = bare.parse() {
        return Ok(address);
    }
    let mut found = tokio::net::lookup_host((bare, PORT)).await.map_err(|e| format!("cannot resolve {server}: {e}"))?;
    found.next().map(|a| a.ip()).ok_or_else(|| format!("{server} has no address"))
}

/// The address from which the server is reached: where it calls back to.
fn own_address(server: IpAddr) -> std::io::Result<IpAddr> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect((server, PORT))?;
    Ok(socket.local_addr()?.ip())
}

/// Mount options, sorted into flags and what the file system is told.
#[derive(Debug, PartialEq)]
struct Options {
    flags: MsFlags,
    /// The version that was asked for.
    version: Option<String>,
    rest: Vec<String>,
}

impl Options {
    fn parse(given: &[&str], read_only: bool) -> Result<Self, String> {
        let mut out = Self { flags: MsFlags::empty(), version: None, rest: Vec::new() };
        if read_only {
            out.flags |= MsFlags::MS_RDONLY;
        }
        for option in given.iter().flat_map(|o| o.split(',')).map(str::trim).filter(|o| !o.is_empty()) {
            match option.split_once('=') {
                Some(("vers" | "nfsvers", version)) if version.starts_with('4') => {
                    out.version = Some(if version == "4" { "4.2".into() } else { version.to_owned() });
                }
                Some(("vers" | "nfsvers", version)) => {
                    return Err(format!("NFS version {version} is not served, only 4; leave nfsvers out"));
                }
                _ => match flag(option) {
                    Some(flag) => out.flags |= flag,
                    None if matches!(option, "rw" | "defaults" | "bg" | "fg") => {}
                    None => out.rest.push(option.to_owned()),
                },
            }
        }
        Ok(out)
    }

    fn data(&self, version: &str, address: IpAddr, client: IpAddr) -> String {
        let mut data = format!("vers={version},addr={address},clientaddr={client}");
        for option in &self.rest {
            data.push(',');
            data.push_str(option);
        }
        data
    }
}

fn flag(option: &str) -> Option<MsFlags> {
    Some(match option {
        "ro" => MsFlags::MS_RDONLY,
        "noexec" => MsFlags::MS_NOEXEC,
        "nosuid" => MsFlags::MS_NOSUID,
        "nodev" => MsFlags::MS_NODEV,
        "noatime" => MsFlags::MS_NOATIME,
        "nodiratime" => MsFlags::MS_NODIRATIME,
        "relatime" => MsFlags::MS_RELATIME,
        "sync" => MsFlags::MS_SYNCHRONOUS,
        _ => return None,
    })
}

fn try_versions(from: &str, path: &Path, options: &Options, address: IpAddr, client: IpAddr) -> Result<(), String> {
    let asked: Vec<&str> = match &options.version {
        Some(version) => vec![version],
        None => VERSIONS.to_vec(),
    };
    let mut last = String::new();
    for version in asked {
        let data = options.data(version, address, client);
        match mount(Some(from), path, Some("nfs4"), options.flags, Some(data.as_str())) {
            Ok(()) => return Ok(()),
            // The server speaks an older one.
            Err(e @ (nix::Error::EPROTONOSUPPORT | nix::Error::EINVAL)) => last = e.to_string(),
            Err(nix::Error::ENODEV) => return Err("this machine's kernel has no NFS; install its module nfsv4".into()),
            Err(e) => return Err(e.to_string()),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case(&[], true => Ok((MsFlags::MS_RDONLY, None, vec![])); "read only")]
    #[test_case(&["nfsvers=4.1", "hard", "timeo=30,noatime"], false
        => Ok((MsFlags::MS_NOATIME, Some("4.1".into()), vec!["hard".into(), "timeo=30".into()])); "all kinds")]
    #[test_case(&["vers=3"], false => Err(()); "no version 3")]
    fn options(given: &[&str], read_only: bool) -> Result<(MsFlags, Option<String>, Vec<String>), ()> {
        Options::parse(given, read_only).map(|o| (o.flags, o.version, o.rest)).map_err(drop)
    }

    #[test]
    fn the_kernel_is_told_addresses() {
        let options = Options::parse(&["hard"], false).unwrap();
        let data = options.data("4.2", [192, 0, 2, 1].into(), [192, 0, 2, 9].into());
        assert_eq!(data, "vers=4.2,addr=192.0.2.1,clientaddr=192.0.2.9,hard");
        assert!(knows_nfs("nodev\ttmpfs\nnodev\tnfs4\n") && !knows_nfs("nodev\tnfsd\n"));
    }
}
