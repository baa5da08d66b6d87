//! What the machine offers, and the containerd configuration that follows from it. Pure, but for [`Machine::look`].

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Where programs are looked for beside `PATH`.
const USUAL_PLACES: &[&str] =
    &["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/opt/bin", "/opt/containerd/bin"];
/// Bit of `CAP_SYS_RESOURCE` in the masks of `/proc/self/status`.
const CAP_SYS_RESOURCE: u32 = 24;

/// The programs a private containerd consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// The daemon.
    pub containerd: PathBuf,
    /// The OCI runtime.
    pub runc: PathBuf,
    /// Search path for the daemon, its shim's directory first.
    pub path: String,
}

impl Programs {
    /// Looks through `path` (as in `$PATH`) and the usual places. The error names the package that is missing.
    pub fn find(path: &str) -> Result<Self, String> {
        let mut places: Vec<&Path> = path.split(':').filter(|p| p.starts_with('/')).map(Path::new).collect();
        places.extend(USUAL_PLACES.iter().map(Path::new));
        let find = |program: &str| {
            places.iter().map(|p| p.join(program)).find(|p| is_executable(p)).ok_or_else(|| missing(program))
        };
        let (containerd, runc) = (find("containerd")?, find("runc")?);
        let shim = find("containerd-shim-runc-v2")?;
        let shim_dir = shim.parent().unwrap_or(Path::new("/usr/bin"));
        let mut path = shim_dir.display().to_string();
        for place in &places {
            if *place != shim_dir {
                let _ = write!(path, ":{}", place.display());
            }
        }
        Ok(Self { containerd, runc, path })
    }
}

fn missing(program: &str) -> String {
    let package = if program == "runc" { "runc" } else { "containerd" };
    format!(
        "cannot start containerd: {program} not found; install it (Debian: apt-get install {package}) or name a \
         runtime with --container-runtime-endpoint"
    )
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// What this machine and this process can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// The process may lower `oom_score_adj`.
    pub may_lower_oom_score: bool,
    /// The kernel enforces AppArmor profiles.
    pub apparmor: bool,
    /// Overlay mounts work on the file system of the data directory.
    pub overlay: bool,
}

impl Machine {
    /// Looks; `dir` is a directory on the file system that will hold the images.
    pub fn look(dir: &Path) -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let apparmor = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
        Self {
            may_lower_oom_score: has_capability(&status, CAP_SYS_RESOURCE),
            apparmor: apparmor.trim() == "Y",
            overlay: overlay_works(dir),
        }
    }

    /// What is done without, a sentence each, for the log.
    pub fn shortcomings(&self) -> Vec<&'static str> {
        let all = [
            (self.may_lower_oom_score, "no CAP_SYS_RESOURCE: the OOM scores of containers are not lowered"),
            (self.overlay, "no overlay mounts on this file system: images are copied for each container"),
        ];
        all.into_iter().filter(|(has, _)| !has).map(|(_, lacks)| lacks).collect()
    }
}

fn has_capability(status: &str, bit: u32) -> bool {
    let mask = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok()).is_some_and(|m| m >> bit & 1 == 1)
}

/// Tries an overlay mount below `dir` and takes it away again.
fn overlay_works(dir: &Path) -> bool {
    let probe = dir.join(".overlay-probe");
    let _ = std::fs::remove_dir_all(&probe);
    let made = ["lower", "upper", "work", "merged"].iter().all(|d| std::fs::create_dir_all(probe.join(d)).is_ok());
    let options = format!("lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work", probe.display());
    let merged = probe.join("merged");
    let works =
        made && mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str())).is_ok();
    if works {
        let _ = umount2(&merged, MntFlags::MNT_DETACH);
    }
    let _ = std::fs::remove_dir_all(&probe);
    works
}

/// What a private containerd is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Images and containers, survives a reboot.
    pub root: PathBuf,
    /// Sockets and mounts.
    pub state: PathBuf,
    /// gRPC socket.
    pub socket: PathBuf,
    /// Image of sandboxes.
    pub pause_image: String,
    /// CNI plugins.
    pub cni_bin_dir: PathBuf,
    /// CNI configuration.
    pub cni_conf_dir: PathBuf,
    /// `hosts.toml` files of registries and their mirrors.
    pub registry_dir: PathBuf,
    /// The part of the configuration that holds credentials for registries.
    pub credentials: String,
    /// cgroups are made by systemd.
    pub systemd_cgroup: bool,
}

