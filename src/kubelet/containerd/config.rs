//! What the machine offers, and the containerd configuration that follows from it. Pure, but for [`Machine::look`].

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Where programs are looked for beside `PATH`.
const USUAL_PLACES: &[&str] =
    &["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/opt/bin", "/opt/containerd/bin"];
/// Bit of `CAP_SYS_RESOURCE` in the masks of `/proc/self/status`.
const CAP_SYS_RESOURCE: u32 = 24;

/// A runtime beside runc that a RuntimeClass may name.
struct Known {
    /// What the RuntimeClass calls it.
    handler: &'static str,
    /// The program that has to be there.
    program: &'static str,
    /// containerd's shim for it.
    shim: &'static str,
}

/// The shim of runtimes that are called as runc is.
const RUNC_SHIM: &str = "io.containerd.runc.v2";
const fn like_runc(handler: &'static str, program: &'static str) -> Known {
    Known { handler, program, shim: RUNC_SHIM }
}
const fn shim(handler: &'static str, program: &'static str, shim: &'static str) -> Known {
    Known { handler, program, shim }
}

/// Runtimes that are configured where they are found: k3s's, under its names, and the two sandboxes.
const KNOWN: &[Known] = &[
    like_runc("crun", "crun"),
    like_runc("nvidia", "nvidia-container-runtime"),
    shim("kata", "containerd-shim-kata-v2", "io.containerd.kata.v2"),
    shim("runsc", "containerd-shim-runsc-v1", "io.containerd.runsc.v1"),
    shim("lunatic", "containerd-shim-lunatic-v1", "io.containerd.lunatic.v1"),
    shim("slight", "containerd-shim-slight-v1", "io.containerd.slight.v1"),
    shim("spin", "containerd-shim-spin-v2", "io.containerd.spin.v2"),
    shim("wasmedge", "containerd-shim-wasmedge-v1", "io.containerd.wasmedge.v1"),
    shim("wasmer", "containerd-shim-wasmer-v1", "io.containerd.wasmer.v1"),
    shim("wasmtime", "containerd-shim-wasmtime-v1", "io.containerd.wasmtime.v1"),
    shim("wws", "containerd-shim-wws-v1", "io.containerd.wws.v1"),
];

/// A runtime that a RuntimeClass may name, and that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    /// What the RuntimeClass calls it.
    pub name: &'static str,
    /// containerd's shim for it.
    pub shim: &'static str,
    /// Its program or its shim's.
    pub program: PathBuf,
}

/// The programs a private containerd consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// The daemon.
    pub containerd: PathBuf,
    /// The OCI runtime.
    pub runc: PathBuf,
    /// Search path for the daemon, its shim's directory first.
    pub path: String,
    /// Other runtimes.
    pub handlers: Vec<Handler>,
}

impl Programs {
    /// Looks through `path` (as in `$PATH`) and the usual places. The error names the package that is missing.
    pub fn find(path: &str) -> Result<Self, String> {
        let mut places: Vec<&Path> = path.split(':').filter(|p| p.starts_with('/')).map(Path::new).collect();
        places.extend(USUAL_PLACES.iter().map(Path::new));
        let look = |program: &str| places.iter().map(|p| p.join(program)).find(|p| is_executable(p));
        let find = |program: &str| look(program).ok_or_else(|| missing(program));
        let (containerd, runc) = (find("containerd")?, find("runc")?);
        let shim = find("containerd-shim-runc-v2")?;
        let shim_dir = shim.parent().unwrap_or(Path::new("/usr/bin"));
        let mut path = shim_dir.display().to_string();
        for place in &places {
            if *place != shim_dir {
                let _ = write!(path, ":{}", place.display());
            }
        }
        let handlers = KNOWN.iter().filter_map(|known| {
            let program = look(known.program)?;
            Some(Handler { name: known.handler, shim: known.shim, program })
        });
        Ok(Self { containerd, runc, path, handlers: handlers.collect() })
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

/// The part of the configuration that names a runtime.
fn runtime(name: &str, shim: &str, program: &Path, settings: &Settings) -> String {
    let at = format!("plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{name}");
    let mut out = format!("    [{at}]\n      runtime_type = {}\n", quoted(shim));
    if shim == RUNC_SHIM {
        // Each runtime keeps its containers' states in a form of its own.
        let root = settings.state.with_file_name(name);
        let _ = write!(
            out,
            "\n      [{at}.options]\n        BinaryName = {}\n        Root = {}\n        SystemdCgroup = {}\n",
            quoted(&program.display().to_string()),
            quoted(&root.display().to_string()),
            settings.systemd_cgroup
        );
    }
    out
}

/// `config.toml` in version 2, which containerd 1.3 to 2.x read.
pub fn render(settings: &Settings, programs: &Programs, machine: Machine) -> String {
    let path = |p: &Path| quoted(&p.display().to_string());
    let snapshotter = if machine.overlay { "overlayfs" } else { "native" };
    let handlers = programs.handlers.iter().map(|h| runtime(h.name, h.shim, &h.program, settings));
    let runtimes: Vec<String> =
        std::iter::once(runtime("runc", RUNC_SHIM, &programs.runc, settings)).chain(handlers).collect();
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

{runtimes}
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
        runtimes = runtimes.join("\n"),
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
        Programs {
            containerd: "/usr/bin/containerd".into(),
            runc: "/usr/sbin/runc".into(),
            path: "/usr/bin".into(),
            handlers: Vec::new(),
        }
    }

    /// The lines of each table of a configuration.
    fn tables(text: &str) -> std::collections::BTreeMap<String, Vec<&str>> {
        let mut all = std::collections::BTreeMap::<String, Vec<&str>>::new();
        let mut current = String::new();
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            match line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                Some(name) => current = name.to_owned(),
                None => all.entry(current.clone()).or_default().push(line),
            }
        }
        all
    }

    #[test]
    fn runtimes_that_are_there_are_handlers() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        for program in ["containerd", "runc", "containerd-shim-runc-v2", "crun", "containerd-shim-kata-v2"] {
            let path = dir.path().join(program);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut found = Programs::find(&dir.path().display().to_string()).unwrap();
        // The machine may have more.
        found.handlers.retain(|h| h.program.starts_with(dir.path()));
        assert_eq!(found.handlers.iter().map(|h| h.name).collect::<Vec<_>>(), ["crun", "kata"]);
        let machine = Machine { may_lower_oom_score: true, apparmor: true, overlay: true };
        let text = render(&settings(), &found, machine);
        let parsed = tables(&text);
        let runtimes = |name: &str| format!("plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{name}");
        assert_eq!(parsed[&runtimes("runc")], ["runtime_type = \"io.containerd.runc.v2\""]);
        let crun = format!("BinaryName = \"{}/crun\"", dir.path().display());
        let options = &parsed[&(runtimes("crun") + ".options")];
        assert_eq!(*options, [crun.as_str(), "Root = \"/r/crun\"", "SystemdCgroup = false"]);
        assert_eq!(parsed[&runtimes("kata")], ["runtime_type = \"io.containerd.kata.v2\""]);
        assert!(!parsed.contains_key(&(runtimes("kata") + ".options")), "it is not called as runc is");
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
