//! `exec`: a command in a container, with the code it ended with.

use std::io::IsTerminal;

use super::builder::Info;
use super::cx::{Cx, Done, append_query};
use super::fail::{Failure, fail};
use super::files::FileFlags;
use super::pods::{self, RunningFlag};
use super::streams::{self, Ends};
use super::terminal::{self, Raw};

/// Run a command in a container
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// POD or TYPE/NAME
    target: Option<String>,
    #[command(flatten)]
    files: FileFlags,
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
    /// The command and its arguments
    #[arg(last = true)]
    command: Vec<String>,
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    if args.target.is_none() && args.files.is_empty() {
        fail!("pod, type/name or --filename must be specified");
    }
    if args.command.is_empty() {
        fail!("you must specify at least one command for the container");
    }
    let pod = match &args.target {
        Some(target) => pods::one(cx, target, &args.running).await?,
        None => pods::of_file(cx, &args.files, &args.running).await?,
    };
    if pods::is_finished(&pod.object) {
        let phase = pod.object["status"]["phase"].as_str().unwrap_or_default();
        fail!("cannot exec into a container in a completed pod; current phase is {phase}");
    }
    // A container that is named is the server's to find.
    let container = match &args.container {
        Some(named) => named.clone(),
        None => pods::container(&pod.object, None, args.quiet)?,
    };
    let mut path = pod.path(Some("exec"));
    for word in &args.command {
        append_command(&mut path, word);
    }
    match interactive(cx, path, &container, args.stdin, args.tty).await? {
        0 => Ok(()),
        code => {
            eprintln!("command terminated with exit code {code}");
            Err(Failure::Exit(code))
        }
    }
}

/// An empty word is a word too.
fn append_command(path: &mut String, word: &str) {
    if word.is_empty() {
        path.push_str(if path.contains('?') { "&command=" } else { "?command=" });
    } else {
        append_query(path, "command", word);
    }
}

/// The path of a pod's `exec` or `attach` with a container and streams.
pub fn with_streams(mut path: String, container: &str, stdin: bool, tty: bool) -> String {
    append_query(&mut path, "container", container);
    append_query(&mut path, "stdout", "true");
    for (key, on) in [("stdin", stdin), ("stderr", !tty), ("tty", tty)] {
        append_query(&mut path, key, if on { "true" } else { "" });
    }
    path
}

/// Joins the user's streams with a container's. Gives the exit code.
pub async fn interactive(cx: &Cx, path: String, container: &str, stdin: bool, tty: bool) -> Done<u8> {
    let tty = if tty && !(stdin && std::io::stdin().is_terminal()) {
        eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
        false
    } else {
        tty
    };
    let path = with_streams(path, container, stdin, tty);
    let raw = if tty { Raw::enter()? } else { None };
    let (sizes, watcher) = if tty {
        let (sender, receiver) = streams::sizes();
        (Some(receiver), Some(terminal::send_sizes(sender)))
    } else {
        (None, None)
    };
    let ends =
        Ends { stdin: stdin.then(terminal::input), stdout: tokio::io::stdout(), stderr: tokio::io::stderr(), sizes };
    let joined = streams::join(cx, &path, ends);
    let outcome = match watcher {
        None => joined.await,
        Some(watcher) => {
            let forever = async {
                watcher.await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                outcome = joined => outcome,
                () = forever => Ok(0),
            }
        }
    };
    drop(raw);
    outcome
}

/// The streams of a command without a terminal, for `cp`.
pub fn command_path(pod: &Info, container: &str, command: &[&str], stdin: bool) -> String {
    let mut path = pod.path(Some("exec"));
    for word in command {
        append_command(&mut path, word);
    }
    with_streams(path, container, stdin, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_carry_every_word() {
        let mut path = "/exec".to_owned();
        for word in ["sh", "-c", "", "a b"] {
            append_command(&mut path, word);
        }
        let path = with_streams(path, "c", true, true);
        assert_eq!(
            path,
            "/exec?command=sh&command=-c&command=&command=a%20b&container=c&stdout=true&stdin=true&tty=true"
        );
    }
}