/// A TOML basic string.
pub fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `config.toml` in version 2, which containerd 1.3 to 2.x read.
pub fn render(settings: &Settings, programs: &Programs, machine: Machine) -> String {
    let path = |p: &Path| quoted(&p.display().to_string());
    let snapshotter = if machine.overlay { "overlayfs" } else { "native" };
    format!(
        r#"# Written by orch at every start; changes are lost.
version = 2
root = {root}
state = {state}
# Snapshotters that orch never uses would only cost start time; "opt" would make a directory outside of orch's own.
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]

[grpc]
  address = {socket}

[debug]
  level = "warn"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = {pause}
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  disable_apparmor = {no_apparmor}
  restrict_oom_score_adj = {restrict_oom}
  tolerate_missing_hugetlb_controller = true
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = {cni_bin}
    conf_dir = {cni_conf}

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = {snapshotter}
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = {runc}
        Root = {runc_root}
        SystemdCgroup = {systemd}

  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = {registry}
{credentials}"#,
        root = path(&settings.root),
        state = path(&settings.state),
        socket = path(&settings.socket),
        pause = quoted(&settings.pause_image),
        no_apparmor = !machine.apparmor,
        restrict_oom = !machine.may_lower_oom_score,
        cni_bin = path(&settings.cni_bin_dir),
        cni_conf = path(&settings.cni_conf_dir),
        snapshotter = quoted(snapshotter),
        runc = path(&programs.runc),
        runc_root = path(&settings.state.with_file_name("runc")),
        systemd = settings.systemd_cgroup,
        registry = path(&settings.registry_dir),
        credentials = settings.credentials,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn settings() -> Settings {
        Settings {
            root: "/d/root".into(),
            state: "/r/state".into(),
            socket: "/r/c.sock".into(),
            pause_image: "localhost/pause:1".into(),
            cni_bin_dir: "/d/cni/bin".into(),
            cni_conf_dir: "/d/cni/\"net\"".into(),
            registry_dir: "/d/registries".into(),
            credentials: String::new(),
            systemd_cgroup: false,
        }
    }

    fn programs() -> Programs {
        Programs { containerd: "/usr/bin/containerd".into(), runc: "/usr/sbin/runc".into(), path: "/usr/bin".into() }
    }

    #[test_case(Machine { may_lower_oom_score: true, apparmor: true, overlay: true },
        &["disable_apparmor = false", "restrict_oom_score_adj = false", "snapshotter = \"overlayfs\""], 0)]
    #[test_case(Machine { may_lower_oom_score: false, apparmor: false, overlay: false },
        &["disable_apparmor = true", "restrict_oom_score_adj = true", "snapshotter = \"native\""], 2)]
    fn configuration_follows_the_machine(machine: Machine, lines: &[&str], shortcomings: usize) {
        let text = render(&settings(), &programs(), machine);
        for line in lines {
            assert!(text.lines().any(|l| l.trim() == *line), "{line} is missing in\n{text}");
        }
        assert!(text.contains(r#"conf_dir = "/d/cni/\"net\"""#), "strings are escaped");
        assert_eq!(machine.shortcomings().len(), shortcomings);
    }

    #[test_case("CapEff:\t000001ffffffffff\n" => true)]
    #[test_case("CapEff:\t000001fffeffffff\n" => false)]
    #[test_case("" => false)]
    fn capability_bits(status: &str) -> bool {
        has_capability(status, CAP_SYS_RESOURCE)
    }

    #[test]
    fn a_missing_program_names_its_package_and_the_way_out() {
        assert_eq!(
            missing("runc"),
            "cannot start containerd: runc not found; install it (Debian: apt-get install runc) or name a runtime \
             with --container-runtime-endpoint"
        );
        assert!(missing("containerd-shim-runc-v2").contains("apt-get install containerd)"));
    }
}
