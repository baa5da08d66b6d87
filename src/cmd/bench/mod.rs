//! `orch bench`: load on an API server, and pods on a node, each printing its figures as a line of JSON.
//!
//! And bytes between machines, to measure what the overlay costs.
//!
//! In: a kubeconfig (of orch, or of a peer to compare with). Out: one line per workload. `scripts/bench/` runs it.
//!
//! **Invariant:** everything is bounded in count or time, and goes to the kubeconfig's server only.

mod api;
mod arrivals;
mod density;
mod hollow;
mod load;
mod peak;
mod pod;
mod sched;
mod target;
mod watch;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};

/// Most of anything one run may ask for.
const COUNT_LIMIT: i64 = 1_000_000;

/// Arguments of `orch bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Requests on an API server
    Api(Api),
    /// Pods from creation to Ready, beside the bare calls of the container runtime
    Pod(pod::Args),
    /// Nodes that run nothing, until a signal: kubelets with a runtime that is only a list
    HollowNodes(hollow::Args),
    /// Pods from creation to Running on the nodes that there are, beside other requests
    Density(density::Args),
    /// Pods that are given nodes, with nodes that are only objects
    Sched(sched::Args),
    /// Bytes from machine to machine over one connection
    Wire(wire::Args),
}

/// Arguments of `orch bench api`.
#[derive(Debug, clap::Args)]
struct Api {
    /// kubeconfig with embedded client certificate
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: PathBuf,
    /// Namespace to work in; made when it is not there
    #[arg(long, value_name = "NAME", default_value = "orch-bench")]
    namespace: String,
    /// Connections; each has one request in flight
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,
    /// Speak HTTP/2, as Go's clients do; watches always do
    #[arg(long)]
    http2: bool,
    /// Objects made, patches sent
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=COUNT_LIMIT))]
    count: u32,
    /// How long to get
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Watchers of one object
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    watchers: u32,
    /// Changes that every watcher sees
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=COUNT_LIMIT))]
    updates: u32,
    /// The server's process, where it is on this machine: its most memory during each workload is told, too
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// What to do, in this order
    #[arg(required = true)]
    workloads: Vec<Workload>,
}

/// What load to put on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Workload {
    /// Create ConfigMaps of 1 KiB
    Create,
    /// Get them, at random
    Get,
    /// Merge patches of 256 Leases
    Patch,
    /// Create pods that are 7 KiB when stored and that no scheduler takes
    Pods,
    /// List all of them, ten times
    List,
    /// Change an object that many watch
    Watch,
}

/// Runs the workloads; the first failure ends it.
pub fn main(args: Args) -> anyhow::Result<ExitCode> {
    crate::pki::install_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match args.what {
            What::Api(args) => api::run(args).await,
            What::Pod(args) => pod::run(args).await,
            What::HollowNodes(args) => hollow::run(args).await,
            What::Density(args) => density::run(args).await,
            What::Sched(args) => sched::run(args).await,
            What::Wire(args) => wire::run(&args),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}
