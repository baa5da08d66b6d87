//! `scripts/install.sh` on a machine of its own: mounts, processes and network that nobody else sees, and a systemctl that
//! writes down what it was asked.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::harness::{Ran, orch};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");

/// What systemd would answer. Its state are files in `/run/fake`.
const SYSTEMCTL: &str = r#"#!/bin/sh
echo "$*" >>/run/fake/log
verb=$1; shift
while [ "${1#--}" != "$1" ]; do shift; done
case $verb in
  is-active) if [ -e "/run/fake/$1.active" ]; then echo active; else echo inactive; exit 3; fi ;;
  is-enabled) if [ -e "/run/fake/$1.enabled" ]; then echo enabled; else echo disabled; exit 1; fi ;;
  restart) [ -e "/etc/systemd/system/$1" ] && : >"/run/fake/$1.active" ;;
  stop) rm -f "/run/fake/$1.active" ;;
  enable) : >"/run/fake/$1.enabled" ;;
  disable) rm -f "/run/fake/$1.enabled" ;;
esac
"#;

/// The machine: everything that an installation writes to is a layer or a memory of its own.
const BOX: &str = r#"
mkdir "$1"
mount -t tmpfs tmpfs "$1"
for d in etc var usr/local; do
  mkdir -p "$1/$d.up" "$1/$d.wk"
  mount -t overlay -o "lowerdir=/$d,upperdir=$1/$d.up,workdir=$1/$d.wk" overlay "/$d"
done
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /sys/fs/cgroup
mount -t tmpfs -o size=1m tmpfs /mnt
rm -rf /etc/orch /var/lib/orch /usr/local/bin/orch /usr/local/bin/kubectl
mkdir -p /run/systemd/system /run/fake /usr/local/sbin
cp "$2" /usr/local/sbin/systemctl
echo ready
exec cat
"#;

/// A machine, and a directory on the real one.
struct Machine {
    init: Child,
    dir: tempfile::TempDir,
    pid: u32,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("orch-install-").tempdir().unwrap();
        let systemctl = dir.path().join("systemctl");
        std::fs::write(&systemctl, SYSTEMCTL).unwrap();
        std::fs::set_permissions(&systemctl, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut init = Command::new("unshare")
            .args(["--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc", "sh", "-euc", BOX, "box"])
            .arg(dir.path().join("layers"))
            .arg(&systemctl)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(init.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the machine is made");
        let children = format!("/proc/{0}/task/{0}/children", init.id());
        let pid = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
        Self { init, dir, pid }
    }

    /// A release in a directory, as `packaging/build.sh` makes it.
    fn bundle(&self) -> PathBuf {
        let bundle = self.dir.path().join("bundle");
        std::fs::create_dir_all(bundle.join("images")).unwrap();
        std::fs::hard_link(orch(), bundle.join("orch"))
            .or_else(|_| std::fs::copy(orch(), bundle.join("orch")).map(drop))
            .unwrap();
        std::fs::copy(format!("{SCRIPTS}/install.sh"), bundle.join("install.sh")).unwrap();
        std::fs::write(bundle.join("images/web.tar"), "an image").unwrap();
        let sums = Command::new("sh")
            .args(["-c", "cd \"$1\" && sha256sum orch install.sh images/web.tar >SHA256SUMS", "sh"])
            .arg(&bundle)
            .status();
        assert!(sums.unwrap().success());
        bundle
    }

    /// A command line on the machine, to be completed. As in a new login: nothing of the test's environment is the
    /// service's.
    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid.to_string(), "--mount", "--pid", "--net", "env", "-i"]);
        command.arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        // Whether the machine of the test is good for orch is not for here.
        command.arg("INSTALL_ORCH_SKIP_CHECK=true").stdin(Stdio::null());
        command
    }

    fn run(&self, env: &[&str], program: &str, args: &[&str]) -> Ran {
        self.command().args(env).arg(program).args(args).output().unwrap().into()
    }

    fn sh(&self, script: &str) -> String {
        let ran = self.run(&[], "/bin/sh", &["-c", script]);
        assert_eq!(ran.code, Some(0), "{script}: {ran:?}");
        ran.stdout
    }

    fn install(&self, env: &[&str], args: &[&str]) -> Ran {
        self.run(env, &format!("{}/bundle/install.sh", self.dir.path().display()), args)
    }

    /// What systemctl was told since the last question, without questions.
    fn told(&self) -> Vec<String> {
        let log = self.sh("cat /run/fake/log 2>/dev/null; : >/run/fake/log");
        log.lines().filter(|l| !l.starts_with("is-")).map(str::to_owned).collect()
    }

    /// Every file and directory, with its mode.
    fn files(&self) -> BTreeSet<String> {
        let text = self
            .sh("find /etc /usr/local /run /var/lib/orch ! -path '/run/fake*' -printf '%M %p %l\\n' 2>/dev/null; :");
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.init.kill();
        let _ = self.init.wait();
    }
}

