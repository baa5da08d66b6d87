//! `logs`: what containers wrote.

use futures::stream::{SelectAll, StreamExt};
use http::{HeaderMap, Method};
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::io::StreamReader;

use super::builder::{Info, of_object};
use super::cx::{Cx, Done, append_query, put, say};
use super::fail::{Failure, fail};
use super::pods::{self, RunningFlag};
use super::write;
use crate::api::status::Reason;
use crate::client::res::PODS;

/// Characters of one line when lines of several containers are mixed.
const MAX_LINE: usize = 1 << 20;
/// Lines of each container where pods are selected by labels.
const SELECTED_TAIL: i64 = 10;

/// What is said to words that name no pod.
pub const EXPECTED: &str = "expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\n\
                            POD or TYPE/NAME is a required argument for the logs command";
const HELP: &str = "See 'kubectl logs -h' for help and examples";

/// Print what containers wrote
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// POD or TYPE/NAME
    target: Option<String>,
    /// The container, where -c is not given
    container_arg: Option<String>,
    /// The container
    #[arg(short, long)]
    container: Option<String>,
    /// Go on with what is written
    #[arg(short, long)]
    follow: bool,
    /// Of the container before the last restart
    #[arg(short, long)]
    previous: bool,
    /// The last lines; -1 for all
    #[arg(long, allow_hyphen_values = true)]
    tail: Option<i64>,
    /// Not older than this, as 5m
    #[arg(long, default_value = "0s", hide_default_value = true, value_parser = write::duration_text)]
    since: String,
    /// Not older than this time, RFC 3339
    #[arg(long, default_value = "", hide_default_value = true)]
    since_time: String,
    /// The time before each line
    #[arg(long)]
    timestamps: bool,
    /// Bytes at most
    #[arg(long, allow_hyphen_values = true)]
    limit_bytes: Option<i64>,
    /// All containers of the pod
    #[arg(long)]
    all_containers: bool,
    /// Pods with these labels
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: String,
    /// Pod and container before each line
    #[arg(long)]
    prefix: bool,
    /// Streams at once with -f
    #[arg(long, default_value_t = 5)]
    max_log_requests: usize,
    /// All pods of TYPE/NAME, each line with its pod
    #[arg(long)]
    all_pods: bool,
    /// Do not check the certificate of the node
    #[arg(long)]
    insecure_skip_tls_verify_backend: bool,
    #[command(flatten)]
    running: RunningFlag,
    /// Go on when a container's log cannot be read
    #[arg(long)]
    ignore_errors: bool,
}

/// A log to read.
struct Source {
    pod: Info,
    container: String,
}

/// Runs the verb.
pub async fn run(cx: &Cx, mut args: Args) -> Done {
    args.prefix |= args.all_pods;
    if !args.since_time.is_empty()
        && let Err(e) = args.since_time.parse::<jiff::Timestamp>()
    {
        fail!("parsing time {:?} as RFC 3339: {e}", args.since_time);
    }
    let sources = sources(cx, &args).await?;
    if args.follow && sources.len() > args.max_log_requests {
        fail!(
            "you are attempting to follow {} log streams, but maximum allowed concurrency is {}, use --max-log-requests to increase the limit",
            sources.len(),
            args.max_log_requests
        );
    }
    if args.follow && sources.len() > 1 {
        return mixed(cx, &args, &sources).await;
    }
    for source in &sources {
        let path = path(source, &args)?;
        match one(cx, source, &path, args.prefix).await {
            Err(failure @ Failure::Exit(_)) => return Err(failure),
            Err(failure) if args.ignore_errors => eprintln!("{failure}"),
            other => other?,
        }
    }
    Ok(())
}

