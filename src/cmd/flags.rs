//! Flags that `orch server` and `orch agent` both have; the names are k3s's where k3s has the same thing.

use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, bail};
use clap::ArgAction;
use tokio::sync::watch;

use super::cluster::Cluster;
use super::kubelet_args;
use super::node::NodeConfig;
use crate::api::meta::names;
use crate::util::address::Address;
use crate::util::sysctl;
use crate::util::telemetry;

/// Where things are, and how much is told.
#[derive(Debug, clap::Args)]
pub struct Common {
    /// Configuration file: any flag by its name
    #[arg(short, long, value_name = "FILE", env = "ORCH_CONFIG_FILE")]
    pub config: Option<PathBuf>,
    /// Where all state is kept
    #[arg(short, long, value_name = "DIR", default_value = "/var/lib/orch")]
    pub data_dir: PathBuf,
    /// Log more: debug
    #[arg(long)]
    pub debug: bool,
    /// Log as JSON
    #[arg(long)]
    pub log_json: bool,
    /// Log only errors
    #[arg(short, long, conflicts_with = "debug")]
    pub quiet: bool,
}

impl Common {
    /// Starts logging as asked for.
    pub fn log(&self) {
        let level = match (self.debug, self.quiet) {
            (true, _) => "orch=debug,info",
            (_, true) => "error",
            // It warns of every look for an interface that is not there.
            _ => "orch=info,nlink=error,warn",
        };
        telemetry::init(level, self.log_json);
    }

    /// The data directory from the root on: other programs get paths below it, and they run elsewhere.
    pub fn data_dir(&self) -> anyhow::Result<PathBuf> {
        std::path::absolute(&self.data_dir).context("cannot tell the present directory")
    }
}

/// The join token.
#[derive(Debug, clap::Args)]
pub struct TokenFlags {
    /// Token that agents join with
    #[arg(short, long, value_name = "TOKEN", env = "ORCH_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// File that holds the token
    #[arg(long, value_name = "FILE", env = "ORCH_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
}

impl TokenFlags {
    /// What the flag or the file says.
    pub fn read(&self) -> anyhow::Result<Option<String>> {
        match (&self.token, &self.token_file) {
            (Some(token), _) => Ok(Some(token.trim().to_owned())),
            (None, Some(file)) => {
                let text = std::fs::read_to_string(file)
                    .with_context(|| format!("cannot read the token file {}", file.display()))?;
                Ok(Some(text.trim().to_owned()))
            }
            _ => Ok(None),
        }
    }
}

/// Addresses of a node, as `192.0.2.1` or `192.0.2.1,2001:db8::1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeIps {
    /// The one that others reach it at.
    pub first: IpAddr,
    /// The one of IPv6 beside it.
    pub second: Option<Ipv6Addr>,
}

impl FromStr for NodeIps {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed: Result<Vec<IpAddr>, _> = text.split(',').map(|ip| ip.trim().parse()).collect();
        match parsed.map_err(|_| format!("{text:?} is no address, and no two of them"))?[..] {
            [first] => Ok(Self { first, second: None }),
            [first @ IpAddr::V4(_), IpAddr::V6(second)] => Ok(Self { first, second: Some(second) }),
            _ => Err(format!("{text:?}: at most one address of IPv4 and one of IPv6, in this order")),
        }
    }
}

