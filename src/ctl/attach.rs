//! `attach`: the streams of a container that runs.

use super::builder::Info;
use super::cx::{Cx, Done};
use super::fail::{Failure, fail};
use super::pods::{self, RunningFlag};
use super::{exec, logs};
use crate::api::value::ValueExt;

/// Attach to a running container
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// POD or TYPE/NAME
    target: String,
    /// The container
    #[arg(short, long)]
    container: Option<String>,
    /// Pass standard input
    #[arg(short = 'i', long)]
    stdin: bool,
    /// A terminal
    #[arg(short, long)]
    tty: bool,
    /// No messages of our own
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    running: RunningFlag,
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    let pod = pods::one(cx, &args.target, &args.running).await?;
    if pods::is_finished(&pod.object) {
        let phase = pod.object["status"]["phase"].as_str().unwrap_or_default();
        fail!("cannot attach a container in a completed pod; current phase is {phase}");
    }
    let container = pods::container(&pod.object, args.container.as_deref(), args.quiet)?;
    let has_tty =
        pod.object.items_at("/spec/containers").iter().any(|c| c["name"] == container.as_str() && c["tty"] == true);
    if args.tty && !has_tty {
        eprintln!("error: Unable to use a TTY - container {container} did not allocate one");
    }
    if !args.quiet {
        eprintln!("If you don't see a command prompt, try pressing enter.");
    }
    to(cx, &pod, &container, args.stdin, args.tty && has_tty).await
}

/// Attaches to a container; where that cannot be any more, because it has ended, shows its log.
pub async fn or_log(cx: &Cx, pod: &Info, container: &str, stdin: bool, tty: bool, quiet: bool) -> Done {
    if !quiet {
        eprintln!("If you don't see a command prompt, try pressing enter.");
    }
    match to(cx, pod, container, stdin, tty).await {
        Err(failure @ (Failure::Plain(_) | Failure::Server { .. })) => {
            let why = failure.to_string();
            let why = why.strip_prefix("error: ").unwrap_or(&why);
            eprintln!("warning: couldn't attach to pod/{}, falling back to streaming logs: {why}", pod.name);
            logs::whole(cx, pod, container).await
        }
        ended => ended,
    }
}

/// Attaches to a container.
pub async fn to(cx: &Cx, pod: &Info, container: &str, stdin: bool, tty: bool) -> Done {
    match exec::interactive(cx, pod.path(Some("attach")), container, stdin, tty).await? {
        0 => Ok(()),
        code => Err(Failure::Exit(code)),
    }
}