async fn sources(cx: &Cx, args: &Args) -> Done<Vec<Source>> {
    let pods = match (&args.target, args.selector.as_str()) {
        (Some(_), selector) if !selector.is_empty() => {
            fail!("only a selector (-l) or a POD name is allowed\n{HELP}");
        }
        (Some(target), _) => {
            let info = match pods::target(cx, target).await {
                Err(Failure::Server { status, .. }) if status.reason == Reason::NotFound => {
                    fail!("error from server (NotFound): {} in namespace {:?}", status.message, cx.ns)
                }
                other => other?,
            };
            let mut pods = pods::all_of(cx, &info, &args.running).await?;
            if !args.all_pods {
                if pods.len() > 1 {
                    eprintln!("Found {} pods, using pod/{}", pods.len(), pods[0].name);
                }
                pods.truncate(1);
            }
            pods
        }
        (None, "") => fail!("{EXPECTED}\n{HELP}"),
        (None, selector) => {
            let resource = cx.mapper().await?.find("pods")?.clone();
            let pods = cx.items(&PODS, &cx.ns, selector, "").await?;
            if pods.is_empty() {
                eprintln!("No resources found in {} namespace.", cx.ns);
            }
            pods.into_iter().map(|pod| of_object(&resource, pod)).collect()
        }
    };
    let named = args.container.as_deref().or(args.container_arg.as_deref());
    let mut sources = Vec::new();
    for pod in pods {
        if args.all_containers {
            let all = ["initContainers", "containers", "ephemeralContainers"];
            let names = all.iter().flat_map(|f| pods::names(&pod.object, f)).map(str::to_owned).collect::<Vec<_>>();
            sources.extend(names.into_iter().map(|container| Source { pod: pod.clone(), container }));
        } else {
            let container = pods::container(&pod.object, named, false)?;
            sources.push(Source { pod, container });
        }
    }
    Ok(sources)
}

fn path(source: &Source, args: &Args) -> Done<String> {
    let mut path = source.pod.path(Some("log"));
    append_query(&mut path, "container", &source.container);
    let flag = |b: bool| if b { "true" } else { "" };
    append_query(&mut path, "follow", flag(args.follow));
    append_query(&mut path, "previous", flag(args.previous));
    append_query(&mut path, "timestamps", flag(args.timestamps));
    append_query(&mut path, "insecureSkipTLSVerifyBackend", flag(args.insecure_skip_tls_verify_backend));
    let tail = args.tail.unwrap_or(if args.selector.is_empty() { -1 } else { SELECTED_TAIL });
    if tail >= 0 {
        append_query(&mut path, "tailLines", &tail.to_string());
    }
    if let Some(limit) = args.limit_bytes.filter(|n| *n > 0) {
        append_query(&mut path, "limitBytes", &limit.to_string());
    }
    let since = write::duration(&args.since)?.ok_or_else(|| Failure::Plain("--since must be greater than 0".into()))?;
    if !since.is_zero() {
        append_query(&mut path, "sinceSeconds", &since.as_secs_f64().ceil().to_string());
    }
    append_query(&mut path, "sinceTime", &args.since_time);
    Ok(path)
}

/// The whole log of a container that has ended.
pub async fn whole(cx: &Cx, pod: &Info, container: &str) -> Done {
    let mut path = pod.path(Some("log"));
    append_query(&mut path, "container", container);
    one(cx, &Source { pod: pod.clone(), container: container.to_owned() }, &path, false).await
}

fn prefix_of(source: &Source) -> String {
    format!("[pod/{}/{}] ", source.pod.name, source.container)
}

async fn one(cx: &Cx, source: &Source, path: &str, prefix: bool) -> Done {
    let mut bytes = cx.client.stream(Method::GET, path, HeaderMap::new(), bytes::Bytes::new()).await?;
    if prefix {
        let reader = StreamReader::new(bytes.map(|b| b.map_err(std::io::Error::other)));
        let mut lines = FramedRead::new(reader, LinesCodec::new_with_max_length(MAX_LINE));
        let prefix = prefix_of(source);
        while let Some(line) = lines.next().await {
            say(format!("{prefix}{}", line.map_err(|e| Failure::Plain(e.to_string()))?))?;
        }
        return Ok(());
    }
    while let Some(chunk) = bytes.next().await {
        raw(&chunk?)?;
    }
    Ok(())
}

/// Bytes as they are: a log need not be UTF-8.
fn raw(bytes: &[u8]) -> Done {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::Exit(0)),
        other => Ok(other?),
    }
}

/// Lines of several logs as they come.
async fn mixed(cx: &Cx, args: &Args, sources: &[Source]) -> Done {
    let mut all = SelectAll::new();
    for source in sources {
        let path = path(source, args)?;
        let bytes = cx.client.stream(Method::GET, &path, HeaderMap::new(), bytes::Bytes::new()).await?;
        let reader = StreamReader::new(bytes.map(|b| b.map_err(std::io::Error::other)));
        let prefix = if args.prefix { prefix_of(source) } else { String::new() };
        let lines = FramedRead::new(reader, LinesCodec::new_with_max_length(MAX_LINE));
        all.push(lines.map(move |line| line.map(|l| format!("{prefix}{l}\n"))).boxed());
    }
    while let Some(line) = all.next().await {
        put(&line.map_err(|e| Failure::Plain(e.to_string()))?)?;
    }
    Ok(())
}