#[track_caller]
fn good(ran: Ran) -> Ran {
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    ran
}

#[test]
fn it_comes_from_a_bundle_stays_as_it_is_and_goes_without_a_trace() {
    let machine = Machine::new();
    machine.bundle();
    let before = machine.files();
    let settings = ["ORCH_NODE_NAME=edge 1", "INSTALL_ORCH_SYMLINK=force"];
    let flags = ["server", "--token", "s3cret$x", "--node-label=a=b c"];
    good(machine.install(&settings, &flags));
    assert_eq!(machine.told(), ["daemon-reload", "enable --quiet orch.service", "restart orch.service"]);
    assert!(machine.sh("orch --version; kubectl --help").starts_with("orch "));
    let unit = machine.sh("cat /etc/systemd/system/orch.service");
    assert!(unit.contains("ExecStart=/usr/local/bin/orch server \"--node-label=a=b c\"\n"), "{unit}");
    assert!(!unit.contains("s3cret"), "a secret is for root's eyes");
    let env = machine.sh("stat -c %a /etc/orch/orch.env; cat /etc/orch/orch.env");
    assert_eq!(env, "600\nORCH_NODE_NAME=\"edge 1\"\nORCH_TOKEN=\"s3cret\\$x\"\n");
    let there = "cd /usr/local/share && ls bash-completion/completions/orch zsh/site-functions/_orch \
        fish/vendor_completions.d/orch.fish man/man1/orch.1 man/man1/orch-server.1 /var/lib/orch/agent/images/web.tar";
    assert_eq!(machine.sh(there).lines().count(), 6);

    // The same again: nothing happens.
    let installed = machine.files();
    let times = "find /etc/orch /usr/local/bin /etc/systemd/system/orch.service -printf '%p %T@ %i\\n' | sort";
    let stamps = machine.sh(times);
    let again = good(machine.install(&settings, &flags));
    assert!(again.stdout.contains("nothing has changed; orch.service runs on"), "{}", again.stdout);
    assert!(!machine.told().iter().any(|l| l.contains("restart")));
    assert_eq!((machine.sh(times), machine.files()), (stamps, installed));

    // Other settings: the difference, and a restart. What is not said of the environment stays.
    good(machine.install(&[], &["server", "--debug"]));
    assert!(machine.told().contains(&"restart orch.service".to_owned()));
    assert!(
        machine.sh("cat /etc/systemd/system/orch.service").contains("ExecStart=/usr/local/bin/orch server --debug\n")
    );
    assert!(machine.sh("cat /etc/orch/orch.env").contains("s3cret"));

    // Another role beside the one that runs is refused.
    let other = machine.install(&["ORCH_URL=https://192.0.2.7:6443", "ORCH_TOKEN=t"], &[]);
    assert_eq!(other.code, Some(1));
    assert!(other.stderr.contains("orch.service runs on this machine; remove it first"), "{}", other.stderr);

    let dry = good(machine.run(&[], "/usr/local/bin/orch-uninstall.sh", &["--dry-run"]));
    assert!(dry.stdout.contains("would remove /usr/local/bin/kubectl\n"), "{}", dry.stdout);
    good(machine.run(&[], "/usr/local/bin/orch-uninstall.sh", &[]));
    assert_eq!(machine.told(), ["stop orch.service", "disable --quiet orch.service", "daemon-reload"]);
    assert_eq!(machine.files(), before);
}

#[test]
fn an_agent_is_told_where_to_join_and_state_outlives_the_software() {
    let machine = Machine::new();
    machine.bundle();
    for (env, args, why) in [
        (&[][..], &["agent"][..], "set ORCH_URL=https://SERVER:6443 and ORCH_TOKEN"),
        (&["ORCH_URL=http://192.0.2.7:6443"], &[], "must begin with https://"),
        (&["ORCH_URL=https://192.0.2.7:6443"], &[], "an agent needs a token"),
        (&[], &["sever"], "no such role: sever (server or agent)"),
        (&["INSTALL_ORCH_NAME=a b"], &[], "characters that a unit's name may not have"),
    ] {
        let ran = machine.install(env, args);
        assert!(ran.code == Some(1) && ran.stderr.contains(why), "{why}: {ran:?}");
    }
    let env = ["ORCH_URL=https://192.0.2.7:6443", "ORCH_TOKEN=t", "INSTALL_ORCH_SKIP_START=true"];
    good(machine.install(&env, &[]));
    assert_eq!(machine.told(), ["daemon-reload", "enable --quiet orch-agent.service"]);
    assert!(machine.sh("cat /etc/systemd/system/orch-agent.service").contains("ExecStart=/usr/local/bin/orch agent\n"));
    let kept = "mkdir -p /var/lib/orch/agent && echo state >/var/lib/orch/agent/x; echo '{}' >/etc/orch/config.yaml";
    machine.sh(kept);
    good(machine.run(&[], "/usr/local/bin/orch", &["uninstall", "--keep-data"]));
    assert_eq!(
        machine.sh("cat /var/lib/orch/agent/x; ls /etc/orch; ls /usr/local/bin | grep orch || true"),
        "state\nconfig.yaml\n"
    );
}

