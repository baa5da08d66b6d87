//! `orch uninstall` and `orch killall`: leave the machine as it was.
//!
//! In: what of orch is on the machine ([`facts`]). Out: steps ([`plan`]), told with `--dry-run` or done ([`effect`]).
//!
//! **Invariant:** only what belongs to orch's data directory, or stands in its installer's manifest, is touched.
//! **Invariant:** it may be run again at any time; with nothing left it says so and succeeds.

mod effect;
mod facts;
mod plan;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};

use self::plan::{Scope, Step, plan};
use super::say;

/// Times that the machine is looked at and what is found is removed: what was starting while the first look was taken is
/// seen by the second.
const ROUNDS: usize = 3;

/// Flags of `orch uninstall`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Keep state and configuration: a later installation goes on with the same cluster
    #[arg(long)]
    keep_data: bool,
}

/// Flags of `orch killall`.
#[derive(Debug, clap::Args)]
pub struct KillArgs {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Where the state is kept; that of /etc/orch/config.yaml when not given
    #[arg(short, long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Tell what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// `orch uninstall`.
pub fn main(args: Args) -> anyhow::Result<ExitCode> {
    run(args.common, if args.keep_data { Scope::Software } else { Scope::All })
}

/// `orch killall`.
pub fn kill(args: KillArgs) -> anyhow::Result<ExitCode> {
    run(args.common, Scope::Running)
}

fn run(args: Common, scope: Scope) -> anyhow::Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        bail!("only root sees and removes what orch has made; run as root");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let place = facts::Place::of(args.data_dir)?;
        match args.dry_run {
            true => tell(&plan(&facts::gather(&place).await?, scope)),
            false => remove(&place, scope).await,
        }
    })
}

fn tell(steps: &[Step]) -> anyhow::Result<ExitCode> {
    for step in steps {
        say(format_args!("would {step}"));
    }
    if steps.is_empty() {
        say("nothing of orch is here");
    }
    Ok(ExitCode::SUCCESS)
}

async fn remove(place: &facts::Place, scope: Scope) -> anyhow::Result<ExitCode> {
    let mut done = 0;
    let mut failures = Vec::new();
    for _ in 0..ROUNDS {
        let steps = plan(&facts::gather(place).await.context("cannot look at the machine")?, scope);
        // A round that finds only what the one before could not remove will not either.
        if steps.is_empty() || steps == failures.iter().map(|(s, _)| s).cloned().collect::<Vec<Step>>() {
            break;
        }
        failures.clear();
        for step in steps {
            match effect::apply(&step).await {
                Ok(()) => {
                    say(&step);
                    done += 1;
                }
                Err(error) => failures.push((step, error)),
            }
        }
    }
    for (step, error) in &failures {
        eprintln!("error: cannot {step}: {error:#}");
    }
    if done == 0 && failures.is_empty() {
        say("nothing of orch is here");
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
