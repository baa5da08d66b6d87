//! More machines for a cluster: each a network namespace on the cluster's wire, with an `orch agent` of its own.
//!
//! **Invariant:** when an [`Agent`] is dropped its processes, containers, mounts and its namespace are gone.

use std::path::PathBuf;
use std::process::Child;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{self, Cluster};
use crate::net::lab::Ns;

/// A machine that may be a node.
pub struct Agent {
    pub name: String,
    pub address: String,
    pub machine: Ns,
    /// Environment of the agents that are started from now on.
    pub env: Vec<(String, String)>,
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl Agent {
    /// A machine on the wire of `cluster`; nothing runs on it.
    pub fn beside(cluster: &Cluster, name: &str, number: u8) -> Self {
        let (machine, address) = cluster.machine_beside(name, number);
        let dir = tempfile::Builder::new().prefix("orch-e2e-").tempdir().unwrap();
        Self { name: name.to_owned(), address, machine, env: Vec::new(), dir, child: None }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("orch.log")
    }

    pub fn log_text(&self) -> String {
        harness::tail(&self.log())
    }

    /// Starts `orch agent` with the usual flags and more.
    pub fn start(&mut self, more: &[&str]) {
        let data = self.data_dir().display().to_string();
        // Its address is found and followed.
        let usual = ["agent", "--data-dir", &data, "--node-name", &self.name];
        let args: Vec<String> = usual.iter().chain(&harness::ANY_DISK).chain(more).map(|&a| a.to_owned()).collect();
        self.child = Some(harness::spawn(&self.machine, &args, &self.env, &self.log()));
    }

    /// Starts it so that it joins.
    pub fn join(&mut self, server: &str, token: &str) {
        self.start(&["--join", server, "--token", token]);
    }

    /// Waits until it has said something, and sees that it goes on.
    #[track_caller]
    pub fn says(&mut self, cluster: &Cluster, what: &str) {
        cluster.eventually_or(what, || self.log_text(), || self.log_text().contains(what));
        assert!(self.child.as_mut().expect("it was started").try_wait().unwrap().is_none(), "{}", self.log_text());
    }

    /// What an agent says that cannot join: it has to end by itself.
    #[track_caller]
    pub fn refusal(&mut self, cluster: &Cluster) -> String {
        // It stays ours until it has ended: a test that fails here must not leave it behind.
        let mut status = None;
        cluster.eventually("the agent gives up", || {
            status = self.child.as_mut().expect("it was started").try_wait().unwrap();
            status.is_some()
        });
        self.child = None;
        assert_eq!(status.unwrap().code(), Some(1), "{}", self.log_text());
        let text = self.log_text();
        text.lines().rev().find(|l| l.starts_with("error: ")).unwrap_or_else(|| panic!("no error in {text}")).to_owned()
    }

    /// The agent's process, as long as it has not ended.
    pub fn pid(&mut self) -> Option<u32> {
        let child = self.child.as_mut()?;
        child.try_wait().unwrap().is_none().then(|| child.id())
    }

    /// Ends the agent with a signal; containers stay as they are.
    pub fn end(&mut self, signal: Signal) {
        let mut child = self.child.take().expect("the agent runs");
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        child.wait().unwrap();
    }

    /// How many of a pod run on the machine that has its name in its environment.
    pub fn networks_of(&self, pod: &str) -> usize {
        harness::networks_of(&[self.data_dir()], pod)
    }

    /// Everything on the machine ends at once, as when its power goes: agent, runtime, containers, mounts, pods' networks.
    /// What is on its disk stays.
    pub fn lose_power(&mut self) {
        self.end(Signal::SIGKILL);
        harness::sweep(self.dir.path(), &self.data_dir());
    }

    /// Takes away the interfaces and rules that orch made, which no reboot leaves.
    pub fn forget_network(&self) {
        let run = |args: &[&str]| {
            let mut command = std::process::Command::new(args[0]);
            self.machine.run(|| command.args(&args[1..]).output()).unwrap()
        };
        for link in ["orch0", "orch-vxlan"] {
            assert!(run(&["ip", "link", "del", link]).status.success(), "{link} is there");
        }
        for table in ["orch", "orch-cni"] {
            assert!(run(&["nft", "delete", "table", "ip", table]).status.success(), "{table} is there");
        }
    }

    /// Routes and rules of the machine, for a test that fails.
    pub fn network(&self) -> String {
        let run = |args: &[&str]| {
            let mut command = std::process::Command::new(args[0]);
            let out = self.machine.run(|| command.args(&args[1..]).output()).unwrap();
            String::from_utf8_lossy(&out.stdout).into_owned()
        };
        [run(&["ip", "route"]), run(&["nft", "list", "ruleset"])].join("\n")
    }

    /// Waits until the API has it as a node that is ready.
    #[track_caller]
    pub fn wait_until_ready(&self, cluster: &Cluster) {
        let what = format!("node {} is Ready", self.name);
        cluster.eventually_or(&what, || self.log_text(), || cluster.readiness(&self.name) == "True");
    }

    /// Nobody reaches this machine's own ports any more but that of the overlay; it reaches everybody.
    pub fn close_ports(&self) {
        let rules = "table inet closed {\n chain input {\n type filter hook input priority 0; policy accept;\n \
                     iifname \"up0\" udp dport 8472 accept\n  iifname \"up0\" ct state new drop\n }\n}\n";
        let path = self.dir.path().join("closed.nft");
        std::fs::write(&path, rules).unwrap();
        let mut nft = std::process::Command::new("nft");
        nft.arg("-f").arg(&path);
        assert!(self.machine.run(|| nft.status()).unwrap().success());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        harness::sweep(self.dir.path(), &self.data_dir());
    }
}