#[test]
fn what_is_damaged_full_or_busy_changes_nothing() {
    let machine = Machine::new();
    let bundle = machine.bundle();
    good(machine.install(&["ORCH_TOKEN=t"], &["server"]));
    machine.told();
    let before = machine.files();
    let times = "find /etc/orch /usr/local/bin /etc/systemd/system/orch.service -printf '%p %T@ %i\\n' | sort";
    let stamps = machine.sh(times);
    let refused = |ran: Ran, why: &str| {
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains(why), "{why}: {}", ran.stderr);
        assert_eq!(machine.told(), [] as [&str; 0], "{why}: no service is disturbed");
        assert_eq!((machine.files(), machine.sh(times)), (before.clone(), stamps.clone()), "{why}");
    };

    // Half copied: one file is short, is missing, or the sums are.
    let broken = machine.dir.path().join("broken");
    std::fs::create_dir_all(broken.join("images")).unwrap();
    for file in ["install.sh", "SHA256SUMS", "images/web.tar"] {
        std::fs::copy(bundle.join(file), broken.join(file)).unwrap();
    }
    let from = format!("INSTALL_ORCH_BUNDLE={}", broken.display());
    refused(machine.install(&[&from], &["server"]), "is damaged or was copied in part: ");
    let mut half = std::fs::File::create(broken.join("orch")).unwrap();
    half.write_all(&std::fs::read(orch()).unwrap()[..1 << 20]).unwrap();
    drop(half);
    refused(machine.install(&[&from], &["server"]), "orch: FAILED; copy it again");
    std::fs::remove_file(broken.join("SHA256SUMS")).unwrap();
    refused(machine.install(&[&from], &["server"]), "has no SHA256SUMS");

    // A tarball that ends in its middle, and one that is not what its checksum says.
    let tarball = machine.dir.path().join("short.tar.gz");
    std::fs::write(&tarball, [0x1f, 0x8b, 8, 0, 0, 0]).unwrap();
    let from = format!("INSTALL_ORCH_BUNDLE={}", tarball.display());
    refused(machine.install(&[&from], &["server"]), "cannot be unpacked");
    let mirror = machine.dir.path().join("mirror/1.0");
    std::fs::create_dir_all(&mirror).unwrap();
    let file = format!("orch-1.0-linux-{}.tar.gz", if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" });
    std::fs::copy(&tarball, mirror.join(&file)).unwrap();
    std::fs::write(mirror.join("SHA256SUMS"), format!("{}  {file}\n", "0".repeat(64))).unwrap();
    // Read from standard input, as behind curl, where no bundle is beside the script.
    let piped = format!("sh -s - server <{SCRIPTS}/install.sh");
    let url = format!("INSTALL_ORCH_ARTIFACT_URL=file://{}/mirror", machine.dir.path().display());
    let pipe = |env: &[&str]| machine.run(env, "/bin/sh", &["-c", &piped]);
    refused(pipe(&[&url, "INSTALL_ORCH_VERSION=1.0"]), "is not what its checksum says; nothing was changed");
    refused(pipe(&["INSTALL_ORCH_ARTIFACT_URL=http://mirror.example", "INSTALL_ORCH_VERSION=1.0"]), "is not encrypted");
    refused(pipe(&[]), "where from? set INSTALL_ORCH_ARTIFACT_URL");

    // A full disk, where the program goes.
    let ran = machine.install(&["INSTALL_ORCH_BIN_DIR=/mnt"], &["server", "--debug"]);
    refused(ran, "cannot write /mnt/orch (is the disk full?); nothing was changed");
    assert_eq!(machine.sh("ls -A /mnt"), "", "nothing half written stays");

    // Twice at once.
    let mut held = machine.command();
    held.args(["flock", "/usr/local/bin", "sh", "-c", "echo held; exec cat"]);
    let mut held = held.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    BufReader::new(held.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    refused(machine.install(&[], &["server", "--debug"]), "another installation of orch runs on this machine");
    held.kill().unwrap();
    held.wait().unwrap();

    // A machine that is not ready is told why, and left alone.
    let ran = machine.install(&["INSTALL_ORCH_SKIP_CHECK=false", "ORCH_NODE_NAME=not_a_name"], &["server", "--debug"]);
    assert!(ran.stderr.contains("choose another with --node-name"), "{}", ran.stderr);
    refused(ran, "this machine is not ready for orch");
}