/// What this machine is as a node.
#[derive(Debug, clap::Args)]
pub struct NodeFlags {
    /// Name of the node; the host's when not given
    #[arg(long, value_name = "NAME", env = "ORCH_NODE_NAME")]
    pub node_name: Option<String>,
    /// Address of the node, and an IPv6 one after a comma; that of the default route when not given
    #[arg(short = 'i', long, value_name = "IP[,IP]")]
    pub node_ip: Option<NodeIps>,
    /// Labels of the node when it registers
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', action = ArgAction::Append)]
    pub node_label: Vec<String>,
    /// Taints of the node when it registers
    #[arg(long, value_name = "KEY=VALUE:EFFECT", value_delimiter = ',', action = ArgAction::Append)]
    pub node_taint: Vec<String>,
    /// Socket of another container runtime than orch's own containerd
    #[arg(long, value_name = "SOCKET")]
    pub container_runtime_endpoint: Option<String>,
    /// Image of pod sandboxes; orch's own when not given
    #[arg(long, value_name = "IMAGE")]
    pub pause_image: Option<String>,
    /// Mirrors, credentials and CAs of registries; /etc/orch/registries.yaml when not given, if it is there
    #[arg(long, value_name = "FILE")]
    pub private_registry: Option<PathBuf>,
    /// Flags of the kubelet: eviction-hard, image-gc-high-threshold, image-gc-low-threshold, minimum-image-ttl-duration, max-pods
    #[arg(long, value_name = "NAME=VALUE", action = ArgAction::Append)]
    pub kubelet_arg: Vec<String>,
    /// Port of the node's own HTTPS server
    #[arg(long, value_name = "PORT", default_value_t = 10250)]
    pub kubelet_port: u16,
}

impl NodeFlags {
    /// The node's name, checked.
    pub fn name(&self) -> anyhow::Result<String> {
        let name = match &self.node_name {
            Some(name) => name.clone(),
            None => nix::unistd::gethostname()?.to_string_lossy().to_lowercase(),
        };
        match names::dns1123_subdomain(&name).into_iter().next() {
            Some(why) => bail!("node name {name:?}: {why}; choose another with --node-name"),
            None => Ok(name),
        }
    }

    /// The node's address, seen from `peer` where that is known, and its changes.
    pub fn address(&self, peer: Option<IpAddr>, cluster: &Cluster, data_dir: &Path) -> Address {
        Address::new(self.node_ip.map(|ips| ips.first), peer, cluster.networks(), data_dir.join("address"))
    }

    /// All that the node's parts are told.
    pub fn config(
        &self,
        data_dir: &Path,
        name: &str,
        address: watch::Receiver<IpAddr>,
        cluster: &Cluster,
    ) -> anyhow::Result<NodeConfig> {
        let labels = self.node_label.iter().map(|l| {
            let (key, value) = l.split_once('=').unwrap_or((l, ""));
            let why = names::qualified_name(key).into_iter().chain(names::label_value(value)).next();
            match why {
                Some(why) => bail!("--node-label {l:?}: {why}"),
                None => Ok((key.to_owned(), value.to_owned())),
            }
        });
        if cluster.cluster_cidr.v6.is_some() && !sysctl::has_ipv6() {
            bail!(
                "the cluster has IPv6 ({}), and this machine's kernel has not: boot it without ipv6.disable=1",
                cluster.cluster_cidr
            );
        }
        let second = self.node_ip.and_then(|ips| ips.second);
        if let (Some(second), None) = (second, cluster.cluster_cidr.v6) {
            bail!("--node-ip names {second}, and the cluster has no IPv6: leave it out");
        }
        Ok(NodeConfig {
            data_dir: data_dir.to_owned(),
            name: name.to_owned(),
            address,
            second_address: second,
            labels: labels.collect::<anyhow::Result<_>>()?,
            taints: self.node_taint.clone(),
            cluster: cluster.clone(),
            kubelet_port: self.kubelet_port,
            kubelet_args: kubelet_args::parse(&self.kubelet_arg)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("192.0.2.1", Some(("192.0.2.1", None)); "one")]
    #[test_case("2001:db8::1", Some(("2001:db8::1", None)); "one of IPv6")]
    #[test_case("192.0.2.1, 2001:db8::1", Some(("192.0.2.1", Some("2001:db8::1"))); "both")]
    #[test_case("2001:db8::1,192.0.2.1", None; "in the wrong order")]
    #[test_case("192.0.2.1,192.0.2.2", None; "two of one family")]
    #[test_case("192.0.2.1,", None; "half of it")]
    fn node_addresses(text: &str, want: Option<(&str, Option<&str>)>) {
        let want = want.map(|(first, second)| NodeIps {
            first: first.parse().unwrap(),
            second: second.map(|s| s.parse().unwrap()),
        });
        assert_eq!(text.parse().ok(), want);
    }
}
