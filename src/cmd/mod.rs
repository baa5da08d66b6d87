//! The command line: the only module that knows every other.
//!
//! In: arguments, `/etc/orch/config.yaml`, environment. Out: an exit code; one line on standard error when it is not 0.

mod access;
mod agent;
mod bench;
mod bootstrap;
mod check;
mod cluster;
mod components;
mod config;
mod figures;
mod flags;
mod identity;
mod images;
mod join;
mod kubelet_args;
mod listers;
mod man;
mod manager;
mod node;
mod ranges;
mod role;
mod server;
mod signals;
mod tunnels;
mod uninstall;
mod unit;

use std::ffi::OsString;
use std::future::Future;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub use listers::CacheListers;

/// Kubernetes in one static binary.
#[derive(Debug, Parser)]
#[command(name = "orch", version, about, long_about = None, propagate_version = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a control plane, and a node unless --disable-agent
    Server(Box<server::Args>),
    /// Run one more node of a cluster
    Agent(Box<agent::Args>),
    /// Measure an API server or a node
    #[command(hide = true)]
    Bench(bench::Args),
    /// Manage the cluster, as kubectl does
    #[command(visible_alias = "kubectl")]
    Ctl(Box<crate::ctl::Args>),
    /// Make, list, replace and revoke the tokens that machines join with
    Token(Box<crate::ctl::TokenArgs>),
    /// See to the encryption of Secrets at rest: status, rotate-keys, reencrypt, enable, disable
    SecretsEncrypt(Box<crate::ctl::EncryptArgs>),
    /// See whether this machine can run orch, and what to change
    Check(check::Args),
    /// Stop orch and all its pods; state and installation stay
    Killall(uninstall::KillArgs),
    /// Remove orch from this machine, and all that it has made
    Uninstall(uninstall::Args),
    /// Print a systemd unit for a server or an agent
    #[command(hide = true)]
    Unit(unit::Args),
    /// Write man pages into a directory
    #[command(hide = true)]
    Man {
        /// An existing directory
        dir: std::path::PathBuf,
    },
    /// The CNI plugin; containerd calls it
    #[command(hide = true)]
    Cni,
    /// Print a completion script for a shell
    Completion {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
}

/// Parses, runs, and maps an error to an exit code.
pub fn main() -> ExitCode {
    // The container runtime calls the binary by the plugin's name.
    if crate::cni::is_plugin_call() {
        return crate::cni::main();
    }
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<ExitCode> {
    let args = config::with_file(Cli::command(), as_called(std::env::args_os().collect()))?;
    let matches = match Cli::command().args_override_self(true).try_get_matches_from(&args) {
        Ok(matches) => matches,
        Err(error) => return Ok(told(&error, &args)),
    };
    match Cli::from_arg_matches(&matches)?.command {
        Command::Server(args) => server::main(*args),
        Command::Agent(args) => agent::main(*args),
        Command::Bench(args) => bench::main(args),
        Command::Ctl(args) => ctl(*args),
        Command::Token(args) => ctl((*args).into()),
        Command::SecretsEncrypt(args) => ctl((*args).into()),
        Command::Check(args) => check::main(&args),
        Command::Killall(args) => uninstall::kill(args),
        Command::Uninstall(args) => uninstall::main(args),
        Command::Unit(args) => {
            say(unit::render(&args).trim_end());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { dir } => man::write(&Cli::command(), &dir).map(|()| ExitCode::SUCCESS),
        Command::Cni => Ok(crate::cni::main()),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "orch", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Runs a server or an agent on threads of its own; what still blocks one after its end has a second.
fn on_threads(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<ExitCode> {
    crate::pki::install_provider();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_secs(1));
    done.map(|()| ExitCode::SUCCESS)
}

fn ctl(args: crate::ctl::Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(crate::ctl::main(args, &images::Local))
}

/// Says a line to whoever reads standard output. If nobody does any more (`orch … | head`), the work goes on all the same.
fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// A link of kubectl's name is `orch ctl`.
fn as_called(mut args: Vec<OsString>) -> Vec<OsString> {
    let name = args.first().and_then(|a| Path::new(a).file_name());
    if name.is_some_and(|n| n == "kubectl") {
        args.insert(1, "ctl".into());
    }
    args
}

/// Tells what is wrong with the command line; `ctl` words it as kubectl does.
fn told(error: &clap::Error, args: &[OsString]) -> ExitCode {
    let words: Vec<String> = args.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    match words.iter().position(|w| w == "ctl" || w == "kubectl") {
        Some(1) => crate::ctl::refuse(error, &words[2..]),
        _ => error.exit(),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    #[test]
    fn kubectl_is_a_name_of_orch_ctl() {
        let called = |args: &[&str]| super::as_called(args.iter().map(OsString::from).collect());
        assert_eq!(called(&["/usr/local/bin/kubectl", "get", "pods"])[1..], ["ctl", "get", "pods"]);
        assert_eq!(called(&["orch", "kubectl"]), ["orch", "kubectl"]);
        assert_eq!(called(&[]), [] as [&str; 0]);
    }

    #[test]
    fn the_command_line_is_sound() {
        <super::Cli as clap::CommandFactory>::command().debug_assert();
    }
}
