//! `completion`: a script that completes these commands, for shells in which `kubectl` is an alias of `orch ctl`.

use clap_complete::Shell;

use super::cx::{Done, put};
use super::fail::fail;

const HELP: &str = "See 'kubectl completion -h' for help and examples";

/// Print a completion script for `alias kubectl='orch ctl'`
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// bash, zsh, fish or powershell
    shell: Vec<String>,
}

/// Runs the verb.
pub fn run(args: &Args) -> Done {
    let shell = match args.shell.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => fail!("Shell not specified.\n{HELP}"),
        ["bash"] => Shell::Bash,
        ["zsh"] => Shell::Zsh,
        ["fish"] => Shell::Fish,
        ["powershell"] => Shell::PowerShell,
        [other] => fail!("Unsupported shell type {other:?}.\n{HELP}"),
        _ => fail!("Too many arguments. Expected only the shell type.\n{HELP}"),
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::command().name("kubectl"), "kubectl", &mut script);
    put(&String::from_utf8_lossy(&script))
}
