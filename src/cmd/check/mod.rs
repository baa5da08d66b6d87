//! `orch check`: can this machine run orch, and what is to be changed?
//!
//! In: [`facts`] that were gathered, mostly by trying. Out: [`judge`]'s findings, a line each, or JSON.

mod facts;
mod judge;
mod probe;

use std::path::PathBuf;
use std::process::ExitCode;

pub use self::judge::Role;
use self::judge::{Finding, Level, judge};
use super::say;

/// Flags of `orch check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What the machine is to be: server or agent
    #[arg(default_value = "server")]
    role: Role,
    /// Where all state is to be kept; that of /etc/orch/config.yaml when not given
    #[arg(short, long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Port of the Kubernetes API
    #[arg(long, value_name = "PORT", default_value_t = 6443)]
    https_listen_port: u16,
    /// A control plane without a node
    #[arg(long)]
    disable_agent: bool,
    /// Name of the node; the host's when not given
    #[arg(long, value_name = "NAME", env = "ORCH_NODE_NAME")]
    node_name: Option<String>,
    /// text or json
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Checks; fails when there is an error.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let wanted = facts::Wanted {
        role: args.role,
        node: args.role == Role::Agent || !args.disable_agent,
        data_dir: args.data_dir.clone().or_else(super::config::data_dir).unwrap_or_else(|| "/var/lib/orch".into()),
        port: args.https_listen_port,
        node_name: args.node_name.clone(),
    };
    let findings = judge(&facts::gather(&wanted));
    match args.output {
        Format::Json => say(serde_json::to_string_pretty(&findings)?),
        Format::Text => say(text(&findings).trim_end()),
    }
    let failed = findings.iter().any(|f| f.level == Level::Error);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A line for each finding; what to do about it stands below.
fn text(findings: &[Finding]) -> String {
    let mut out = String::new();
    for f in findings {
        out.push_str(&format!("{:<8}{:<12}{}\n", f.level.word(), f.name, f.says));
        if let Some(advice) = &f.advice {
            out.push_str(&format!("{:20}{advice}\n", ""));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_stands_below_what_it_is_for() {
        let findings = [
            Finding { name: "swap", level: Level::Ok, says: "none".into(), advice: None },
            Finding { name: "disk", level: Level::Error, says: "full".into(), advice: Some("free some".into()) },
        ];
        assert_eq!(
            text(&findings),
            "ok      swap        none\nerror   disk        full\n                    free some\n"
        );
    }
}
